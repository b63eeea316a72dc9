"""The second process that compiles, and what becomes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.kernels.jit import JIT_ENABLED

pytestmark = [
    pytest.mark.skipif(not JIT_ENABLED, reason="nothing is compiled with PIPELINE_JIT=off"),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="a second process needs a second core"),
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc"),
]

# A worker that compiles for ever, in words: what it does meanwhile is of no interest here.
WORKER = """
import time
from pipeline.app.ahead import compiling_ahead
with compiling_ahead():
    print("compiling", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A worker whose second process compiles."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKER],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PIPELINE_CACHE": str(tmp_path)},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "compiling\n"
            yield process
        finally:
            process.kill()


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=str)
def test_it_ends_with_the_worker(
    worker: subprocess.Popen[str], tmp_path: Path, how: signal.Signals
) -> None:
    (second,) = children(worker.pid)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.lock")):  # its first kernel is being compiled
        assert alive(second)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    worker.send_signal(how)
    worker.wait(30)
    ended = time.monotonic()
    while alive(second):
        assert time.monotonic() < ended + 10, "it compiles on for nobody"
        time.sleep(0.05)
