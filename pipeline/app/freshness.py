"""How fresh an application wants its features, and whether they are."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pipeline import metrics

__all__ = ["FreshnessGoal", "shortened"]

log = logging.getLogger(__name__)

F64 = npt.NDArray[np.float64]
TOLD_INTERVAL_S = 10.0
NO_TIME_S = 1e9  # older than Kafka: the age of a record whose time is -1
SHARE = 4  # no single wait takes more than this part of the goal


def shortened(wait_ms: int, goal_ms: int) -> int:
    """A wait that leaves the goal room for the others; 0: there is no goal."""
    return wait_ms if not goal_ms else min(wait_ms, max(1, goal_ms // SHARE))


class FreshnessGoal:
    """Counts events that were older than ``goal_ms`` when they could be read, and says so.

    The age of an event is that of its record: from broker time to commit. ``goal_ms`` 0: no goal.
    """

    def __init__(
        self, goal_ms: int, registry: metrics.Registry, monotonic: Callable[[], float]
    ) -> None:
        self._goal_s = goal_ms / 1000
        self._registry = registry
        self._monotonic = monotonic
        self._tell_at = monotonic() + TOLD_INTERVAL_S
        self._events = self._missed = 0
        self._oldest_s = 0.0

    def observe(self, view: str, age_s: F64) -> None:
        """The ages of a batch of events of one view, at its commit; those without a broker time
        have none."""
        age_s = age_s[age_s < NO_TIME_S]
        if not self._goal_s or not len(age_s):
            return
        missed = int((age_s > self._goal_s).sum())
        self._registry.counter(metrics.FRESHNESS_MISSED, view).add(missed)
        self._events += len(age_s)
        self._missed += missed
        self._oldest_s = max(self._oldest_s, float(age_s.max()))

    def tell(self) -> None:
        """A line about a goal that is missed, at most every ten seconds."""
        if self._monotonic() < self._tell_at:
            return
        self._tell_at = self._monotonic() + TOLD_INTERVAL_S
        if self._missed:
            log.warning(
                "freshness: %.2g %% of %s events were older than %g ms when they could be read, "
                "the oldest %.3g s",
                100 * self._missed / self._events, f"{self._events:,}", 1000 * self._goal_s,
                self._oldest_s,
            )  # fmt: skip
        self._events = self._missed = 0
        self._oldest_s = 0.0
