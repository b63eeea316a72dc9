"""Texts that stand for something else: uuids in one spelling, base64 as the bytes it means.

Both kernels work on the strings ``data[start[i]:start[i]+length[i]]`` of a column and refuse a text
of another form with SCHEMA, unless the record was refused for an earlier reason. Rows that are null
or refused earlier are passed over.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.jit import Int, bare, inlined

__all__ = ["UUID_LENGTH", "decode_base64", "lower_uuids"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

GOOD, SCHEMA = 0, 7  # values of pipeline.ingest.batch.Reason
UUID_LENGTH = 36
_HYPHEN, _PLUS, _SLASH, _EQUALS = 0x2D, 0x2B, 0x2F, 0x3D


@inlined
def _read(valid: Int, reason: Int) -> bool:
    return bool(valid != 0 and (reason == GOOD or reason > SCHEMA))


@bare
def lower_uuids(data: U8, start: I64, length: I64, valid: U8, reason: U8, out: U8) -> None:
    """8-4-4-4-12 hexadecimal digits in lower case to ``out`` uint8[n, 36]. Source: RFC 9562."""
    for i in range(len(start)):
        if not _read(valid[i], reason[i]):
            continue
        good = length[i] == UUID_LENGTH
        if good:
            for k in range(UUID_LENGTH):
                c = np.int64(data[start[i] + k])
                if k == 8 or k == 13 or k == 18 or k == 23:
                    good &= c == _HYPHEN
                else:
                    if 0x41 <= c <= 0x46:
                        c += 0x20
                    good &= 0x30 <= c <= 0x39 or 0x61 <= c <= 0x66
                out[i, k] = c
        if not good:
            reason[i] = SCHEMA


@inlined
def _sextet(c: Int) -> Int:
    """Value of a base64 character, -1 for another."""
    if 0x41 <= c <= 0x5A:
        return c - 0x41
    if 0x61 <= c <= 0x7A:
        return c - 0x47
    if 0x30 <= c <= 0x39:
        return c + 4
    if c == _PLUS:
        return 62
    return 63 if c == _SLASH else -1


@inlined
def _decode(data: U8, p: Int, end: Int, out: U8, q: Int) -> Int:
    """Decode ``data[p:end]`` to ``out`` at ``q``: the position after it, or -1."""
    if (end - p) & 3:
        return -1
    for _ in range(2):
        if end > p and data[end - 1] == _EQUALS:
            end -= 1
    bits, held = np.int64(0), 0
    while p < end:
        value = _sextet(np.int64(data[p]))
        if value < 0:
            return -1
        bits = (bits << 6 | value) & 0xFFFF
        held += 6
        if held >= 8:
            held -= 8
            out[q] = (bits >> held) & 0xFF
            q += 1
        p += 1
    return q


@bare
def decode_base64(
    data: U8, start: I64, length: I64, valid: U8, reason: U8, out: U8, bounds: I64
) -> None:
    """The bytes of padded base64 text, back to back; ``bounds`` int64[n+1] says where.

    ``out`` uint8[at least 3/4 of the lengths]. Line breaks and the URL alphabet are refused.
    Source: RFC 4648, section 4.
    """
    q = np.int64(0)
    bounds[0] = 0
    for i in range(len(start)):
        if _read(valid[i], reason[i]):
            after = _decode(data, start[i], start[i] + length[i], out, q)
            if after < 0:
                reason[i] = SCHEMA
            else:
                q = after
        bounds[i + 1] = q
