"""What a cell of a tile holds and how values are folded into it; sections that grow.

How the tiles of a ring lie in the arena is in :mod:`pipeline.kernels.rings`. The column order of
plan tables is defined here and in :mod:`pipeline.kernels.lists` and
:mod:`pipeline.kernels.finalize`; it is that of ``pipeline.features.plan.PlanTables``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.arena import FLAGS, allocate, block_words, release
from pipeline.kernels.groups import (
    FIRST_AT,
    FIRST_FLOAT,
    VAR_FLOAT,
    VAR_INT,
    VAR_LOW,
    VAR_M2,
    VAR_MEAN,
)
from pipeline.kernels.integers import OVERFLOW, add_exact, minus
from pipeline.kernels.jit import Int, inlined, part

__all__ = [
    "ACC_HALF",
    "ACC_INPUT",
    "ACC_MASK",
    "ACC_OP",
    "ACC_RING",
    "COUNT",
    "MAX_FLOAT",
    "MAX_INT",
    "MIN_FLOAT",
    "MIN_INT",
    "RING_END",
    "RING_FIRST",
    "RING_HALVES",
    "RING_TILES",
    "RING_WIDTH",
    "SUM_FLOAT",
    "SUM_INT",
    "fold",
    "grow",
    "identity",
    "is_count",
    "is_float",
    "is_nan",
    "lower_bound",
    "spacious",
    "tile_of",
]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

RING_WIDTH, RING_TILES, RING_FIRST, RING_END, RING_HALVES = range(5)
ACC_RING, ACC_OP, ACC_INPUT, ACC_MASK, ACC_HALF = range(5)
COUNT, SUM_INT, SUM_FLOAT, MIN_INT, MAX_INT, MIN_FLOAT, MAX_FLOAT = range(7)

_MAX = 2**63 - 1
_INF = 0x7FF0000000000000
_MINUS_INF = -0x10000000000000
_NAN = 0x7FF8000000000000
_FLOATS = (
    1 << SUM_FLOAT | 1 << MIN_FLOAT | 1 << MAX_FLOAT
    | 1 << VAR_MEAN | 1 << VAR_LOW | 1 << VAR_M2 | 1 << FIRST_FLOAT
)  # fmt: skip
_COUNTS = 1 << COUNT | 1 << VAR_INT | 1 << VAR_FLOAT | 1 << FIRST_AT


@inlined
def tile_of(time: Int, width: Int) -> Int:
    """The tile ``k`` with ``k * width < time <= (k + 1) * width``."""
    k = time // width
    if time % width == 0:
        k = minus(k, 1)
    return k


@inlined
def is_nan(bits: Int) -> bool:
    """Whether the float64 with these bits is a NaN."""
    return bool((bits & _MAX) > _INF)


@inlined
def is_float(op: Int) -> bool:
    """Whether an accumulator's cells are float64."""
    return bool((_FLOATS >> op) & 1)


@inlined
def is_count(op: Int) -> bool:
    """Whether an accumulator's cells are never negative."""
    return bool((_COUNTS >> op) & 1)


@inlined
def identity(op: Int) -> Int:
    """The cell of accumulator ``op`` before anything was folded into it."""
    if op == MIN_INT:
        return _MAX
    if op == MAX_INT:
        return OVERFLOW
    if op == MIN_FLOAT:
        return _INF
    if op == MAX_FLOAT:
        return _MINUS_INF
    return 0


@inlined
def _rank(bits: Int) -> Int:
    """Order of float64 bits as integers: -inf < ... < -0.0 < 0.0 < ... < inf."""
    return bits ^ ((bits >> 63) & _MAX)


@inlined
def _add_float(a: Int, b: Int) -> Int:
    s = np.float64(np.int64(a).view(np.float64) + np.int64(b).view(np.float64)).view(np.int64)
    if is_nan(s):
        return np.int64(_NAN)
    return s


@inlined
def fold(op: Int, cell: Int, value: Int) -> Int:
    """``cell`` after a value, or another tile's cell, of 64 bits; a count folds ones."""
    if op in (COUNT, SUM_INT):
        return add_exact(cell, value)
    if op == SUM_FLOAT:
        return _add_float(cell, value)
    if op == MIN_INT:
        return min(cell, value)
    if op == MAX_INT:
        return max(cell, value)
    if op == MIN_FLOAT:
        return value if _rank(value) < _rank(cell) else cell
    return value if _rank(value) > _rank(cell) else cell


@inlined
def lower_bound(arena: I64, block: Int, count: Int, entry: Int, word: Int, key: Int) -> Int:
    """The first of ``count`` entries of ``entry`` words whose ``word``-th is at least ``key``."""
    low, high = np.int64(0), np.int64(count)
    while low < high:
        middle = (low + high) >> 1
        if arena[block + middle * entry + word] < key:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def spacious(count: Int, entry: Int) -> Int:
    """Words for ``count`` entries with an eighth to spare, so that clearing out stays rare."""
    return count * entry * 8 // 7 + 1


@part
def grow(arena: I64, heads: I64, slots: I64, slot: Int, at: Int, words: Int) -> Int:
    """Move the section whose columns start at ``at`` to a block of ``words``; returns it."""
    old, size = slots[slot, at], slots[slot, at + 2]
    bigger = block_words(words)
    block = allocate(arena, heads, bigger)
    if old >= 0:
        for k in range(size & ~FLAGS):
            arena[block + k] = arena[old + k]
        release(arena, heads, old, size)
    slots[slot, at] = block
    slots[slot, at + 2] = bigger | (size & FLAGS)
    return block
