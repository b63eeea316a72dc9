"""Scanning JSON text (RFC 8259) in a byte buffer: space, strings, whole values.

Every function takes the position ``p`` of a byte inside a document that ends before ``end`` **with
a closing brace** ``}``: the caller checks that. So a loop over spaces or digits needs no bound (it
stops at the brace at the latest), and only what may swallow a brace compares with ``end``: a
string, and the end of a nested value. A returned position of -1 means: not well-formed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.hash import load64
from pipeline.kernels.jit import Int, inlined, part

__all__ = [
    "at",
    "digits_end",
    "literal",
    "member_value",
    "skip_space",
    "skip_value",
    "string_after",
    "string_end",
    "unescape",
    "utf8_end",
]

U8 = npt.NDArray[np.uint8]

MAX_DEPTH = 64  # of nested objects and arrays, the document itself included

QUOTE, BACKSLASH, COMMA, COLON = 0x22, 0x5C, 0x2C, 0x3A
OPEN, CLOSE, OPEN_LIST, CLOSE_LIST = 0x7B, 0x7D, 0x5B, 0x5D
MINUS, PLUS, POINT, ZERO, NINE, SPACE = 0x2D, 0x2B, 0x2E, 0x30, 0x39, 0x20
LETTER_E, LETTER_F, LETTER_N, LETTER_T, LETTER_U = 0x65, 0x66, 0x6E, 0x74, 0x75

_N1, _N56 = np.uint64(1), np.uint64(56)
_ONES = np.uint64(0x0101010101010101)
_HIGH = np.uint64(0x8080808080808080)
_SPACES = np.uint64(0x2020202020202020)
_QUOTES = np.uint64(0x2222222222222222)
_BACKSLASHES = np.uint64(0x5C5C5C5C5C5C5C5C)


@inlined
def at(data: U8, p: Int) -> Int:
    """Byte ``p``. The unsigned index spares the check for a negative one."""
    return np.int64(data[np.uint64(p)])


@inlined
def is_space(c: Int) -> Int:
    """Whether a byte is JSON white space."""
    return c == 0x20 or c == 0x0A or c == 0x0D or c == 0x09


@inlined
def skip_space(data: U8, p: Int) -> Int:
    """First position at or after ``p`` that is not white space."""
    while at(data, p) <= SPACE and is_space(at(data, p)):
        p += 1
    return p


@inlined
def literal(data: U8, p: Int) -> Int:
    """Position after ``true``, ``false`` or ``null`` at ``p``, or -1."""
    c = at(data, p)
    if c == LETTER_T:
        if at(data, p + 1) == 0x72 and at(data, p + 2) == 0x75 and at(data, p + 3) == LETTER_E:
            return p + 4
    elif c == LETTER_N:
        if at(data, p + 1) == 0x75 and at(data, p + 2) == 0x6C and at(data, p + 3) == 0x6C:
            return p + 4
    elif (
        c == LETTER_F
        and at(data, p + 1) == 0x61
        and at(data, p + 2) == 0x6C
        and at(data, p + 3) == 0x73
        and at(data, p + 4) == LETTER_E
    ):
        return p + 5
    return -1


@inlined
def _special(word: Int) -> Int:
    """High bit of each byte that ends a run of plain string bytes; exact for the lowest one.

    Those are quote, backslash, control characters and bytes from 0x80. Source: "determine if a
    word has a byte less than n", Anderson, Bit Twiddling Hacks.
    """
    quote = word ^ _QUOTES
    backslash = word ^ _BACKSLASHES
    return (
        ((word - _SPACES) & ~word)
        | ((quote - _ONES) & ~quote)
        | ((backslash - _ONES) & ~backslash)
        | word
    ) & _HIGH


@inlined
def string_end(data: U8, p: Int, end: Int) -> tuple[Int, Int]:
    """Position after the closing quote of the string whose contents start at ``p``, or -1.

    The second value is 1 if there are escapes. Checked: no control characters, escapes, surrogate
    pairs, UTF-8.
    """
    escaped = 0
    while p < end:
        while p + 8 <= end:
            found = _special(load64(data, p))
            if found != np.uint64(0):
                below = (found & (~found + _N1)) - _N1
                p += np.int64(((below & _ONES) * _ONES) >> _N56) - 1
                break
            p += 8
        if p >= end:
            break
        c = at(data, p)
        if c == QUOTE:
            return p + 1, escaped
        if c == BACKSLASH:
            escaped = 1
            p = _escape(data, p, end)
        elif c < 0x20:
            return -1, escaped
        elif c < 0x80:
            p += 1
        else:
            p = utf8_end(data, p, end)
        if p < 0:
            return -1, escaped
    return -1, escaped


@part
def string_after(data: U8, p: Int, end: Int) -> tuple[Int, Int]:
    """:func:`string_end` as a call, for where its code would only be copied once more."""
    return string_end(data, p, end)


@inlined
def _continuation(c: Int) -> Int:
    return c & 0xC0 == 0x80


@part
def utf8_end(data: U8, p: Int, end: Int) -> Int:
    """Position after the multi-byte character at ``p``, or -1 (RFC 3629, table of section 4)."""
    c = at(data, p)
    if c < 0xC2 or c > 0xF4:
        return -1
    n = 2 + (c >= 0xE0) + (c >= 0xF0)
    if p + n > end:
        return -1
    second = at(data, p + 1)
    low, high = 0x80, 0xBF
    if c == 0xE0:
        low = 0xA0  # overlong
    elif c == 0xED:
        high = 0x9F  # surrogates
    elif c == 0xF0:
        low = 0x90  # overlong
    elif c == 0xF4:
        high = 0x8F  # beyond U+10FFFF
    if second < low or second > high:
        return -1
    for k in range(2, n):
        if not _continuation(at(data, p + k)):
            return -1
    return p + n


@part
def _hex4(data: U8, p: Int, end: Int) -> Int:
    """Value of four hexadecimal digits at ``p``, or -1."""
    if p + 4 > end:
        return -1
    value = 0
    for k in range(4):
        c = at(data, p + k)
        if ZERO <= c <= NINE:
            digit = c - ZERO
        elif 0x41 <= c <= 0x46:
            digit = c - 0x37
        elif 0x61 <= c <= 0x66:
            digit = c - 0x57
        else:
            return -1
        value = value * 16 + digit
    return value


@part
def _escape(data: U8, p: Int, end: Int) -> Int:
    """Position after the escape whose backslash is at ``p``, or -1."""
    if p + 1 >= end:
        return -1
    c = at(data, p + 1)
    if c != LETTER_U:
        itself = c == QUOTE or c == 0x5C or c == 0x2F
        if itself or c == 0x62 or c == 0x66 or c == 0x6E or c == 0x72 or c == 0x74:
            return p + 2
        return -1
    unit = _hex4(data, p + 2, end)
    if unit < 0 or 0xDC00 <= unit <= 0xDFFF:
        return -1
    if unit < 0xD800 or unit > 0xDFFF:
        return p + 6
    if p + 8 > end or at(data, p + 6) != BACKSLASH or at(data, p + 7) != LETTER_U:
        return -1
    low = _hex4(data, p + 8, end)
    if low < 0xDC00 or low > 0xDFFF:
        return -1
    return p + 12


@inlined
def _plain_escape(c: Int) -> Int:
    if c == 0x62:
        return 0x08
    if c == 0x66:
        return 0x0C
    if c == 0x6E:
        return 0x0A
    if c == 0x72:
        return 0x0D
    if c == LETTER_T:
        return 0x09
    return c


@inlined
def _encode_utf8(code: Int, out: U8, used: Int) -> Int:
    if code < 0x80:
        out[used] = code
        return used + 1
    if code < 0x800:
        out[used] = 0xC0 | code >> 6
        out[used + 1] = 0x80 | code & 0x3F
        return used + 2
    if code < 0x10000:
        out[used] = 0xE0 | code >> 12
        out[used + 1] = 0x80 | code >> 6 & 0x3F
        out[used + 2] = 0x80 | code & 0x3F
        return used + 3
    out[used] = 0xF0 | code >> 18
    out[used + 1] = 0x80 | code >> 12 & 0x3F
    out[used + 2] = 0x80 | code >> 6 & 0x3F
    out[used + 3] = 0x80 | code & 0x3F
    return used + 4


@part
def unescape(data: U8, p: Int, stop: Int, out: U8, used: Int) -> Int:
    """Write the checked string contents ``data[p:stop]`` unescaped to ``out[used:]``; new ``used``.

    Never writes more bytes than it reads.
    """
    while p < stop:
        c = at(data, p)
        if c != BACKSLASH:
            out[used] = c
            used += 1
            p += 1
        elif at(data, p + 1) != LETTER_U:
            out[used] = _plain_escape(at(data, p + 1))
            used += 1
            p += 2
        else:
            code = _hex4(data, p + 2, stop)
            p += 6
            if 0xD800 <= code <= 0xDBFF:
                code = 0x10000 + ((code - 0xD800) << 10) + _hex4(data, p + 2, stop) - 0xDC00
                p += 6
            used = _encode_utf8(code, out, used)
    return used


@inlined
def digits_end(data: U8, p: Int) -> Int:
    """First position at or after ``p`` that is not a digit."""
    while ZERO <= at(data, p) <= NINE:
        p += 1
    return p


@inlined
def number_end(data: U8, p: Int) -> Int:
    """Position after the number at ``p``, or -1."""
    if at(data, p) == MINUS:
        p += 1
    q = p + 1 if at(data, p) == ZERO else digits_end(data, p)
    if q == p:
        return -1
    if at(data, q) == POINT:
        p = q + 1
        q = digits_end(data, p)
        if q == p:
            return -1
    if at(data, q) | 0x20 == LETTER_E:
        p = q + 1
        if at(data, p) == PLUS or at(data, p) == MINUS:
            p += 1
        q = digits_end(data, p)
        if q == p:
            return -1
    return q


@part
def _scalar_end(data: U8, p: Int, end: Int) -> Int:
    c = at(data, p)
    if c == QUOTE:
        return string_after(data, p + 1, end)[0]
    if c == MINUS or ZERO <= c <= NINE:
        return number_end(data, p)
    return literal(data, p)


@part
def member_value(data: U8, p: Int, end: Int) -> Int:
    """Position of the value of the object member whose key starts at ``p``, or -1."""
    if at(data, p) != QUOTE:
        return -1
    p = string_after(data, p + 1, end)[0]
    if p < 0 or p >= end:
        return -1
    p = skip_space(data, p)
    if at(data, p) != COLON:
        return -1
    return skip_space(data, p + 1)


@part
def skip_value(data: U8, p: Int, end: Int) -> Int:
    """Position after the value at ``p``, or -1. Checks all of it, to :data:`MAX_DEPTH`."""
    depth = 1
    objects = np.uint64(0)  # one bit a level: 1 for an object, 0 for an array
    while True:
        c = at(data, p)
        if c == OPEN or c == OPEN_LIST:  # noqa: SIM109  (a tuple is searched by a loop)
            depth += 1
            if depth > MAX_DEPTH:
                return -1
            p = skip_space(data, p + 1)
            objects = objects << _N1
            if c == OPEN:
                objects |= _N1
            if at(data, p) != c + 2:  # the closing bracket is two after the opening one
                if c == OPEN:
                    p = member_value(data, p, end)
                    if p < 0:
                        return -1
                continue
        else:
            p = _scalar_end(data, p, end)
            if p < 0:
                return -1
        while True:  # after a value, or at the bracket that closes an empty one
            if depth == 1:
                return p
            if p >= end:
                return -1
            p = skip_space(data, p)
            c = at(data, p)
            if c == COMMA:
                break
            if c != (CLOSE if objects & _N1 else CLOSE_LIST):
                return -1
            p += 1
            depth -= 1
            objects = objects >> _N1
        p = skip_space(data, p + 1)
        if objects & _N1:
            p = member_value(data, p, end)
            if p < 0:
                return -1
