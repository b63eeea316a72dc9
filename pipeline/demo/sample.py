"""One look at the running demo, and rates between looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Sample", "rate"]


@dataclass(frozen=True, slots=True)
class Sample:
    """Counts so far, ``t_s`` seconds after the first event was produced.

    ``lag``           events produced and not yet applied
    ``freshness_*``   ms from an event's broker time until its features could be read, over the
                      time since the sample before; None where nothing was applied in it
    """

    t_s: float
    produced: int = 0
    applied: int = 0
    predicted: int = 0
    lag: int = 0
    freshness_p50_ms: float | None = None
    freshness_p99_ms: float | None = None


def rate(samples: Sequence[Sample], field: str, over_s: float = 2.0) -> float:
    """Events a second of ``field`` over the last ``over_s`` seconds; 0.0 with fewer than two."""
    if len(samples) < 2:
        return 0.0
    last = samples[-1]
    first = next((s for s in samples if s.t_s >= last.t_s - over_s and s is not last), samples[-2])
    seconds = last.t_s - first.t_s
    return (getattr(last, field) - getattr(first, field)) / seconds if seconds > 0 else 0.0
