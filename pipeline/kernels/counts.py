"""Counts of values by tile: what quantiles, most frequent and extreme values of tiles come from.

A COUNTS, FREQUENT, LARGEST or SMALLEST section holds two words, LAST_TILE (where its newest tile
begins) and ENTRIES (of all tiles together), then its tiles ascending: ``[tile, n, note, value,
count, ...]`` with n entries ascending by value. Values are as
:func:`~pipeline.kernels.buckets.ordered` makes them. The section's number counts words. Tiles
that fell out of the ring may linger until their room is needed; every reader skips them, and they
go before anything else when the list is full.

Each tile of a LARGEST or SMALLEST list keeps its ``bound`` largest, or smallest, values. What goes
could not come back, so their counts are exact.

With more than ``bound`` entries of another list, the tile with the most of them (of equal ones the
oldest) gives some up, until the rest fits:

* COUNTS: the tile's buckets merge at the next level at which any do (its *note* is the level, 0:
  the values themselves). Where none can, the oldest tile goes, and the slot remembers it.
* FREQUENT: the smallest count of the tile is taken off each of its counts, and entries of 0 go.
  The *note* is the sum of what was taken off: how much too low any count of the tile can be. At
  least n times that went, so it is at most the tile's events over its entries. Source: Misra and
  Gries, "Finding repeated elements", 1982; Agarwal et al., "Mergeable summaries", PODS 2012.

Both depend on the events and their order alone, and tiles add up: a count of a window is the sum
of those of its tiles, its level or error the largest, or the sum, of theirs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.buckets import (
    MAX_LEVEL,
    coarser,
    finest_index,
    index_of,
    merge_level,
    ordered,
)
from pipeline.kernels.jit import Int, inlined, part
from pipeline.kernels.lists import (
    FREQUENT,
    LARGEST,
    LIST_BOUND,
    LIST_KIND,
    LIST_TYPE,
)
from pipeline.kernels.table import SECTION
from pipeline.kernels.tiles import grow, lower_bound, spacious

__all__ = [
    "ENTRIES",
    "FIRST",
    "LAST_TILE",
    "MOST",
    "NOTE",
    "SIZE",
    "VALUES",
    "add_counted",
    "counts_words",
    "next_tile",
]

I64 = npt.NDArray[np.int64]

LAST_TILE, ENTRIES, FIRST = range(3)  # the first words of a section
SIZE, NOTE, VALUES = 1, 2, 3  # the words of a tile after its index
MOST = 1 << 47  # no count or error passes it, so that the sum of a list fits 64 bits


@inlined
def counts_words(tiles: Int, entries: Int) -> Int:
    """Words of a section of so many tiles and entries."""
    return FIRST + VALUES * tiles + 2 * entries


@inlined
def next_tile(arena: I64, p: Int) -> Int:
    """Where the tile after the one at ``p`` begins."""
    return p + VALUES + 2 * arena[p + SIZE]


@inlined
def _tile_at(arena: I64, block: Int, words: Int, tile: Int) -> Int:
    """The first tile that is not before ``tile``; ``block + words`` if there is none."""
    end = block + words
    if words <= FIRST:
        return end
    p = block + arena[block + LAST_TILE]
    if arena[p] < tile:
        return end
    if arena[p] > tile:
        p = block + FIRST
        while arena[p] < tile:
            p = next_tile(arena, p)
    return p


@part
def _drop_before(arena: I64, slots: I64, slot: Int, at: Int, first_tile: Int) -> None:
    """Drop the tiles before ``first_tile``."""
    block, words = slots[slot, at], slots[slot, at + 1]
    p: Int = block + FIRST
    entries: Int = np.int64(0)
    while p < block + words and arena[p] < first_tile:
        entries += arena[p + SIZE]
        p = next_tile(arena, p)
    shift = p - block - FIRST
    if shift == 0:
        return
    for k in range(p, block + words):
        arena[k - shift] = arena[k]
    slots[slot, at + 1] = words - shift
    arena[block + ENTRIES] -= entries
    newest: Int = arena[block + LAST_TILE] - shift
    arena[block + LAST_TILE] = max(np.int64(FIRST), newest)


@part
def _make_room(arena: I64, heads: I64, slots: I64, slot: Int, at: Int, first_tile: Int) -> None:
    """Room for a tile of one entry: tiles before ``first_tile`` go first, then the block grows."""
    block = slots[slot, at]
    if block < 0:
        block = grow(arena, heads, slots, slot, at, 16)
        arena[block + LAST_TILE] = FIRST
        arena[block + ENTRIES] = 0
        slots[slot, at + 1] = FIRST
    if slots[slot, at + 1] + VALUES + 2 <= slots[slot, at + 2]:
        return
    _drop_before(arena, slots, slot, at, first_tile)
    words = spacious(slots[slot, at + 1] + VALUES + 2, 1)
    if words > slots[slot, at + 2]:
        grow(arena, heads, slots, slot, at, words)


@inlined
def _insert(arena: I64, slots: I64, slot: Int, at: Int, p: Int, tile: Int, e: Int) -> Int:
    """Room for an entry at ``e`` of the tile at ``p``, or at ``p`` for ``tile`` (``e`` is -1).

    Returns the position of the new entry, whose words are undefined.
    """
    block, words = slots[slot, at], slots[slot, at + 1]
    q, by = (p, np.int64(VALUES + 2)) if e < 0 else (e, np.int64(2))
    for k in range(block + words - 1, q - 1, -1):
        arena[k + by] = arena[k]
    if e < 0 and q == block + words:
        arena[block + LAST_TILE] = q - block
    elif p < block + arena[block + LAST_TILE] or e < 0:
        arena[block + LAST_TILE] += by
    slots[slot, at + 1] = words + by
    arena[block + ENTRIES] += 1
    if e >= 0:
        arena[p + SIZE] += 1
        return e
    arena[p], arena[p + SIZE], arena[p + NOTE] = tile, 1, 0
    return p + VALUES


@inlined
def _keep_first(arena: I64, slots: I64, slot: Int, at: Int, p: Int, kept: Int) -> None:
    """Cut the tile at ``p`` down to its first ``kept`` entries."""
    block, words = slots[slot, at], slots[slot, at + 1]
    gone = arena[p + SIZE] - kept
    for k in range(next_tile(arena, p), block + words):
        arena[k - 2 * gone] = arena[k]
    arena[p + SIZE] = kept
    slots[slot, at + 1] = words - 2 * gone
    arena[block + ENTRIES] -= gone
    if p < block + arena[block + LAST_TILE]:
        arena[block + LAST_TILE] -= 2 * gone


@inlined
def _largest(arena: I64, block: Int, words: Int) -> Int:
    """The oldest tile of those with the most entries."""
    best = block + FIRST
    p = next_tile(arena, best)
    while p < block + words:
        if arena[p + SIZE] > arena[best + SIZE]:
            best = p
        p = next_tile(arena, p)
    return best


@inlined
def _bucket(value: Int, kind: Int, level: Int) -> Int:
    """Bucket of an entry of a tile of ``level``, of level 0 where it is a value."""
    return finest_index(value, kind) if level == 0 else value


@part
def _coarsen(arena: I64, slots: I64, slot: Int, at: Int, p: Int, kind: Int) -> bool:
    """Merge buckets of the tile at ``p`` at the next level at which any merge; False if none do."""
    n, level, wanted = arena[p + SIZE], arena[p + NOTE], np.int64(MAX_LEVEL + 1)
    for e in range(p + VALUES + 2, p + VALUES + 2 * n, 2):
        a, b = _bucket(arena[e - 2], kind, level), _bucket(arena[e], kind, level)
        wanted = min(wanted, merge_level(a, b, level))
    if wanted > MAX_LEVEL:
        return False
    kept = np.int64(0)
    for e in range(p + VALUES, p + VALUES + 2 * n, 2):
        index = coarser(_bucket(arena[e], kind, level), wanted - level)
        to = p + VALUES + 2 * kept
        if kept > 0 and arena[to - 2] == index:
            arena[to - 1] = min(arena[to - 1] + arena[e + 1], np.int64(MOST))
        else:
            arena[to], arena[to + 1] = index, arena[e + 1]
            kept += 1
    arena[p + NOTE] = wanted
    _keep_first(arena, slots, slot, at, p, kept)
    return True


@part
def _subtract(arena: I64, slots: I64, slot: Int, at: Int, p: Int) -> None:
    """Take the smallest count of the tile at ``p`` off all of them; entries of 0 go."""
    n, least = arena[p + SIZE], arena[p + VALUES + 1]
    for e in range(p + VALUES, p + VALUES + 2 * n, 2):
        least = min(least, arena[e + 1])
    kept = np.int64(0)
    for e in range(p + VALUES, p + VALUES + 2 * n, 2):
        if arena[e + 1] > least:
            to = p + VALUES + 2 * kept
            arena[to], arena[to + 1] = arena[e], arena[e + 1] - least
            kept += 1
    arena[p + NOTE] = min(arena[p + NOTE] + least, np.int64(MOST))
    _keep_first(arena, slots, slot, at, p, kept)


@inlined
def _keep_best(
    arena: I64, slots: I64, slot: Int, at: Int, p: Int, list_kind: Int, bound: Int
) -> None:
    """Cut the tile at ``p`` down to its ``bound`` largest or smallest values; it has one too many
    at most."""
    if arena[p + SIZE] <= bound:
        return
    if list_kind == LARGEST:
        for k in range(p + VALUES, p + VALUES + 2 * bound):
            arena[k] = arena[k + 2]
    _keep_first(arena, slots, slot, at, p, bound)


@part
def _fit(
    arena: I64, slots: I64, slot: Int, at: Int, evicted: Int, lists: I64, i: Int, first_tile: Int
) -> None:
    """Down to the bound: what fell out of the ring goes first, then as the module says."""
    bound, block = lists[i, LIST_BOUND], slots[slot, at]
    if arena[block + ENTRIES] > bound:
        _drop_before(arena, slots, slot, at, first_tile)
    while arena[block + ENTRIES] > bound:
        p = _largest(arena, block, slots[slot, at + 1])
        if lists[i, LIST_KIND] == FREQUENT:
            _subtract(arena, slots, slot, at, p)
        elif not _coarsen(arena, slots, slot, at, p, lists[i, LIST_TYPE]):
            oldest = arena[block + FIRST]
            slots[slot, evicted] = max(slots[slot, evicted], oldest)
            _drop_before(arena, slots, slot, at, oldest + 1)


@part
def add_counted(
    arena: I64, heads: I64, slots: I64, slot: Int, section: Int, evicted: Int,
    lists: I64, i: Int, raw: Int, tile: Int, first_tile: Int,
) -> None:  # fmt: skip
    """Count value ``raw`` in ``tile`` of list ``i``; ``first_tile`` is the first in the ring.

    O(log n) for a known value of the newest tile, O(n) for a new one.
    """
    at, kind = SECTION + 3 * section, lists[i, LIST_TYPE]
    list_kind, bound = lists[i, LIST_KIND], lists[i, LIST_BOUND]
    value = ordered(raw, kind)
    for _ in range(2):
        block, words = slots[slot, at], slots[slot, at + 1]
        p, e = _tile_at(arena, block, words, tile), np.int64(-1)
        if p < block + words and arena[p] == tile:
            if list_kind != FREQUENT and arena[p + NOTE] > 0:
                value = index_of(ordered(raw, kind), kind, arena[p + NOTE])
            n = arena[p + SIZE]
            k = lower_bound(arena, p + VALUES, n, 2, 0, value)
            e = p + VALUES + 2 * k
            if k < n and arena[e] == value:
                arena[e + 1] = min(arena[e + 1] + 1, np.int64(MOST))
                return
            if list_kind >= LARGEST and n >= bound and k == (0 if list_kind == LARGEST else n):
                return
        if block >= 0 and words + VALUES + 2 <= slots[slot, at + 2]:
            break
        _make_room(arena, heads, slots, slot, at, first_tile)
    e = _insert(arena, slots, slot, at, p, tile, e)
    arena[e], arena[e + 1] = value, 1
    if list_kind >= LARGEST:
        _keep_best(arena, slots, slot, at, p, list_kind, bound)
    else:
        _fit(arena, slots, slot, at, evicted, lists, i, first_tile)
