"""Row layout v2, and v1: bytes to a slot's state, for bytes that anybody may have written.

A row is accepted only if encoding what was read gives the same bytes again (but for the version
of a v1 row): lengths, order, ranges and shortest forms are all checked. Nothing outside of the row
is read. A refused row leaves its slot empty and not loaded.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.arena import allocate, block_words, has_room, release
from pipeline.kernels.countrows import load_counts
from pipeline.kernels.decay import load_decayed
from pipeline.kernels.distinct import load_distinct
from pipeline.kernels.events import event_words
from pipeline.kernels.groups import group_holds
from pipeline.kernels.header import BODY, OK, blank_header, check_header, read_header
from pipeline.kernels.ids import index_ids
from pipeline.kernels.integers import add_wrapping, minus
from pipeline.kernels.jit import Int, bare, inlined, part
from pipeline.kernels.lists import (
    DECAYED,
    DISTINCT,
    EVENTS,
    IDS,
    LIST_BOUND,
    LIST_HORIZON,
    LIST_KIND,
    LIST_RING,
    LIST_TYPE,
)
from pipeline.kernels.rings import ring_block, write_cell, write_tile
from pipeline.kernels.rows import first_held
from pipeline.kernels.table import (
    EVENT_TIME,
    LOADED,
    NOTHING,
    SECTION,
    SOURCE_OFFSET,
    STATE,
)
from pipeline.kernels.tiles import (
    ACC_OP,
    MAX_FLOAT,
    RING_END,
    RING_FIRST,
    RING_HALVES,
    RING_TILES,
    RING_WIDTH,
    is_count,
    is_float,
    is_nan,
    tile_of,
)
from pipeline.kernels.varint import read_varint, read_word, unzigzag

__all__ = ["clear_slot", "load_slots"]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

UNFIT = -2  # a number of narrow tiles that takes a word
_FLOAT = 1
_NAN = 0x7FF8000000000000
_MINUS_ZERO = -(2**63)


@part
def clear_slot(arena: I64, heads: I64, slots: I64, slot: Int, lists: Int) -> None:
    """Empty every section of a slot and give its blocks back."""
    width = slots.shape[1]
    for column in range(SECTION, width - lists, 3):
        if slots[slot, column] >= 0:
            release(arena, heads, slots[slot, column], slots[slot, column + 2])
        slots[slot, column] = -1
        slots[slot, column + 1] = 0
        slots[slot, column + 2] = 0
    for column in range(width - lists, width):
        slots[slot, column] = NOTHING


@inlined
def _new_block(
    arena: I64, heads: I64, slots: I64, slot: Int, column: Int, count: Int, entry: Int
) -> Int:
    size = block_words(count * entry)
    block = allocate(arena, heads, size)
    slots[slot, column] = block
    slots[slot, column + 1] = count
    slots[slot, column + 2] = size
    return block


@part
def _load_cell(data: U8, at: Int, end: Int, op: Int) -> tuple[Int, Int]:
    if is_float(op):
        cell, at = read_word(data, at, end)
        return cell, np.int64(-1) if is_nan(cell) and cell != _NAN else at
    bits, at = read_varint(data, at, end)
    if is_count(op):
        return bits, np.int64(-1) if bits < 0 else at
    return unzigzag(bits), at


@inlined
def _load_tiles(
    arena: I64, heads: I64, slots: I64, slot: Int, ring: Int, rings: I64, accumulators: I64,
    newest: Int, count: Int, wide: bool, data: U8, at: Int, end: Int,
) -> Int:  # fmt: skip
    """Position after ``count`` tiles, -1 where one is malformed, UNFIT where one has to be wide."""
    first, last, column = rings[ring, RING_FIRST], rings[ring, RING_END], SECTION + 3 * ring
    entry = 2 + 2 * (last - first) if wide else rings[ring, RING_HALVES]
    held, newest_tile = first_held(rings, ring, newest), tile_of(newest, rings[ring, RING_WIDTH])
    base = ring_block(arena, heads, slots, slot, column, count, entry, wide)
    slots[slot, column + 1] = count
    tile = np.int64(0)
    for i in range(count):
        bits, at = read_varint(data, at, end)
        if at < 0:
            return np.int64(-1)
        if i == 0:
            tile = unzigzag(bits)
        elif bits <= 0 or bits > minus(newest_tile, tile):
            return np.int64(-1)
        else:
            tile += bits
        if tile < held or tile > newest_tile:
            return np.int64(-1)
        p = base + i * entry
        if not write_tile(arena, p, wide, tile):
            return np.int64(UNFIT)
        for a in range(first, last):
            op = accumulators[a, ACC_OP]
            cell, at = _load_cell(data, at, end, op)
            if at < 0:
                return np.int64(-1)
            if not write_cell(arena, p, accumulators, a, first, wide, cell):
                return np.int64(UNFIT)
            if op > MAX_FLOAT and not group_holds(
                arena, (p >> 1) + 1 + a - first, op, rings[ring, RING_WIDTH]
            ):
                return np.int64(-1)
    return at


@part
def _load_ring(
    arena: I64, heads: I64, slots: I64, slot: Int, ring: Int, rings: I64, accumulators: I64,
    newest: Int, data: U8, at: Int, end: Int,
) -> Int:  # fmt: skip
    """Position after the ring, -1 where it is malformed."""
    count, at = read_varint(data, at, end)
    limit = rings[ring, RING_TILES] if rings[ring, RING_END] > rings[ring, RING_FIRST] else 0
    if at < 0 or count < 0 or count > limit or count > end - at:
        return np.int64(-1)
    if count == 0:
        return at
    wide = rings[ring, RING_HALVES] == 0
    while True:
        after = _load_tiles(
            arena, heads, slots, slot, ring, rings, accumulators, newest, count, wide, data, at,
            end,
        )  # fmt: skip
        if after != UNFIT:
            return after
        column = SECTION + 3 * ring
        release(arena, heads, slots[slot, column], slots[slot, column + 2])
        wide = True


@inlined
def _load_evicted(data: U8, at: Int, end: Int) -> tuple[Int, Int]:
    flag, at = read_varint(data, at, end)
    if at < 0 or flag < 0 or flag > 1:
        return np.int64(NOTHING), np.int64(-1)
    if flag == 0:
        return np.int64(NOTHING), at
    bits, at = read_varint(data, at, end)
    return unzigzag(bits), at


@part
def _load_by_tile(
    arena: I64, heads: I64, slots: I64, slot: Int, rings: I64, lists: I64, i: Int,
    newest: Int, data: U8, at: Int, end: Int,
) -> Int:  # fmt: skip
    """Position after a list that goes by the tiles of a ring, -1 where it is malformed."""
    ring = lists[i, LIST_RING]
    tile, held = tile_of(newest, rings[ring, RING_WIDTH]), first_held(rings, ring, newest)
    section, evicted = len(rings) + i, slots.shape[1] - len(lists) + i
    if lists[i, LIST_KIND] == DISTINCT:
        return load_distinct(
            arena, heads, slots, slot, section, evicted, lists, i, tile, held, data, at, end
        )
    return load_counts(
        arena, heads, slots, slot, section, evicted, lists, i, tile, held, data, at, end
    )


@part
def _load_value(data: U8, at: Int, end: Int, kind: Int) -> tuple[Int, Int]:
    if kind == _FLOAT:
        value, at = read_word(data, at, end)
        return value, np.int64(-1) if is_nan(value) else at
    bits, at = read_varint(data, at, end)
    return unzigzag(bits), at


@part
def _load_last(
    arena: I64, heads: I64, slots: I64, slot: Int, rings: I64, lists: I64, i: Int,
    newest: Int, offset: Int, data: U8, at: Int, end: Int,
) -> Int:  # fmt: skip
    """Position after the list, -1 where it is malformed."""
    horizon, kind = lists[i, LIST_HORIZON], lists[i, LIST_TYPE]
    count, at = read_varint(data, at, end)
    if at < 0 or count < 0 or count > lists[i, LIST_BOUND] or count > end - at:
        return np.int64(-1)
    evicted, at = _load_evicted(data, at, end)
    if at < 0 or evicted != NOTHING:
        return np.int64(-1)
    if count == 0:
        return at
    block = _new_block(arena, heads, slots, slot, SECTION + 3 * (len(rings) + i), count, 3)
    for k in range(count):
        p = block + 3 * k
        age, at = read_varint(data, at, end)
        if at < 0 or age < 0 or age > minus(newest, NOTHING) or (horizon != 0 and age >= horizon):
            return np.int64(-1)
        back, at = read_varint(data, at, end)
        if at < 0 or back < 0 or back > minus(offset, NOTHING):
            return np.int64(-1)
        arena[p], arena[p + 1] = minus(newest, age), minus(offset, back)
        arena[p + 2], at = _load_value(data, at, end, kind)
        if at < 0:
            return np.int64(-1)
        if k > 0 and (
            arena[p] < arena[p - 3] or (arena[p] == arena[p - 3] and arena[p + 1] <= arena[p - 2])
        ):
            return np.int64(-1)
    return at


@part
def _load_events(
    arena: I64, heads: I64, slots: I64, slot: Int, rings: I64, lists: I64, i: Int,
    newest: Int, offset: Int, data: U8, at: Int, end: Int,
) -> Int:  # fmt: skip
    """Position after the list, -1 where it is malformed."""
    entry, oldest = event_words(lists, i), minus(newest, lists[i, LIST_HORIZON])
    count, at = read_varint(data, at, end)
    if at < 0 or count < 0 or count > lists[i, LIST_BOUND] or count > end - at:
        return np.int64(-1)
    evicted, at = _load_evicted(data, at, end)
    if at < 0 or (evicted != NOTHING and (evicted <= oldest or count < lists[i, LIST_BOUND])):
        return np.int64(-1)
    slots[slot, slots.shape[1] - len(lists) + i] = evicted
    if count == 0:
        return at
    block = _new_block(arena, heads, slots, slot, SECTION + 3 * (len(rings) + i), count, entry)
    for k in range(count):
        p = block + entry * k
        step, at = read_varint(data, at, end)
        if at < 0 or step < 0:
            return np.int64(-1)
        bits, at = read_varint(data, at, end)
        if at < 0:
            return np.int64(-1)
        if k == 0:
            if step >= minus(newest, oldest) or bits < 0 or bits > minus(offset, NOTHING):
                return np.int64(-1)
            arena[p], arena[p + 1] = minus(newest, step), minus(offset, bits)
            if evicted > arena[p]:
                return np.int64(-1)
        else:
            if step > minus(newest, arena[p - entry]):
                return np.int64(-1)
            arena[p] = arena[p - entry] + step
            arena[p + 1] = add_wrapping(arena[p + 1 - entry], unzigzag(bits))
            if arena[p + 1] > offset or (step == 0 and arena[p + 1] <= arena[p + 1 - entry]):
                return np.int64(-1)
        if entry > 2:
            arena[p + 2], at = _load_value(data, at, end, lists[i, LIST_TYPE])
            if at < 0:
                return np.int64(-1)
    return at


@part
def _load_body(
    arena: I64, heads: I64, slots: I64, slot: Int, rings: I64, accumulators: I64, lists: I64,
    data: U8, start: Int, end: Int,
) -> Int:  # fmt: skip
    at = read_header(slots, slot, data, start, end)
    newest, offset = slots[slot, EVENT_TIME], slots[slot, SOURCE_OFFSET]
    if at == end and slots[slot, STATE] == LOADED:
        return OK
    for ring in range(len(rings)):
        if at >= 0:
            at = _load_ring(
                arena, heads, slots, slot, ring, rings, accumulators, newest, data, at, end
            )
    for i in range(len(lists)):
        if at >= 0 and lists[i, LIST_RING] >= 0:
            at = _load_by_tile(arena, heads, slots, slot, rings, lists, i, newest, data, at, end)
        elif at >= 0 and lists[i, LIST_KIND] in (EVENTS, IDS):
            at = _load_events(
                arena, heads, slots, slot, rings, lists, i, newest, offset, data, at, end
            )
            if lists[i, LIST_KIND] == IDS:
                index_ids(arena, heads, slots, slot, len(rings) + i)
        elif at >= 0 and lists[i, LIST_KIND] == DECAYED:
            column = SECTION + 3 * (len(rings) + i)
            at = load_decayed(arena, heads, slots, slot, lists, i, column, newest, data, at, end)
        elif at >= 0:
            at = _load_last(
                arena, heads, slots, slot, rings, lists, i, newest, offset, data, at, end
            )
    if at != end:
        clear_slot(arena, heads, slots, slot, len(lists))
        blank_header(slots, slot)
        return BODY
    return OK


@bare
def load_slots(
    arena: I64, heads: I64, slots: I64, chosen: I32, first: Int, need: Int, rings: I64,
    accumulators: I64, lists: I64, layout_hash: Int, data: U8, offsets: I64, absent: U8,
    errors: U8,
) -> Int:  # fmt: skip
    """Put row ``data[offsets[i]:offsets[i + 1]]`` into slot ``chosen[i]``, from ``first`` on.

    ``absent[i]`` says that there is no row. ``errors[i]`` is OK or why the row was refused, the
    slot then stays unloaded. ``data`` is scratch and is changed. A row takes at most ``need``
    words of the arena; returns the position it stopped at for lack of them, or n.
    """
    for i in range(first, len(chosen)):
        if not has_room(arena, heads, need):
            return i
        slot, start, end = chosen[i], offsets[i], offsets[i + 1]
        clear_slot(arena, heads, slots, slot, len(lists))
        blank_header(slots, slot)
        if absent[i] != 0:
            slots[slot, STATE] = LOADED
            continue
        errors[i] = check_header(data, start, end, layout_hash)
        if errors[i] == OK:
            errors[i] = _load_body(
                arena, heads, slots, slot, rings, accumulators, lists, data, start, end
            )
    return len(chosen)
