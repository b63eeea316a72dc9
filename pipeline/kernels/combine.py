"""Accumulators over a window: the cells of its tiles, or its events, put together in time order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.events import any_dropped, fold_events
from pipeline.kernels.feature import (
    F_A,
    F_NULLS,
    F_OP,
    F_WINDOW,
    OP_LAST,
    OPEN,
    S_DEGRADED,
    S_PRESENT,
)
from pipeline.kernels.integers import minus
from pipeline.kernels.jit import Int, inlined, part
from pipeline.kernels.lists import LIST_HORIZON
from pipeline.kernels.table import EVENT_TIME, NOTHING, SECTION
from pipeline.kernels.tiles import (
    ACC_OP,
    ACC_RING,
    RING_END,
    RING_FIRST,
    RING_TILES,
    RING_WIDTH,
    fold,
    identity,
    lower_bound,
    tile_of,
)

__all__ = ["combine", "first_tile", "kept_all", "nulls_of", "tiles_between", "window_tiles"]

I64 = npt.NDArray[np.int64]


@inlined
def first_tile(start: Int, newest: Int, width: Int, tiles: Int) -> Int:
    """First tile of the window that begins after ``start`` and that the ring still holds."""
    held = minus(tile_of(newest, width), tiles) + 1
    if start == NOTHING:
        return held
    return max(-(-start // width), held)


@inlined
def window_tiles(
    slots: I64, slot: Int, rings: I64, ring: Int, start: Int, end: Int
) -> tuple[Int, Int]:
    """First and past-the-last tile of a window."""
    width = rings[ring, RING_WIDTH]
    first = first_tile(start, slots[slot, EVENT_TIME], width, rings[ring, RING_TILES])
    return first, np.int64(OPEN) if end == OPEN else end // width


@inlined
def tiles_between(
    slots: I64, arena: I64, slot: Int, rings: I64, ring: Int, start: Int, end: Int
) -> tuple[Int, Int, Int, Int]:
    """Block and words an entry of a ring, and first and past-the-last of the window's tiles."""
    at = SECTION + 3 * ring
    block, count = slots[slot, at], slots[slot, at + 1]
    entry = 1 + rings[ring, RING_END] - rings[ring, RING_FIRST]
    tile = first_tile(
        start, slots[slot, EVENT_TIME], rings[ring, RING_WIDTH], rings[ring, RING_TILES]
    )
    stop = count
    if end != OPEN:
        stop = lower_bound(arena, block, count, entry, 0, end // rings[ring, RING_WIDTH])
    return block, entry, lower_bound(arena, block, count, entry, 0, tile), stop


@part
def combine(
    slots: I64, arena: I64, slot: Int, rings: I64, accumulators: I64, lists: I64, a: Int,
    start: Int, end: Int,
) -> Int:  # fmt: skip
    """Accumulator ``a`` over the tiles, or events, after ``start`` to ``end``, in time order."""
    ring, op = accumulators[a, ACC_RING], accumulators[a, ACC_OP]
    if ring >= len(rings):
        return fold_events(slots, arena, slot, lists, ring - len(rings), op, start, end)
    block, entry, first, stop = tiles_between(slots, arena, slot, rings, ring, start, end)
    cell = np.int64(identity(op))
    p = block + 1 + a - rings[ring, RING_FIRST]
    for i in range(first, stop):
        cell = fold(op, cell, arena[p + i * entry])
    return cell


@inlined
def kept_all(
    slots: I64, slot: Int, rings: I64, accumulators: I64, lists: I64, a: Int, start: Int
) -> Int:
    """DEGRADED if accumulator ``a`` folds events of which some after ``start`` were dropped."""
    i = accumulators[a, ACC_RING] - len(rings)
    if i >= 0 and any_dropped(slots, slot, lists, i, start):
        return np.int64(S_DEGRADED)
    return np.int64(S_PRESENT)


@part
def nulls_of(
    slots: I64, arena: I64, slot: Int, rings: I64, accumulators: I64, lists: I64, feature: I64,
    start: Int, end: Int, at: Int,
) -> tuple[Int, Int]:  # fmt: skip
    """How many events of the feature's window make it null; DEGRADED if some were dropped."""
    a = feature[F_NULLS]
    if feature[F_OP] == OP_LAST and feature[F_WINDOW] == 0:
        horizon = lists[feature[F_A], LIST_HORIZON]
        if horizon != 0:
            start = minus(at, horizon)
    count = combine(slots, arena, slot, rings, accumulators, lists, a, start, end)
    return count, kept_all(slots, slot, rings, accumulators, lists, a, start)
