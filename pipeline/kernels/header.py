"""The first bytes of a row: format, plan, times, offset, checksum (``docs/row-layout.md``).

Rows are written in format 2: 48 bytes, then the deletion time if flag 0 is set. Rows of format 1
(no flags) are read as well; they are what format 2 writes for an entity that was never deleted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.hash import xxh64
from pipeline.kernels.jit import Int, inlined, part
from pipeline.kernels.table import (
    DELETED,
    EVENT_TIME,
    KNOWN_TIME,
    LOADED,
    NOTHING,
    PRESENT,
    SOURCE_OFFSET,
    STATE,
)
from pipeline.kernels.varint import read_word, write_word

__all__ = [
    "BODY",
    "CHECKSUM",
    "CHECKSUM_AT",
    "FORMAT",
    "HEADER",
    "LAYOUT",
    "LONGEST_HEADER",
    "OK",
    "TRUNCATED",
    "blank_header",
    "check_header",
    "has_row",
    "read_header",
    "seal",
    "write_header",
]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

OK, TRUNCATED, FORMAT, LAYOUT, CHECKSUM, BODY = range(6)

HEADER = 48
LONGEST_HEADER = 56
CHECKSUM_AT = 40
_MAGIC_1 = 0x46 | 0x52 << 8 | 1 << 16  # "FR", version 1, flags 0
_MAGIC_2 = 0x46 | 0x52 << 8 | 2 << 16
_WAS_DELETED = 1 << 24  # flag 0


@inlined
def has_row(slots: I64, slot: Int) -> bool:
    """Whether there is anything to store: an event, or a deletion to remember."""
    return bool((slots[slot, STATE] & PRESENT) != 0 or slots[slot, DELETED] != NOTHING)


@inlined
def blank_header(slots: I64, slot: Int) -> None:
    """The columns of a slot without a row; whether it is loaded is for the caller to say."""
    slots[slot, EVENT_TIME] = 0
    slots[slot, KNOWN_TIME] = NOTHING
    slots[slot, SOURCE_OFFSET] = 0
    slots[slot, DELETED] = NOTHING
    slots[slot, STATE] = 0


@inlined
def write_header(slots: I64, slot: Int, layout_hash: Int, out: U8, at: Int) -> Int:
    """Header of a slot at ``out[at]`` but for length and checksum; returns the position after."""
    deleted = slots[slot, DELETED]
    write_word(out, at, np.int64(_MAGIC_2 if deleted == NOTHING else _MAGIC_2 | _WAS_DELETED))
    write_word(out, at + 8, layout_hash)
    write_word(out, at + 16, slots[slot, EVENT_TIME])
    write_word(out, at + 24, slots[slot, KNOWN_TIME])
    write_word(out, at + 32, slots[slot, SOURCE_OFFSET])
    write_word(out, at + CHECKSUM_AT, np.int64(0))
    if deleted == NOTHING:
        return at + HEADER
    return write_word(out, at + HEADER, deleted)


@inlined
def seal(out: U8, start: Int, at: Int) -> None:
    """Length and checksum of the row ``out[start:at]``."""
    size = at - start
    for k in range(4):
        out[start + 4 + k] = (size >> (8 * k)) & 0xFF
    write_word(out, start + CHECKSUM_AT, np.uint64(xxh64(out, start, at, 0)).view(np.int64))


@part
def _check_format(data: U8, start: Int, end: Int, layout_hash: Int) -> Int:
    size = end - start
    if size < HEADER:
        return TRUNCATED
    word, _ = read_word(data, start, end)
    magic = word & 0xFFFFFFFF
    if magic != _MAGIC_1 and (magic & ~_WAS_DELETED) != _MAGIC_2:
        return FORMAT
    if ((word >> 32) & 0xFFFFFFFF) != size:
        return TRUNCATED
    found, _ = read_word(data, start + 8, end)
    if found != layout_hash:
        return LAYOUT
    return OK


@part
def _checksum_holds(data: U8, start: Int, end: Int) -> bool:
    found, _ = read_word(data, start + CHECKSUM_AT, end)
    for k in range(8):
        data[start + CHECKSUM_AT + k] = 0
    return bool(np.uint64(xxh64(data, start, end, 0)).view(np.int64) == found)


@part
def check_header(data: U8, start: Int, end: Int, layout_hash: Int) -> Int:
    """OK, or why ``data[start:end]`` is no row of this plan.

    ``data`` is scratch: the checksum's field is zeroed while the checksum is taken.
    """
    code = _check_format(data, start, end, layout_hash)
    if code == OK and not _checksum_holds(data, start, end):
        return CHECKSUM
    return code


@part
def read_header(slots: I64, slot: Int, data: U8, start: Int, end: Int) -> Int:
    """Fill the columns of a slot from a row that :func:`check_header` let pass.

    Returns where the body begins, ``end`` for a row that is nothing but a deletion, -1 where the
    times contradict each other.
    """
    newest, _ = read_word(data, start + 16, end)
    known, _ = read_word(data, start + 24, end)
    offset, _ = read_word(data, start + 32, end)
    slots[slot, EVENT_TIME] = newest
    slots[slot, KNOWN_TIME] = known
    slots[slot, SOURCE_OFFSET] = offset
    slots[slot, DELETED] = NOTHING
    slots[slot, STATE] = LOADED | PRESENT
    if data[start + 3] == 0:
        return start + HEADER
    deleted, at = read_word(data, start + HEADER, end)
    if at < 0 or deleted == NOTHING:
        return np.int64(-1)
    slots[slot, DELETED] = deleted
    if at == end:
        slots[slot, STATE] = LOADED
        return at if newest == deleted else np.int64(-1)
    return at if newest > deleted else np.int64(-1)
