"""Several workers on one machine: processes of their own, watched by the one that started them.

A worker that ends though nobody asked it to is started again, later each time; one that ends again
and again, or that could not be started at all (exit code 2), ends them all. Ctrl-C and SIGTERM are
passed on once; whoever still runs after :data:`STOP_TIMEOUT_S` is killed.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Any

from pipeline.cli.execute import execute
from pipeline.errors import ConfigurationError

__all__ = ["supervise", "worker_count"]

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 20.0
RAN_S = 60.0  # a worker that ended sooner did not run for long
FAILURES = 6  # so many times in a row, over half a minute
FIRST_PAUSE_S = 1.0
NOT_STARTED = 2  # exit code of a wrong argument, configuration or definition, or a server away
FAILED = 1
_spawn = multiprocessing.get_context("spawn")


def worker_count(text: str) -> int:
    """``--workers``: a number from 1, or ``auto`` for one per core that this process may use."""
    if text == "auto":
        return (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(f"--workers: must be 'auto' or a number from 1, got {text!r}")
    return int(text)


def supervise(command: Callable[[argparse.Namespace], int], runs: list[argparse.Namespace]) -> int:
    """Run ``command`` once per process, each with its own arguments; 0 if all of them ended so."""
    asked = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: asked.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    workers = [_Worker(command, run, index) for index, run in enumerate(runs, 1)]
    try:
        for worker in workers:
            worker.start()
        return _watch(workers, asked)
    finally:
        _stop(workers)
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(workers: list[_Worker], asked: threading.Event) -> int:
    while not asked.is_set():
        running = [w.process.sentinel for w in workers if w.process is not None]
        wait(running, timeout=0.2) if running else asked.wait(0.2)
        for worker in workers:
            code = worker.look()
            if code is not None:
                log.error("%s: stopping the others", worker.name)
                _stop(workers)
                return code
    return max((abs(code) for code in _stop(workers)), default=0) and FAILED


def _stop(workers: list[_Worker]) -> list[int]:
    """Ask every worker to stop and wait; exit codes."""
    for worker in workers:
        worker.ask()
    until = time.monotonic() + STOP_TIMEOUT_S
    return [worker.end(until) for worker in workers]


@dataclass
class _Worker:
    """One process, and what became of those before it."""

    command: Callable[[argparse.Namespace], int]
    arguments: argparse.Namespace
    index: int
    process: SpawnProcess | None = None
    started_at: float = 0.0
    failures: int = 0
    again_at: float = 0.0
    started_before: bool = False

    @property
    def name(self) -> str:
        return f"worker {self.index}"

    def start(self) -> None:
        self.process = _spawn.Process(
            target=_work, args=(self.command, self.arguments, self.name), name=self.name
        )
        self.process.start()
        self.started_at = time.monotonic()

    def look(self) -> int | None:
        """Start it again if it is time to; the exit code of all where it is not worth it."""
        now = time.monotonic()
        if self.process is None:
            if now >= self.again_at:
                self.start()
            return None
        code = self.process.exitcode
        if code is None:
            return None
        self.failures = self.failures + 1 if now - self.started_at < RAN_S else 1
        first, self.started_before = not self.started_before, True
        if (code == NOT_STARTED and first) or self.failures >= FAILURES:
            log.error("%s ended with %s, the %d. time in a row", self.name, code, self.failures)
            return code if code > 0 else FAILED
        pause_s = FIRST_PAUSE_S * 2 ** (self.failures - 1)
        log.warning("%s ended with %s: again in %g s", self.name, code, pause_s)
        self.process, self.again_at = None, now + pause_s
        return None

    def ask(self) -> None:
        if self.process is not None and self.process.exitcode is None:
            self.process.terminate()

    def end(self, until: float) -> int:
        if self.process is None:
            return 0
        self.process.join(max(0.0, until - time.monotonic()))
        if self.process.exitcode is None:
            log.error("%s did not stop within %g s: killed", self.name, STOP_TIMEOUT_S)
            self.process.kill()
            self.process.join()
        code, self.process = self.process.exitcode, None
        return 0 if code in (None, -signal.SIGTERM) else code  # before it listens, it dies of that


def _work(
    command: Callable[[argparse.Namespace], int], arguments: argparse.Namespace, name: str
) -> None:
    """What a process does: as ``pipeline`` itself, but for Ctrl-C, which its parent passes on."""
    os.setsid()
    threading.Thread(target=_follow_parent, daemon=True, name="parent").start()
    sys.exit(execute(arguments, command, name))


def _follow_parent() -> None:
    """A worker whose parent was killed stops as if it had been asked to."""
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
