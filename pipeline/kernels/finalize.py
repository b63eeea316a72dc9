"""Features of a row as of a time T, from its tiles and lists.

Window of a feature at T: ``(floor(T, slide) - window, T]``, or ``(T - window, T]`` without a slide;
with a delay ``(.. - delay - window, .. - delay]``. For T before the row's newest event the row no
longer knows the answer: cells are then of what it has (tiles without a delay: up to the newest
event), and every status is DEGRADED.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.cells import (
    DECIMAL,
    F_A,
    F_B,
    F_CELL,
    F_DELAY,
    F_OP,
    F_SCALE,
    F_SLIDE,
    F_TYPE,
    F_WIDTH,
    F_WINDOW,
    OP_COUNT,
    OP_DISTINCT,
    OP_LAST,
    OP_MEAN,
    OP_QUANTILE,
    OP_RATIO,
    OP_TOP_K,
    OPEN,
    S_DEGRADED,
    S_ESTIMATED,
    S_EXPIRED,
    S_MISSING,
    S_PRESENT,
    bits_of,
    fill,
    first_tile,
    real_of,
)
from pipeline.kernels.distinct import COUNTED_AS, LOST, count_values
from pipeline.kernels.events import any_dropped, count_distinct, events_between, fold_events
from pipeline.kernels.integers import OVERFLOW, divide_scaled, minus
from pipeline.kernels.jit import Int, bare, inlined
from pipeline.kernels.lists import EVENTS, LIST_HORIZON, LIST_KIND, LIST_RING
from pipeline.kernels.ranked import quantile, top_k
from pipeline.kernels.table import EVENT_TIME, LOADED, NOTHING, PRESENT, SECTION, STATE
from pipeline.kernels.tiles import (
    ACC_OP,
    ACC_RING,
    COUNT,
    RING_END,
    RING_FIRST,
    RING_TILES,
    RING_WIDTH,
    SUM_INT,
    fold,
    identity,
    is_float,
    is_nan,
    lower_bound,
)

__all__ = ["finalize_row", "finalize_slots"]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


@inlined
def _window_start(feature: I64, at: Int) -> Int:
    """Exclusive start of the feature's window as read at ``at``; the lowest int64 without one."""
    if feature[F_WINDOW] == 0:
        return np.int64(NOTHING)
    floor = np.int64(at)
    if feature[F_SLIDE] > 0:
        floor = minus(at, at % feature[F_SLIDE])
    return minus(minus(floor, feature[F_DELAY]), feature[F_WINDOW])


@inlined
def _window_end(feature: I64, at: Int) -> Int:
    """Inclusive end of the feature's window as read at ``at``; OPEN for tiles without a delay."""
    if feature[F_SLIDE] == 0:
        return minus(at, feature[F_DELAY])
    if feature[F_DELAY] == 0:
        return np.int64(OPEN)
    return minus(minus(at, at % feature[F_SLIDE]), feature[F_DELAY])


