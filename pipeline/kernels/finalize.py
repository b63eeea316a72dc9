"""Features of a row as of a time T, from its tiles and lists.

For T before the row's newest event the row no longer knows the answer: cells are then of what it
has (tiles without a delay: up to the newest event), and every status is DEGRADED.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.combine import combine, first_tile, kept_all, nulls_of
from pipeline.kernels.decay import decayed_value
from pipeline.kernels.distinct import COUNTED_AS, LOST, count_values
from pipeline.kernels.events import any_dropped, count_distinct, events_between
from pipeline.kernels.extremes import extremes
from pipeline.kernels.feature import (
    DECIMAL,
    F_A,
    F_B,
    F_CELL,
    F_NULLS,
    F_OP,
    F_SCALE,
    F_TYPE,
    F_WIDTH,
    F_WINDOW,
    OP_COUNT,
    OP_DECAYED,
    OP_DISTINCT,
    OP_EWMA,
    OP_FIRST,
    OP_LAST,
    OP_MAX,
    OP_MAX_N,
    OP_MEAN,
    OP_MIN,
    OP_MIN_N,
    OP_QUANTILE,
    OP_RATIO,
    OP_STD,
    OP_TOP_K,
    OP_VAR,
    S_DEGRADED,
    S_ESTIMATED,
    S_EXPIRED,
    S_MISSING,
    S_PRESENT,
    as_bits,
    as_real,
    fill,
    window_end,
    window_start,
)
from pipeline.kernels.grouped import first_value, variance
from pipeline.kernels.integers import OVERFLOW, divide_scaled, minus
from pipeline.kernels.jit import Int, bare, inlined, part
from pipeline.kernels.lists import EVENTS, LIST_HORIZON, LIST_KIND, LIST_RING
from pipeline.kernels.ranked import quantile, top_k
from pipeline.kernels.table import EVENT_TIME, LOADED, PRESENT, SECTION, STATE
from pipeline.kernels.tiles import (
    ACC_OP,
    COUNT,
    RING_TILES,
    RING_WIDTH,
    SUM_INT,
    identity,
    is_float,
    is_nan,
)

__all__ = ["finalize_row", "finalize_slots"]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


@inlined
def _broken(op: Int, cell: Int) -> bool:
    """An integer sum that overflowed, or a float that is NaN (from inf - inf)."""
    return (op == SUM_INT and cell == OVERFLOW) or (is_float(op) and is_nan(cell))


@part
def _quotient(op_a: Int, a: Int, op_b: Int, b: Int, scale: Int) -> Int:
    if not is_float(op_a) and not is_float(op_b):
        return divide_scaled(a, b, scale)
    x = as_real(a) if is_float(op_a) else np.float64(a)
    y = as_real(b) if is_float(op_b) else np.float64(b)
    q = x / y
    for _ in range(abs(scale)):
        q = q / 10.0 if scale > 0 else q * 10.0
    return q


@inlined
def _is_zero(op: Int, cell: Int) -> bool:
    return bool(as_real(cell) == 0.0 if is_float(op) else cell == 0)


@inlined
def _aggregate(
    slots: I64, arena: I64, slot: Int, rings: I64, accumulators: I64, lists: I64, feature: I64,
    default: float, start: Int, end: Int, cells: I64, valid: U8,
) -> Int:  # fmt: skip
    """COUNT, SUM, MEAN, MIN, MAX or RATIO into its cell; returns its status."""
    op, k, a, b = feature[F_OP], feature[F_CELL], feature[F_A], feature[F_B]
    op_a = accumulators[a, ACC_OP]
    x = combine(slots, arena, slot, rings, accumulators, lists, a, start, end)
    status = kept_all(slots, slot, rings, accumulators, lists, a, start)
    op_b, y = np.int64(COUNT), np.int64(1)
    if b >= 0:
        op_b = accumulators[b, ACC_OP]
        # A least or greatest that differs from that of nothing was of something.
        if op not in (OP_MIN, OP_MAX) or x == identity(op_a):
            y = combine(slots, arena, slot, rings, accumulators, lists, b, start, end)
        status = max(status, kept_all(slots, slot, rings, accumulators, lists, b, start))
    cells[k] = 0
    valid[k] = 0
    if _broken(op_a, x) or _broken(op_b, y):
        return S_DEGRADED
    if b >= 0 and _is_zero(op_b, y):
        fill(feature, default, cells, valid, k)
        return status
    if op in (OP_MEAN, OP_RATIO):
        q = _quotient(op_a, x, op_b, y, feature[F_SCALE])
        if np.isnan(q):
            return S_DEGRADED
        cells[k] = as_bits(q)
    elif feature[F_TYPE] == DECIMAL and op != OP_COUNT:
        cells[k] = as_bits(divide_scaled(x, np.int64(1), feature[F_SCALE]))
    else:
        cells[k] = x
    valid[k] = 1
    return status


@inlined
def _distinct(
    slots: I64, arena: I64, slot: Int, rings: I64, lists: I64, feature: I64,
    start: Int, end: Int, scratch: I64, cells: I64, valid: U8,
) -> Int:  # fmt: skip
    """Number of values seen after ``start``; ESTIMATED where the list holds a sample of them."""
    i = feature[F_A]
    if lists[i, LIST_KIND] == EVENTS:
        cells[feature[F_CELL]] = count_distinct(slots, arena, slot, lists, i, start, end, scratch)
        valid[feature[F_CELL]] = 1
        return S_DEGRADED if any_dropped(slots, slot, lists, i, start) else S_PRESENT
    ring = lists[i, LIST_RING]
    at = SECTION + 3 * (len(rings) + i)
    tile = first_tile(
        start, slots[slot, EVENT_TIME], rings[ring, RING_WIDTH], rings[ring, RING_TILES]
    )
    evicted = slots.shape[1] - len(lists) + i
    n, found = count_values(slots, arena, slot, at, evicted, tile)
    cells[feature[F_CELL]] = n
    valid[feature[F_CELL]] = 1
    if found == COUNTED_AS:
        return S_PRESENT
    return S_DEGRADED if found == LOST else S_ESTIMATED


@inlined
def _last(
    slots: I64, arena: I64, slot: Int, rings: I64, lists: I64, feature: I64,
    default: float, start: Int, end: Int, at: Int, cells: I64, valid: U8,
) -> Int:  # fmt: skip
    """The values after ``start``, newest first; null (or the default) where there are no more."""
    i = feature[F_A]
    horizon = lists[i, LIST_HORIZON]
    after = start
    if horizon != 0:
        after = max(after, minus(slots[slot, EVENT_TIME], horizon))
        if feature[F_WINDOW] == 0:
            after = max(after, minus(at, horizon))
    column = SECTION + 3 * (len(rings) + i)
    block, e = slots[slot, column], slots[slot, column + 1] - 1
    status, first = S_PRESENT, np.int64(0)
    if lists[i, LIST_KIND] == EVENTS:
        block, first, stop = events_between(slots, arena, slot, lists, i, start, end)
        e = stop - 1
        if stop - first < feature[F_WIDTH] and any_dropped(slots, slot, lists, i, start):
            status = S_DEGRADED
    for k in range(feature[F_CELL], feature[F_CELL] + feature[F_WIDTH]):
        if e < first or arena[block + 3 * e] <= after:
            fill(feature, default, cells, valid, k)
            continue
        value = arena[block + 3 * e + 2]
        if feature[F_TYPE] == DECIMAL:
            value = as_bits(divide_scaled(value, np.int64(1), feature[F_SCALE]))
        cells[k] = value
        valid[k] = 1
        e -= 1
    return status


@inlined
def _feature(
    slots: I64, arena: I64, slot: Int, rings: I64, accumulators: I64, lists: I64, feature: I64,
    default: float, start: Int, end: Int, at: Int, scratch: I64, cells: I64, valid: U8,
) -> Int:  # fmt: skip
    """One feature of a row into its cells, whatever nulls there were; returns its status."""
    op = feature[F_OP]
    if op == OP_DISTINCT:
        return _distinct(
            slots, arena, slot, rings, lists, feature, start, end, scratch, cells, valid
        )
    if op == OP_LAST:
        return _last(
            slots, arena, slot, rings, lists, feature, default, start, end, at, cells, valid
        )
    if op in (OP_VAR, OP_STD):
        return variance(
            slots, arena, slot, rings, accumulators, lists, feature, start, end, cells, valid
        )
    if op == OP_FIRST:
        return first_value(
            slots, arena, slot, rings, accumulators, lists, feature, start, end, cells, valid
        )
    if op == OP_QUANTILE:
        return quantile(
            slots, arena, slot, rings, lists, feature, default, start, end, scratch, cells, valid
        )
    if op == OP_TOP_K:
        return top_k(
            slots, arena, slot, rings, lists, feature, default, start, end, scratch, cells, valid
        )
    if op in (OP_MAX_N, OP_MIN_N):
        return extremes(
            slots, arena, slot, rings, lists, feature, default, start, end, scratch, cells, valid
        )
    if op in (OP_DECAYED, OP_EWMA):
        return decayed_value(slots, arena, slot, rings, lists, feature, default, at, cells, valid)
    return _aggregate(
        slots, arena, slot, rings, accumulators, lists, feature, default, start, end, cells, valid
    )


@inlined
def _row_status(slots: I64, slot: Int, ttl_ns: Int, at: Int) -> Int:
    state = slots[slot, STATE]
    if (state & LOADED) == 0:
        return S_DEGRADED  # its row could not be read
    if (state & PRESENT) == 0:
        return S_MISSING
    if ttl_ns > 0 and minus(at, slots[slot, EVENT_TIME]) > ttl_ns:
        return S_EXPIRED
    return S_PRESENT


@part
def finalize_row(
    slots: I64, arena: I64, slot: Int, rings: I64, accumulators: I64, lists: I64,
    features: I64, defaults: F64, ttl_ns: Int, at: Int, scratch: I64, cells: I64, valid: U8,
    status: U8,
) -> None:  # fmt: skip
    """Every feature of one slot as of ``at`` into ``cells``, ``valid`` [C] and ``status`` [F]."""
    overall = _row_status(slots, slot, ttl_ns, at)
    readable = overall == S_PRESENT
    newer = readable and at < slots[slot, EVENT_TIME]
    for f in range(len(features)):
        feature = features[f]
        if not readable:
            for k in range(feature[F_CELL], feature[F_CELL] + feature[F_WIDTH]):
                cells[k] = 0
                valid[k] = 0
            status[f] = overall
            continue
        start, end = window_start(feature, at), window_end(feature, at)
        code = _feature(
            slots, arena, slot, rings, accumulators, lists, feature, defaults[f], start, end, at,
            scratch, cells, valid,
        )  # fmt: skip
        if feature[F_NULLS] >= 0:
            nulls, kept = nulls_of(
                slots, arena, slot, rings, accumulators, lists, feature, start, end, at
            )
            if kept != S_PRESENT:
                code = kept
            if nulls != 0:
                code = np.int64(S_PRESENT)
                for k in range(feature[F_CELL], feature[F_CELL] + feature[F_WIDTH]):
                    cells[k] = 0
                    valid[k] = 0
        status[f] = S_DEGRADED if newer else code


@bare
def finalize_slots(
    slots: I64, arena: I64, chosen: I32, rings: I64, accumulators: I64, lists: I64,
    features: I64, defaults: F64, ttl_ns: Int, at: I64, own_time: Int, scratch: I64,
    cells: I64, valid: U8, status: U8,
) -> None:  # fmt: skip
    """:func:`finalize_row` for each of the ``chosen`` slots, at ``at[i]`` or its own newest event.

    ``cells`` int64[n, C], ``valid`` uint8[n, C], ``status`` uint8[n, F].
    """
    for i in range(len(chosen)):
        time = slots[chosen[i], EVENT_TIME] if own_time != 0 else at[i]
        finalize_row(
            slots, arena, chosen[i], rings, accumulators, lists, features, defaults, ttl_ns, time,
            scratch, cells[i], valid[i], status[i],
        )  # fmt: skip
