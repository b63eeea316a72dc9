"""The configuration: frozen, typed, from four sources, each value knows where it came from.

Sources, later ones win: the defaults below, a TOML file (``--config``, ``PIPELINE_CONFIG``, or
``pipeline.toml`` in the working directory), the environment (``PIPELINE_STORE__URL`` is
``store.url``), flags. This module is the only one that reads ``PIPELINE_<SECTION>__<KEY>``.

Where a value has a unit, its name ends in it; text with a unit is taken too, so
``max_wait_ms = 20`` and ``max_wait_ms = "20ms"`` are the same.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pipeline.errors import ConfigurationError
from pipeline.settings import coerce, redact, setting, suggest

__all__ = [
    "AppConfig",
    "BrokerConfig",
    "Config",
    "InferenceConfig",
    "ServeConfig",
    "Setting",
    "StoreConfig",
]

DEFAULT_FILE = "pipeline.toml"
ENVIRONMENT_PREFIX = "PIPELINE_"


class _Slice:
    """Checks and converts every field, however the slice was made."""

    section: ClassVar[str]

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            name = f"{self.section}.{f.name}"
            object.__setattr__(self, f.name, coerce(name, f, getattr(self, f.name), type(self)))


@dataclass(frozen=True)
class BrokerConfig(_Slice):
    """How Kafka is reached. ``properties`` are passed to librdkafka as they are and win."""

    section: ClassVar[str] = "broker"
    brokers: str = setting("127.0.0.1:9092", "host:port of some brokers, separated by commas")
    security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = setting(
        "plaintext", "security protocol"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = setting(
        "SCRAM-SHA-512", "used with security = sasl_*"
    )
    sasl_username: str = setting("", "used with security = sasl_*")
    sasl_password: str = setting("", "used with security = sasl_*", secret=True)
    ca_file: str = setting("", "certificate authorities (PEM); empty: those of the system")
    certificate_file: str = setting("", "client certificate (PEM) for mutual TLS")
    key_file: str = setting("", "client key (PEM) for mutual TLS")
    key_password: str = setting("", "password of key_file", secret=True)
    timeout_ms: int = setting(10_000, "longest wait for a broker to answer", minimum=1)
    properties: Mapping[str, str] = setting({}, "librdkafka properties, such as fetch.min.bytes")

    def client_properties(self) -> dict[str, str]:
        """The librdkafka properties of every client: address, security, then ``properties``."""
        named = {
            "bootstrap.servers": self.brokers,
            "security.protocol": self.security,
            "ssl.ca.location": self.ca_file,
            "ssl.certificate.location": self.certificate_file,
            "ssl.key.location": self.key_file,
            "ssl.key.password": self.key_password,
        }
        if self.security.startswith("sasl"):
            named["sasl.mechanism"] = self.sasl_mechanism
            named["sasl.username"] = self.sasl_username
            named["sasl.password"] = self.sasl_password
        return {name: text for name, text in named.items() if text} | dict(self.properties)


@dataclass(frozen=True)
class StoreConfig(_Slice):
    """Where features are kept."""

    section: ClassVar[str] = "store"
    url: str = setting(
        "redis://127.0.0.1:6379/0",
        "redis://, rediss://, unix://, redis-cluster://host:port,host:port or memory://",
        secret=True,
    )
    timeout_ms: int = setting(10_000, "longest wait for the store to answer", minimum=1)
    check_interval_ms: int = setting(
        1_000, "how often leases and markers are compared with the store", minimum=10
    )
    replay_horizon_ms: int = setting(
        7 * 86_400_000,
        "rows stay in the store for their ttl and this much longer: more than the age of the "
        "oldest copy of it that you would restore, plus how late events come",
        minimum=0,
    )
    sweep_keys_per_s: int = setting(
        1_000, "keys looked at for rows that a killed worker left; 0: none", minimum=0
    )


@dataclass(frozen=True)
class AppConfig(_Slice):
    """The stream worker: ingest, cache, outputs."""

    section: ClassVar[str] = "app"
    lane: Literal["auto", "native", "portable"] = setting(
        "auto", "how records are read; auto takes native where its self check passes"
    )
    max_records: int = setting(
        100_000, "most records of a batch; fewer where fewer have arrived", minimum=1
    )
    max_wait_ms: int = setting(10, "longest wait for a batch to fill", minimum=0)
    freshness_ms: int = setting(
        0, "age at which features are to hold an event; older ones are reported (0: no goal)",
        minimum=0,
    )  # fmt: skip
    under_way: int = setting(
        2, "batches whose commits may be under way while the next is computed", minimum=0
    )
    compute_threads: int = setting(
        4, "threads that compute while the next batch is fetched; 0: none", minimum=0
    )
    cache_bytes: int = setting(256 << 20, "memory for rows, per view and partition", minimum=1)
    max_value_bytes: int = setting(1 << 20, "larger values are dead-lettered", minimum=1)
    commit_interval_ms: int = setting(
        1_000, "how often the group offset is committed, for lag tools", minimum=1
    )
    session_timeout_ms: int = setting(
        10_000, "a worker silent for this long loses its partitions", minimum=1_000
    )
    shutdown_timeout_ms: int = setting(
        10_000, "longest wait for a running batch on SIGTERM", minimum=0
    )
    catch_up_records_per_s: int = setting(
        50_000, "records a second at most that new views read of the past; 0: no limit", minimum=0
    )
    dead_letter_suffix: str = setting("-dead-letter", "topic of records that cannot be applied")
    late_suffix: str = setting("-late", "topic of records too late for every window")
    changes_suffix: str = setting("-changes", "topic of changed rows")


@dataclass(frozen=True)
class InferenceConfig(_Slice):
    """The inference worker."""

    section: ClassVar[str] = "inference"
    model: str = setting("", "path of the model's manifest (.json); the ONNX file lies beside it")
    provider: Literal["auto", "cpu", "cuda"] = setting("auto", "what runs the model")
    threads: int = setting(1, "threads of the model runtime", minimum=1)
    slo_ms: int = setting(20, "from request to prediction", minimum=1)
    max_batch: int = setting(4_096, "most rows of a batch", minimum=1)
    defer: float = setting(0.0, "share of the SLO that an idle device may wait", 0.0, 1.0)


@dataclass(frozen=True)
class ServeConfig(_Slice):
    """The HTTP endpoint for reads and metrics."""

    section: ClassVar[str] = "serve"
    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(8080, "port to listen on; 0 takes a free one", 0, 65_535)
    token: str = setting("", "bearer token that requests must carry; empty: none", secret=True)
    max_keys: int = setting(10_000, "most keys of a request", minimum=1)
    max_body_bytes: int = setting(1 << 20, "largest request body", minimum=1)


class Setting(NamedTuple):
    """One value for people: ``value`` is text with secrets as ``***``."""

    key: str
    value: str
    origin: str


@dataclass(frozen=True)
class Config:
    """Everything that can be set. ``origins`` maps a key to its source; absent means default."""

    broker: BrokerConfig = field(default_factory=BrokerConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    app: AppConfig = field(default_factory=AppConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def load(
        cls,
        file: str | Path | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        flags: Mapping[str, str] | None = None,
    ) -> Config:
        """Defaults < ``file`` < ``environ`` (the process's when None) < ``flags`` (by dotted key).

        Raises :class:`ConfigurationError` for a file that cannot be read, an unknown key
        (naming its source and the closest valid key) or a value of the wrong type or range.
        """
        environment = os.environ if environ is None else environ
        values: dict[str, dict[str, Any]] = {section: {} for section in _SLICES}
        origins: dict[str, str] = {}
        for key, raw, origin in _sources(file, environment, flags or {}):
            section, f, entry = _find(key, origin)
            full = f"{section}.{f.name}"
            if entry:
                raw = {**values[section].get(f.name, {}), entry: raw}
            values[section][f.name] = coerce(f"{full} ({origin})", f, raw, _SLICES[section])
            origins[full] = origin
        slices = {section: _SLICES[section](**given) for section, given in values.items()}
        return cls(**slices, origins=origins)

    def settings(self) -> list[Setting]:
        """Every value with its origin, in the order of definition; secrets are ``***``."""
        return [
            Setting(
                f"{section}.{f.name}",
                redact(f, getattr(getattr(self, section), f.name), kind),
                self.origins.get(f"{section}.{f.name}", "default"),
            )
            for section, kind in _SLICES.items()
            for f in fields(kind)
        ]


_SLICES: dict[str, type[Any]] = {
    kind.section: kind
    for kind in (BrokerConfig, StoreConfig, AppConfig, InferenceConfig, ServeConfig)
}


def _sources(
    file: str | Path | None, environ: Mapping[str, str], flags: Mapping[str, str]
) -> Iterator[tuple[str, object, str]]:
    """(dotted key, raw value, origin) of every value given, weakest source first."""
    path = _file(file, environ)
    if path is not None:
        for key, value in _read(path):
            yield key, value, f"file {path}"
    for name in sorted(environ):
        if name.startswith(ENVIRONMENT_PREFIX) and _is_setting(name, environ[name]):
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            yield key, environ[name], f"environment {name}"
    for key, text in flags.items():
        yield key, text, "flag"


def _is_setting(name: str, value: str) -> bool:
    """Whether a ``PIPELINE_`` variable is meant for us.

    Names with ``__`` are. One with a single ``_`` in its place would be ignored in silence,
    so it is refused, unless it is what Kubernetes sets for a service of that name.
    """
    rest = name.removeprefix(ENVIRONMENT_PREFIX).lower()
    if "__" in rest:
        return True
    section, _, key = rest.partition("_")
    kind = _SLICES.get(section)
    if kind is None or key not in {f.name for f in fields(kind)} or value.startswith("tcp://"):
        return False
    right = f"{ENVIRONMENT_PREFIX}{section.upper()}__{key.upper()}"
    raise ConfigurationError(f"environment {name}: the separator is two underscores: {right}")


def _file(file: str | Path | None, environ: Mapping[str, str]) -> Path | None:
    named = file or environ.get(f"{ENVIRONMENT_PREFIX}CONFIG")
    if named:
        return Path(named)
    return Path(DEFAULT_FILE) if Path(DEFAULT_FILE).is_file() else None


def _read(path: Path) -> Iterator[tuple[str, object]]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
    for section, table in document.items():
        if section in _SLICES and isinstance(table, dict):
            yield from ((f"{section}.{name}", value) for name, value in table.items())
        else:
            yield section, table


def _find(key: str, origin: str) -> tuple[str, Field[Any], str]:
    """(section, field, entry of a table or "") of a dotted key."""
    section, _, name = key.partition(".")
    if section not in _SLICES:
        raise ConfigurationError(f"unknown setting {key!r} ({origin}){_closest_anywhere(key)}")
    named = {f.name: f for f in fields(_SLICES[section])}
    head, _, entry = name.partition(".")
    if head not in named or (entry and head != "properties"):
        raise ConfigurationError(f"unknown setting {key!r} ({origin}){_closest_in(section, key)}")
    return section, named[head], entry


def _closest_in(section: str, key: str) -> str:
    return suggest(key, [f"{section}.{f.name}" for f in fields(_SLICES[section])])


def _closest_anywhere(key: str) -> str:
    keys = [f"{section}.{f.name}" for section, kind in _SLICES.items() for f in fields(kind)]
    if "." in key:
        return suggest(key, keys)
    same = [full for full in keys if full.endswith(f".{key}")]
    return f"; did you mean {same[0]!r}?" if same else suggest(key, _SLICES)
