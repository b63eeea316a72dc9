"""Protobuf's wire format: tags, values, unknown fields, and Confluent's header before a message.

Source: Protocol Buffers, "Encoding"; Confluent Schema Registry, "Wire format".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.binary import low_varint, span
from pipeline.kernels.jit import Int, bare, inlined, part
from pipeline.kernels.varint import unzigzag

__all__ = [
    "MAX_GROUPS",
    "clock",
    "confluent_starts",
    "sign32",
    "skip_field",
    "symbol_row",
    "tag_at",
]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

# Wire types
VARINT, WORD64, BYTES, GROUP_BEGIN, GROUP_END, WORD32 = 0, 1, 2, 3, 4, 5

MAX_GROUPS = 100  # of unknown groups within each other

GOOD, DECODE, SCHEMA, RANGE = 0, 6, 7, 8  # values of pipeline.ingest.batch.Reason

_BILLION = 1_000_000_000
_LAST_SECOND, _LAST_NS = 9_223_372_036, 854_775_807  # 2**63 - 1 ns, in 2262
_FIRST_SECOND, _FIRST_NS = -9_223_372_037, 145_224_192  # -2**63 ns, in 1677


@bare
def confluent_starts(data: U8, value_offsets: I64, path: I64, reason: U8, starts: I64) -> None:
    """Where the message of each record begins in Confluent's wire format, into ``starts`` int64[n].

    A byte 0, a schema id of 4 bytes, then which message of the schema's file: the length of its
    path and the path, as zigzag varints; one byte 0 is the first message. DECODE in ``reason``
    uint8[n] where a good record does not begin so, SCHEMA where it is not the message ``path``.
    """
    for i in range(len(reason)):
        starts[i] = value_offsets[i]
        if reason[i] == GOOD:
            p, end = value_offsets[i] + 5, value_offsets[i + 1]
            if p > end or data[p - 5] != 0:
                reason[i] = DECODE
                continue
            bits, p = low_varint(data, p, end)
            count = unzigzag(bits)
            same = count == len(path) or (count == 0 and len(path) == 1 and path[0] == 0)
            if p < 0 or count < 0 or count > end - p:
                reason[i] = DECODE
                continue
            for k in range(count):
                bits, p = low_varint(data, p, end)
                if p < 0:
                    break
                same = same and unzigzag(bits) == path[k]
            if p < 0:
                reason[i] = DECODE
            elif not same:
                reason[i] = SCHEMA
            starts[i] = p


@inlined
def tag_at(data: U8, p: Int, end: Int) -> tuple[Int, Int]:
    """The tag at ``p``, at most 32 bits with a field number that is not 0; position after it."""
    bits, p = low_varint(data, p, end)
    if bits >> 32 != 0 or bits >> 3 == 0:
        return bits, np.int64(-1)
    return bits, p


@inlined
def _skip_plain(data: U8, p: Int, end: Int, wire: Int) -> Int:
    if wire == VARINT:
        return low_varint(data, p, end)[1]
    if wire == WORD64:
        return span(np.int64(8), p, end)
    if wire == WORD32:
        return span(np.int64(4), p, end)
    if wire == BYTES:
        bits, p = low_varint(data, p, end)
        return span(bits, p, end)
    return np.int64(-1)


@part
def skip_field(data: U8, p: Int, end: Int, tag: Int, groups: I64) -> Int:
    """Position after the value at ``p`` whose tag was ``tag``, or -1; groups with all in them."""
    if tag & 7 != GROUP_BEGIN:
        return _skip_plain(data, p, end, tag & 7)
    top = 0
    groups[0] = tag >> 3
    while top >= 0:
        tag, p = tag_at(data, p, end)
        if p < 0:
            return p
        wire = tag & 7
        if wire == GROUP_BEGIN:
            top += 1
            if top == len(groups):
                return np.int64(-1)
            groups[top] = tag >> 3
        elif wire == GROUP_END:
            if groups[top] != tag >> 3:
                return np.int64(-1)
            top -= 1
        else:
            p = _skip_plain(data, p, end, wire)
            if p < 0:
                return p
    return p


@inlined
def sign32(bits: Int) -> Int:
    low = bits & 0xFFFFFFFF
    return low - ((low >> 31) << 32)


@part
def symbol_row(value: Int, low: Int, count: Int, symbols: I64) -> Int:
    """The row of a symbol among ``count`` from ``low`` on, or -1."""
    if 0 <= value < count and symbols[low + value, 0] == value:  # numbered from 0: most are
        return low + value
    high = low + count
    while high - low > 1:
        middle = (low + high) >> 1
        if symbols[middle, 0] <= value:
            low = middle
        else:
            high = middle
    return low if symbols[low, 0] == value else np.int64(-1)


@inlined
def clock(second: Int, ns: Int) -> tuple[Int, Int]:
    """The time of a Timestamp, ns since the Unix epoch, and a code: SCHEMA where it is none."""
    if ns < 0 or ns >= _BILLION:
        return np.int64(0), SCHEMA
    if (
        second > _LAST_SECOND
        or second < _FIRST_SECOND
        or (second == _LAST_SECOND and ns > _LAST_NS)
        or (second == _FIRST_SECOND and ns < _FIRST_NS)
    ):
        return np.int64(0), RANGE
    if second < 0:  # the first second is below -2**63 ns: count back from the one after it
        return (second + 1) * _BILLION - (_BILLION - ns), GOOD
    return second * _BILLION + ns, GOOD
