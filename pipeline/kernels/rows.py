"""Row layout v2: a slot's state to bytes. ``docs/row-layout.md`` is the specification."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.countrows import encode_counts
from pipeline.kernels.decay import encode_decayed
from pipeline.kernels.distinct import MAX_STEPS, encode_distinct
from pipeline.kernels.events import event_words, first_counted
from pipeline.kernels.header import LONGEST_HEADER, has_row, seal, write_header
from pipeline.kernels.integers import minus, subtract_wrapping
from pipeline.kernels.jit import Int, bare, inlined, load_half, load_word, prefetch
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
    has_counts,
)
from pipeline.kernels.rings import section_of, tile_from, tile_number, widened
from pipeline.kernels.table import (
    DIRTY,
    EVENT_TIME,
    FLIGHT,
    NOTHING,
    PRESENT,
    SECTION,
    SOURCE_OFFSET,
    STATE,
    WORDS_OF_LINE,
    prefetch_slot,
)
from pipeline.kernels.tiles import (
    ACC_HALF,
    ACC_OP,
    RING_END,
    RING_FIRST,
    RING_HALVES,
    RING_TILES,
    RING_WIDTH,
    is_count,
    is_float,
    lower_bound,
    tile_of,
)
from pipeline.kernels.varint import write_varint, write_word, zigzag

__all__ = ["encode_slots", "first_held"]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

_FLOAT = 1
AHEAD, LINES = 2, 8  # slots, while which are encoded so much of the next ones' rings is brought


@inlined
def first_held(rings: I64, ring: Int, newest: Int) -> Int:
    """The first tile the ring holds when positioned by ``newest``."""
    return minus(tile_of(newest, rings[ring, RING_WIDTH]), rings[ring, RING_TILES]) + 1


@inlined
def _bound(slots: I64, slot: Int, rings: I64, lists: I64) -> Int:
    """Bytes that the row can take at most."""
    size = np.int64(LONGEST_HEADER)
    for s in range(len(rings) + len(lists)):
        words = np.int64(3)
        if s < len(rings):
            words = 1 + rings[s, RING_END] - rings[s, RING_FIRST]
        elif has_counts(lists[s - len(rings), LIST_KIND]):
            words = np.int64(1)
        elif lists[s - len(rings), LIST_KIND] == DISTINCT:
            size += 10 * MAX_STEPS
        size += 32 + 10 * words * slots[slot, SECTION + 3 * s + 1]
    return size


@inlined
def _encode_ring(
    slots: I64, arena: I64, slot: Int, ring: Int, rings: I64, accumulators: I64, out: U8, at: Int
) -> Int:
    column = SECTION + 3 * ring
    first, end = rings[ring, RING_FIRST], rings[ring, RING_END]
    base, entry, count, wide = section_of(
        slots, slot, column, end - first, rings[ring, RING_HALVES]
    )
    if count == 0:
        return write_varint(out, at, np.int64(0))
    held = first_held(rings, ring, slots[slot, EVENT_TIME])
    start = tile_from(arena, base, entry, count, wide, held)
    at = write_varint(out, at, count - start)
    before = np.int64(0)
    for i in range(start, count):
        p = base + i * entry
        tile = tile_number(arena, p, wide)
        at = write_varint(out, at, zigzag(tile) if i == start else tile - before)
        before = tile
        for a in range(first, end):
            op = accumulators[a, ACC_OP]
            q = p + (2 * (1 + a - first) if wide else accumulators[a, ACC_HALF])
            if is_float(op):
                at = write_word(out, at, load_word(arena, q))
                continue
            cell = load_word(arena, q) if wide else load_half(arena, q)
            if not is_count(op):
                cell = zigzag(cell if wide else widened(op, cell))
            at = write_varint(out, at, cell)
    return at


@inlined
def _encode_last(
    slots: I64, arena: I64, slot: Int, column: Int, horizon: Int, kind: Int, out: U8, at: Int
) -> Int:
    block, count = slots[slot, column], slots[slot, column + 1]
    newest, offset = slots[slot, EVENT_TIME], slots[slot, SOURCE_OFFSET]
    start = np.int64(0)
    if horizon != 0 and count > 0:
        start = lower_bound(arena, block, count, 3, 0, minus(newest, horizon) + 1)
    at = write_varint(out, at, count - start)
    at = write_varint(out, at, np.int64(0))
    for i in range(start, count):
        p = block + 3 * i
        at = write_varint(out, at, subtract_wrapping(newest, arena[p]))
        at = write_varint(out, at, subtract_wrapping(offset, arena[p + 1]))
        if kind == _FLOAT:
            at = write_word(out, at, arena[p + 2])
        else:
            at = write_varint(out, at, zigzag(arena[p + 2]))
    return at


@inlined
def _encode_events(
    slots: I64, arena: I64, slot: Int, lists: I64, i: Int, column: Int, evicted: Int,
    out: U8, at: Int,
) -> Int:  # fmt: skip
    block, count = slots[slot, column], slots[slot, column + 1]
    entry, newest = event_words(lists, i), slots[slot, EVENT_TIME]
    oldest = minus(newest, lists[i, LIST_HORIZON])
    start = first_counted(arena, block, count, entry, lists[i, LIST_BOUND], oldest)
    at = write_varint(out, at, count - start)
    if evicted <= oldest or evicted == NOTHING:
        at = write_varint(out, at, np.int64(0))
    else:
        at = write_varint(out, at, np.int64(1))
        at = write_varint(out, at, zigzag(evicted))
    for k in range(start, count):
        p = block + entry * k
        if k == start:
            at = write_varint(out, at, subtract_wrapping(newest, arena[p]))
            at = write_varint(out, at, subtract_wrapping(slots[slot, SOURCE_OFFSET], arena[p + 1]))
        else:
            at = write_varint(out, at, subtract_wrapping(arena[p], arena[p - entry]))
            back = subtract_wrapping(arena[p + 1], arena[p + 1 - entry])
            at = write_varint(out, at, zigzag(back))
        if entry == 2:
            continue
        if lists[i, LIST_TYPE] == _FLOAT:
            at = write_word(out, at, arena[p + 2])
        else:
            at = write_varint(out, at, zigzag(arena[p + 2]))
    return at


@inlined
def _encode_row(
    slots: I64, arena: I64, slot: Int, rings: I64, accumulators: I64, lists: I64,
    layout_hash: Int, out: U8, start: Int,
) -> Int:  # fmt: skip
    at = write_header(slots, slot, layout_hash, out, start)
    if (slots[slot, STATE] & PRESENT) == 0:
        seal(out, start, at)
        return at
    for ring in range(len(rings)):
        at = _encode_ring(slots, arena, slot, ring, rings, accumulators, out, at)
    evicted = slots.shape[1] - len(lists)
    for i in range(len(lists)):
        column = SECTION + 3 * (len(rings) + i)
        ring, time = lists[i, LIST_RING], slots[slot, EVENT_TIME]
        if lists[i, LIST_KIND] == DISTINCT:
            at = encode_distinct(
                slots, arena, slot, column, evicted + i, tile_of(time, rings[ring, RING_WIDTH]),
                first_held(rings, ring, time), out, at,
            )  # fmt: skip
        elif ring >= 0:
            held = first_held(rings, ring, time)
            at = encode_counts(slots, arena, slot, column, evicted + i, held, out, at)
        elif lists[i, LIST_KIND] in (EVENTS, IDS):
            at = _encode_events(
                slots, arena, slot, lists, i, column, slots[slot, evicted + i], out, at
            )
        elif lists[i, LIST_KIND] == DECAYED:
            at = encode_decayed(slots, arena, slot, lists, i, column, out, at)
        else:
            at = _encode_last(
                slots, arena, slot, column, lists[i, LIST_HORIZON], lists[i, LIST_TYPE], out, at
            )
    seal(out, start, at)
    return at


@inlined
def _expect(slots: I64, arena: I64, chosen: I32, rings: I64, i: Int) -> None:
    """Have the slots after ``i`` brought, and of the nearer ones what their rings begin with."""
    if i + 2 * AHEAD < len(chosen):
        prefetch_slot(slots, chosen[i + 2 * AHEAD])
    if i + AHEAD < len(chosen):
        slot = chosen[i + AHEAD]
        for r in range(len(rings)):
            cells = rings[r, RING_END] - rings[r, RING_FIRST]
            base, entry, count, _ = section_of(
                slots, slot, SECTION + 3 * r, cells, rings[r, RING_HALVES]
            )
            words = (count * entry) >> 1
            for k in range(0, min(words, LINES * WORDS_OF_LINE), WORDS_OF_LINE):
                prefetch(arena, (base >> 1) + k)


@bare
def encode_slots(
    slots: I64, arena: I64, chosen: I32, first: Int, rings: I64, accumulators: I64, lists: I64,
    layout_hash: Int, out: U8, offsets: I64,
) -> Int:  # fmt: skip
    """Rows of the ``chosen`` slots from the ``first`` on, back to back into ``out``.

    Row ``i`` is ``out[offsets[i]:offsets[i + 1]]``; ``offsets`` int64[n+1] is filled up to where it
    gets, ``offsets[first]`` is given. A slot without events or deletion gets 0 bytes. A DIRTY slot
    becomes clean and gets one more FLIGHT. Returns the position it stopped at, for lack of room, or
    n.
    """
    for i in range(first, len(chosen)):
        slot, at = chosen[i], offsets[i]
        _expect(slots, arena, chosen, rings, i)
        if has_row(slots, slot):
            if at + _bound(slots, slot, rings, lists) > len(out):
                return i
            at = _encode_row(slots, arena, slot, rings, accumulators, lists, layout_hash, out, at)
        offsets[i + 1] = at
        if (slots[slot, STATE] & DIRTY) != 0:
            slots[slot, STATE] += FLIGHT - DIRTY
    return len(chosen)
