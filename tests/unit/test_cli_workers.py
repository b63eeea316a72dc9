"""What becomes of workers that end by themselves."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import pytest

from pipeline.cli import workers
from pipeline.cli.workers import FAILURES, supervise, worker_count
from pipeline.errors import ConfigurationError


def write_and_end(arguments: argparse.Namespace) -> int:
    """Note the start in a file; end with the next of ``codes``, the last one again and again."""
    notes: Path = arguments.notes
    started = len(notes.read_text()) if notes.exists() else 0
    with notes.open("a") as file:
        file.write("x")
    codes: list[int] = arguments.codes
    return codes[min(started, len(codes) - 1)]


def run(tmp_path: Path, *codes: int, others: int = 0) -> tuple[int, int]:
    """Exit code of all, and how often the first worker was started."""
    notes = tmp_path / "starts"
    made = [argparse.Namespace(notes=notes, codes=list(codes), verbose=0, debug=False, hints={})]
    made += [
        argparse.Namespace(
            notes=tmp_path / f"other-{i}", codes=[-1], verbose=0, debug=False, hints={}
        )
        for i in range(others)
    ]
    code = supervise(sleep_or_end, made)
    return code, len(notes.read_text())


def sleep_or_end(arguments: argparse.Namespace) -> int:
    """As :func:`write_and_end`; one whose code is -1 works until it is stopped."""
    code = write_and_end(arguments)
    if code == -1:
        time.sleep(60)
    return code


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "FIRST_PAUSE_S", 0.01)


def test_a_worker_that_fails_again_and_again_ends_them_all(tmp_path: Path) -> None:
    assert run(tmp_path, 1, others=1) == (1, FAILURES)


def test_one_that_cannot_be_started_ends_them_all_at_once(tmp_path: Path) -> None:
    assert run(tmp_path, 2, others=1) == (2, 1)


def test_a_server_that_is_away_for_a_while_is_waited_for(tmp_path: Path) -> None:
    """A worker that was up before also ends with 2 while it finds no server."""
    assert run(tmp_path, 1, 2, 2, 1) == (1, FAILURES)


def test_how_many() -> None:
    assert worker_count("3") == 3
    assert worker_count("auto") == len(os.sched_getaffinity(0))
    for wrong in ("0", "-1", "two", ""):
        with pytest.raises(ConfigurationError, match="--workers"):
            worker_count(wrong)
