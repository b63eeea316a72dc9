"""Which times a feature looks at, and which events it still takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.features.aggregations import Aggregation

__all__ = ["EVENTS_KEPT", "Reach"]

EVENTS_KEPT = 4096  # by an exact window that does not say


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a feature looks back; all ns.

    ``keep``   how many of the newest events it keeps, 0: no bound
    ``ttl``    of the view; what a feature without a window looks back
    ``slide``  0: exactly, from events
    """

    window: int
    slide: int
    delay: int
    keep: int
    ttl: int
    newest_only: bool = False
    always: bool = False

    @classmethod
    def of(cls, aggregation: Aggregation, ttl_ns: int) -> Reach:
        """The reach of a feature."""
        op = aggregation.op.name
        keep = 0
        if aggregation.exact and (op != "LAST" or aggregation.delay_ns):
            keep = aggregation.keep or aggregation.bound or EVENTS_KEPT
        return cls(
            window=aggregation.window_ns,
            slide=aggregation.slide_ns,
            delay=aggregation.delay_ns,
            keep=keep,
            ttl=ttl_ns,
            newest_only=op == "LAST" and not keep,
            always=op.startswith("DECAYED") or op == "EWMA",
        )

    @property
    def tile(self) -> int:
        """Width of the tiles; 0 without."""
        tiled = self.slide and not self.newest_only
        return math.gcd(self.window, self.slide) if tiled else 0

    def takes(self, newest: int | None, time: int) -> bool:
        """Whether an event still counts in a row whose newest event before it was ``newest``."""
        if newest is None or time > newest or self.always:
            return True
        if not self.window:
            return not self.ttl or time >= newest - self.ttl
        span = self.window + self.slide + self.delay
        if not self.tile:
            return time > newest - span
        return _tile(time, self.tile) > _tile(newest, self.tile) - span // self.tile

    def start(self, at: int) -> int | None:
        """What it covers at ``at`` begins after this; None: everything."""
        if self.window:
            return self.end(at) - self.window
        return at - self.ttl - 1 if self.ttl and not self.always else None

    def end(self, at: int) -> int:
        """The last time that counts, for windows with a delay or without a slide."""
        return (at // self.slide * self.slide if self.slide else at) - self.delay

    def covers(self, time: int, at: int) -> bool:
        """Whether an event of ``time`` counts at ``at``, which is no earlier than any event."""
        start = self.start(at)
        if start is not None and time <= start:
            return False
        return time <= self.end(at) if self.delay or not self.slide else True


def _tile(time: int, width: int) -> int:
    """Tile k is (k * width, (k + 1) * width]."""
    return (time - 1) // width
