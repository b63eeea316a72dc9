"""The framing of an Arrow IPC stream, and the sizes it claims, before a library parses it.

Source: the "Encapsulated message format" of the Arrow columnar format, and its flatbuffer schemas
``Message.fbs``. Only what is needed to know how much a stream would take: message types, row
counts, compression and the sizes of inflated buffers. Every read is inside the bytes it is given.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pyarrow as pa

from pipeline.ingest.batch import Reason

__all__ = ["FAILURES", "Frame", "Limits", "Malformed", "inspect"]

# What pyarrow and these few functions raise for bytes that are no such stream.
FAILURES = (
    pa.ArrowException, OSError, ValueError, KeyError, IndexError, TypeError, OverflowError,
    MemoryError, NotImplementedError, struct.error,
)  # fmt: skip

_CONTINUATION = 0xFFFFFFFF
_SCHEMA, _DICTIONARY, _RECORD_BATCH = 1, 2, 3  # union MessageHeader
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3  # fields of table Message
_DATA = 1  # of table DictionaryBatch
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3  # of table RecordBatch


@dataclass(frozen=True, slots=True)
class Limits:
    """What one message may be at most; more is TOO_LARGE, more metadata DECODE.

    ``max_rows``      in all record batches of the message, or in one dictionary
    ``max_bytes``     of inflated bodies, and of the text that dictionaries and views stand for
    ``max_metadata``  bytes of metadata of one IPC message
    ``max_messages``  IPC messages in the stream
    ``compressed``    whether bodies may be compressed (a 33 kB one can inflate to 1 GiB)
    """

    max_rows: int = 1 << 20
    max_bytes: int = 1 << 28
    max_metadata: int = 1 << 20
    max_messages: int = 4096
    compressed: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """What a stream says of itself: its rows, and whether it has the end marker."""

    rows: int
    ended: bool


class Malformed(Exception):  # noqa: N818  (caught where the reason becomes a value)
    """Bytes that are no stream within the limits."""

    def __init__(self, reason: Reason = Reason.DECODE) -> None:
        super().__init__(reason.name)
        self.reason = reason


def inspect(data: memoryview, limits: Limits) -> Frame:
    """Walk over the messages of a stream, which must fill ``data`` to its last byte.

    Raises :class:`Malformed`, or one of :data:`FAILURES`.
    """
    p, rows, inflated, messages = 0, 0, 0, 0
    while p < len(data):
        mark, length = struct.unpack_from("<Ii", data, p)
        p += 8
        if mark != _CONTINUATION:
            raise Malformed
        if length == 0:
            if p != len(data) or not messages:
                raise Malformed
            return Frame(rows, True)
        messages += 1
        if not 0 < length <= limits.max_metadata or p + length > len(data):
            raise Malformed
        if messages > limits.max_messages:
            raise Malformed(Reason.TOO_LARGE)
        metadata = data[p : p + length]
        message = _offset(metadata, 0)
        kind, header = _kind(metadata, message, messages == 1)
        body = _int64(metadata, message, _BODY_LENGTH)
        p += length
        if not 0 <= body <= len(data) - p:
            raise Malformed
        if kind != _SCHEMA:
            batch = header if kind == _RECORD_BATCH else _table(metadata, header, _DATA)
            count = _int64(metadata, batch, _LENGTH)
            inflated += _inflated(metadata, batch, data[p : p + body], limits)
            rows += count if kind == _RECORD_BATCH else 0
            if count < 0:
                raise Malformed
            if max(rows, count) > limits.max_rows or inflated > limits.max_bytes:
                raise Malformed(Reason.TOO_LARGE)
        p += body
    if not messages:
        raise Malformed
    return Frame(rows, False)


def _kind(metadata: memoryview, message: int, first: bool) -> tuple[int, int]:
    """Type and header of a message: a schema, then dictionaries and record batches."""
    at = _field(metadata, message, _HEADER_TYPE)
    kind = metadata[at] if at else 0
    if (kind == _SCHEMA) != first or kind not in (_SCHEMA, _DICTIONARY, _RECORD_BATCH):
        raise Malformed
    return kind, _table(metadata, message, _HEADER)


def _inflated(metadata: memoryview, batch: int, body: memoryview, limits: Limits) -> int:
    """Bytes that compressed buffers of a record batch claim to become; 0 if not compressed."""
    if not _field(metadata, batch, _COMPRESSION):
        return 0
    if not limits.compressed:
        raise Malformed
    at = _field(metadata, batch, _BUFFERS)
    if not at:
        return 0
    at += _offset(metadata, at)
    total = 0
    for k in range(_offset(metadata, at)):
        start, length = struct.unpack_from("<qq", metadata, at + 4 + 16 * k)
        if length:
            if not 0 <= start <= len(body) - 8:
                raise Malformed
            (size,) = struct.unpack_from("<q", body, start)
            total += max(size, 0)
    return total


def _table(metadata: memoryview, table: int, index: int) -> int:
    """Position of the table that field ``index`` of a flatbuffer table refers to."""
    at = _field(metadata, table, index)
    if not at:
        raise Malformed
    return at + _offset(metadata, at)


def _int64(metadata: memoryview, table: int, index: int) -> int:
    at = _field(metadata, table, index)
    return int(struct.unpack_from("<q", metadata, at)[0]) if at else 0


def _offset(metadata: memoryview, at: int) -> int:
    return int(struct.unpack_from("<I", metadata, at)[0])


def _field(metadata: memoryview, table: int, index: int) -> int:
    """Position of field ``index`` of a flatbuffer table, 0 where it is absent."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    if vtable < 0:
        raise Malformed
    (size,) = struct.unpack_from("<H", metadata, vtable)
    slot = 4 + 2 * index
    if slot + 2 > size:
        return 0
    (offset,) = struct.unpack_from("<H", metadata, vtable + slot)
    return table + offset if offset else 0
