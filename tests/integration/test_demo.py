"""``pipeline demo`` as a process: its report, its numbers, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.embedded, pytest.mark.data]

MAIN = "import sys; from pipeline.cli import main; sys.exit(main())"
FIELDS: dict[str, type | tuple[type, ...]] = {
    "events": int,
    "events_per_s": (int, float),
    "accounting": dict,
    "freshness_ms": dict,
    "read_ms": dict,
    "oracle": dict,
    "predictions": dict,
}


def demo(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    """The demo in ``directory``, with its temporary files below it."""
    (directory / "tmp").mkdir()
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, "demo", *arguments],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(directory / "tmp")},
    )


def descendants(pid: int) -> set[int]:
    """Processes below ``pid``."""
    found: set[int] = set()
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents.setdefault(int(stat[1]), []).append(int(entry.name))
    waiting = [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            found.add(child)
            waiting.append(child)
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_report_has_every_number_and_they_are_right(tmp_path: Path) -> None:
    running = demo(tmp_path, "--events", "40000", "--json", "r.json", "--html", "r.html")
    out, _ = running.communicate(timeout=240)
    assert running.returncode == 0, out
    assert "Traceback" not in out
    report = json.loads((tmp_path / "r.json").read_text())
    for name, kind in FIELDS.items():
        assert isinstance(report[name], kind), name
    accounting = report["accounting"]
    assert report["events"] == accounting["consumed"] == 40_000
    assert accounting["consumed"] == sum(
        accounting[k] for k in ("applied", "duplicate", "late", "dead_lettered", "filtered")
    )
    assert report["oracle"]["mismatches"] == 0
    assert report["oracle"]["checked"] > 20_000
    predictions = report["predictions"]
    assert predictions["requested"] == predictions["predicted"] + predictions["fallback"] > 1_000
    for times in (report["freshness_ms"], report["read_ms"]):
        assert 0 < times["p50"] <= times["p99"]
    page = (tmp_path / "r.html").read_text()
    assert "Household" in page
    assert "createElementNS" in page  # the plots are drawn by the page itself
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.html", "r.json", "tmp"]
    assert list((tmp_path / "tmp").glob("pipeline-demo-*")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_it_is_stopped_in_the_middle(
    tmp_path: Path, number: signal.Signals
) -> None:
    running = demo(tmp_path)
    below: set[int] = set()
    deadline = time.monotonic() + 120
    while len(below) < 4 and time.monotonic() < deadline and running.poll() is None:
        below |= descendants(running.pid)  # a broker, a Redis, two workers
        time.sleep(0.1)
    time.sleep(1.0)
    below |= descendants(running.pid)
    assert len(below) >= 4
    running.send_signal(number)
    out, _ = running.communicate(timeout=60)
    assert running.returncode != 0
    assert "Traceback" not in out
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in below) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [pid for pid in below if alive(pid)] == []
