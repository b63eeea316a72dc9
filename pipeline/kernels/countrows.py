"""Lists of counts by tile to the bytes of a row and back; ``docs/row-layout.md`` specifies them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.buckets import MAX_LEVEL, is_index, ordered, unordered
from pipeline.kernels.counts import (
    ENTRIES,
    FIRST,
    LAST_TILE,
    MOST,
    NOTE,
    SIZE,
    VALUES,
    counts_words,
    next_tile,
)
from pipeline.kernels.integers import add_wrapping, minus, subtract_wrapping
from pipeline.kernels.jit import Int, inlined, part
from pipeline.kernels.lists import (
    COUNTS,
    FREQUENT,
    LARGEST,
    LIST_BOUND,
    LIST_KIND,
    LIST_TYPE,
)
from pipeline.kernels.table import NOTHING, SECTION
from pipeline.kernels.tiles import grow, is_nan
from pipeline.kernels.varint import read_varint, unzigzag, write_varint, zigzag

__all__ = ["encode_counts", "load_counts"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

_FLOAT = 1


@inlined
def encode_counts(
    slots: I64, arena: I64, slot: Int, at: Int, evicted: Int, held: Int, out: U8, to: Int
) -> Int:
    """Write the list, of which the ring holds the tiles from ``held`` on, to ``out[to]``."""
    block, end = slots[slot, at], slots[slot, at] + slots[slot, at + 1]
    tiles, first = np.int64(0), end
    entries: Int = np.int64(0)
    p = block + FIRST
    while p < end:
        if arena[p] >= held:
            first = min(first, p)
            entries += arena[p + SIZE]
            tiles += 1
        p = next_tile(arena, p)
    to = write_varint(out, to, entries)
    if slots[slot, evicted] < held or slots[slot, evicted] == NOTHING:
        to = write_varint(out, to, np.int64(0))
    else:
        to = write_varint(out, to, np.int64(1))
        to = write_varint(out, to, zigzag(slots[slot, evicted]))
    to = write_varint(out, to, tiles)
    p, before = first, np.int64(0)
    while p < end:
        tile = arena[p]
        to = write_varint(out, to, zigzag(tile) if p == first else tile - before)
        to = write_varint(out, to, arena[p + SIZE])
        to = write_varint(out, to, arena[p + NOTE])
        for e in range(p + VALUES, next_tile(arena, p), 2):
            value = zigzag(arena[e])
            if e > p + VALUES:
                value = subtract_wrapping(arena[e], arena[e - 2])
            to = write_varint(out, to, value)
            to = write_varint(out, to, arena[e + 1])
        p, before = next_tile(arena, p), tile
    return to


@inlined
def _is_value(value: Int, kind: Int, list_kind: Int, note: Int) -> bool:
    """Whether a tile of this note can hold such an entry."""
    if list_kind != FREQUENT and note > 0:
        return is_index(value, note)
    bits = unordered(value, kind)
    return bool(kind != _FLOAT or (not is_nan(bits) and ordered(bits, kind) == value))


@inlined
def _highest_note(list_kind: Int) -> Int:
    """Of a tile: its level, its error, or nothing."""
    if list_kind == FREQUENT:
        return np.int64(MOST)
    return np.int64(MAX_LEVEL if list_kind == COUNTS else 0)


@part
def _load_tile(
    arena: I64, p: Int, list_kind: Int, kind: Int, left: Int, data: U8, at: Int, end: Int
) -> Int:
    """A tile, its index apart, to ``arena[p]``; -1 where malformed or of over ``left`` entries."""
    n, at = read_varint(data, at, end)
    if at < 0 or n < 0 or n > left:
        return np.int64(-1)
    note, at = read_varint(data, at, end)
    if at < 0 or note < 0 or note > _highest_note(list_kind):
        return np.int64(-1)
    if n == 0 and (list_kind != FREQUENT or note == 0):
        return np.int64(-1)
    arena[p + SIZE], arena[p + NOTE] = n, note
    value = np.int64(0)
    for k in range(n):
        bits, at = read_varint(data, at, end)
        if at < 0:
            return np.int64(-1)
        following = unzigzag(bits) if k == 0 else add_wrapping(value, bits)
        if (k > 0 and following <= value) or not _is_value(following, kind, list_kind, note):
            return np.int64(-1)
        value = following
        count, at = read_varint(data, at, end)
        if at < 0 or count < 1 or count > MOST:
            return np.int64(-1)
        arena[p + VALUES + 2 * k], arena[p + VALUES + 2 * k + 1] = value, count
    return at


@part
def load_counts(
    arena: I64, heads: I64, slots: I64, slot: Int, section: Int, evicted: Int, lists: I64, i: Int,
    newest: Int, held: Int, data: U8, at: Int, end: Int,
) -> Int:  # fmt: skip
    """Read what :func:`encode_counts` wrote; the position after it, -1 where it is malformed."""
    column, list_kind, bound = SECTION + 3 * section, lists[i, LIST_KIND], lists[i, LIST_BOUND]
    most = bound
    if list_kind >= LARGEST:
        most = bound * (minus(newest, held) + 1)
    entries, at = read_varint(data, at, end)
    if at < 0 or entries < 0 or entries > most or entries > end - at:
        return np.int64(-1)
    flag, at = read_varint(data, at, end)
    if at < 0 or flag < 0 or flag > (1 if list_kind == COUNTS else 0):
        return np.int64(-1)
    if flag == 1:
        bits, at = read_varint(data, at, end)
        if at < 0 or unzigzag(bits) < held or unzigzag(bits) > newest:
            return np.int64(-1)
        slots[slot, evicted] = unzigzag(bits)
    tiles, at = read_varint(data, at, end)
    if at < 0 or tiles < 0 or tiles > minus(newest, held) + 1 or tiles > end - at:
        return np.int64(-1)
    if tiles == 0:
        return at if entries == 0 else np.int64(-1)
    block = grow(arena, heads, slots, slot, column, counts_words(tiles, entries))
    arena[block + ENTRIES] = entries
    p, tile, left = block + FIRST, np.int64(0), entries
    for k in range(tiles):
        bits, at = read_varint(data, at, end)
        if at < 0 or (k > 0 and (bits <= 0 or bits > minus(newest, tile))):
            return np.int64(-1)
        tile = unzigzag(bits) if k == 0 else tile + bits
        if tile < held or tile > newest:
            return np.int64(-1)
        arena[p] = tile
        at = _load_tile(arena, p, list_kind, lists[i, LIST_TYPE], min(left, bound), data, at, end)
        if at < 0:
            return np.int64(-1)
        left -= arena[p + SIZE]
        arena[block + LAST_TILE] = p - block
        p = next_tile(arena, p)
    slots[slot, column + 1] = p - block
    return at if left == 0 else np.int64(-1)
