"""One record batch as Arrow IPC stream bytes, for a Kafka message from anybody.

Reading takes nothing on trust. pyarrow reads a stream that lost its end, inflates a 32 KiB body
to 1 GiB, and follows string offsets out of the buffer; so: exactly schema, dictionaries, one
record batch and the end marker; no compressed body (looked up in the flatbuffer metadata
before anything is inflated); ``validate(full=True)``; and the row count that the sender wrote.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipeline.ingest.batch import Reason

__all__ = ["RefusedError", "read_batch", "write_batch"]

ROWS = b"rows"
END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_RECORD_BATCH, _DICTIONARY, _SCHEMA = "record batch", "dictionary", "schema"
_COMPRESSION_FIELD = 3  # of table RecordBatch, Arrow's Message.fbs
_FAILURES = (pa.ArrowException, OSError, ValueError, KeyError, struct.error, MemoryError)


class RefusedError(ValueError):
    """A message that is not what it should be: ``reason`` for the dead letter, and why."""

    def __init__(self, reason: Reason, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason


def write_batch(columns: Mapping[str, Any] | pa.RecordBatch, metadata: Mapping[str, str]) -> bytes:
    """IPC stream bytes of one uncompressed record batch; ``rows`` joins the schema metadata."""
    batch = columns if isinstance(columns, pa.RecordBatch) else pa.record_batch(dict(columns))
    noted = {**metadata, "rows": str(batch.num_rows)}
    batch = batch.replace_schema_metadata(noted)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_batch(data: bytes | memoryview) -> pa.RecordBatch:
    """The record batch in ``data``; its buffers are views of ``data``.

    Raises :class:`RefusedError` and nothing else, whatever the bytes are.
    """
    if len(data) == 0:
        raise RefusedError(Reason.EMPTY, "no bytes")
    try:
        buffer = pa.py_buffer(data)
        _check_messages(buffer)
        with pa.ipc.open_stream(pa.BufferReader(buffer)) as reader:
            batch = reader.read_next_batch()
        batch.validate(full=True)
        _ = batch.schema.names  # field names are not validated: they may not be UTF-8
    except RefusedError:
        raise
    except _FAILURES as error:
        raise RefusedError(Reason.DECODE, f"not an Arrow IPC stream: {error}") from error
    noted = (batch.schema.metadata or {}).get(ROWS, b"")
    if noted != str(batch.num_rows).encode():
        raise RefusedError(Reason.DECODE, f"{batch.num_rows} rows, the sender wrote {noted!r}")
    return batch


def _check_messages(buffer: pa.Buffer) -> None:
    source = pa.BufferReader(buffer)
    kinds = []
    for message in pa.ipc.MessageReader.open_stream(source):
        kinds.append(message.type)
        if message.type != _SCHEMA and _compressed(message):
            raise RefusedError(Reason.DECODE, "a compressed body is refused")
    if kinds[:1] != [_SCHEMA] or kinds[-1] != _RECORD_BATCH or kinds.count(_RECORD_BATCH) != 1:
        raise RefusedError(Reason.DECODE, f"not a schema and one record batch but {kinds}")
    if source.tell() != buffer.size or bytes(memoryview(buffer)[-8:]) != END:
        raise RefusedError(Reason.DECODE, "the stream is cut off, or more follows its end")


def _compressed(message: pa.ipc.Message) -> bool:
    meta = message.metadata.to_pybytes()
    (root,) = struct.unpack_from("<I", meta, 0)
    header = _table(meta, root, 2)
    if message.type == _DICTIONARY:
        header = _table(meta, header, 1)
    return _field(meta, header, _COMPRESSION_FIELD) != 0


def _table(meta: bytes, table: int, index: int) -> int:
    """Position of the table that field ``index`` of a flatbuffer table refers to."""
    at = _field(meta, table, index)
    if not at:
        raise RefusedError(Reason.DECODE, "a message has no header")
    return at + int(struct.unpack_from("<I", meta, at)[0])


def _field(meta: bytes, table: int, index: int) -> int:
    """Position of field ``index`` of a flatbuffer table, 0 where it is absent."""
    vtable = table - struct.unpack_from("<i", meta, table)[0]
    if vtable < 0:
        raise RefusedError(Reason.DECODE, "metadata points out of the message")
    (size,) = struct.unpack_from("<H", meta, vtable)
    slot = 4 + 2 * index
    if slot + 2 > size:
        return 0
    (offset,) = struct.unpack_from("<H", meta, vtable + slot)
    return table + offset if offset else 0
