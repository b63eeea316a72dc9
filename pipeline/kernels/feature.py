"""A feature's row of the plan: its columns, its window as read at a time, its cells.

Window of a feature at T: ``(floor(T, slide) - window, T]``, or ``(T - window, T]`` without a slide;
with a delay ``(.. - delay - window, .. - delay]``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.integers import minus
from pipeline.kernels.jit import Int, inlined
from pipeline.kernels.table import NOTHING

__all__ = [
    "DECIMAL",
    "FLOAT",
    "F_A",
    "F_B",
    "F_CELL",
    "F_DDOF",
    "F_DELAY",
    "F_NULLS",
    "F_OP",
    "F_SCALE",
    "F_SLIDE",
    "F_TYPE",
    "F_WIDTH",
    "F_WINDOW",
    "INT",
    "OPEN",
    "OP_COUNT",
    "OP_DECAYED",
    "OP_DISTINCT",
    "OP_EWMA",
    "OP_FIRST",
    "OP_LAST",
    "OP_MAX",
    "OP_MAX_N",
    "OP_MEAN",
    "OP_MIN",
    "OP_MIN_N",
    "OP_QUANTILE",
    "OP_RATIO",
    "OP_STD",
    "OP_SUM",
    "OP_TOP_K",
    "OP_VAR",
    "S_DEGRADED",
    "S_ESTIMATED",
    "S_EXPIRED",
    "S_MISSING",
    "S_PRESENT",
    "S_STALE",
    "as_bits",
    "as_real",
    "fill",
    "unscaled",
    "window_end",
    "window_start",
]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

(
    F_OP, F_WINDOW, F_SLIDE, F_A, F_B, F_CELL, F_WIDTH, F_TYPE, F_SCALE, F_DELAY, F_DDOF, F_NULLS,
) = range(12)  # fmt: skip
OP_COUNT, OP_SUM, OP_MEAN, OP_MIN, OP_MAX, OP_RATIO, OP_DISTINCT, OP_LAST = range(8)
OP_VAR, OP_STD, OP_FIRST, OP_DECAYED, OP_EWMA, OP_TOP_K, OP_QUANTILE = range(8, 15)
OP_MAX_N, OP_MIN_N = 15, 16
INT, FLOAT, DECIMAL = range(3)
S_PRESENT, S_MISSING, S_EXPIRED, S_STALE, S_DEGRADED, S_ESTIMATED = range(6)
OPEN = 2**63 - 1  # the end of a window that goes up to the newest event


@inlined
def as_bits(value: float) -> Int:
    """The int64 that a cell of this float64 holds."""
    return np.float64(value).view(np.int64)


@inlined
def as_real(bits: Int) -> float:
    """The float64 that a cell holds."""
    return np.int64(bits).view(np.float64)


@inlined
def window_start(feature: I64, at: Int) -> Int:
    """Exclusive start of the feature's window as read at ``at``; the lowest int64 without one."""
    if feature[F_WINDOW] == 0:
        return np.int64(NOTHING)
    floor = np.int64(at)
    if feature[F_SLIDE] > 0:
        floor = minus(at, at % feature[F_SLIDE])
    return minus(minus(floor, feature[F_DELAY]), feature[F_WINDOW])


@inlined
def window_end(feature: I64, at: Int) -> Int:
    """Inclusive end of the feature's window as read at ``at``; OPEN for tiles without a delay."""
    if feature[F_SLIDE] == 0:
        return minus(at, feature[F_DELAY])
    if feature[F_DELAY] == 0:
        return np.int64(OPEN)
    return minus(minus(at, at % feature[F_SLIDE]), feature[F_DELAY])


@inlined
def unscaled(value: float, scale: Int) -> float:
    """``value / 10**scale``; ``scale`` is that of a decimal, at most 22."""
    power = 1.0
    for _ in range(scale):
        power *= 10.0
    return value / power


@inlined
def fill(feature: I64, default: float, cells: I64, valid: U8, k: Int) -> None:
    """A null cell, or the default if there is one."""
    op, type_ = feature[F_OP], feature[F_TYPE]
    real = op in (OP_MEAN, OP_RATIO, OP_EWMA, OP_QUANTILE) or type_ in (FLOAT, DECIMAL)
    valid[k] = 0 if np.isnan(default) else 1
    if np.isnan(default):
        cells[k] = 0
    elif real and op != OP_COUNT and op != OP_DISTINCT:
        cells[k] = as_bits(default)
    else:
        cells[k] = np.int64(default)
