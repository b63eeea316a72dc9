"""Events lists: what a window without a slide is computed from.

An EVENTS section holds ``[time, offset, value]``, or ``[time, offset]`` without an input, ascending
by (time, offset). What counts are the newest ``bound`` entries of those later than the row's newest
event less the horizon. Entries before these linger until their room is needed; every reader skips
them. The slot remembers the time of the newest one that the bound, not the horizon, took away.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.integers import exponent, minus
from pipeline.kernels.jit import Int, inlined, part
from pipeline.kernels.lists import LIST_BOUND, LIST_HORIZON, LIST_INPUT, LIST_TYPE, one_zero
from pipeline.kernels.table import EVENT_TIME, NOTHING, SECTION
from pipeline.kernels.tiles import COUNT, fold, grow, identity, spacious

__all__ = [
    "add_event",
    "any_dropped",
    "count_distinct",
    "event_words",
    "events_between",
    "first_counted",
    "fold_events",
]

I64 = npt.NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@inlined
def event_words(lists: I64, i: Int) -> Int:
    """Words of an entry of list ``i``."""
    return np.int64(2) if lists[i, LIST_INPUT] < 0 else np.int64(3)


@inlined
def _after(arena: I64, block: Int, count: Int, entry: Int, time: Int) -> Int:
    """The first of ``count`` entries that is later than ``time``."""
    low, high = np.int64(0), np.int64(count)
    while low < high:
        middle = (low + high) >> 1
        if arena[block + middle * entry] <= time:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def first_counted(arena: I64, block: Int, count: Int, entry: Int, bound: Int, oldest: Int) -> Int:
    """The first of the newest ``bound`` entries that is later than ``oldest``."""
    return max(np.int64(count - bound), _after(arena, block, count, entry, oldest))


@part
def add_event(
    arena: I64, heads: I64, slots: I64, slot: Int, section: Int, evicted: Int, bound: Int,
    oldest: Int, entry: Int, time: Int, offset: Int, value: Int,
) -> None:  # fmt: skip
    """Insert an event, later than ``oldest``, at its place by (time, offset).

    Beyond ``bound`` the oldest entry no longer counts, and its time goes to the slot's column
    ``evicted`` if it is newer than what is there. O(1) for events in order, amortised.
    """
    at = SECTION + 3 * section
    block, count = slots[slot, at], slots[slot, at + 1]
    i = count
    while i > 0:
        e = block + entry * (i - 1)
        if arena[e] < time or (arena[e] == time and arena[e + 1] <= offset):
            break
        i -= 1
    first = first_counted(arena, block, count, entry, bound, oldest)
    if count - first >= bound:
        dropped = time if i <= first else arena[block + entry * first]
        slots[slot, evicted] = max(slots[slot, evicted], dropped)
        if i <= first:
            return
    if block < 0:
        block = grow(arena, heads, slots, slot, at, spacious(1, entry))
    elif (count + 1) * entry > slots[slot, at + 2]:
        count -= first
        i -= first
        for k in range(block, block + count * entry):
            arena[k] = arena[k + first * entry]
        words = spacious(count + 1, entry)
        if words > slots[slot, at + 2]:
            block = grow(arena, heads, slots, slot, at, words)
    for k in range(block + entry * count - 1, block + entry * i - 1, -1):
        arena[k + entry] = arena[k]
    p = block + entry * i
    arena[p] = time
    arena[p + 1] = offset
    if entry > 2:
        arena[p + 2] = value
    slots[slot, at + 1] = count + 1


@inlined
def _column(slots: I64, lists: I64, i: Int) -> Int:
    """The first column of the section of list ``i``: lists come after the rings."""
    return slots.shape[1] - 4 * len(lists) + 3 * i


@inlined
def events_between(
    slots: I64, arena: I64, slot: Int, lists: I64, i: Int, start: Int, end: Int
) -> tuple[Int, Int, Int]:
    """Block of list ``i``, and first and past-the-last of its entries in ``(start, end]``."""
    column, entry = _column(slots, lists, i), event_words(lists, i)
    block, count = slots[slot, column], slots[slot, column + 1]
    oldest = max(start, minus(slots[slot, EVENT_TIME], lists[i, LIST_HORIZON]))
    first = first_counted(arena, block, count, entry, lists[i, LIST_BOUND], oldest)
    return block, first, _after(arena, block, count, entry, end)


@inlined
def any_dropped(slots: I64, slot: Int, lists: I64, i: Int, start: Int) -> bool:
    """Whether list ``i`` dropped, for lack of room, an event later than ``start``."""
    evicted = slots[slot, slots.shape[1] - len(lists) + i]
    oldest = max(start, minus(slots[slot, EVENT_TIME], lists[i, LIST_HORIZON]))
    return bool(evicted != NOTHING and evicted > oldest)


@part
def fold_events(
    slots: I64, arena: I64, slot: Int, lists: I64, i: Int, op: Int, start: Int, end: Int
) -> Int:
    """Accumulator ``op`` over the events of list ``i`` in ``(start, end]``, by (time, offset)."""
    block, first, stop = events_between(slots, arena, slot, lists, i, start, end)
    if op == COUNT:
        return max(np.int64(0), stop - first)
    cell = np.int64(identity(op))
    for e in range(first, stop):
        cell = fold(op, cell, arena[block + 3 * e + 2])
    return cell


@part
def count_distinct(
    slots: I64, arena: I64, slot: Int, lists: I64, i: Int, start: Int, end: Int, scratch: I64
) -> Int:
    """Number of different values of list ``i`` in ``(start, end]``.

    ``scratch`` int64[4 * bound, at least 8] becomes a hash table of positions, at most half full.
    """
    block, first, stop = events_between(slots, arena, slot, lists, i, start, end)
    if stop <= first:
        return np.int64(0)
    bits = exponent(2 * (stop - first))
    for k in range(1 << bits):
        scratch[k] = 0
    kind, n = lists[i, LIST_TYPE], np.int64(0)
    for e in range(first, stop):
        value = one_zero(arena[block + 3 * e + 2], kind)
        mixed = np.uint64(np.int64(value).view(np.uint64) * _GOLDEN).view(np.int64)
        p = (mixed >> (64 - bits)) & ((1 << bits) - 1)
        while scratch[p] != 0 and one_zero(arena[block + 3 * scratch[p] - 1], kind) != value:
            p = (p + 1) & ((1 << bits) - 1)
        if scratch[p] == 0:
            scratch[p] = e + 1  # its value is the word before the next entry
            n += 1
    return n
