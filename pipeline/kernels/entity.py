"""Entity keys: the parts of a key, each a column, to the bytes of the message key.

A key is made part by part, so a kernel sees one column of one kind at a time: :func:`measure` every
part, :func:`place` the rows, then :func:`write` every part where :func:`measure` counted it.

INTEGER  ASCII decimal, - before a negative one, no leading zero
RAW      the bytes as they are
ESCAPED  the bytes, with \\ before every \\ and |
HEX      two lower-case hexadecimal digits a byte

Parts but the first follow a |.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.integers import magnitude
from pipeline.kernels.jit import Int, bare, inlined

__all__ = [
    "ESCAPED",
    "HEX",
    "INTEGER",
    "RAW",
    "measure",
    "place",
    "split",
    "split_sizes",
    "unhex",
    "write",
]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

INTEGER, RAW, ESCAPED, HEX = 0, 1, 2, 3

_U0, _TEN = np.uint64(0), np.uint64(10)
MINUS, ZERO, LETTER_A, BACKSLASH, BAR = 0x2D, 0x30, 0x61, 0x5C, 0x7C


@inlined
def _digits(value: Int) -> Int:
    """Length of ``value`` in ASCII decimal, its sign included."""
    count = 2 if value < 0 else 1
    rest = magnitude(value) // _TEN
    while rest != _U0:
        rest = rest // _TEN
        count += 1
    return count


@inlined
def _part_size(kind: Int, value: Int, data: U8, start: Int, length: Int) -> Int:
    if kind == INTEGER:
        return _digits(value)
    if kind == HEX:
        return 2 * length
    size = length
    if kind == ESCAPED:
        for k in range(length):
            if data[start + k] == BACKSLASH or data[start + k] == BAR:
                size += 1
    return size


@bare
def measure(
    kind: Int,
    follows: Int,
    values: I64,
    data: U8,
    start: I64,
    length: I64,
    valid: U8,
    sizes: I64,
    ok: U8,
) -> None:
    """Add the bytes of one part to ``sizes`` int64[n]; ``ok`` uint8[n] becomes 0 where it is null.

    INTEGER reads ``values`` int64[n], the other kinds ``data[start[i]:start[i]+length[i]]``.
    ``follows``: 1 if a | stands before the part.
    """
    for i in range(len(sizes)):
        if ok[i]:
            if valid[i]:
                sizes[i] += follows + _part_size(kind, values[i], data, start[i], length[i])
            else:
                ok[i] = 0


@bare
def place(sizes: I64, max_bytes: Int, ok: U8, offsets: I64) -> None:
    """Offsets int64[n+1] of keys of ``sizes``; ``ok`` becomes 0 where a key is empty or too long.

    A key that is not ok has no bytes.
    """
    total = 0
    offsets[0] = 0
    for i in range(len(sizes)):
        if ok[i]:
            if 0 < sizes[i] <= max_bytes:
                total += sizes[i]
            else:
                ok[i] = 0
        offsets[i + 1] = total


@inlined
def _write_integer(value: Int, out: U8, end: Int) -> None:
    """The decimal digits of ``value`` so that they end before ``end``."""
    p = end
    rest = magnitude(value)
    more = True
    while more:
        quotient = rest // _TEN
        p -= 1
        out[p] = np.uint8(ZERO + np.int64(rest - quotient * _TEN))
        rest = quotient
        more = rest != _U0
    if value < 0:
        out[p - 1] = MINUS


@inlined
def _hex(nibble: Int) -> Int:
    """The digit of 0 to 15."""
    return ZERO + nibble if nibble < 10 else LETTER_A + nibble - 10


@bare
def write(
    kind: Int,
    follows: Int,
    values: I64,
    data: U8,
    start: I64,
    length: I64,
    ok: U8,
    cursor: I64,
    out: U8,
) -> None:
    """Write one part of every key that is ok at ``cursor`` int64[n], which moves behind it."""
    for i in range(len(ok)):
        if not ok[i]:
            continue
        p = cursor[i]
        if follows:
            out[p] = BAR
            p += 1
        if kind == INTEGER:
            p += _digits(values[i])
            _write_integer(values[i], out, p)
        else:
            for k in range(length[i]):
                byte = np.int64(data[start[i] + k])
                if kind == HEX:
                    out[p] = _hex(byte >> 4)
                    out[p + 1] = _hex(byte & 15)
                    p += 2
                else:
                    if kind == ESCAPED and byte in (BACKSLASH, BAR):
                        out[p] = BACKSLASH
                        p += 1
                    out[p] = byte
                    p += 1
        cursor[i] = p


@bare
def split_sizes(keys: U8, offsets: I64, sizes: I64) -> None:
    """Bytes of each part of composite keys, unescaped, into ``sizes`` int64[parts, n].

    The keys are as :func:`write` makes them.
    """
    sizes[:, :] = 0
    for i in range(len(offsets) - 1):
        part, p = 0, offsets[i]
        while p < offsets[i + 1]:
            if keys[p] == BAR:
                part += 1
            else:
                if keys[p] == BACKSLASH:
                    p += 1
                sizes[part, i] += 1
            p += 1


@bare
def split(keys: U8, offsets: I64, part: Int, out: U8) -> None:
    """Part number ``part`` of every composite key, unescaped, back to back into ``out``."""
    q = 0
    for i in range(len(offsets) - 1):
        at, p = 0, offsets[i]
        while p < offsets[i + 1] and at <= part:
            if keys[p] == BAR:
                at += 1
            else:
                if keys[p] == BACKSLASH:
                    p += 1
                if at == part:
                    out[q] = keys[p]
                    q += 1
            p += 1


@bare
def unhex(digits: U8, out: U8) -> None:
    """The bytes uint8[n] of 2n hexadecimal digits in lower case."""
    for i in range(len(out)):
        high, low = np.int64(digits[2 * i]), np.int64(digits[2 * i + 1])
        high -= ZERO if high < LETTER_A else LETTER_A - 10
        low -= ZERO if low < LETTER_A else LETTER_A - 10
        out[i] = high << 4 | low
