"""What a feature that was read is."""

from __future__ import annotations

from enum import IntEnum
from typing import cast

import numpy as np
import numpy.typing as npt

__all__ = ["Status", "worst"]

U8 = npt.NDArray[np.uint8]


class Status(IntEnum):
    """One per feature and row; :func:`worst` of several is that of a view."""

    PRESENT = 0  # exact as of the time asked for
    MISSING = 1  # no event of the key was ever applied; null
    EXPIRED = 2  # the last event is longer ago than the view's ttl; null
    STALE = 3  # the source was not read far enough for the freshness wanted (set by readers)
    DEGRADED = 4  # not exact: a bound was exceeded, a sum overflowed, or T is before the last event
    ESTIMATED = 5  # beyond a bound, answered from a sketch, within its error


SEVERITY = np.array([0, 2, 3, 4, 5, 1], dtype=np.uint8)  # of each status
_BY_SEVERITY = np.argsort(SEVERITY).astype(np.uint8)


def worst(status: U8, axis: int | None = None) -> U8:
    """The worst of ``status`` uint8 along an axis: present < estimated < missing < expired < stale
    < degraded."""
    return cast(U8, _BY_SEVERITY[SEVERITY[status].max(axis=axis)])
