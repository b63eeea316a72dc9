"""What a feature that was read is."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Status"]


class Status(IntEnum):
    """One per feature and row; the worst of several is the largest."""

    PRESENT = 0  # exact as of the time asked for
    MISSING = 1  # no event of the key was ever applied; null
    EXPIRED = 2  # the last event is longer ago than the view's ttl; null
    STALE = 3  # the source was not read far enough for the freshness wanted (set by readers)
    DEGRADED = 4  # not exact: a bound was exceeded, a sum overflowed, or T is before the last event
