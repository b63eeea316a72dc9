"""LEB128 variable-length integers, zigzag, and fixed 8-byte words, in uint8 arrays.

Writers trust the caller to have left room (10 bytes a varint). Readers never look at or past
``end``: they return ``(value, next position)`` with position -1 for what is cut short, too
long for 64 bits, or not the shortest form.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.hash import load64
from pipeline.kernels.jit import Int, inlined

__all__ = ["read_varint", "read_word", "unzigzag", "write_varint", "write_word", "zigzag"]

U8 = npt.NDArray[np.uint8]

_LONGEST = 10  # bytes of a 64-bit varint


@inlined
def zigzag(value: Int) -> Int:
    """0, -1, 1, -2, ... as 0, 1, 2, 3, ...; the 64 bits of the result are unsigned."""
    v = np.int64(value)
    return (v << 1) ^ (v >> 63)


@inlined
def unzigzag(bits: Int) -> Int:
    """Inverse of :func:`zigzag`."""
    return ((bits >> 1) & 0x7FFFFFFFFFFFFFFF) ^ -(bits & 1)


@inlined
def write_varint(out: U8, at: Int, bits: Int) -> Int:
    """The 64 ``bits`` as an unsigned varint at ``out[at]``; returns the position after it."""
    while bits < 0 or bits > 0x7F:
        out[np.uint64(at)] = (bits & 0x7F) | 0x80
        bits = (bits >> 7) & 0x01FFFFFFFFFFFFFF
        at += 1
    out[np.uint64(at)] = bits
    return at + 1


@inlined
def read_varint(data: U8, at: Int, end: Int) -> tuple[Int, Int]:
    """The 64 bits of the varint at ``data[at]``."""
    bits = np.int64(0)
    for k in range(_LONGEST):
        if at + k >= end:
            break
        byte = np.int64(data[np.uint64(at + k)])
        if k == _LONGEST - 1 and byte > 1:
            break
        bits |= (byte & 0x7F) << (7 * k)
        if byte < 0x80:
            if byte == 0 and k > 0:
                break
            return bits, at + k + 1
    return np.int64(0), -1


@inlined
def write_word(out: U8, at: Int, bits: Int) -> Int:
    """8 bytes, little-endian."""
    for k in range(8):  # the unsigned index makes them one store
        out[np.uint64(at + k)] = (bits >> (8 * k)) & 0xFF
    return at + 8


@inlined
def read_word(data: U8, at: Int, end: Int) -> tuple[Int, Int]:
    """8 bytes, little-endian."""
    if at + 8 > end:
        return np.int64(0), -1
    return np.uint64(load64(data, at)).view(np.int64), at + 8
