"""Decayed lists: sums in which every event counts half after each half-life.

A DECAYED section holds one entry ``[reference time, weight]``, with an input ``[reference time,
weight, sum]``: ``weight`` is the sum of ``2**-((reference - t) / half-life)`` over the events,
``sum`` that of each value times this. The reference is never before an event, so no term overflows,
and it moves by whole half-lives, which scale exactly: an event is rounded when it comes, not again
with each event after it. Only when so long has passed that little is left does it move to the
event itself, so that one event alone counts exactly 1. (After forward decay: Cormode, Shkapenyuk,
Srivastava and Xu, ICDE 2009.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.exp2 import doubled, halved, shrink
from pipeline.kernels.feature import (
    F_A,
    F_CELL,
    F_OP,
    F_SCALE,
    OP_EWMA,
    S_DEGRADED,
    S_PRESENT,
    as_bits,
    as_real,
    fill,
    unscaled,
)
from pipeline.kernels.integers import add_wrapping, minus, subtract_wrapping
from pipeline.kernels.jit import Int, bare, inlined
from pipeline.kernels.lists import LIST_HORIZON, LIST_INPUT, LIST_TYPE
from pipeline.kernels.table import EVENT_TIME, SECTION
from pipeline.kernels.tiles import grow
from pipeline.kernels.varint import (
    read_varint,
    read_word,
    unzigzag,
    write_varint,
    write_word,
    zigzag,
)

__all__ = ["add_decayed", "decayed_value", "encode_decayed", "load_decayed"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

_NAN = 0x7FF8000000000000
_INF = 0x7FF0000000000000
_HALF = 0x3FE0000000000000
_MAX = 2**63 - 1
_LITTLE_LEFT = 50  # half-lives
_FLOAT = 1


@inlined
def _words(lists: I64, i: Int) -> Int:
    """Words of the entry of list ``i``."""
    return np.int64(2) if lists[i, LIST_INPUT] < 0 else np.int64(3)


@bare
def _move(arena: I64, p: Int, words: Int, time: Int, half_life: Int) -> None:
    """Move the reference of the entry at ``arena[p]`` up to ``time`` or later, if it is earlier."""
    elapsed = minus(time, arena[p])
    if elapsed <= 0:
        return
    halvings = (elapsed - 1) // half_life + 1
    whole = halvings <= _LITTLE_LEFT and halvings <= minus(_MAX, arena[p]) // half_life
    for k in range(1, words):
        value = as_real(arena[p + k])
        value = shrink(value, halvings) if whole else halved(value, elapsed, half_life)
        arena[p + k] = as_bits(value)
    arena[p] = arena[p] + halvings * half_life if whole else time


@bare
def add_decayed(
    arena: I64, heads: I64, slots: I64, slot: Int, section: Int, lists: I64, i: Int,
    time: Int, bits: Int,
) -> None:  # fmt: skip
    """Count an event, of value ``bits``, into list ``i``."""
    at = SECTION + 3 * section
    half_life, words = lists[i, LIST_HORIZON], _words(lists, i)
    p = slots[slot, at]
    if p < 0:
        p = grow(arena, heads, slots, slot, at, words)
    if slots[slot, at + 1] == 0:
        slots[slot, at + 1] = 1
        arena[p] = time
        for k in range(1, words):
            arena[p + k] = 0
    _move(arena, p, words, time, half_life)
    elapsed = minus(arena[p], time)
    arena[p + 1] = as_bits(as_real(arena[p + 1]) + halved(1.0, elapsed, half_life))
    if words > 2:
        value = as_real(bits) if lists[i, LIST_TYPE] == _FLOAT else np.float64(bits)
        total = as_bits(as_real(arena[p + 2]) + halved(value, elapsed, half_life))
        arena[p + 2] = np.int64(_NAN) if (total & _MAX) > _INF else total


@bare
def encode_decayed(
    slots: I64, arena: I64, slot: Int, lists: I64, i: Int, column: Int, out: U8, at: Int
) -> Int:
    """Write the list; returns the position after it."""
    count = slots[slot, column + 1]
    at = write_varint(out, at, count)
    if count == 0:
        return at
    p = slots[slot, column]
    ahead = subtract_wrapping(arena[p], slots[slot, EVENT_TIME])
    at = write_varint(out, at, zigzag(ahead))
    at = write_word(out, at, arena[p + 1])
    if lists[i, LIST_INPUT] >= 0:
        at = write_word(out, at, arena[p + 2])
    return at


@bare
def load_decayed(
    arena: I64, heads: I64, slots: I64, slot: Int, lists: I64, i: Int, column: Int,
    newest: Int, data: U8, at: Int, end: Int,
) -> Int:  # fmt: skip
    """Read the list; position after it, -1 where it is malformed."""
    count, at = read_varint(data, at, end)
    if at < 0 or count < 0 or count > 1:
        return np.int64(-1)
    if count == 0:
        return at
    bits, at = read_varint(data, at, end)
    ahead = unzigzag(bits)
    reference = add_wrapping(newest, ahead)
    if at < 0 or ahead >= lists[i, LIST_HORIZON] or (reference > newest) != (ahead > 0):
        return np.int64(-1)
    p = grow(arena, heads, slots, slot, column, _words(lists, i))
    slots[slot, column + 1] = 1
    arena[p] = reference
    arena[p + 1], at = read_word(data, at, end)
    if at < 0 or arena[p + 1] < _HALF or arena[p + 1] >= _INF:
        return np.int64(-1)
    if lists[i, LIST_INPUT] >= 0:
        arena[p + 2], at = read_word(data, at, end)
        if (arena[p + 2] & _MAX) > _INF and arena[p + 2] != _NAN:
            return np.int64(-1)
    return at


@bare
def decayed_value(
    slots: I64, arena: I64, slot: Int, rings: I64, lists: I64, feature: I64, default: float,
    at: Int, cells: I64, valid: U8,
) -> Int:  # fmt: skip
    """DECAYED or EWMA as of ``at``, at least the newest event, into its cell; its status."""
    i, k = feature[F_A], feature[F_CELL]
    column = SECTION + 3 * (len(rings) + i)
    mean, value, weight = feature[F_OP] == OP_EWMA, 0.0, 1.0
    if slots[slot, column + 1] > 0:
        p = slots[slot, column]
        value = as_real(arena[p + 2] if lists[i, LIST_INPUT] >= 0 else arena[p + 1])
        weight = as_real(arena[p + 1])
    elif mean:
        fill(feature, default, cells, valid, k)
        return S_PRESENT
    cells[k] = 0
    valid[k] = 0
    if mean:
        value = value / weight
    elif slots[slot, column + 1] > 0:
        reference, time = arena[slots[slot, column]], max(at, slots[slot, EVENT_TIME])
        if time >= reference:
            value = halved(value, minus(time, reference), lists[i, LIST_HORIZON])
        else:
            value = doubled(value, minus(reference, time), lists[i, LIST_HORIZON])
    if np.isnan(value):
        return S_DEGRADED
    cells[k] = as_bits(unscaled(value, feature[F_SCALE]))
    valid[k] = 1
    return S_PRESENT
