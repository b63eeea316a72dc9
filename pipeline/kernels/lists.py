"""Bounded lists: the distinct values of a ring, and the last values by (time, offset).

A DISTINCT section holds entries ``[value, newest tile]`` ascending by value; entries older than
the ring may linger, never count, and go before anything else does when the list is full.
A LAST section holds ``[time, offset, value]`` ascending by (time, offset). EVENTS sections are in
:mod:`pipeline.kernels.events`, IDS sections in :mod:`pipeline.kernels.ids`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.jit import Int, bare, inlined
from pipeline.kernels.table import SECTION
from pipeline.kernels.tiles import grow, lower_bound

__all__ = [
    "DISTINCT",
    "DISTINCT_WORDS",
    "EVENTS",
    "IDS",
    "LAST",
    "LAST_WORDS",
    "LIST_BOUND",
    "LIST_HORIZON",
    "LIST_INPUT",
    "LIST_KIND",
    "LIST_MASK",
    "LIST_RING",
    "LIST_TYPE",
    "add_distinct",
    "add_last",
    "one_zero",
    "takes_value",
]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

(
    LIST_KIND,
    LIST_RING,
    LIST_INPUT,
    LIST_MASK,
    LIST_BOUND,
    LIST_HORIZON,
    LIST_TYPE,
) = range(7)
DISTINCT, LAST, EVENTS = range(3)
IDS = 5
DISTINCT_WORDS = 2
LAST_WORDS = 3
_MINUS_ZERO = -(2**63)
_FLOAT = 1


@inlined
def takes_value(lists: I64, i: Int, usable: U8, passed: U8) -> bool:
    """Whether list ``i`` is interested in the event: its mask is true and its input usable."""
    mask, source = lists[i, LIST_MASK], lists[i, LIST_INPUT]
    return bool((mask < 0 or passed[mask] != 0) and (source < 0 or usable[source] != 0))


@inlined
def one_zero(bits: Int, kind: Int) -> Int:
    """The bits of a value of cell type ``kind``, -0.0 as 0.0."""
    return np.int64(0) if kind == _FLOAT and bits == _MINUS_ZERO else bits


@inlined
def _remove(arena: I64, block: Int, count: Int, entry: Int, i: Int) -> None:
    for k in range(block + i * entry, block + (count - 1) * entry):
        arena[k] = arena[k + entry]


@inlined
def _purge(arena: I64, block: Int, count: Int, first_tile: Int) -> Int:
    """Drop the entries before ``first_tile``; returns how many are left."""
    kept = np.int64(0)
    for i in range(count):
        tile = arena[block + 2 * i + 1]
        if tile >= first_tile:
            arena[block + 2 * kept] = arena[block + 2 * i]
            arena[block + 2 * kept + 1] = tile
            kept += 1
    return kept


@inlined
def _oldest(arena: I64, block: Int, count: Int) -> Int:
    """The entry with the oldest tile, on ties with the smallest value."""
    best = np.int64(0)
    for i in range(1, count):
        if arena[block + 2 * i + 1] < arena[block + 2 * best + 1]:
            best = np.int64(i)
    return best


@bare
def _yield_place(
    arena: I64, slots: I64, slot: Int, at: Int, evicted: Int, value: Int, tile: Int, first_tile: Int
) -> bool:
    """Make place in a full DISTINCT list; False if the new entry is itself the one to drop."""
    block, count = slots[slot, at], slots[slot, at + 1]
    oldest = _oldest(arena, block, count)
    dropped = arena[block + 2 * oldest + 1]
    if dropped < first_tile:
        slots[slot, at + 1] = _purge(arena, block, count, first_tile)
        return True
    if tile < dropped or (tile == dropped and value < arena[block + 2 * oldest]):
        slots[slot, evicted] = max(slots[slot, evicted], tile)
        return False
    slots[slot, evicted] = max(slots[slot, evicted], dropped)
    _remove(arena, block, count, 2, oldest)
    slots[slot, at + 1] = count - 1
    return True


@bare
def add_distinct(
    arena: I64, heads: I64, slots: I64, slot: Int, section: Int, evicted: Int,
    bound: Int, kind: Int, raw: Int, tile: Int, first_tile: Int,
) -> None:  # fmt: skip
    """Note that value ``raw`` (of cell type ``kind``) occurred in ``tile``.

    ``evicted`` is the slot's column of the newest dropped tile. O(log n) for a known value, O(n)
    for a new one.
    """
    value = one_zero(raw, kind)
    at = SECTION + 3 * section
    block, count = slots[slot, at], slots[slot, at + 1]
    if block < 0:
        block = grow(arena, heads, slots, slot, at, 8)
        count = np.int64(0)
        slots[slot, at + 1] = count
    i = lower_bound(arena, block, count, 2, 0, value)
    if i < count and arena[block + 2 * i] == value:
        if arena[block + 2 * i + 1] < tile:
            arena[block + 2 * i + 1] = tile
        return
    if count >= bound:
        if not _yield_place(arena, slots, slot, at, evicted, value, tile, first_tile):
            return
        count = slots[slot, at + 1]
        i = lower_bound(arena, block, count, 2, 0, value)
    if (count + 1) * 2 > 1 << slots[slot, at + 2]:
        block = grow(arena, heads, slots, slot, at, (count + 1) * 2)
    for k in range(block + 2 * count - 1, block + 2 * i - 1, -1):
        arena[k + 2] = arena[k]
    arena[block + 2 * i] = value
    arena[block + 2 * i + 1] = tile
    slots[slot, at + 1] = count + 1


@bare
def add_last(
    arena: I64, heads: I64, slots: I64, slot: Int, section: Int, bound: Int,
    time: Int, offset: Int, value: Int,
) -> None:  # fmt: skip
    """Insert ``value`` at its place by (time, offset); beyond ``bound`` the oldest entry goes."""
    at = SECTION + 3 * section
    block, count = slots[slot, at], slots[slot, at + 1]
    if block < 0:
        block = grow(arena, heads, slots, slot, at, 8)
        count = np.int64(0)
    i = count
    while i > 0:
        e = block + 3 * (i - 1)
        if arena[e] < time or (arena[e] == time and arena[e + 1] <= offset):
            break
        i -= 1
    if count >= bound:
        if i == 0:
            return
        _remove(arena, block, count, 3, 0)
        count -= 1
        i -= 1
    elif (count + 1) * 3 > 1 << slots[slot, at + 2]:
        block = grow(arena, heads, slots, slot, at, (count + 1) * 3)
    for k in range(block + 3 * count - 1, block + 3 * i - 1, -1):
        arena[k + 3] = arena[k]
    arena[block + 3 * i] = time
    arena[block + 3 * i + 1] = offset
    arena[block + 3 * i + 2] = value
    slots[slot, at + 1] = count + 1
