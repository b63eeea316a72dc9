"""Request messages as they lie in a batch: Arrow IPC streams of one layout, many at a time.

A stream is a schema, dictionaries, one record batch and the end marker. What comes before the
record batch, the *prefix*, is the same bytes in all messages of a sender that have as many rows; a
reader that has read one in full knows what it means (:mod:`pipeline.inference.reader`). Here only
the record batch is looked at. Its metadata (Arrow's ``Message.fbs``, a flatbuffer) has to be that
of the one that was read in full, but for lengths, counts of nulls and places of buffers; all else
is left to the reader that takes nothing on trust. Nothing is read outside of a message.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels.hash import equal_bytes, load64
from pipeline.kernels.jit import Int, bare, part
from pipeline.kernels.text import at

__all__ = ["HEAD", "LEADING", "gather_features", "gather_rows", "locate", "places", "prefixes"]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

LEADING = 6  # entity_key, source_partition, source_offset, trigger, event_time, requested_at
HEAD = 9  # of a message in ``where``: rows, bytes of keys, where columns begin, where keys do
_V5, _SCHEMA, _DICTIONARY, _RECORD_BATCH = 4, 1, 2, 3  # of Message.fbs
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3  # fields of table Message; 0 is the version
_LENGTH, _NODES, _BUFFERS, _COMPRESSION = 0, 1, 2, 3  # of table RecordBatch
_MARK = 0xFFFFFFFF


@part
def _u32(data: U8, p: Int, low: Int, high: Int) -> Int:
    """4 bytes at ``p``, -1 where they are not all within ``low`` to ``high``."""
    if p < low or p > high - 4:
        return np.int64(-1)
    return at(data, p) | at(data, p + 1) << 8 | at(data, p + 2) << 16 | at(data, p + 3) << 24


@part
def _i32(data: U8, p: Int) -> Int:
    """4 bytes at ``p``, with a sign."""
    word = at(data, p) | at(data, p + 1) << 8 | at(data, p + 2) << 16 | at(data, p + 3) << 24
    return word - (1 << 32) if word >= 1 << 31 else word


@part
def _i64(data: U8, p: Int) -> Int:
    return np.int64(load64(data, p))


@part
def _field(data: U8, table: Int, index: Int, low: Int, high: Int) -> Int:
    """Position of a field of a flatbuffer table, 0 where it is absent, -1 outside of it all."""
    if _u32(data, table, low, high) < 0:
        return np.int64(-1)
    vtable = table - _i32(data, table)
    if vtable < low or vtable > high - 4:
        return np.int64(-1)
    size = at(data, vtable) | at(data, vtable + 1) << 8
    slot = 4 + 2 * index
    if slot + 2 > size:
        return np.int64(0)
    if vtable + slot + 2 > high:
        return np.int64(-1)
    offset = at(data, vtable + slot) | at(data, vtable + slot + 1) << 8
    if offset == 0:
        return np.int64(0)
    if table + offset > high - 8:
        return np.int64(-1)
    return table + offset


@part
def _message(data: U8, p: Int, end: Int) -> tuple[Int, Int, Int, Int]:
    """The message at ``p``: (kind, header table, begin of its body, length of its body).

    Kind -1: there is none, or it is not as a writer of version 5 makes it.
    """
    bad = (np.int64(-1), np.int64(0), np.int64(0), np.int64(0))
    if _u32(data, p, p, end) != _MARK:
        return bad
    length = _u32(data, p + 4, p, end)
    low, high = p + 8, p + 8 + length
    if length < 16 or length % 8 != 0 or high > end:
        return bad
    table = low + _u32(data, low, low, high)
    version = _field(data, table, 0, low, high)
    kind = _field(data, table, _HEADER_TYPE, low, high)
    header = _field(data, table, _HEADER, low, high)
    size = _field(data, table, _BODY_LENGTH, low, high)
    if version <= 0 or kind <= 0 or header <= 0 or size < 0:
        return bad
    if at(data, version) != _V5 or at(data, version + 1) != 0:
        return bad
    inner = header + _u32(data, header, low, high)
    body = _i64(data, size) if size > 0 else np.int64(0)
    if inner > high - 4 or body < 0 or body % 8 != 0 or body > end - high:
        return bad
    return at(data, kind), inner, high, body


@bare
def prefixes(payload: U8, value_offsets: I64, length: I64, same: U8) -> None:
    """Length of the prefix of each message, -1 where there is none; whether it is that of the one
    before.

    ``length`` int64[n] and ``same`` uint8[n] are written; ``value_offsets`` int64[n + 1].
    """
    for i in range(len(length)):
        start, end = value_offsets[i], value_offsets[i + 1]
        p, count = start, 0
        length[i] = -1
        while p < end:
            kind, _, body, size = _message(payload, p, end)
            if kind == _RECORD_BATCH and count > 0:
                length[i] = p - start
                break
            if kind != (_SCHEMA if count == 0 else _DICTIONARY):
                break
            p, count = body + size, count + 1
        same[i] = 0
        if i > 0 and length[i] > 0 and length[i] == length[i - 1]:
            stop = start + length[i]
            before = value_offsets[i - 1]
            same[i] = equal_bytes(payload, start, stop, payload, before, before + length[i])


@part
def _bits(data: U8, p: Int, count: Int) -> Int:
    """How many of the first ``count`` bits at ``p`` are set."""
    total = 0
    for k in range(count):
        total += at(data, p + (k >> 3)) >> (k & 7) & 1
    return total


@part
def _buffer(payload: U8, p: Int, body: Int, size: Int, least: Int) -> Int:
    """Where the buffer that is described at ``p`` begins; -1 if not within the body, or if it has
    fewer bytes than ``least``."""
    begin, length = _i64(payload, p), _i64(payload, p + 8)
    if begin < 0 or begin % 8 != 0 or length < least or begin > size or length > size - begin:
        return np.int64(-1)
    return body + begin


@part
def _keys_fit(payload: U8, offsets: Int, rows: Int, length: Int) -> bool:
    """Whether the keys lie one after the other in ``length`` bytes, and none is empty."""
    before = _i32(payload, offsets)
    if before < 0:
        return False
    for k in range(1, rows + 1):
        stop = _i32(payload, offsets + 4 * k)
        if stop <= before:
            return False
        before = stop
    return bool(before <= length)


@part
def _values_fit(payload: U8, where: I64, i: Int, triggers: Int) -> bool:
    """Whether positions are not negative and triggers are in the dictionary."""
    rows, partition, offset, trigger = where[i, 0], where[i, 3], where[i, 4], where[i, 5]
    for k in range(rows):
        if _i32(payload, partition + 4 * k) < 0 or _i64(payload, offset + 8 * k) < 0:
            return False
        code = at(payload, trigger + 2 * k) | at(payload, trigger + 2 * k + 1) << 8
        if code >= triggers:
            return False
    return True


@bare
def places(payload: U8, start: Int, end: Int, columns: Int, out: I64) -> bool:
    """Where the record batch message at ``start`` has what differs between messages of a layout:
    length of the body, number of rows, nodes, buffers; ``out`` int64[4], counted from ``start``.

    False where it has not one node a column and the buffers that Arrow's writers give these.
    """
    kind, batch, body, _ = _message(payload, start, end)
    if kind != _RECORD_BATCH:
        return False
    low = start + 8
    size = _field(payload, low + _u32(payload, low, low, body), _BODY_LENGTH, low, body)
    length = _field(payload, batch, _LENGTH, low, body)
    nodes = _field(payload, batch, _NODES, low, body)
    buffers = _field(payload, batch, _BUFFERS, low, body)
    if size <= 0 or length <= 0 or nodes <= 0 or buffers <= 0:
        return False
    if _field(payload, batch, _COMPRESSION, low, body) != 0:
        return False
    nodes += _u32(payload, nodes, low, body)
    buffers += _u32(payload, buffers, low, body)
    count = 2 * columns + 1
    if _u32(payload, nodes, low, body) != columns or nodes + 4 + 16 * columns > body:
        return False
    if _u32(payload, buffers, low, body) != count or buffers + 4 + 16 * count > body:
        return False
    out[0], out[1] = size - start, length - start
    out[2], out[3] = nodes + 4 - start, buffers + 4 - start
    return True


@part
def _located(
    payload: U8, start: Int, end: Int, rows: Int, triggers: Int, head: U8, fixed: I64, varying: I64,
    slots: I64, where: I64, i: Int,
) -> bool:  # fmt: skip
    body = start + len(head)
    if body + 8 > end:
        return False
    for r in range(len(fixed)):
        for k in range(fixed[r, 0], fixed[r, 1]):
            if payload[start + k] != head[k]:
                return False
    size = _i64(payload, start + varying[0])
    if size != end - 8 - body or _i64(payload, end - 8) != _MARK:
        return False
    if _i64(payload, start + varying[1]) != rows:
        return False
    columns = LEADING + len(slots)
    where[i, 0] = rows
    node, buffer = start + varying[2], start + varying[3]
    for c in range(columns):
        nulls = _i64(payload, node + 8)
        if _i64(payload, node) != rows or nulls < 0 or nulls > rows:
            return False
        valid = np.int64(-1)
        if nulls > 0:
            valid = _buffer(payload, buffer, body, size, (rows + 7) >> 3)
            if c < LEADING or valid < 0 or _bits(payload, valid, rows) != rows - nulls:
                return False
        if c == 0:
            keys = _buffer(payload, buffer + 16, body, size, 4 * (rows + 1))
            data = _buffer(payload, buffer + 32, body, size, 1)
            held = _i64(payload, buffer + 40)
            if keys < 0 or data < 0 or not _keys_fit(payload, keys, rows, held):
                return False
            where[i, 1] = _i32(payload, keys + 4 * rows) - _i32(payload, keys)
            where[i, 2], where[i, HEAD - 1] = keys, data + _i32(payload, keys)
            buffer += 16
        else:
            width = 8
            if c == 1:
                width = 4
            elif c == 3:
                width = 2
            values = _buffer(payload, buffer + 16, body, size, width * rows)
            if values < 0:
                return False
            if c < LEADING:
                where[i, 2 + c] = values
            elif slots[c - LEADING] >= 0:
                slot = HEAD + 2 * slots[c - LEADING]
                where[i, slot], where[i, slot + 1] = valid, values
        node += 16
        buffer += 32
    return _values_fit(payload, where, i, triggers)


@bare
def locate(
    payload: U8, value_offsets: I64, first: Int, last: Int, prefix: Int, rows: Int, triggers: Int,
    head: U8, fixed: I64, varying: I64, slots: I64, where: I64,
) -> None:  # fmt: skip
    """Where the columns of messages ``first`` to ``last`` lie, which share a prefix of ``prefix``
    bytes, say that they have ``rows`` rows, and know ``triggers`` triggers.

    ``head``: the record batch message, before its body, of one that was read in full; in ``fixed``
    int64[.., 2] ranges the others have to have the same bytes, for the rest see ``varying``,
    :func:`places`. ``slots`` int64[columns of features]: number of the model's input, or -1.
    ``where`` int64[n, HEAD + 2 * inputs] is written: :data:`HEAD`, then bits of validity (-1: all)
    and values of each input. Rows are -1 where a message has to be read in another way.
    """
    for i in range(first, last):
        start, end = value_offsets[i] + prefix, value_offsets[i + 1]
        if not _located(payload, start, end, rows, triggers, head, fixed, varying, slots, where, i):
            where[i, 0] = -1


@bare
def gather_rows(
    payload: U8, where: I64, keys: U8, key_offsets: I64, source_partition: I32, source_offset: I64,
    trigger: I32, event_time: I64, requested_at_ms: I64,
) -> None:  # fmt: skip
    """The leading columns of located messages, back to back."""
    n, used = 0, np.int64(0)
    key_offsets[0] = 0
    for i in range(len(where)):
        ends, data = where[i, 2], where[i, HEAD - 1]
        begin = _i32(payload, ends)
        for k in range(where[i, 1]):
            keys[used + k] = payload[data + k]
        for k in range(where[i, 0]):
            key_offsets[n + k + 1] = used + _i32(payload, ends + 4 * (k + 1)) - begin
            source_partition[n + k] = _i32(payload, where[i, 3] + 4 * k)
            source_offset[n + k] = _i64(payload, where[i, 4] + 8 * k)
            code = where[i, 5] + 2 * k
            trigger[n + k] = at(payload, code) | at(payload, code + 1) << 8
            event_time[n + k] = _i64(payload, where[i, 6] + 8 * k)
            requested_at_ms[n + k] = _i64(payload, where[i, 7] + 8 * k)
        n, used = n + where[i, 0], used + where[i, 1]


@bare
def gather_features(payload: U8, where: I64, null_value: Any, block: F32) -> None:
    """Inputs of the model, float32[rows, inputs]: null and NaN are ``null_value`` (a float32)."""
    n = 0
    for i in range(len(where)):
        rows = where[i, 0]
        for f in range(block.shape[1]):
            valid, values = where[i, HEAD + 2 * f], where[i, HEAD + 2 * f + 1]
            for k in range(rows):
                value = np.float32(np.int64(load64(payload, values + 8 * k)).view(np.float64))
                if value != value:
                    value = null_value
                block[n + k, f] = value
            if valid >= 0:
                for k in range(rows):
                    if at(payload, valid + (k >> 3)) >> (k & 7) & 1 == 0:
                        block[n + k, f] = null_value
        n += rows
