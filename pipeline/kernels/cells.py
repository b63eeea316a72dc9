"""What the columns of a plan's features mean, and how an output cell is filled."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.integers import minus
from pipeline.kernels.jit import Int, inlined
from pipeline.kernels.table import EVENT_TIME, NOTHING
from pipeline.kernels.tiles import RING_TILES, RING_WIDTH, tile_of

__all__ = [
    "DECIMAL",
    "FLOAT",
    "F_A",
    "F_B",
    "F_CELL",
    "F_DELAY",
    "F_OP",
    "F_SCALE",
    "F_SLIDE",
    "F_TYPE",
    "F_WIDTH",
    "F_WINDOW",
    "INT",
    "OPEN",
    "OP_COUNT",
    "OP_DISTINCT",
    "OP_LAST",
    "OP_MAX",
    "OP_MEAN",
    "OP_MIN",
    "OP_QUANTILE",
    "OP_RATIO",
    "OP_SUM",
    "OP_TOP_K",
    "S_DEGRADED",
    "S_ESTIMATED",
    "S_EXPIRED",
    "S_MISSING",
    "S_PRESENT",
    "S_STALE",
    "bits_of",
    "fill",
    "first_tile",
    "real_of",
    "tiles_between",
]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

F_OP, F_WINDOW, F_SLIDE, F_A, F_B, F_CELL, F_WIDTH, F_TYPE, F_SCALE, F_DELAY = range(10)
OP_COUNT, OP_SUM, OP_MEAN, OP_MIN, OP_MAX, OP_RATIO, OP_DISTINCT, OP_LAST = range(8)
OP_TOP_K, OP_QUANTILE = 13, 14
INT, FLOAT, DECIMAL = range(3)
S_PRESENT, S_MISSING, S_EXPIRED, S_STALE, S_DEGRADED, S_ESTIMATED = range(6)
OPEN = 2**63 - 1  # the end of a window that goes up to the newest event


@inlined
def bits_of(value: float) -> Int:
    return np.float64(value).view(np.int64)


@inlined
def real_of(bits: Int) -> float:
    return np.int64(bits).view(np.float64)


@inlined
def fill(feature: I64, default: float, cells: I64, valid: U8, k: Int) -> None:
    """A null cell, or the default if there is one."""
    op, type_ = feature[F_OP], feature[F_TYPE]
    real = op in (OP_MEAN, OP_RATIO, OP_QUANTILE) or type_ in (FLOAT, DECIMAL)
    valid[k] = 0 if np.isnan(default) else 1
    if np.isnan(default):
        cells[k] = 0
    elif real and op != OP_COUNT and op != OP_DISTINCT:
        cells[k] = bits_of(default)
    else:
        cells[k] = np.int64(default)


@inlined
def first_tile(start: Int, newest: Int, width: Int, tiles: Int) -> Int:
    """First tile of the window that begins after ``start`` and that the ring still holds."""
    held = minus(tile_of(newest, width), tiles) + 1
    if start == NOTHING:
        return held
    return max(-(-start // width), held)


@inlined
def tiles_between(
    slots: I64, slot: Int, rings: I64, ring: Int, start: Int, end: Int
) -> tuple[Int, Int]:
    """First and past-the-last tile of a window."""
    width = rings[ring, RING_WIDTH]
    first = first_tile(start, slots[slot, EVENT_TIME], width, rings[ring, RING_TILES])
    return first, np.int64(OPEN) if end == OPEN else end // width
