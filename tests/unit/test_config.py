from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import AppConfig, BrokerConfig, Config, StoreConfig
from pipeline.errors import ConfigurationError


def load(
    file: Path | None = None,
    environ: dict[str, str] | None = None,
    flags: dict[str, str] | None = None,
) -> Config:
    return Config.load(file, environ=environ or {}, flags=flags)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def toml(tmp_path: Path, text: str, name: str = "settings.toml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_defaults_are_complete_and_named_so() -> None:
    config = load()
    assert config == Config()
    assert config.app.max_records == 100_000
    assert config.app.cache_bytes == 256 << 20
    assert {setting.origin for setting in config.settings()} == {"default"}


def test_later_sources_win(tmp_path: Path) -> None:
    file = toml(tmp_path, "[app]\nmax_records = 1\nmax_wait_ms = 1\nlane = 'portable'\n")
    config = load(
        file,
        {"PIPELINE_APP__MAX_RECORDS": "2", "PIPELINE_APP__MAX_WAIT_MS": "2"},
        {"app.max_wait_ms": "3"},
    )
    assert (config.app.lane, config.app.max_records, config.app.max_wait_ms) == ("portable", 2, 3)
    origins = {s.key: s.origin for s in config.settings()}
    assert origins["app.lane"] == f"file {file}"
    assert origins["app.max_records"] == "environment PIPELINE_APP__MAX_RECORDS"
    assert origins["app.max_wait_ms"] == "flag"
    assert origins["app.cache_bytes"] == "default"


def test_file_in_working_directory_and_by_environment(tmp_path: Path) -> None:
    toml(tmp_path, "[serve]\nport = 1\n", "pipeline.toml")
    other = toml(tmp_path, "[serve]\nport = 2\n", "other.toml")
    assert load().serve.port == 1
    assert load(None, {"PIPELINE_CONFIG": str(other)}).serve.port == 2


def test_units_are_read_as_text_or_number(tmp_path: Path) -> None:
    file = toml(tmp_path, "[app]\nmax_wait_ms = '1.5s'\ncache_bytes = '1GiB'\n")
    assert (load(file).app.max_wait_ms, load(file).app.cache_bytes) == (1_500, 1 << 30)
    assert AppConfig(max_wait_ms="20ms").max_wait_ms == 20  # type: ignore[arg-type]


def test_properties_from_every_source(tmp_path: Path) -> None:
    file = toml(tmp_path, "[broker.properties]\nlinger.ms = 5\n'fetch.min.bytes' = 7\na = true\n")
    assert load(file).broker.properties == {"linger.ms": "5", "fetch.min.bytes": "7", "a": "true"}
    config = load(file, {}, {"broker.properties.linger.ms": "9"})
    assert config.broker.properties["linger.ms"] == "9"
    assert config.broker.properties["fetch.min.bytes"] == "7"
    environment = {"PIPELINE_BROKER__PROPERTIES": "x=1, y=a=b"}
    assert load(None, environment).broker.properties == {"x": "1", "y": "a=b"}


@pytest.mark.parametrize(
    ("environ", "flags", "says"),
    [
        ({"PIPELINE_STORE__ULR": "x"}, {}, "unknown setting 'store.ulr' (environment "
         "PIPELINE_STORE__ULR); did you mean 'store.url'?"),
        ({"PIPELINE_STOR__URL": "x"}, {}, "did you mean 'store.url'?"),
        ({"PIPELINE_STORE_URL": "x"}, {}, "two underscores: PIPELINE_STORE__URL"),
        ({}, {"max_records": "2"}, "unknown setting 'max_records' (flag); did you mean "
         "'app.max_records'?"),
        ({}, {"app.lane.x": "2"}, "unknown setting 'app.lane.x'"),
        ({}, {"app.max_records": "many"}, "app.max_records (flag): expected a whole number, got "
         "'many'"),
        ({}, {"app.max_records": "0"}, "app.max_records (flag): must be at least 1, got '0'"),
        ({}, {"app.max_wait_ms": "-5"}, "must be at least 0, got '-5'"),
        ({}, {"app.max_wait_ms": "1us"}, "'1us' is not a whole number of milliseconds"),
        ({}, {"app.max_wait_ms": "5 parsecs"}, "unknown unit 'parsecs'"),
        ({}, {"app.cache_bytes": "big"}, "'big' is not a size"),
        ({}, {"app.lane": "nativ"}, "expected one of 'auto', 'native', 'portable', got 'nativ'"),
        ({}, {"inference.defer": "2"}, "must be between 0 and 1, got '2'"),
        ({}, {"inference.defer": "soon"}, "inference.defer (flag): expected a number, got 'soon'"),
        ({}, {"broker.properties": "x"}, "write name=value,name=value"),
    ],
)  # fmt: skip
def test_a_wrong_setting_names_key_origin_and_what_is_right(
    environ: dict[str, str], flags: dict[str, str], says: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(None, environ, flags)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[stor]\nurl = 'x'\n", "unknown setting 'stor' (file {file}); did you mean 'store'?"),
        ("url = 'x'\n", "unknown setting 'url' (file {file}); did you mean 'store.url'?"),
        ("[store]\nulr = 'x'\n", "unknown setting 'store.ulr' (file {file})"),
        ("[app]\nmax_records = '1'\nlane = 5\n", "app.lane (file {file}): expected one of"),
        ("[app]\nmax_records = true\n", "expected a whole number, got True"),
        ("[app]\nmax_records = 1.5\n", "expected a whole number, got 1.5"),
        ("[store]\nurl = 5\n", "store.url (file {file}): expected text, got ***"),
        ("[store\n", "{file} is not valid TOML"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = toml(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    assert says.format(file=file) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*nope\.toml: No such file"):
        load(tmp_path / "nope.toml")


def test_other_variables_are_left_alone() -> None:
    load(None, {"PIPELINE_JIT": "off", "PIPELINE_STORE_PORT": "tcp://10.0.0.1:6379"})
    load(None, {"PIPELINE_SERVE_PORT": "tcp://10.0.0.1:80", "PIPELINE_TEST_REDIS": "x"})


def test_secrets_are_shown_nowhere() -> None:
    secret = "hunter2"
    config = load(
        None,
        {
            "PIPELINE_STORE__URL": f"redis://user:{secret}@host:1/0",
            "PIPELINE_BROKER__SASL_PASSWORD": secret,
            "PIPELINE_BROKER__PROPERTIES": f"sasl.password={secret},linger.ms=5",
            "PIPELINE_SERVE__TOKEN": secret,
        },
    )
    assert config.store.url.count(secret) == 1
    shown = {s.key: s.value for s in config.settings()}
    assert shown["store.url"] == "redis://user:***@host:1/0"
    assert shown["broker.sasl_password"] == "***"
    assert shown["broker.properties"] == "sasl.password=***, linger.ms=5"
    assert shown["serve.token"] == "***"
    assert secret not in repr(config)
    assert secret not in str(list(shown.values()))


def test_a_wrong_secret_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        StoreConfig(url=b"redis://:hunter2@h")  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)


def test_client_properties_hold_what_is_set() -> None:
    plain = BrokerConfig(brokers="h:1", properties={"linger.ms": "1"}).client_properties()
    assert plain == {"bootstrap.servers": "h:1", "security.protocol": "plaintext", "linger.ms": "1"}
    secure = BrokerConfig(security="sasl_ssl", sasl_username="u", sasl_password="p", ca_file="ca")
    properties = secure.client_properties()
    assert properties["sasl.username"] == "u"
    assert properties["sasl.password"] == "p"
    assert properties["ssl.ca.location"] == "ca"
