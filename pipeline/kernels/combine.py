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
from pipeline.kernels.jit import Int, inlined, load_half, load_word, part
from pipeline.kernels.lists import LIST_HORIZON
from pipeline.kernels.rings import is_wide, narrowed, section_of, tile_from, widened
from pipeline.kernels.table import EVENT_TIME, NOTHING, SECTION
from pipeline.kernels.tiles import (
    ACC_HALF,
    ACC_OP,
    ACC_RING,
    MAX_INT,
    MIN_INT,
    RING_END,
    RING_FIRST,
    RING_HALVES,
    RING_TILES,
    RING_WIDTH,
    fold,
    identity,
    is_float,
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
    """Position of a ring's first tile, halves of a tile, first and past-the-last of the window."""
    at, cells = SECTION + 3 * ring, rings[ring, RING_END] - rings[ring, RING_FIRST]
    base, entry, count, wide = section_of(slots, slot, at, cells, rings[ring, RING_HALVES])
    tile = first_tile(
        start, slots[slot, EVENT_TIME], rings[ring, RING_WIDTH], rings[ring, RING_TILES]
    )
    stop = count
    if end != OPEN:
        stop = tile_from(arena, base, entry, count, wide, end // rings[ring, RING_WIDTH])
    return base, entry, tile_from(arena, base, entry, count, wide, tile), stop


@inlined
def _combine_halves(arena: I64, p: Int, entry: Int, first: Int, stop: Int, op: Int) -> Int:
    """Integer cells of narrow tiles: no sum of them can overflow, and identities need no care."""
    cell = np.int64(narrowed(op, identity(op)))
    if op == MIN_INT:
        for i in range(first, stop):
            cell = min(cell, load_half(arena, p + i * entry))
    elif op == MAX_INT:
        for i in range(first, stop):
            cell = max(cell, load_half(arena, p + i * entry))
    else:
        for i in range(first, stop):
            cell += load_half(arena, p + i * entry)
    return widened(op, cell) if op in (MIN_INT, MAX_INT) else cell


@part
def combine(
    slots: I64, arena: I64, slot: Int, rings: I64, accumulators: I64, lists: I64, a: Int,
    start: Int, end: Int,
) -> Int:  # fmt: skip
    """Accumulator ``a`` over the tiles, or events, after ``start`` to ``end``, in time order."""
    ring, op = accumulators[a, ACC_RING], accumulators[a, ACC_OP]
    if ring >= len(rings):
        return fold_events(slots, arena, slot, lists, ring - len(rings), op, start, end)
    base, entry, first, stop = tiles_between(slots, arena, slot, rings, ring, start, end)
    cell = np.int64(identity(op))
    wide = is_wide(slots, slot, SECTION + 3 * ring)
    if wide or is_float(op):
        p = base + (2 * (1 + a - rings[ring, RING_FIRST]) if wide else accumulators[a, ACC_HALF])
        for i in range(first, stop):
            cell = fold(op, cell, load_word(arena, p + i * entry))
        return cell
    return _combine_halves(arena, base + accumulators[a, ACC_HALF], entry, first, stop, op)


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
