"""Table-driven JSON scanner: documents of one shape to columns.

:func:`parse` reads every document of a batch once. It does not know the contract, only tables:

``table``   int64[f * COLUMNS]  one row a field, back to back, see the constants below
``keys``    uint64[..]     ``"name":`` of each field as little-endian words, zero padded, each
                           followed by its mask: 0xff for each byte that counts
``names``   uint8[..]          field names, for the look-up by hash
``slots``   int64[2**k]        open-addressing hash table of field indexes, -1 empty

Fields usually come in the same order, so the key that followed last time is tried first, by
comparing words. Only if that fails is the key read as a string and looked up by its hash.
The whole document is checked (RFC 8259, UTF-8, no lone surrogates, depth at most 64, no contract
field twice), unknown fields included.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.hash import equal_bytes, hash_text, load64, xxh64
from pipeline.kernels.jit import Int, bare, inlined, part
from pipeline.kernels.numbers import EXACT, INEXACT, fast_float, number, scaled
from pipeline.kernels.text import (
    CLOSE,
    COLON,
    COMMA,
    LETTER_F,
    LETTER_N,
    LETTER_T,
    MINUS,
    NINE,
    OPEN,
    QUOTE,
    ZERO,
    at,
    is_space,
    literal,
    skip_space,
    skip_value,
    string_after,
    string_end,
    unescape,
)
from pipeline.kernels.timestamps import OUT_OF_RANGE, TIMED, timestamp

__all__ = ["COLUMNS", "parse"]

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

# Columns of ``table``
KIND = 0  # one of the kinds below
NULLABLE = 1  # 1: an explicit null is accepted
REQUIRED = 2  # 1: must be present
FACTOR = 3  # DECIMAL: scale; EPOCH: ns of one unit; TIME: 1 if text without an offset is UTC
TEXT = 4  # STRING: row in ``start`` and ``length``
KEY = 5  # where ``"name":`` begins in ``keys``
KEY_LENGTH = 6  # its bytes
NAME_START = 7  # of the name in ``names``
NAME_END = 8
LIMIT = 9  # EPOCH: the largest number that fits
COLUMNS = 10

# Kinds; the numeric ones come first
INTEGER, DECIMAL, EPOCH, REAL, BOOLEAN, STRING, TIME = 0, 1, 2, 3, 4, 5, 6

# Codes: values of pipeline.ingest.batch.Reason
GOOD, DECODE, SCHEMA, RANGE = 0, 6, 7, 8

_N1, _N2 = np.uint64(1), np.uint64(2)

UNDECIDED = 2  # in ``valid``: a float that needs the slow way; ``out`` has its position


@inlined
def _worse(a: Int, b: Int) -> Int:
    """The reason that comes first of two, where GOOD comes last."""
    if b == GOOD or (a != GOOD and a < b):
        return a
    return b


@inlined
def _of(table: I64, field: Int, column: Int) -> Int:
    """A column of a field. The unsigned index spares the check for a negative one."""
    return table[np.uint64(field * COLUMNS + column)]


@inlined
def _matches(data: U8, p: Int, size: Int, k: Int, keys: U64) -> bool:
    """Whether ``data[p:p+size]`` is the key whose words begin at ``keys[k]``."""
    if p + ((size + 7) & -8) > len(data):
        return False
    k = np.uint64(k)
    while True:
        if load64(data, p) & keys[k + _N1] != keys[k]:
            return False
        size -= 8
        if size <= 0:
            return True
        p += 8
        k += _N2


@part
def _find(name: U8, start: Int, end: Int, table: I64, names: U8, slots: I64) -> Int:
    """Index of the field with that name, or -1."""
    mask = len(slots) - 1
    slot = np.int64(xxh64(name, start, end)) & mask
    while slots[slot] >= 0:
        field = slots[slot]
        if equal_bytes(
            name, start, end, names, _of(table, field, NAME_START), _of(table, field, NAME_END)
        ):
            return field
        slot = (slot + 1) & mask
    return -1


@part
def _look_up(
    data: U8, p: Int, end: Int, table: I64, names: U8, slots: I64, side: U8, used: Int
) -> tuple[Int, Int]:
    """Read the key at ``p``: (field or -1, position of its value or -1)."""
    if at(data, p) != QUOTE:
        return -1, -1
    stop, escaped = string_after(data, p + 1, end)
    if stop < 0 or stop >= end:
        return -1, -1
    name, first, last = data, p + 1, stop - 1
    if escaped:
        name, first, last = side, used, unescape(data, p + 1, stop - 1, side, used)
    field = _find(name, first, last, table, names, slots)
    q = skip_space(data, stop)
    if at(data, q) != COLON:
        return -1, -1
    return field, skip_space(data, q + 1)


@inlined
def _store_number(
    data: U8, p: Int, field: Int, cell: Int, table: I64, out: I64, real: F64, valid: U8
) -> tuple[Int, Int]:
    """Read the number at ``p`` into ``out[cell]``: (position after it or -1, code)."""
    kind, factor = _of(table, field, KIND), _of(table, field, FACTOR)
    q, negative, mantissa, digits, exponent = number(data, p)
    if q < 0:
        return -1, DECODE
    if kind == REAL:
        value, decided = fast_float(negative, mantissa, digits, exponent)
        if decided:
            real[cell] = value
        else:
            out[cell] = p
            valid[cell] = UNDECIDED
        return q, GOOD
    scale = factor if kind == DECIMAL else 0
    integer, status = scaled(data, p, negative, mantissa, digits, exponent, scale)
    if status != EXACT:
        return q, SCHEMA if status == INEXACT and kind != DECIMAL else RANGE
    if kind == EPOCH:
        limit = _of(table, field, LIMIT)
        if factor != 1 and (integer > limit or integer < -limit):
            return q, RANGE
        integer *= factor
    out[cell] = integer
    return q, GOOD


@inlined
def _store_text(
    data: U8, p: Int, end: Int, field: Int, i: Int, n: Int, cell: Int, table: I64, out: I64,
    start: I64, length: I64, side: U8, used: Int,
) -> tuple[Int, Int, Int]:  # fmt: skip
    """Read the string at ``p``: (position after it or -1, code, bytes used of ``side``)."""
    q, escaped = string_end(data, p + 1, end)
    if q < 0:
        return -1, DECODE, used
    text, first, last, base = data, p + 1, q - 1, 0
    if escaped:
        text, first, last = side, used, unescape(data, p + 1, q - 1, side, used)
        base = len(data)
    if _of(table, field, KIND) == STRING:
        row = np.uint64(_of(table, field, TEXT) * n + i)
        start[row] = base + first
        length[row] = last - first
        out[cell] = np.int64(hash_text(text, first, last, np.uint64(0))[0])
        if escaped:
            used = last
        return q, GOOD, used
    time, status = timestamp(text, first, last, _of(table, field, FACTOR) == 1)
    out[cell] = time
    code = GOOD
    if status != TIMED:
        code = RANGE if status == OUT_OF_RANGE else SCHEMA
    return q, code, used


@inlined
def _store(
    data: U8, p: Int, end: Int, field: Int, i: Int, n: Int, table: I64, out: I64, real: F64,
    valid: U8, start: I64, length: I64, side: U8, used: Int,
) -> tuple[Int, Int, Int]:  # fmt: skip
    """Read the value at ``p`` into the field's column: (position after it or -1, code, used)."""
    kind, c, cell = _of(table, field, KIND), at(data, p), np.uint64(field * n + i)
    if kind <= REAL:
        if c == MINUS or ZERO <= c <= NINE:
            q, code = _store_number(data, p, field, cell, table, out, real, valid)
            return q, code, used
    elif kind == BOOLEAN:
        if c == LETTER_T or c == LETTER_F:  # noqa: SIM109
            out[cell] = c == LETTER_T
            return literal(data, p), GOOD, used
    elif c == QUOTE:
        return _store_text(data, p, end, field, i, n, cell, table, out, start, length, side, used)
    if c == LETTER_N:
        valid[cell] = 0
        code = GOOD if _of(table, field, NULLABLE) else SCHEMA
        return literal(data, p), code, used
    return skip_value(data, p, end), SCHEMA, used


