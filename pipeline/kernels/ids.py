"""The ids of a row's recent events: an event whose id is among them came before.

An IDS section is an EVENTS section of ids (:mod:`pipeline.kernels.events`): ``[time, offset, id]``
ascending by (time, offset), the newest ``bound`` of those later than the newest event less the
horizon. It takes every applied event that has an id and is young enough, and makes none join.

The last sixteenth of its block, rounded up, is a Bloom filter (Bloom 1970) of two bits an entry,
at least 12 bits for each that fits: a new id, which nearly every one is, is known to be new without
a look at the others. A bit that an entry left behind costs such a look, until the block is cleared
out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.events import add_event, first_counted
from pipeline.kernels.integers import minus
from pipeline.kernels.jit import Int, inlined, part
from pipeline.kernels.lists import IDS, LIST_BOUND, LIST_HORIZON, LIST_INPUT, LIST_KIND
from pipeline.kernels.table import EVENT_TIME, PRESENT, SECTION, STATE
from pipeline.kernels.tiles import grow, spacious

__all__ = ["add_id", "came_before", "ids_list", "index_ids", "roomy"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

_SMALLEST = 16  # words of the smallest block with a filter
_HALF = np.uint64(32)
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


@inlined
def ids_list(lists: I64) -> Int:
    """The list of ids, -1 if there is none."""
    for i in range(len(lists)):
        if lists[i, LIST_KIND] == IDS:
            return np.int64(i)
    return np.int64(-1)


@inlined
def roomy(count: Int) -> Int:
    """Words of a block for ``count`` ids and their filter, with some to spare."""
    return spacious(count, 3) * 16 // 15 + 2


@inlined
def _filter_words(size: Int) -> Int:
    """Words of the filter of a block of ``size`` words."""
    return (size + 15) // 16 if size >= _SMALLEST else np.int64(0)


@inlined
def _bit(value: Int, bits: Int, factor: np.uint64) -> Int:
    """One of the ``bits`` of a filter."""
    mixed = np.uint64(np.int64(value).view(np.uint64) * factor) >> _HALF
    return np.int64(np.uint64(mixed * np.uint64(bits)) >> _HALF)


@part
def _note(arena: I64, block: Int, size: Int, value: Int) -> None:
    words = _filter_words(size)
    if words == 0:
        return
    at = block + size - words
    a, b = _bit(value, 64 * words, _FIRST), _bit(value, 64 * words, _SECOND)
    arena[at + (a >> 6)] |= np.int64(1) << (a & 63)
    arena[at + (b >> 6)] |= np.int64(1) << (b & 63)


@part
def _may_hold(arena: I64, block: Int, size: Int, value: Int) -> bool:
    words = _filter_words(size)
    if words == 0:
        return True
    at = block + size - words
    a, b = _bit(value, 64 * words, _FIRST), _bit(value, 64 * words, _SECOND)
    both = (arena[at + (a >> 6)] >> (a & 63)) & (arena[at + (b >> 6)] >> (b & 63))
    return bool((both & 1) != 0)


@inlined
def _fits(count: Int, size: Int) -> bool:
    return bool(3 * count <= size - _filter_words(size))


@part
def index_ids(arena: I64, heads: I64, slots: I64, slot: Int, section: Int) -> None:
    """Make room for the filter of the ids in a section, and fill it."""
    at = SECTION + 3 * section
    block, count, size = slots[slot, at], slots[slot, at + 1], slots[slot, at + 2]
    if block < 0:
        return
    if not _fits(count, size):
        block = grow(arena, heads, slots, slot, at, roomy(count))
        size = slots[slot, at + 2]
    for k in range(block + size - _filter_words(size), block + size):
        arena[k] = 0
    for e in range(count):
        _note(arena, block, size, arena[block + 3 * e + 2])


@part
def add_id(
    arena: I64, heads: I64, slots: I64, slot: Int, section: Int, evicted: Int, bound: Int,
    oldest: Int, time: Int, offset: Int, value: Int,
) -> None:  # fmt: skip
    """Insert an id as :func:`~pipeline.kernels.events.add_event` inserts a value."""
    at = SECTION + 3 * section
    block, count = slots[slot, at], slots[slot, at + 1]
    if block < 0:
        grow(arena, heads, slots, slot, at, roomy(1))
        index_ids(arena, heads, slots, slot, section)
    elif not _fits(count + 1, slots[slot, at + 2]):
        first = first_counted(arena, block, count, np.int64(3), bound, oldest)
        count -= first
        for k in range(block, block + 3 * count):
            arena[k] = arena[k + 3 * first]
        slots[slot, at + 1] = count
        words = roomy(count + 1)
        if words > slots[slot, at + 2]:
            grow(arena, heads, slots, slot, at, words)
        index_ids(arena, heads, slots, slot, section)
    add_event(
        arena, heads, slots, slot, section, evicted, bound, oldest, np.int64(3), time, offset, value
    )
    _note(arena, slots[slot, at], slots[slot, at + 2], value)


@part
def came_before(
    slots: I64, arena: I64, slot: Int, rings: I64, lists: I64, i: Int, inputs: I64, valid: U8,
    e: Int,
) -> bool:  # fmt: skip
    """Whether list ``i`` holds the id of event ``e``; a null id never came before."""
    source = lists[i, LIST_INPUT]
    if valid[source, e] == 0 or (slots[slot, STATE] & PRESENT) == 0:
        return False
    column, value = SECTION + 3 * (len(rings) + i), inputs[source, e]
    block, count = slots[slot, column], slots[slot, column + 1]
    if count == 0 or not _may_hold(arena, block, slots[slot, column + 2], value):
        return False
    oldest = minus(slots[slot, EVENT_TIME], lists[i, LIST_HORIZON])
    first = first_counted(arena, block, count, np.int64(3), lists[i, LIST_BOUND], oldest)
    k = count - 1
    while k >= first and arena[block + 3 * k + 2] != value:
        k -= 1
    return bool(k >= first)
