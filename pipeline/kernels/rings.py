"""Rings of tiles: an event's values folded into the cells of its tile.

A section of the arena holds a ring's non-empty tiles, ascending. Tile ``k`` covers the times
``(k * width, (k + 1) * width]``. Tiles that fell out of the ring may linger until their room is
needed; every reader skips them.

Tiles are *narrow* or *wide*, all of a section the same. A wide one is 1 + cells words,
``[tile, cell, ...]``. A narrow one takes half a word for its number and for each integer cell,
and a word for a float. A section begins narrow, if the plan says that it may, and is made wide by
the first number that does not fit; it stays so until it is emptied or loaded again. The lowest bit
of the section's size says which it is. Nothing that can be seen depends on it.

Positions within a section count halves of words, so that both are read alike.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.arena import FLAGS, allocate, block_words, release
from pipeline.kernels.groups import add_to_group
from pipeline.kernels.integers import add_wrapping
from pipeline.kernels.jit import (
    Int,
    inlined,
    load_half,
    load_word,
    move_halves,
    part,
    store_half,
    store_word,
)
from pipeline.kernels.table import SECTION
from pipeline.kernels.tiles import (
    ACC_HALF,
    ACC_INPUT,
    ACC_MASK,
    ACC_OP,
    COUNT,
    MAX_FLOAT,
    MAX_INT,
    MIN_INT,
    SUM_INT,
    fold,
    grow,
    identity,
    is_float,
)

__all__ = [
    "WIDE",
    "add_to_ring",
    "fits",
    "is_wide",
    "narrowed",
    "read_cell",
    "ring_block",
    "roomy",
    "section_of",
    "tile_from",
    "tile_number",
    "widened",
    "write_cell",
    "write_tile",
]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

WIDE = 1  # in a section's size
SPARE = 16  # tiles, for which there is room for one more: as rarely those that are left are moved
HIGHEST, LOWEST = 2**31 - 1, -(2**31)  # narrow identities of MIN_INT and MAX_INT
_MAX, _MIN = 2**63 - 1, -(2**63)


@inlined
def is_wide(slots: I64, slot: Int, at: Int) -> bool:
    """Whether the tiles of the section whose columns start at ``at`` are wide."""
    return bool((slots[slot, at + 2] & WIDE) != 0)


@inlined
def section_of(
    slots: I64, slot: Int, at: Int, cells: Int, halves: Int
) -> tuple[Int, Int, Int, bool]:
    """Position of a ring's first tile, halves of a tile, number of tiles, whether they are wide.

    ``halves`` are those of a narrow tile of this ring, of ``cells`` cells.
    """
    wide = is_wide(slots, slot, at)
    return 2 * slots[slot, at], 2 + 2 * cells if wide else halves, slots[slot, at + 1], wide


@inlined
def tile_number(arena: I64, p: Int, wide: bool) -> Int:
    """Number of the tile at ``p``."""
    return load_word(arena, p) if wide else load_half(arena, p)


@inlined
def write_tile(arena: I64, p: Int, wide: bool, tile: Int) -> bool:
    """Write the number of the tile at ``p``; False where it is too large for that."""
    if wide:
        store_word(arena, p, tile)
        return True
    store_half(arena, p, tile)
    return fits(tile)


@inlined
def tile_from(arena: I64, base: Int, entry: Int, count: Int, wide: bool, tile: Int) -> Int:
    """The first of ``count`` tiles, of ``entry`` halves from ``base`` on, not before ``tile``."""
    low, high = np.int64(0), np.int64(count)
    while low < high:
        middle = (low + high) >> 1
        if tile_number(arena, base + middle * entry, wide) < tile:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def fits(number: Int) -> bool:
    """Whether a number other than an identity can be half a word."""
    return bool(LOWEST + 1 < number < HIGHEST)


@inlined
def narrowed(op: Int, cell: Int) -> Int:
    """Half a word for a cell that fits or is the identity of ``op``."""
    if op == MIN_INT and cell == _MAX:
        return np.int64(HIGHEST)
    if op == MAX_INT and cell == _MIN:
        return np.int64(LOWEST)
    return cell


@inlined
def widened(op: Int, half: Int) -> Int:
    """The cell that :func:`narrowed` made half a word of."""
    if half == HIGHEST and op == MIN_INT:
        return np.int64(_MAX)
    if half == LOWEST and op == MAX_INT:
        return np.int64(_MIN)
    return half


@inlined
def read_cell(arena: I64, p: Int, accumulators: I64, a: Int, first: Int, wide: bool) -> Int:
    """Cell of accumulator ``a`` of the tile at ``p`` of a ring whose first one is ``first``."""
    op = accumulators[a, ACC_OP]
    if wide:
        return load_word(arena, p + 2 * (1 + a - first))
    if is_float(op):
        return load_word(arena, p + accumulators[a, ACC_HALF])
    return widened(op, load_half(arena, p + accumulators[a, ACC_HALF]))


@inlined
def write_cell(
    arena: I64, p: Int, accumulators: I64, a: Int, first: Int, wide: bool, cell: Int
) -> bool:
    """Write what :func:`read_cell` reads; False, and nothing is written, where it does not fit."""
    op = accumulators[a, ACC_OP]
    if wide:
        store_word(arena, p + 2 * (1 + a - first), cell)
    elif is_float(op):
        store_word(arena, p + accumulators[a, ACC_HALF], cell)
    else:
        half = narrowed(op, cell)
        if not fits(cell) and half == cell:
            return False
        store_half(arena, p + accumulators[a, ACC_HALF], half)
    return True


@inlined
def ring_block(
    arena: I64, heads: I64, slots: I64, slot: Int, at: Int, count: Int, entry: Int, wide: bool
) -> Int:
    """An empty block for ``count`` tiles of ``entry`` halves; position of the first one."""
    size = block_words((count * entry + 1) >> 1)
    block = allocate(arena, heads, size)
    slots[slot, at] = block
    slots[slot, at + 1] = 0
    slots[slot, at + 2] = size | (WIDE if wide else 0)
    return 2 * block


@part
def _widen(
    arena: I64, heads: I64, slots: I64, slot: Int, at: Int, accumulators: I64, first: Int,
    end: Int, halves: Int, first_tile: Int,
) -> Int:  # fmt: skip
    """Make the tiles of a section wide, with room for one more, and drop those before
    ``first_tile``; returns how many these were."""
    block, count, size = slots[slot, at], slots[slot, at + 1], slots[slot, at + 2]
    gone = tile_from(arena, 2 * block, halves, count, False, first_tile)
    count -= gone
    entry = 2 + 2 * (end - first)
    to = ring_block(arena, heads, slots, slot, at, count + 1, entry, True)
    for i in range(count):
        p, q = 2 * block + (gone + i) * halves, to + i * entry
        store_word(arena, q, load_half(arena, p))
        for a in range(first, end):
            cell = read_cell(arena, p, accumulators, a, first, False)
            write_cell(arena, q, accumulators, a, first, True, cell)
    slots[slot, at + 1] = count
    release(arena, heads, block, size)
    return gone


@part
def _widened_at(
    arena: I64, heads: I64, slots: I64, slot: Int, at: Int, accumulators: I64, first: Int,
    end: Int, halves: Int, p: Int, first_tile: Int,
) -> Int:  # fmt: skip
    """Make the tiles of a section wide; where the one at ``p`` went."""
    i = (p - 2 * slots[slot, at]) // halves
    i -= _widen(arena, heads, slots, slot, at, accumulators, first, end, halves, first_tile)
    return 2 * slots[slot, at] + i * (2 + 2 * (end - first))


@inlined
def roomy(count: Int) -> Int:
    """Tiles that a ring of ``count`` gets room for when it grows."""
    return count + max(count // SPARE, min(count - 1, np.int64(3)))


@inlined
def _make_room(
    arena: I64, heads: I64, slots: I64, slot: Int, at: Int, entry: Int, wide: bool, first_tile: Int
) -> None:
    """Room for one more tile: tiles before ``first_tile`` go first, then the block grows."""
    base, count, size = 2 * slots[slot, at], slots[slot, at + 1], slots[slot, at + 2] & ~FLAGS
    if (count + 1) * entry <= 2 * size:
        return
    gone = tile_from(arena, base, entry, count, wide, first_tile)
    if gone > 0:
        count -= gone
        if count > 0:
            move_halves(arena, base, base + gone * entry, count * entry)
        slots[slot, at + 1] = count
    words = (roomy(count + 1) * entry + 1) >> 1
    if words > size:
        grow(arena, heads, slots, slot, at, words)


@part
def _new_tile(
    arena: I64, heads: I64, slots: I64, slot: Int, at: Int, accumulators: I64,
    first: Int, end: Int, halves: Int, tile: Int, first_tile: Int,
) -> Int:  # fmt: skip
    """Make ``tile``, which is not there; its position."""
    if slots[slot, at] < 0:
        wide = halves == 0 or not fits(tile)
        ring_block(
            arena, heads, slots, slot, at, np.int64(1), 2 + 2 * (end - first) if wide else halves,
            wide,
        )  # fmt: skip
    elif not is_wide(slots, slot, at) and not fits(tile):
        _widen(arena, heads, slots, slot, at, accumulators, first, end, halves, first_tile)
    base, entry, count, wide = section_of(slots, slot, at, end - first, halves)
    i = count
    if count > 0 and tile_number(arena, base + (count - 1) * entry, wide) > tile:
        i = tile_from(arena, base, entry, count, wide, tile)
    _make_room(arena, heads, slots, slot, at, entry, wide, first_tile)
    i -= count - slots[slot, at + 1]
    base, count = 2 * slots[slot, at], slots[slot, at + 1]
    p = base + i * entry
    if i < count:
        move_halves(arena, p + entry, p, (count - i) * entry)
    slots[slot, at + 1] = count + 1
    write_tile(arena, p, wide, tile)
    for a in range(first, end):
        write_cell(arena, p, accumulators, a, first, wide, identity(accumulators[a, ACC_OP]))
    return p


@inlined
def _find_tile(arena: I64, base: Int, entry: Int, count: Int, wide: bool, tile: Int) -> Int:
    """Position of ``tile``, mostly the newest, -1 if it is not there."""
    if count == 0:
        return np.int64(-1)
    p = base + (count - 1) * entry
    newest = tile_number(arena, p, wide)
    if newest > tile:
        p = base + entry * tile_from(arena, base, entry, count, wide, tile)
        newest = tile_number(arena, p, wide)
    return p if newest == tile else np.int64(-1)


@inlined
def _fold_narrow(arena: I64, p: Int, op: Int, value: Int) -> bool:
    """Fold a value into the narrow cell at ``p``; False, and nothing is done, if it does not fit.

    A sum that wraps does not fit, and neither does the least of an identity and what is no less.
    """
    if op > SUM_INT and is_float(op):
        store_word(arena, p, fold(op, load_word(arena, p), value))
        return True
    cell = load_half(arena, p)
    if op <= SUM_INT:
        cell = add_wrapping(cell, value)
    elif op == MIN_INT:
        cell = min(cell, value)
    else:
        cell = max(cell, value)
    if not fits(cell):
        return False
    store_half(arena, p, cell)
    return True


@inlined
def add_to_ring(
    arena: I64, heads: I64, slots: I64, slot: Int, ring: Int, accumulators: I64,
    first: Int, end: Int, halves: Int, time: Int, width: Int, tile: Int, first_tile: Int,
    values: I64, usable: U8, passed: U8,
) -> None:  # fmt: skip
    """Fold one event into ``tile``, that of its ``time``, of a ring (accumulators ``first`` on).

    ``values`` int64[inputs], ``usable`` uint8[inputs] (not null, not NaN) and ``passed``
    uint8[masks] are the event's. A tile is made by the first accumulator that takes a value.
    ``first_tile`` is the first one the ring holds once the event is included; ``halves`` are those
    of a narrow tile, 0 where there are none.
    """
    at = SECTION + 3 * ring
    p, wide = np.int64(-1), False
    for a in range(first, end):
        mask, source = accumulators[a, ACC_MASK], accumulators[a, ACC_INPUT]
        if mask >= 0 and passed[mask] == 0:
            continue
        if source >= 0 and usable[source] == 0:
            continue
        if p < 0:
            base, entry, count, wide = section_of(slots, slot, at, end - first, halves)
            p = _find_tile(arena, base, entry, count, wide, tile)
            if p < 0:
                p = _new_tile(
                    arena, heads, slots, slot, at, accumulators, first, end, halves, tile,
                    first_tile,
                )  # fmt: skip
                wide = is_wide(slots, slot, at)
        op = accumulators[a, ACC_OP]
        value = np.int64(1) if op == COUNT else values[source]
        if not wide:
            if _fold_narrow(arena, p + accumulators[a, ACC_HALF], op, value):
                continue
            p = _widened_at(
                arena, heads, slots, slot, at, accumulators, first, end, halves, p, first_tile
            )
            wide = True
        cell = (p >> 1) + 1 + a - first
        if op > MAX_FLOAT:
            add_to_group(arena, cell, op, value, time, width)
        else:
            arena[cell] = fold(op, arena[cell], value)
