from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import polars as pl
import pytest

from pipeline.cli import main
from pipeline.demo.views import household, purchases
from pipeline.features.planjson import to_json
from pipeline.store.open import open_store
from pipeline.store.registry import ViewRecord

APP = "pipeline.demo.app:app"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("PIPELINE_") and "__" in name:
            monkeypatch.delenv(name)


@pytest.fixture
def dead() -> str:
    """An address that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def store() -> str:
    """A store in memory with the demo's view registered and no rows."""
    url = f"memory://cli-{time.monotonic_ns()}"
    plan = household(purchases()).plan
    record = ViewRecord("household_activity", "grocery", "purchases", 4, to_json(plan),
                        plan.fingerprint)  # fmt: skip
    open_store(url).registry.register(record)
    return url


@pytest.fixture
def visits(tmp_path: Path) -> list[str]:
    """Words of a ``produce`` command whose file fits its contract."""
    (tmp_path / "visit.json").write_text(
        json.dumps(
            {
                "title": "visit",
                "type": "object",
                "properties": {"shop": {"type": "integer"}, "n": {"type": "integer"}},
                "required": ["shop", "n"],
            }
        )
    )
    pl.DataFrame({"shop": [1, 2], "n": [3, 4]}).write_csv(tmp_path / "visits.csv")
    return ["produce", "visits.csv", "--topic", "visits", "--contract", "visit.json",
            "--key", "shop"]  # fmt: skip


def test_dead_broker_is_one_line_in_bounded_time(
    dead: str, store: str, visits: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--brokers", dead, "--set", "broker.timeout_ms=1s"]
    for argv in (visits, [*visits, "--create", "2"], ["run", APP, "--store", store]):
        started = time.monotonic()
        assert main([*argv, *quick]) == 2
        assert time.monotonic() - started < 5
        error = capsys.readouterr().err
        assert f"no Kafka broker answered at {dead} within 1 s (Connection refused)" in error
        assert "hint:" in error
        assert error.count("error:") == 1
        assert "Traceback" not in error


def test_dead_store_is_one_line(dead: str, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"redis://:hunter2@{dead}/0"
    for argv in (["read", "household_activity", "1"], ["run", APP, "--brokers", dead]):
        assert main([*argv, "--store", url]) == 2
        error = capsys.readouterr().err
        assert f"no answer from the store at redis://:***@{dead}/0" in error
        assert "hunter2" not in error
        assert "'pipeline doctor' checks every server" in error
        assert "Traceback" not in error


def test_doctor_names_what_fails_and_shows_no_secret(
    dead: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_STORE__URL", f"redis://:hunter2@{dead}/0")
    assert main(["doctor", "--brokers", dead, "--timeout", "1s"]) == 2
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert any(line.startswith("ok    python ") for line in lines)
    assert any(line.startswith("fail  broker ") and dead in line for line in lines)
    assert any(line.startswith("fail  store ") and dead in line for line in lines)
    shown = next(line for line in lines if line.startswith("store.url"))
    assert f"redis://:***@{dead}/0" in shown
    assert "environment PIPELINE_STORE__URL" in shown
    assert "2 failed" in captured.out
    assert "hunter2" not in captured.out + captured.err
    assert "Traceback" not in captured.out + captured.err


def test_doctor_of_a_wrong_app_goes_on(
    dead: str, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["doctor", "nope.py:app", "--brokers", dead, "--store", store, "--timeout", "500ms"]
    assert main([*words, "--changed"]) == 2
    text = capsys.readouterr().out
    assert "fail  app           no file 'nope.py'" in text
    assert "ok    store         memory://" in text
    assert "views: household_activity" in text
    assert "app.lane" not in text


def test_read_of_a_key_that_is_not_there(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", "household_activity:spend_7d", "900", "--store", store]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["household_id", "900"], ["status", "missing"], ["event", "time", "-"], ["age", "-"],
        ["spend_7d", "-"],
    ]  # fmt: skip
    assert main(["read", "household_activity:spend_7d", "9", "--store", store, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "household_id": 9, "status": "missing", "event_time": None, "age_s": None,
        "spend_7d": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["household_activit", "1"], "no view 'household_activit'; did you mean"),
        (["zzz", "1"], "no view 'zzz'; known: household_activity"),
        (["household_activity:spend_7", "1"], "did you mean 'spend_7d'"),
        (["household_activity", "x1"], "household_id is a whole number, got 'x1'"),
        (["household_activity", str(2**63)], "household_id is 64 bits wide"),
    ],
)
def test_unknown_names_and_keys(
    store: str, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["read", *words, "--store", store]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("visits.csv", "nope.csv"), "no file 'nope.csv'"),
        (("visits.csv", "visit.json"), "visit.json: expected .parquet, .csv, .jsonl, .ndjson"),
        (("visit.json", "none.json"), "none.json: cannot be read: No such file"),
        (("shop", "shp"), "contract 'visit' has no field 'shp'; it has: shop, n"),
    ],
)
def test_produce_checks_its_words_before_it_connects(
    visits: list[str],
    change: tuple[str, str],
    says: str,
    dead: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = [change[1] if word == change[0] else word for word in visits]
    assert main([*argv, "--brokers", dead]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error


def test_produce_refuses_a_file_that_does_not_fit(
    tmp_path: Path, visits: list[str], dead: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "visits.csv").write_text("shop,n\n1,2\n2,\n")
    assert main([*visits, "--brokers", dead]) == 2
    assert "error: visit.n: row 1 is null and the contract allows no null" in (
        capsys.readouterr().err
    )
    (tmp_path / "visits.csv").write_text("shop,n\n1,two\n")
    assert main([*visits, "--brokers", dead]) == 2
    assert "error: cannot read visits.csv: could not parse `two`" in capsys.readouterr().err


def test_a_taken_web_port_is_named(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["run", APP, "--store", store, "--web-port", port]) == 2
    assert f"--web-port {port}: Address already in use" in capsys.readouterr().err
