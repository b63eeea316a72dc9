"""Reading binary formats in a byte buffer: varints, words, text, big-endian integers.

A reader takes the position ``p`` of a value inside a record that ends before ``end`` and never
looks at ``data[end]`` or behind: it returns ``(value, position after it)``, and position -1 for
what is cut short. Varints are those of Avro and Protobuf: at most 10 bytes, any padding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.hash import load64
from pipeline.kernels.jit import Int, bare, inlined, part
from pipeline.kernels.text import at, utf8_end

__all__ = [
    "UUID_LENGTH",
    "big_endian",
    "float_bits",
    "is_text",
    "low_varint",
    "lower_uuid",
    "rescaled",
    "schema_ids",
    "show_uuid",
    "span",
    "varint",
    "word32",
    "word64",
]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

_HIGH = np.uint64(0x8080808080808080)
_ONES = np.uint64(0x0101010101010101)
_N1, _N2, _N4, _N56 = np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(56)
# Groups of 7, 14 and 28 bits of a word: those that stay, and those that move down to them.
_SEVENS_1, _SEVENS_2 = np.uint64(0x007F007F007F007F), np.uint64(0x7F007F007F007F00)
_SEVENS_3, _SEVENS_4 = np.uint64(0x00003FFF00003FFF), np.uint64(0x3FFF00003FFF0000)
_SEVENS_5, _SEVENS_6 = np.uint64(0x000000000FFFFFFF), np.uint64(0x0FFFFFFF00000000)
_MAX = 2**63 - 1
_LONGEST = 10  # bytes of a 64-bit varint
GOOD, DECODE = 0, 6  # values of pipeline.ingest.batch.Reason
UUID_LENGTH = 36  # characters


@part
def _long_varint(data: U8, p: Int, end: Int, last: Int) -> tuple[Int, Int]:
    bits = np.int64(0)
    for k in range(_LONGEST):
        if p + k >= end:
            break
        c = at(data, p + k)
        if k == _LONGEST - 1 and c > last:
            break
        bits |= (c & 0x7F) << np.int64(7 * k)
        if c < 0x80:
            return bits, p + k + 1
    return np.int64(0), np.int64(-1)


@inlined
def _varint(data: U8, p: Int, end: Int, last: Int) -> tuple[Int, Int]:
    """One byte; up to 8 bytes in a word, without a branch for each; or the long way."""
    if p < end:
        c = at(data, p)
        if c < 0x80:
            return c, p + 1
        if p + 8 <= len(data):
            word = load64(data, p)
            ends = ~word & _HIGH
            if ends != np.uint64(0):
                below = ends ^ (ends - _N1)  # all bits up to the end of the last byte
                size = np.int64(((below & _ONES) * _ONES) >> _N56)
                if size > end - p:
                    return np.int64(0), np.int64(-1)
                word = word & below
                word = (word & _SEVENS_1) | (word & _SEVENS_2) >> _N1
                word = (word & _SEVENS_3) | (word & _SEVENS_4) >> _N2
                word = (word & _SEVENS_5) | (word & _SEVENS_6) >> _N4
                return np.int64(word), p + size
    return _long_varint(data, p, end, last)


@inlined
def varint(data: U8, p: Int, end: Int) -> tuple[Int, Int]:
    """The 64 bits of the varint at ``p``; -1 also for one of more than 64 bits."""
    return _varint(data, p, end, 1)


@inlined
def low_varint(data: U8, p: Int, end: Int) -> tuple[Int, Int]:
    """As :func:`varint`; of more than 64 bits the lowest 64, as Protobuf has it."""
    return _varint(data, p, end, 0x7F)


@inlined
def word32(data: U8, p: Int, end: Int) -> tuple[Int, Int]:
    """4 bytes, little-endian, as 0 to 2**32 - 1."""
    if end - p < 4:
        return np.int64(0), np.int64(-1)
    return (
        at(data, p) | at(data, p + 1) << 8 | at(data, p + 2) << 16 | at(data, p + 3) << 24,
        p + 4,
    )


@inlined
def word64(data: U8, p: Int, end: Int) -> tuple[Int, Int]:
    """8 bytes, little-endian."""
    if end - p < 8:
        return np.int64(0), np.int64(-1)
    return np.int64(load64(data, p)), p + 8


@inlined
def span(length: Int, p: Int, end: Int) -> Int:
    """Position after ``length`` bytes at ``p``, or -1 where there are not so many."""
    if p < 0 or length < 0 or length > end - p:
        return np.int64(-1)
    return p + length


@inlined
def float_bits(word: Int) -> Int:
    """The float64 of the float32 whose bits are ``word``, as bits; exact, NaN stays NaN."""
    sign, exponent, mantissa = (word >> 31) << 63, (word >> 23) & 0xFF, word & 0x7FFFFF
    if exponent == 255:
        return sign | 0x7FF << 52 | mantissa << 29
    if exponent == 0:
        if mantissa == 0:
            return sign
        exponent = 1  # a subnormal one: shift its highest bit to where it is implied
        while mantissa & 0x800000 == 0:
            mantissa <<= 1
            exponent -= 1
        mantissa &= 0x7FFFFF
    return sign | (exponent + 896) << 52 | mantissa << 29


@part
def is_text(data: U8, p: Int, stop: Int) -> bool:
    """Whether ``data[p:stop]`` is UTF-8 (RFC 3629)."""
    while p < stop:
        if p + 8 <= stop and load64(data, p) & _HIGH == np.uint64(0):
            p += 8
        elif at(data, p) < 0x80:
            p += 1
        else:
            p = utf8_end(data, p, stop)
            if p < 0:
                return False
    return True


@part
def big_endian(data: U8, p: Int, stop: Int) -> tuple[Int, bool]:
    """The two's complement integer ``data[p:stop]`` (no bytes: 0), and whether it fits int64."""
    if p == stop:
        return np.int64(0), True
    fill = np.int64(0xFF) if at(data, p) & 0x80 else np.int64(0)
    while stop - p > 8:
        if at(data, p) != fill:
            return np.int64(0), False
        p += 1
    if (at(data, p) ^ fill) & 0x80:
        return np.int64(0), False
    bits = np.int64(-1) if fill else np.int64(0)
    while p < stop:
        bits = bits << 8 | at(data, p)
        p += 1
    return bits, True


