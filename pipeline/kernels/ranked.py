"""Features that rank the values of a window: quantiles and the most frequent ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.buckets import unordered
from pipeline.kernels.combine import window_tiles
from pipeline.kernels.events import any_dropped, events_between
from pipeline.kernels.feature import (
    DECIMAL,
    F_A,
    F_B,
    F_CELL,
    F_SCALE,
    F_TYPE,
    F_WIDTH,
    S_DEGRADED,
    S_ESTIMATED,
    S_PRESENT,
    as_bits,
    fill,
)
from pipeline.kernels.integers import divide_scaled
from pipeline.kernels.jit import Int, inlined
from pipeline.kernels.lists import EVENTS, LIST_KIND, LIST_RING
from pipeline.kernels.ranking import (
    most_frequent,
    quantile_of_events,
    quantile_of_tiles,
    tally_events,
    tally_tiles,
)
from pipeline.kernels.table import NOTHING, SECTION

__all__ = ["quantile", "top_k"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


@inlined
def quantile(
    slots: I64, arena: I64, slot: Int, rings: I64, lists: I64, feature: I64, default: float,
    start: Int, end: Int, scratch: I64, cells: I64, valid: U8,
) -> Int:  # fmt: skip
    """The value at a rank: null without any, ESTIMATED where a tile holds buckets of values."""
    i, k, q = feature[F_A], feature[F_CELL], feature[F_B]
    kind, scale, status = feature[F_TYPE], feature[F_SCALE], np.int64(S_PRESENT)
    bits, total = np.int64(0), np.int64(0)
    if lists[i, LIST_KIND] == EVENTS:
        block, first, stop = events_between(slots, arena, slot, lists, i, start, end)
        total = stop - first
        if total > 0:
            bits = quantile_of_events(arena, block, first, stop, kind, scale, q, scratch)
        if any_dropped(slots, slot, lists, i, start):
            status = np.int64(S_DEGRADED)
    else:
        first, stop = window_tiles(slots, slot, rings, lists[i, LIST_RING], start, end)
        at = SECTION + 3 * (len(rings) + i)
        bits, total, level = quantile_of_tiles(
            arena, slots[slot, at], slots[slot, at + 1], first, stop, kind, scale, q, scratch
        )
        evicted = slots[slot, slots.shape[1] - len(lists) + i]
        if evicted >= first and evicted != NOTHING:
            status = np.int64(S_DEGRADED)
        elif level > 0:
            status = np.int64(S_ESTIMATED)
    if total > 0:
        cells[k] = bits
        valid[k] = 1
    else:
        fill(feature, default, cells, valid, k)
    return status


@inlined
def top_k(
    slots: I64, arena: I64, slot: Int, rings: I64, lists: I64, feature: I64, default: float,
    start: Int, end: Int, scratch: I64, cells: I64, valid: U8,
) -> Int:  # fmt: skip
    """The most frequent values, null where there are no more; ESTIMATED where counts are low."""
    i, kind, status = feature[F_A], feature[F_TYPE], np.int64(S_PRESENT)
    if lists[i, LIST_KIND] == EVENTS:
        block, first, stop = events_between(slots, arena, slot, lists, i, start, end)
        n = tally_events(arena, block, first, stop, kind, scratch)
        if any_dropped(slots, slot, lists, i, start):
            status = np.int64(S_DEGRADED)
    else:
        first, stop = window_tiles(slots, slot, rings, lists[i, LIST_RING], start, end)
        at = SECTION + 3 * (len(rings) + i)
        n, error = tally_tiles(arena, slots[slot, at], slots[slot, at + 1], first, stop, scratch)
        if error > 0:
            status = np.int64(S_ESTIMATED)
    taken = most_frequent(scratch, n, feature[F_WIDTH])
    for k in range(feature[F_WIDTH]):
        cell = feature[F_CELL] + k
        if k >= taken:
            fill(feature, default, cells, valid, cell)
            continue
        cells[cell] = unordered(scratch[2 * (n - 1 - k)], kind)
        if kind == DECIMAL:
            cells[cell] = as_bits(divide_scaled(cells[cell], np.int64(1), feature[F_SCALE]))
        valid[cell] = 1
    return status
