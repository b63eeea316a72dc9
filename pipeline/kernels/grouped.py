"""Variance and first value of a window, from groups of cells or from events."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.combine import kept_all, tiles_between
from pipeline.kernels.events import events_between
from pipeline.kernels.feature import (
    DECIMAL,
    F_A,
    F_CELL,
    F_DDOF,
    F_OP,
    F_SCALE,
    F_TYPE,
    OP_STD,
    S_DEGRADED,
    as_bits,
    as_real,
    unscaled,
)
from pipeline.kernels.groups import VAR_FLOAT
from pipeline.kernels.integers import divide_scaled
from pipeline.kernels.jit import Int, part
from pipeline.kernels.moments import add_moment, merge_moments, value_of
from pipeline.kernels.tiles import ACC_OP, ACC_RING, RING_FIRST

__all__ = ["first_value", "variance"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


@part
def _event_squares(
    slots: I64, arena: I64, slot: Int, lists: I64, i: Int, real: Int, start: Int, end: Int
) -> tuple[Int, float]:
    """Number of the events of list ``i`` in ``(start, end]``, and their squared differences."""
    block, first, stop = events_between(slots, arena, slot, lists, i, start, end)
    count, mean, low, squares = np.int64(0), 0.0, 0.0, 0.0
    for e in range(first, stop):
        x, x_low = value_of(arena[block + 3 * e + 2], real)
        mean, low, squares = add_moment(count, mean, low, squares, x, x_low)
        count += 1
    return count, squares


@part
def _tile_squares(
    slots: I64, arena: I64, slot: Int, rings: I64, ring: Int, cell: Int, start: Int, end: Int
) -> tuple[Int, float]:
    """The same of the tiles of a ring, which are wide; their groups begin at word ``cell``."""
    base, entry, first, stop = tiles_between(slots, arena, slot, rings, ring, start, end)
    count, mean, low, squares = np.int64(0), 0.0, 0.0, 0.0
    for i in range(first, stop):
        p = ((base + i * entry) >> 1) + cell
        mean, low, squares = merge_moments(
            count, mean, low, squares,
            arena[p], as_real(arena[p + 1]), as_real(arena[p + 2]), as_real(arena[p + 3]),
        )  # fmt: skip
        count += arena[p]
    return count, squares


@part
def variance(
    slots: I64, arena: I64, slot: Int, rings: I64, accumulators: I64, lists: I64, feature: I64,
    start: Int, end: Int, cells: I64, valid: U8,
) -> Int:  # fmt: skip
    """VAR or STD of the values after ``start`` into its cell; returns its status."""
    a, k = feature[F_A], feature[F_CELL]
    ring = accumulators[a, ACC_RING]
    cells[k] = 0
    valid[k] = 0
    if ring >= len(rings):
        real = accumulators[a, ACC_OP] == VAR_FLOAT
        count, squares = _event_squares(
            slots, arena, slot, lists, ring - len(rings), real, start, end
        )
    else:
        cell = 1 + a - rings[ring, RING_FIRST]
        count, squares = _tile_squares(slots, arena, slot, rings, ring, cell, start, end)
    status = kept_all(slots, slot, rings, accumulators, lists, a, start)
    if count <= feature[F_DDOF]:
        return status
    if not squares >= 0.0:
        return S_DEGRADED
    value: Int = squares / np.float64(count - feature[F_DDOF])
    value = np.sqrt(value) if feature[F_OP] == OP_STD else unscaled(value, feature[F_SCALE])
    cells[k] = as_bits(unscaled(value, feature[F_SCALE]))
    valid[k] = 1
    return status


@part
def first_value(
    slots: I64, arena: I64, slot: Int, rings: I64, accumulators: I64, lists: I64, feature: I64,
    start: Int, end: Int, cells: I64, valid: U8,
) -> Int:  # fmt: skip
    """The oldest value after ``start`` into its cell; returns its status."""
    a, k = feature[F_A], feature[F_CELL]
    ring = accumulators[a, ACC_RING]
    p = np.int64(-1)
    if ring >= len(rings):
        i = ring - len(rings)
        block, first, stop = events_between(slots, arena, slot, lists, i, start, end)
        if first < stop:
            p = block + 3 * first + 2
    else:
        base, entry, first, stop = tiles_between(slots, arena, slot, rings, ring, start, end)
        cell, words = (base >> 1) + 1 + a - rings[ring, RING_FIRST], entry >> 1
        while first < stop and arena[cell + first * words] == 0:
            first += 1
        if first < stop:
            p = cell + first * words + 1
    cells[k] = 0
    valid[k] = 0
    if p >= 0:
        value = arena[p]
        if feature[F_TYPE] == DECIMAL:
            value = as_bits(divide_scaled(value, np.int64(1), feature[F_SCALE]))
        cells[k] = value
        valid[k] = 1
    return kept_all(slots, slot, rings, accumulators, lists, a, start)