@part
def _absent(i: Int, n: Int, table: I64, valid: U8, seen: I64) -> Int:
    """Mark the fields that document ``i`` does not have as null; SCHEMA if one is required."""
    code = GOOD
    for field in range(len(seen)):
        if seen[field] != i:
            valid[field * n + i] = 0
            if _of(table, field, REQUIRED):
                code = SCHEMA
    return code


@inlined
def _document(
    data: U8, p: Int, end: Int, i: Int, n: Int, table: I64, keys: U64, names: U8, slots: I64,
    closed: bool, out: I64, real: F64, valid: U8, start: I64, length: I64, side: U8, used: Int,
    seen: I64, follow: I64,
) -> tuple[Int, Int]:  # fmt: skip
    """Read the document ``data[p:end]`` into row ``i``: (code, bytes used of ``side``)."""
    while end > p and is_space(at(data, end - 1)):
        end -= 1
    if end - p < 2 or at(data, end - 1) != CLOSE:
        return DECODE, used
    p = skip_space(data, p)
    if at(data, p) != OPEN:
        return DECODE, used
    p = skip_space(data, p + 1)
    found, worst = 0, np.int64(GOOD)
    previous = len(seen)
    more = at(data, p) != CLOSE
    while more:
        field = follow[np.uint64(previous)]
        size = _of(table, field, KEY_LENGTH)
        if _matches(data, p, size, _of(table, field, KEY), keys):
            p = skip_space(data, p + size)
        else:
            field, p = _look_up(data, p, end, table, names, slots, side, used)
            if p < 0:
                return DECODE, used
        if field >= 0:
            if seen[np.uint64(field)] == i:
                return DECODE, used
            seen[np.uint64(field)] = i
            follow[np.uint64(previous)] = field
            previous = field
            found += 1
            p, code, used = _store(
                data, p, end, field, i, n, table, out, real, valid, start, length, side, used
            )
            worst = _worse(worst, code)
        else:
            p = skip_value(data, p, end)
            if closed:
                worst = _worse(worst, np.int64(SCHEMA))
        if p < 0 or p >= end:
            return DECODE, used
        p = skip_space(data, p)
        if at(data, p) == COMMA:
            p = skip_space(data, p + 1)
        elif at(data, p) == CLOSE:
            more = False
        else:
            return DECODE, used
    if p + 1 != end:
        return DECODE, used
    if found < len(seen):
        worst = _worse(worst, _absent(i, n, table, valid, seen))
    return worst, used


