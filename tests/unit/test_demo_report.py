from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.demo.oracle import OracleResult
from pipeline.demo.report import (
    Accounting,
    DemoReport,
    Machine,
    Predictions,
    Quantiles,
    versions,
)
from pipeline.demo.terminal import render

GOOD = DemoReport(
    events=30,
    entities=7,
    events_per_s=412_345.6,
    partitions={1: Accounting(12, 9, 2, 1), 0: Accounting(20, 17, 0, 1, 1, 1)},
    seconds={"start": 1.25, "stream": 3.0},
    machine=Machine(2, "A processor", 7.8),
    versions={"python": "3.11.0"},
    freshness_ms=Quantiles(41, 212),
    read_ms=Quantiles(0.614, 1.4),
    read_keys=100,
    bytes_per_entity=612.4,
    oracle=OracleResult(3469, 58973, 0),
    predictions=Predictions(9, 8, 1),
    expected_requests=9,
    command="pipeline demo",
)


def text_of(report: DemoReport, width: int = 100) -> tuple[str, str]:
    """What is printed, plain and with colours."""
    plain, colour = io.StringIO(), io.StringIO()
    Console(file=plain, width=width).print(render(report))
    Console(file=colour, width=width, force_terminal=True, color_system="standard").print(
        render(report)
    )
    return plain.getvalue(), colour.getvalue()


def test_a_good_run_has_no_problem_and_exits_zero() -> None:
    assert GOOD.problems() == []
    assert GOOD.exit_code == 0
    assert GOOD.accounting == Accounting(32, 26, 2, 2, 1, 1)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"partitions": {0: Accounting(20, 19), 1: Accounting(10, 10)}},
            "partition 0: 20 consumed, but 19 accounted for",
        ),
        ({"events": 31}, "31 events were produced, but 30 consumed"),
        ({"partitions": {}}, "30 events were produced, but 0 consumed"),
        ({"oracle": OracleResult(1, 17, 2)}, "2 of 17 values differ from DuckDB's"),
        ({"oracle": OracleResult()}, "no value was compared with DuckDB"),
        (
            {"predictions": Predictions(9, 8, 0)},
            "9 predictions requested, but 8 accounted for",
        ),
        ({"expected_requests": 10}, "9 predictions requested, but the log has 10 causes"),
    ],
)
def test_every_fault_is_named_shown_red_and_exits_one(
    changes: dict[str, object], problem: str
) -> None:
    report = replace(GOOD, **changes)  # type: ignore[arg-type]
    assert report.problems() == [problem]
    assert report.exit_code == 1
    assert report.to_dict()["ok"] is False
    plain, colour = text_of(report)
    assert problem in plain
    assert "The run is wrong" in plain
    assert "✘" in plain.replace("✘ The run", "")  # the failed proof itself is marked
    assert "\x1b[1;31m✘" in colour


def test_partitions_that_cancel_out_are_still_wrong() -> None:
    report = replace(GOOD, partitions={0: Accounting(16, 14), 1: Accounting(14, 16)})
    assert len(report.problems()) == 2


def test_a_run_that_was_not_verified_says_so_and_is_not_wrong() -> None:
    report = replace(GOOD, oracle=None, predictions=None)
    plain, _ = text_of(report)
    assert report.exit_code == 0
    assert "not verified" in plain
    assert "not compared" in plain
    assert "Exact" not in plain


def test_the_terminal_shows_the_figures() -> None:
    plain, colour = text_of(GOOD)
    assert "✔ Exact  30 purchases by 7 households" in plain
    assert "32 consumed = 26 applied + 2 duplicate + 2 late + 1 dead-lettered + 1 filtered" in plain
    assert "58,973 values in 3,469 rows, 0 differ from DuckDB" in plain
    assert "9 requested = 8 predicted + 1 fallback" in plain
    assert "412,346 events/s" in plain
    assert "p50 0.61 ms, p99 1.40 ms  100 households a read" in plain
    assert "\x1b[31m" not in colour
    assert len(plain.splitlines()) <= 16


def test_examples_of_mismatches_are_shown_as_they_are() -> None:
    line = "household 6: spend_7d is 48.31, DuckDB says 48.3 [sum]"
    plain, _ = text_of(replace(GOOD, oracle=OracleResult(1, 17, 1, (line,))))
    assert line in plain  # brackets are not markup


def test_the_json_file_holds_every_figure(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    GOOD.write(path)
    body = json.loads(path.read_text())
    assert body["ok"] is True
    assert body["events"] == 30
    assert body["accounting"]["consumed"] == 32
    assert body["accounting"]["partitions"]["0"]["dead_lettered"] == 1
    assert list(body["accounting"]["partitions"]) == ["0", "1"]
    assert body["freshness_ms"] == {"p50": 41, "p99": 212}
    assert body["oracle"] == {"points": 3469, "checked": 58973, "mismatches": 0, "examples": []}
    assert body["predictions"] == {"requested": 9, "predicted": 8, "fallback": 1}
    assert body["seconds"] == {"start": 1.25, "stream": 3.0}
    assert body["machine"]["cores"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_the_machine_and_the_versions_are_read() -> None:
    machine = Machine.read()
    assert machine.cores >= 1
    assert machine.cpu
    assert machine.memory_gib > 0
    found = versions({"redis-server": "8.0"})
    assert found["redis-server"] == "8.0"
    assert found["python"].startswith("3.")
    assert "polars" in found
