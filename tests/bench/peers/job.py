"""What the Python peers share: their arguments, the clock, the write to Redis, the last line."""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import time
from typing import Any

import orjson
import redis

KEY = b"user:"


def arguments() -> argparse.Namespace:
    """Where to read and write, and how many events there are.

    Also lets the collector of cycles run less often: with the state of 100,000 users alive it took
    two fifths of the CPU of the fastest of these jobs.
    """
    gc.set_threshold(200_000, 50, 1_000)
    parser = argparse.ArgumentParser()
    for name in ("brokers", "topic", "group", "redis", "directory"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--events", type=int, required=True)
    return parser.parse_args()


class Clock:
    """Seconds from the first record to the last row, wall and CPU of this process."""

    def __init__(self) -> None:
        self.events = 0
        self._began: tuple[float, float] | None = None
        self._ended = (0.0, 0.0)

    def count(self, events: int) -> None:
        """So many more records have arrived."""
        if self._began is None:
            self._began = _now()
        self.events += events

    def wrote(self) -> None:
        """Rows are in Redis."""
        self._ended = _now()

    def report(self) -> None:
        """The one line of a job."""
        began = self._began or self._ended
        seconds, cpu = (end - begin for begin, end in zip(began, self._ended, strict=True))
        line = json.dumps({"events": self.events, "seconds": seconds, "cpu_seconds": cpu})
        os.write(1, line.encode() + b"\n")  # Faust takes sys.stdout for its log


def _now() -> tuple[float, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), used.ru_utime + used.ru_stime


class Rows:
    """Rows to Redis, one MSET for all that changed: the fastest write the client has."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._redis = redis.Redis.from_url(url)
        self._clock = clock

    def write(self, changed: dict[bytes, Any]) -> None:
        """Write the features of these users as JSON lists."""
        if changed:
            self._redis.mset({KEY + user: orjson.dumps(row) for user, row in changed.items()})
        self._clock.wrote()
