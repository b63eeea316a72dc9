"""Slots back to nothing: eviction, settling, and moving what is left together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.arena import FLAGS, LIVE, allocate
from pipeline.kernels.hash import xxh64
from pipeline.kernels.jit import Int, bare
from pipeline.kernels.load import clear_slot
from pipeline.kernels.table import (
    AGAIN,
    DIRTY,
    FLIGHT,
    KEY_LIVE,
    KEY_SIZE,
    KEY_START,
    NEXT_SLOT,
    ROWS,
    SECTION,
    STATE,
    USED,
    remove_slot,
)

__all__ = ["compact_arena", "evict_slots", "evictable", "settle_slots"]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@bare
def settle_slots(slots: I64, chosen: I32) -> None:
    """One encoding of each of the ``chosen`` slots was acknowledged."""
    for slot in chosen:
        if slots[slot, STATE] >= FLIGHT:
            slots[slot, STATE] -= FLIGHT


@bare
def evictable(slots: I64, totals: I64, sequence: Int, out: I32, worth: I64) -> Int:
    """Slots that are neither DIRTY nor in FLIGHT into ``out``; the lowest ``worth`` goes first.

    That is minus the age, the calls up to number ``sequence`` since the slot was used, of which a
    row that was used AGAIN counts an eighth: most rows of a skewed stream, and all of a scan, come
    once. With what 2Q remembers of rows that are gone (Johnson and Shasha, VLDB 1994) nothing is
    gained over that, and what was hot long ago still goes.
    """
    n = 0
    for slot in range(totals[NEXT_SLOT]):
        if slots[slot, KEY_SIZE] >= 0 and slots[slot, STATE] < DIRTY:
            out[n] = slot
            age = sequence - slots[slot, USED]
            worth[n] = -(age >> 3 if (slots[slot, STATE] & AGAIN) != 0 else age)
            n += 1
    return n


@bare
def evict_slots(
    slots: I64, arena: I64, heads: I64, keys: U8, totals: I64, index: I64, lists: Int,
    order: I32, slot_bytes: Int, limit: Int,
) -> Int:  # fmt: skip
    """Remove slots in ``order`` until all that is left takes ``limit`` bytes; returns how many.

    ``slot_bytes`` is what a slot takes besides its key and blocks.
    """
    removed = 0
    for slot in order:
        if totals[ROWS] * slot_bytes + totals[KEY_LIVE] + heads[LIVE] * 8 <= limit:
            break
        start = slots[slot, KEY_START]
        hashed = np.uint64(xxh64(keys, start, start + slots[slot, KEY_SIZE], 0)).view(np.int64)
        clear_slot(arena, heads, slots, slot, lists)
        remove_slot(slots, totals, index, slot, hashed)
        removed += 1
    return removed


@bare
def compact_arena(slots: I64, totals: I64, lists: Int, arena: I64, fresh: I64, heads: I64) -> None:
    """Copy every block in use to the empty arena ``fresh`` with its empty ``heads``."""
    for slot in range(totals[NEXT_SLOT]):
        if slots[slot, KEY_SIZE] < 0:
            continue
        for column in range(SECTION, slots.shape[1] - lists, 3):
            old = slots[slot, column]
            if old < 0:
                continue
            size = slots[slot, column + 2] & ~FLAGS
            block = allocate(fresh, heads, size)
            for k in range(size):
                fresh[block + k] = arena[old + k]
            slots[slot, column] = block
