"""Features that are the largest, or the smallest, values of a window."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.buckets import ordered, unordered
from pipeline.kernels.combine import window_tiles
from pipeline.kernels.counts import FIRST, VALUES, next_tile
from pipeline.kernels.events import any_dropped, events_between
from pipeline.kernels.feature import (
    DECIMAL,
    F_A,
    F_CELL,
    F_OP,
    F_SCALE,
    F_TYPE,
    F_WIDTH,
    OP_MAX_N,
    S_DEGRADED,
    S_PRESENT,
    as_bits,
    fill,
)
from pipeline.kernels.integers import divide_scaled
from pipeline.kernels.jit import Int, inlined, part
from pipeline.kernels.lists import EVENTS, LIST_KIND, LIST_RING
from pipeline.kernels.ranking import most_frequent
from pipeline.kernels.table import SECTION

__all__ = ["extremes"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


@inlined
def _put(scratch: I64, n: Int, op: Int, key: Int, count: Int) -> Int:
    """Append a pair whose second word, by which pairs are ranked, is highest for the first value.

    Returns how many pairs there are.
    """
    scratch[2 * n], scratch[2 * n + 1] = count, key if op == OP_MAX_N else ~key
    return n + 1


@part
def extremes(
    slots: I64, arena: I64, slot: Int, rings: I64, lists: I64, feature: I64, default: float,
    start: Int, end: Int, scratch: I64, cells: I64, valid: U8,
) -> Int:  # fmt: skip
    """The largest or smallest values, each as often as it occurred; null where there are no more.

    A heap from which they are taken: O(n + k log n) of n values kept. DEGRADED where an events
    list dropped an event of the window.
    """
    i, op, kind, status = feature[F_A], feature[F_OP], feature[F_TYPE], np.int64(S_PRESENT)
    n = np.int64(0)
    if lists[i, LIST_KIND] == EVENTS:
        block, first, stop = events_between(slots, arena, slot, lists, i, start, end)
        for e in range(first, stop):
            n = _put(scratch, n, op, ordered(arena[block + 3 * e + 2], kind), np.int64(1))
        if any_dropped(slots, slot, lists, i, start):
            status = np.int64(S_DEGRADED)
    else:
        first, stop = window_tiles(slots, slot, rings, lists[i, LIST_RING], start, end)
        at = SECTION + 3 * (len(rings) + i)
        p, last = slots[slot, at] + FIRST, slots[slot, at] + slots[slot, at + 1]
        while p < last:
            if first <= arena[p] < stop:
                for e in range(p + VALUES, next_tile(arena, p), 2):
                    n = _put(scratch, n, op, arena[e], arena[e + 1])
            p = next_tile(arena, p)
    cell, past = feature[F_CELL], feature[F_CELL] + feature[F_WIDTH]
    for taken in range(most_frequent(scratch, n, feature[F_WIDTH])):
        pair = 2 * (n - 1 - taken)
        key = scratch[pair + 1] if op == OP_MAX_N else ~scratch[pair + 1]
        value = unordered(key, kind)
        if kind == DECIMAL:
            value = as_bits(divide_scaled(value, np.int64(1), feature[F_SCALE]))
        for _ in range(min(scratch[pair], past - cell)):
            cells[cell], valid[cell] = value, 1
            cell += 1
    while cell < past:
        fill(feature, default, cells, valid, cell)
        cell += 1
    return status
