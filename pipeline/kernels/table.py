"""Keys to slots: an open-addressing hash table over key bytes, and the columns of a slot.

A *slot* is a row of ``slots`` int64[capacity, SECTION + 3 * sections + lists]:

===============  =========================================================================
``EVENT_TIME``   newest event time, ns; without events the deletion time, if there was one
``KNOWN_TIME``   largest broker time of the included events, ms; ``NOTHING`` before the first
``SOURCE_OFFSET``  offset of the last included event
``KEY_START``    first byte of the key in ``keys``; next free slot (or -1) while free
``KEY_SIZE``     bytes of the key; -1 while free
``USED``         number of the call that used the slot last
``STATE``        ``LOADED | PRESENT | AGAIN | DIRTY`` + ``FLIGHT`` per encoding under way
``DELETED``      newest time the entity was deleted at, ns; ``NOTHING`` if it never was
``SECTION``...   per section: block in the arena (-1: none), number of entries, words of it
...              per list: newest dropped tile (DISTINCT) or time (EVENTS), ``NOTHING`` if none was
===============  =========================================================================

``index`` int64[2**k] maps hashes to slots: 0 is empty, else the upper 32 bits of the hash
and slot + 1. An entry's home is the top k bits of its hash, so nothing has to be
hashed again when the table grows or an entry is removed. Linear probing, removal by shifting
back (Knuth, The Art of Computer Programming 3, 6.4, algorithm R); at most half full.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.hash import equal_bytes
from pipeline.kernels.jit import Int, bare, inlined, prefetch

__all__ = [
    "AGAIN",
    "DELETED",
    "DIRTY",
    "EVENT_TIME",
    "FLIGHT",
    "FREE_SLOT",
    "KEY_BYTES",
    "KEY_LIVE",
    "KEY_SIZE",
    "KEY_START",
    "KNOWN_TIME",
    "LOADED",
    "NEXT_SLOT",
    "NOTHING",
    "PRESENT",
    "ROWS",
    "SECTION",
    "SOURCE_OFFSET",
    "STATE",
    "TOTALS",
    "USED",
    "WORDS_OF_LINE",
    "compact_keys",
    "copy_keys",
    "find_slots",
    "prefetch_slot",
    "rebuild_index",
    "remove_slot",
]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

(
    EVENT_TIME,
    KNOWN_TIME,
    SOURCE_OFFSET,
    KEY_START,
    KEY_SIZE,
    USED,
    STATE,
    DELETED,
    SECTION,
) = range(9)
LOADED = 1  # the store's row, or its absence, is known
PRESENT = 2  # at least one event is included
AGAIN = 4  # used by more than one call since it was loaded
DIRTY = 8  # changed since it was encoded last
FLIGHT = 16  # one encoded row that the store has not acknowledged
NOTHING = -(2**63)

# totals int64[TOTALS]
ROWS = 0  # slots in use
NEXT_SLOT = 1  # slots ever used
FREE_SLOT = 2  # first free slot below NEXT_SLOT, -1 for none
KEY_BYTES = 3  # bytes of keys handed out
KEY_LIVE = 4  # bytes of keys in use
TOTALS = 5

WORDS_OF_LINE = 8  # of the cache
AHEAD = 6  # keys, while whose slots are found the next ones' memory is on its way
_HIGH = -(1 << 32)
_LOW = (1 << 32) - 1


@inlined
def _home(entry: Int, bits: Int) -> Int:
    return (entry >> (64 - bits)) & ((1 << bits) - 1)


@inlined
def prefetch_slot(slots: I64, slot: Int) -> None:
    """Have the columns of a slot brought."""
    width = slots.shape[1]
    for column in range(0, width, WORDS_OF_LINE):
        prefetch(slots, slot * width + column)
    prefetch(slots, slot * width + width - 1)


@inlined
def _new_slot(slots: I64, keys: U8, totals: I64, lists: Int, new: U8, start: Int, end: Int) -> Int:
    slot = totals[FREE_SLOT]
    if slot >= 0:
        totals[FREE_SLOT] = slots[slot, KEY_START]
    else:
        slot = totals[NEXT_SLOT]
        totals[NEXT_SLOT] = slot + 1
    at = totals[KEY_BYTES]
    for k in range(end - start):
        keys[at + k] = new[start + k]
    totals[KEY_BYTES] = at + end - start
    totals[KEY_LIVE] += end - start
    totals[ROWS] += 1
    width = slots.shape[1]
    for c in range(width):
        slots[slot, c] = 0
    for c in range(SECTION, width - lists, 3):
        slots[slot, c] = -1
    for c in range(width - lists, width):
        slots[slot, c] = NOTHING
    slots[slot, KNOWN_TIME] = NOTHING
    slots[slot, DELETED] = NOTHING
    slots[slot, KEY_START] = at
    slots[slot, KEY_SIZE] = end - start
    return slot


@inlined
def _expect(slots: I64, keys: U8, index: I64, bits: Int, hashes: I64, i: Int) -> None:
    """Have what key ``i`` and those after it will need brought, a step further for each of them."""
    if i + 3 * AHEAD < len(hashes):
        prefetch(index, _home(hashes[i + 3 * AHEAD] & _HIGH, bits))
    if i + 2 * AHEAD < len(hashes):
        other = (index[_home(hashes[i + 2 * AHEAD] & _HIGH, bits)] & _LOW) - 1
        prefetch(slots, other * slots.shape[1] + KEY_START)
        prefetch(slots, other * slots.shape[1] + STATE)
    if i + AHEAD < len(hashes):
        other = (index[_home(hashes[i + AHEAD] & _HIGH, bits)] & _LOW) - 1
        if other >= 0:
            prefetch(keys, slots[other, KEY_START])


@bare
def find_slots(
    slots: I64, keys: U8, totals: I64, index: I64, lists: Int, sequence: Int,
    new: U8, offsets: I64, hashes: I64, out: I32, missing: I64,
) -> Int:  # fmt: skip
    """Slot of each key ``new[offsets[i]:offsets[i+1]]`` into ``out`` int32[n], made if need be.

    ``hashes`` int64[n] are the bits of the keys' xxh64. ``missing`` int64[n] receives the
    positions of the first occurrence of each key whose slot is not ``LOADED``; returns how many.
    There must be room for n slots, n more entries of ``index`` and the bytes of all keys.
    ``sequence`` is the number of this call, larger than that of any call before.
    """
    size = len(index)
    bits = 0
    while (1 << bits) < size:
        bits += 1
    m = 0
    for i in range(len(offsets) - 1):
        start, end = offsets[i], offsets[i + 1]
        _expect(slots, keys, index, bits, hashes, i)
        tag = hashes[i] & _HIGH
        p = _home(tag, bits)
        slot: Int = -1
        while slot < 0:
            entry = index[p]
            if entry == 0:
                slot = _new_slot(slots, keys, totals, lists, new, start, end)
                index[p] = tag | (slot + 1)
            elif (entry & _HIGH) == tag:
                other = (entry & _LOW) - 1
                at = slots[other, KEY_START]
                if equal_bytes(new, start, end, keys, at, at + slots[other, KEY_SIZE]):
                    slot = other
            p = (p + 1) & (size - 1)
        out[i] = slot
        if slots[slot, USED] != sequence:
            slots[slot, USED] = sequence
            if (slots[slot, STATE] & LOADED) == 0:
                missing[m] = i
                m += 1
            else:
                slots[slot, STATE] |= AGAIN
    return m


@bare
def rebuild_index(old: I64, index: I64) -> None:
    """Move the entries of ``old`` to ``index`` int64[2**k], which is larger and all zero."""
    size = len(index)
    bits = 0
    while (1 << bits) < size:
        bits += 1
    for entry in old:
        if entry != 0:
            p = _home(entry, bits)
            while index[p] != 0:
                p = (p + 1) & (size - 1)
            index[p] = entry


@inlined
def remove_slot(slots: I64, totals: I64, index: I64, slot: Int, hash_bits: Int) -> None:
    """Forget the key of ``slot`` (whose hash is ``hash_bits``) and free the slot."""
    size = len(index)
    bits = 0
    while (1 << bits) < size:
        bits += 1
    p = _home(hash_bits, bits)
    while (index[p] & _LOW) != slot + 1:
        p = (p + 1) & (size - 1)
    hole = p
    while True:
        p = (p + 1) & (size - 1)
        entry = index[p]
        if entry == 0:
            break
        home = _home(entry, bits)
        if ((p - home) & (size - 1)) >= ((p - hole) & (size - 1)):
            index[hole] = entry
            hole = p
    index[hole] = 0
    totals[ROWS] -= 1
    totals[KEY_LIVE] -= slots[slot, KEY_SIZE]
    slots[slot, KEY_SIZE] = -1
    slots[slot, KEY_START] = totals[FREE_SLOT]
    totals[FREE_SLOT] = slot


@bare
def compact_keys(slots: I64, totals: I64, keys: U8, out: U8) -> None:
    """Copy the keys in use to ``out``, which becomes the new ``keys``."""
    top = 0
    for slot in range(totals[NEXT_SLOT]):
        size = slots[slot, KEY_SIZE]
        if size >= 0:
            start = slots[slot, KEY_START]
            for k in range(size):
                out[top + k] = keys[start + k]
            slots[slot, KEY_START] = top
            top += size
    totals[KEY_BYTES] = top


@bare
def copy_keys(slots: I64, keys: U8, chosen: I32, offsets: I64, out: U8) -> None:
    """Keys of the ``chosen`` slots back to back into ``out``, slot i's at ``offsets[i]``."""
    for i in range(len(chosen)):
        start = slots[chosen[i], KEY_START]
        for k in range(slots[chosen[i], KEY_SIZE]):
            out[offsets[i] + k] = keys[start + k]
