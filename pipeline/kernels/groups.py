"""Accumulators of several cells that one value changes together.

A group is a run of accumulators of one ring: VAR_INT or VAR_FLOAT (the count), VAR_MEAN, VAR_LOW,
VAR_M2; FIRST_AT, then FIRST_INT or FIRST_FLOAT. The first acts for all. Since events come in
offset order, the oldest value of a tile is the first of those with the earliest time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.integers import minus
from pipeline.kernels.jit import Int, bare
from pipeline.kernels.moments import add_moment, value_of

__all__ = [
    "FIRST_AT",
    "FIRST_FLOAT",
    "FIRST_INT",
    "VAR_FLOAT",
    "VAR_INT",
    "VAR_LOW",
    "VAR_M2",
    "VAR_MEAN",
    "add_to_group",
    "group_holds",
]

I64 = npt.NDArray[np.int64]

VAR_INT, VAR_FLOAT, VAR_MEAN, VAR_LOW, VAR_M2, FIRST_AT, FIRST_INT, FIRST_FLOAT = range(7, 15)
_NAN = 0x7FF8000000000000
_INF = 0x7FF0000000000000
_MAX = 2**63 - 1


@bare
def add_to_group(arena: I64, p: Int, op: Int, value: Int, time: Int, width: Int) -> None:
    """Let the group that begins with accumulator ``op`` at ``arena[p]`` take ``value`` of ``time``.

    ``width`` is that of the tile. What is not the first of a group does nothing.
    """
    if op == FIRST_AT:
        at = minus(time, 1) % width + 1
        if arena[p] == 0 or at < arena[p]:
            arena[p] = at
            arena[p + 1] = value
    elif op in (VAR_INT, VAR_FLOAT):
        x, x_low = value_of(value, op == VAR_FLOAT)
        mean, low, squares = add_moment(
            arena[p], np.int64(arena[p + 1]).view(np.float64),
            np.int64(arena[p + 2]).view(np.float64), np.int64(arena[p + 3]).view(np.float64),
            x, x_low,
        )  # fmt: skip
        arena[p] += 1
        arena[p + 1] = np.float64(mean).view(np.int64)
        arena[p + 2] = np.float64(low).view(np.int64)
        bits = np.float64(squares).view(np.int64)
        arena[p + 3] = np.int64(_NAN) if (bits & _MAX) > _INF else bits


@bare
def group_holds(arena: I64, p: Int, op: Int, width: Int) -> bool:
    """Whether the group that ends with accumulator ``op`` at ``arena[p]`` can have been written."""
    if op == VAR_M2:
        if arena[p - 3] == 0:
            return bool(arena[p - 2] == 0 and arena[p - 1] == 0 and arena[p] == 0)
        return bool(arena[p] >= 0)
    if op in (FIRST_INT, FIRST_FLOAT):
        if arena[p - 1] == 0:
            return bool(arena[p] == 0)
        return bool(arena[p - 1] <= width and (op == FIRST_INT or (arena[p] & _MAX) <= _INF))
    return True
