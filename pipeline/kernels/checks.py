"""Checks of records before and after their value is parsed: sizes, keys, event times.

Codes are values of :class:`pipeline.ingest.batch.Reason`; a record keeps the first it gets.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.digits import ZEROS, digit_count, eight_digits
from pipeline.kernels.hash import equal_bytes, load64, murmur2
from pipeline.kernels.jit import Int, bare, inlined, part
from pipeline.kernels.text import MINUS, ZERO, at

__all__ = ["admit", "is_decimal", "match_integer_keys", "match_text_keys", "within_time"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

TOO_LARGE, TOMBSTONE, EMPTY, NO_KEY, MISROUTED = 1, 2, 3, 4, 5
KEY_MISMATCH, TS_FUTURE, TS_PAST = 9, 10, 11

MAX_KEY_BYTES = 65_536  # a key is part of every message and store key that its record leads to
_NS_PER_MS = 1_000_000
_LAST_MS = (2**63 - 1) // _NS_PER_MS  # later broker times bound nothing


@bare
def admit(
    value_offsets: I64,
    value_null: U8,
    value_size: I64,
    keys: U8,
    key_offsets: I64,
    key_null: U8,
    partition: Int,
    partitions: Int,
    max_value_bytes: Int,
    reason: U8,
) -> None:
    """Write TOO_LARGE, EMPTY, NO_KEY, MISROUTED, TOMBSTONE or 0 into ``reason`` uint8[n].

    TOMBSTONE is a null value with nothing else wrong. A value whose bytes were left out
    (``value_size`` over the slice) is too large whatever the limit is; so is a record whose key is
    longer than ``MAX_KEY_BYTES``.
    """
    for i in range(len(reason)):
        size = value_offsets[i + 1] - value_offsets[i]
        code = 0
        if (
            value_size[i] > max_value_bytes
            or value_size[i] > size
            or key_offsets[i + 1] - key_offsets[i] > MAX_KEY_BYTES
        ):
            code = TOO_LARGE
        elif size == 0 and not value_null[i]:
            code = EMPTY
        elif key_null[i] or key_offsets[i + 1] == key_offsets[i]:
            code = NO_KEY
        elif (murmur2(keys, key_offsets[i], key_offsets[i + 1]) & 0x7FFFFFFF) % partitions != (
            partition
        ):
            code = MISROUTED
        elif value_null[i]:
            code = TOMBSTONE
        reason[i] = code


@inlined
def is_decimal(data: U8, start: Int, end: Int, value: Int) -> Int:
    """Whether ``data[start:end]`` is ``value`` in ASCII decimal: no sign but -, no leading zero."""
    size = end - start
    if 1 <= size <= 8 and end >= 8:
        # The word that ends there, without what is before the number: leading zeros.
        above = np.uint64(64 - 8 * size)
        word = ((load64(data, end - 8) ^ ZEROS) >> above) << above
        if digit_count(word) == 8:
            return eight_digits(word) == value and (size == 1 or at(data, start) != ZERO)
    return _is_decimal(data, start, end, value)


@part
def _is_decimal(data: U8, start: Int, end: Int, value: Int) -> Int:
    rest = -value if value > 0 else value  # negated: -2**63 has no positive counterpart
    p = end
    first = start
    if value < 0:
        first += 1
    while p > first:
        p -= 1
        tens = -((-rest) // 10) if rest != -(2**63 - 1) - 1 else -922_337_203_685_477_580
        if at(data, p) - ZERO != tens * 10 - rest:
            return False
        rest = tens
        if rest == 0:
            break
    return rest == 0 and p == first and end > first and (value >= 0 or at(data, start) == MINUS)


@bare
def match_integer_keys(values: I64, keys: U8, key_offsets: I64, reason: U8) -> None:
    """KEY_MISMATCH where a good record's key is not ``values`` int64[n] in ASCII decimal."""
    for i in range(len(reason)):
        if reason[i] == 0 and not is_decimal(keys, key_offsets[i], key_offsets[i + 1], values[i]):
            reason[i] = KEY_MISMATCH


@bare
def match_text_keys(
    text: U8, start: I64, length: I64, keys: U8, key_offsets: I64, reason: U8
) -> None:
    """KEY_MISMATCH where a good record's key is not the string of its key field."""
    for i in range(len(reason)):
        if reason[i] == 0 and not equal_bytes(
            text, start[i], start[i] + length[i], keys, key_offsets[i], key_offsets[i + 1]
        ):
            reason[i] = KEY_MISMATCH


@bare
def within_time(
    event_time: I64, timestamps_ms: I64, max_future_ms: Int, earliest_ns: Int, reason: U8
) -> None:
    """TS_FUTURE and TS_PAST of good records.

    ``event_time`` int64[n] ns. Future: more than ``max_future_ms`` after the broker time
    ``timestamps_ms`` int64[n], where there is one (>= 0). Past: before ``earliest_ns``.
    """
    for i in range(len(reason)):
        if reason[i] == 0:
            broker = timestamps_ms[i]
            if (
                0 <= broker <= _LAST_MS - max_future_ms
                and event_time[i] > (broker + max_future_ms) * _NS_PER_MS
            ):
                reason[i] = TS_FUTURE
            elif event_time[i] < earliest_ns:
                reason[i] = TS_PAST