@bare
def parse(
    data: U8, value_offsets: I64, table: I64, keys: U64, names: U8, slots: I64, closed: bool,
    reason: U8, out: I64, real: F64, valid: U8, start: I64, length: I64, side: U8, seen: I64,
    follow: I64,
) -> Int:  # fmt: skip
    """Parse every document whose ``reason`` is 0; returns the bytes used of ``side``.

    ``data`` uint8[..], ``value_offsets`` int64[n+1]; ``closed``: unknown fields are refused.
    Written: ``reason`` uint8[n] (DECODE, SCHEMA or RANGE; the first that applies), ``out``
    int64[f * n] with ``real`` its view as float64, ``valid`` uint8[f * n] (1 on entry; 0 for null;
    UNDECIDED for a float that needs the slow way, then ``out`` is its position in ``data``),
    ``start`` and ``length`` int64[s * n] of strings (a start from ``len(data)`` on is in ``side``),
    ``side`` uint8[len(data)] unescaped strings. ``seen`` int64[f] and ``follow`` int64[f+1] are
    scratch space: a kernel that allocates nothing needs no reference counts.
    """
    seen[:] = -1
    for field in range(len(seen)):
        follow[field - 1] = field  # the last entry, -1, is the first key of a document
    follow[len(seen) - 1] = 0
    used = np.int64(0)  # a literal would be a type of its own, and compile everything twice
    for i in range(len(reason)):
        if reason[i] == GOOD:
            code, used = _document(
                data, value_offsets[i], value_offsets[i + 1], i, len(reason), table, keys, names,
                slots, closed, out, real, valid, start, length, side, used, seen, follow,
            )  # fmt: skip
            reason[i] = code
    return used