@inlined
def rescaled(value: Int, factor: Int, divisor: Int) -> tuple[Int, bool]:
    """``value * factor / divisor``, where one of them is 1; False if inexact or beyond int64."""
    if divisor != 1:
        quotient = value // divisor
        return quotient, quotient * divisor == value
    if factor != 1:
        limit = _MAX // factor
        if value > limit or value < -limit:
            return np.int64(0), False
    return value * factor, True


@inlined
def _hex(nibble: Int) -> Int:
    return 0x30 + nibble if nibble < 10 else 0x57 + nibble


@part
def lower_uuid(data: U8, p: Int, stop: Int, side: U8, used: Int) -> bool:
    """Whether ``data[p:stop]`` is a uuid as text; it is written to ``side`` in lower case."""
    if stop - p != UUID_LENGTH:
        return False
    for k in range(UUID_LENGTH):
        c = at(data, p + k)
        if k == 8 or k == 13 or k == 18 or k == 23:
            if c != 0x2D:
                return False
        else:
            if 0x41 <= c <= 0x46:
                c += 0x20
            if not (0x30 <= c <= 0x39 or 0x61 <= c <= 0x66):
                return False
        side[used + k] = c
    return True


@part
def show_uuid(data: U8, p: Int, side: U8, used: Int) -> None:
    """Write the uuid of 16 bytes at ``p`` as text."""
    q = used
    for k in range(16):
        if k == 4 or k == 6 or k == 8 or k == 10:
            side[q] = 0x2D
            q += 1
        c = at(data, p + k)
        side[q] = _hex(c >> 4)
        side[q + 1] = _hex(c & 15)
        q += 2


@bare
def schema_ids(data: U8, value_offsets: I64, reason: U8, ids: I64) -> None:
    """Schema ids int64[n] of Confluent's wire format: a byte 0, then 4 bytes, big-endian.

    DECODE in ``reason`` uint8[n] where a good record does not begin so; its id is -1.
    """
    for i in range(len(reason)):
        ids[i] = -1
        if reason[i] == GOOD:
            p = value_offsets[i]
            if value_offsets[i + 1] - p < 5 or data[p] != 0:
                reason[i] = DECODE
            else:
                ids[i] = (
                    at(data, p + 1) << 24
                    | at(data, p + 2) << 16
                    | at(data, p + 3) << 8
                    | at(data, p + 4)
                )