@bare
def _combine(
    slots: I64, arena: I64, slot: Int, rings: I64, accumulators: I64, lists: I64, a: Int,
    start: Int, end: Int,
) -> Int:  # fmt: skip
    """Accumulator ``a`` over the tiles, or events, after ``start`` to ``end``, in time order."""
    ring, op = accumulators[a, ACC_RING], accumulators[a, ACC_OP]
    if ring >= len(rings):
        return fold_events(slots, arena, slot, lists, ring - len(rings), op, start, end)
    at = SECTION + 3 * ring
    block, count = slots[slot, at], slots[slot, at + 1]
    first = rings[ring, RING_FIRST]
    entry = 1 + rings[ring, RING_END] - first
    tile = first_tile(
        start, slots[slot, EVENT_TIME], rings[ring, RING_WIDTH], rings[ring, RING_TILES]
    )
    cell = np.int64(identity(op))
    stop = count
    if end != OPEN:
        stop = lower_bound(arena, block, count, entry, 0, end // rings[ring, RING_WIDTH])
    for i in range(lower_bound(arena, block, count, entry, 0, tile), stop):
        cell = fold(op, cell, arena[block + i * entry + 1 + a - first])
    return cell


@inlined
def _kept_all(
    slots: I64, slot: Int, rings: I64, accumulators: I64, lists: I64, a: Int, start: Int
) -> Int:
    """DEGRADED if accumulator ``a`` folds events of which some after ``start`` were dropped."""
    i = accumulators[a, ACC_RING] - len(rings)
    if i >= 0 and any_dropped(slots, slot, lists, i, start):
        return np.int64(S_DEGRADED)
    return np.int64(S_PRESENT)


@inlined
def _broken(op: Int, cell: Int) -> bool:
    """An integer sum that overflowed, or a float that is NaN (from inf - inf)."""
    return (op == SUM_INT and cell == OVERFLOW) or (is_float(op) and is_nan(cell))


@bare
def _quotient(op_a: Int, a: Int, op_b: Int, b: Int, scale: Int) -> Int:
    if not is_float(op_a) and not is_float(op_b):
        return divide_scaled(a, b, scale)
    x = real_of(a) if is_float(op_a) else np.float64(a)
    y = real_of(b) if is_float(op_b) else np.float64(b)
    q = x / y
    for _ in range(abs(scale)):
        q = q / 10.0 if scale > 0 else q * 10.0
    return q


@inlined
def _is_zero(op: Int, cell: Int) -> bool:
    return bool(real_of(cell) == 0.0 if is_float(op) else cell == 0)


@inlined
def _aggregate(
    slots: I64, arena: I64, slot: Int, rings: I64, accumulators: I64, lists: I64, feature: I64,
    default: float, start: Int, end: Int, cells: I64, valid: U8,
) -> Int:  # fmt: skip
    """COUNT, SUM, MEAN, MIN, MAX or RATIO into its cell; returns its status."""
    op, k, a, b = feature[F_OP], feature[F_CELL], feature[F_A], feature[F_B]
    op_a = accumulators[a, ACC_OP]
    x = _combine(slots, arena, slot, rings, accumulators, lists, a, start, end)
    status = _kept_all(slots, slot, rings, accumulators, lists, a, start)
    op_b, y = np.int64(COUNT), np.int64(1)
    if b >= 0:
        op_b = accumulators[b, ACC_OP]
        y = _combine(slots, arena, slot, rings, accumulators, lists, b, start, end)
        status = max(status, _kept_all(slots, slot, rings, accumulators, lists, b, start))
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
        cells[k] = bits_of(q)
    elif feature[F_TYPE] == DECIMAL and op != OP_COUNT:
        cells[k] = bits_of(divide_scaled(x, np.int64(1), feature[F_SCALE]))
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
            value = bits_of(divide_scaled(value, np.int64(1), feature[F_SCALE]))
        cells[k] = value
        valid[k] = 1
        e -= 1
    return status


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


@bare
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
        start, end = _window_start(feature, at), _window_end(feature, at)
        if feature[F_OP] == OP_DISTINCT:
            code = _distinct(
                slots, arena, slot, rings, lists, feature, start, end, scratch, cells, valid
            )
        elif feature[F_OP] == OP_LAST:
            code = _last(
                slots, arena, slot, rings, lists, feature, defaults[f], start, end, at, cells, valid
            )
        elif feature[F_OP] == OP_QUANTILE:
            code = quantile(
                slots, arena, slot, rings, lists, feature, defaults[f], start, end, scratch, cells,
                valid,
            )  # fmt: skip
        elif feature[F_OP] == OP_TOP_K:
            code = top_k(
                slots, arena, slot, rings, lists, feature, defaults[f], start, end, scratch, cells,
                valid,
            )  # fmt: skip
        else:
            code = _aggregate(
                slots, arena, slot, rings, accumulators, lists, feature, defaults[f], start, end,
                cells, valid,
            )  # fmt: skip
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
