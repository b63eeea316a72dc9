"""Workers started as a person starts them, ``pipeline run``, and what can be seen from outside:
their markers in Redis, and CPU and memory in /proc."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import redis

from pipeline.embedded.process import free_port
from pipeline.ingest.batch import TopicPartition
from pipeline.store.keys import marker_key, partition_tag
from pipeline.store.marker import Marker
from tests.bench.peers.workload import view

__all__ = ["Worker", "cpu_seconds", "processes", "resident_bytes"]

ROOT = Path(__file__).parents[2]
MAIN = "import sys; from pipeline.cli import main; sys.exit(main())"
STOP_S = 60.0
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Worker:
    """``pipeline run`` over ``topic`` as application ``app``; ``options`` are more arguments,
    ``environment`` more variables. The store is emptied first. Stopped at the end of a ``with``.
    """

    def __init__(
        self, brokers: str, redis_url: str, topic: str, app: str, partitions: int,
        options: tuple[str, ...] = (), environment: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        fingerprint = view(topic).plan.fingerprint
        self._keys = [
            marker_key(partition_tag(app, TopicPartition(topic, p)), fingerprint)
            for p in range(partitions)
        ]
        self._store = redis.Redis.from_url(redis_url)
        self._store.flushall()
        self._log = tempfile.NamedTemporaryFile(prefix="bench-worker-")  # noqa: SIM115
        named = {"BENCH_APP": app, "BENCH_TOPIC": topic, "PYTHONPATH": str(ROOT)}
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            [
                sys.executable, "-c", MAIN, "run", "tests.bench._app:app",
                "--web-port", str(free_port()), "--brokers", brokers, "--store", redis_url,
                "--set", "app.session_timeout_ms=6000", *options,
            ],
            cwd=ROOT, env={**os.environ, **named, **(environment or {})},
            stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def consumed(self) -> int:
        """Events that are committed; RuntimeError with its last words if the process ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"pipeline run ended: {self.said()[-2000:]}")
        found: Any = self._store.mget(self._keys)
        return sum(Marker.unpack(data).consumed for data in found if data is not None)

    def said(self) -> str:
        """What it wrote."""
        return Path(self._log.name).read_text()

    def wait(self, events: int, seconds: float = 600.0) -> float:
        """Seconds since its start until so many events are committed."""
        while self.consumed() < events:
            if time.perf_counter() - self.began > seconds:
                raise RuntimeError(f"after {seconds} s: {self.consumed()} events; {self.said()}")
            time.sleep(0.005)
        return time.perf_counter() - self.began

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._store.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        finally:
            self.process.kill()
            self._log.close()


def processes(pid: int) -> list[int]:
    """A process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in processes(int(child)))]


def cpu_seconds(pid: int) -> float:
    """CPU that a process has taken so far, its threads' and its own."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
