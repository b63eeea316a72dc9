"""Whether bytes are a key that an entity can have: the test of a key that comes without an event.

A key is one part, or several joined by | with \\ before every \\ and | inside a part. Forms:

INTEGER  an int64 in ASCII decimal: no + and no leading zero, no -0
TEXT     UTF-8
UUID     36 characters, 8-4-4-4-12 hexadecimal digits in lower case
RAW      any bytes
HEX      pairs of hexadecimal digits in lower case
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.jit import Int, bare, inlined, part
from pipeline.kernels.text import utf8_end

__all__ = ["HEX", "INTEGER", "RAW", "TEXT", "UUID", "accept_tombstones", "is_key"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

INTEGER, TEXT, UUID, RAW, HEX = range(5)
OK, TOMBSTONE, KEY_MISMATCH = 0, 2, 9  # values of pipeline.ingest.batch.Reason

_MINUS, _ZERO, _NINE, _A, _F, _BACKSLASH, _BAR = 0x2D, 0x30, 0x39, 0x61, 0x66, 0x5C, 0x7C
_NS_PER_MS = 1_000_000
_LAST_MS = (2**63 - 1) // _NS_PER_MS


@inlined
def _is_hex(c: Int) -> bool:
    return bool((_ZERO <= c <= _NINE) or (_A <= c <= _F))


@part
def _is_integer(data: U8, start: Int, end: Int) -> bool:
    negative = start < end and data[start] == _MINUS
    p = start + 1 if negative else start
    if p >= end or end - p > 19 or (data[p] == _ZERO and (negative or end - p > 1)):
        return False
    rest = np.int64(0)  # negated: -2**63 has no positive counterpart
    for k in range(p, end):
        digit = np.int64(data[k]) - _ZERO
        if digit < 0 or digit > 9 or rest < -922_337_203_685_477_580:
            return False
        if rest == -922_337_203_685_477_580 and digit > (8 if negative else 7):
            return False
        rest = rest * 10 - digit
    return True


@part
def _is_text(data: U8, start: Int, end: Int) -> bool:
    p = start
    while p < end:
        p = p + 1 if data[p] < 0x80 else utf8_end(data, p, end)
        if p < 0:
            return False
    return True


@part
def _is_uuid(data: U8, start: Int, end: Int) -> bool:
    if end - start != 36:
        return False
    for k in range(36):
        c = np.int64(data[start + k])
        if k in (8, 13, 18, 23):
            if c != _MINUS:
                return False
        elif not _is_hex(c):
            return False
    return True


@part
def _is_part(form: Int, data: U8, start: Int, end: Int) -> bool:
    if form == INTEGER:
        return _is_integer(data, start, end)
    if form == TEXT:
        return _is_text(data, start, end)
    if form == UUID:
        return _is_uuid(data, start, end)
    if form == HEX:
        for k in range(start, end):
            if not _is_hex(np.int64(data[k])):
                return False
        return bool((end - start) % 2 == 0)
    return True


@part
def _part_end(data: U8, p: Int, end: Int) -> Int:
    """Position of the | after the part at ``p``, or ``end``; -1 for a \\ that escapes nothing."""
    while p < end and data[p] != _BAR:
        if data[p] == _BACKSLASH:
            p += 1
            if p >= end or (data[p] != _BACKSLASH and data[p] != _BAR):
                return np.int64(-1)
        p += 1
    return p


@part
def is_key(data: U8, start: Int, end: Int, forms: I64) -> bool:
    """Whether ``data[start:end]`` is a key of parts of these ``forms`` int64[parts]."""
    p, last = start, len(forms) - 1
    for i in range(len(forms)):
        stop = end if last == 0 else _part_end(data, p, end)
        if stop < 0 or not _is_part(forms[i], data, p, stop) or (stop < end) != (i < last):
            return False
        p = stop + 1
    return True


@bare
def accept_tombstones(
    keys: U8, key_offsets: I64, forms: I64, timestamps_ms: I64, reason: U8, event_time: I64
) -> None:
    """Records of reason TOMBSTONE that delete an entity become OK, as of their broker time.

    Writes ``reason`` uint8[n] and, in ns, ``event_time`` int64[n]. KEY_MISMATCH where the key is no
    key; still TOMBSTONE where there is no broker time, or none that fits int64 ns.
    """
    for i in range(len(reason)):
        if reason[i] != TOMBSTONE or timestamps_ms[i] < 0 or timestamps_ms[i] > _LAST_MS:
            continue
        event_time[i] = timestamps_ms[i] * _NS_PER_MS
        good = is_key(keys, key_offsets[i], key_offsets[i + 1], forms)
        reason[i] = OK if good else KEY_MISMATCH
