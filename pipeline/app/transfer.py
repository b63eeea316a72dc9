"""Messages of repartition topics: the columns of events, keyed by another field.

A message's value is an Arrow IPC stream of one uncompressed record batch, below 512 KiB; see
``docs/repartition-topics.md``. All its rows belong to the partition that it is in. Columns::

    __source       int32                 place of the source topic in the list of sources
    __partition    int32                 source partition
    __offset       int64                 source offset
    __broker_time  int64                 ms since the Unix epoch, -1 where the source has none
    __event_time   timestamp[ns, UTC]
    __key          binary                the entity as a message key
    <field>        as WIRE_TYPES, null where the field is null

Schema metadata: ``format`` (1), ``rows``, ``sources`` and ``entity`` (lists), ``key_type`` and
``columns`` (field -> type; an object), these three as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.app.outputs import select_bytes
from pipeline.contracts.contract import Field, FieldType
from pipeline.features.repartition import Repartition
from pipeline.ingest.arrowipc import write_message
from pipeline.ingest.batch import EventBatch
from pipeline.ingest.entity import EntityKeys
from pipeline.kernels.hash import partition_of
from pipeline.kernels.take import take_spans
from pipeline.produce.messages import MESSAGE_BYTES, message_slices

__all__ = ["FIXED", "FORMAT", "TEXTS", "WIRE_TYPES", "Letterbox", "message_metadata", "wire_type"]

I64 = npt.NDArray[np.int64]

FORMAT = "1"
FIXED: dict[str, Any] = {
    "__source": pa.int32(),
    "__partition": pa.int32(),
    "__offset": pa.int64(),
    "__broker_time": pa.int64(),
    "__event_time": pa.timestamp("ns", "UTC"),
    "__key": pa.binary(),
}
WIRE_TYPES: dict[FieldType, Any] = {
    FieldType.INT64: pa.int64(),
    FieldType.FLOAT64: pa.float64(),
    FieldType.DECIMAL: pa.int64(),  # scaled; the scale is in the metadata
    FieldType.BOOL: pa.bool_(),
    FieldType.STRING: pa.string(),
    FieldType.TIMESTAMP: pa.timestamp("ns", "UTC"),
    FieldType.UUID: pa.string(),
    FieldType.BYTES: pa.binary(),
}
TEXTS = {FieldType.STRING, FieldType.UUID, FieldType.BYTES}
_ROW_BYTES = 4 + 4 + 8 + 8 + 8 + 4  # of the fixed columns, but for the key itself
_VALUE_BYTES = 9  # of a field: a value or the offset of a text, and its validity
_COLUMN_BYTES = 512  # of a column in a message without rows, generously
_HEAD_BYTES = 4096


def wire_type(field: Field) -> str:
    """A field's type as the metadata has it: ``int64``, ``decimal(2)``."""
    if field.type is FieldType.DECIMAL:
        return f"decimal({field.scale})"
    return str(field.type.value)


def message_metadata(repartition: Repartition, fields: Sequence[Field]) -> dict[str, str]:
    """Schema metadata of messages with these fields, but for ``rows``."""
    return {
        "format": FORMAT,
        "sources": json.dumps([source.topic for source in repartition.sources]),
        "entity": json.dumps(list(repartition.entity)),
        "key_type": repartition.key_type,
        "columns": json.dumps({f.name: wire_type(f) for f in fields}),
    }


class Letterbox:
    """Makes the messages of one source topic for one repartition topic.

    ``place`` is that of the source in the repartition; ``fields`` are sent; ``partitions`` is the
    number that the repartition topic has.
    """

    def __init__(
        self, repartition: Repartition, place: int, fields: Sequence[Field], partitions: int
    ) -> None:
        self._place = place
        self._fields = tuple(fields)
        self._partitions = partitions
        columns = FIXED | {f.name: WIRE_TYPES[f.type] for f in fields}
        metadata: dict[Any, Any] = message_metadata(repartition, fields)
        self._schema = pa.schema(list(columns.items()), metadata=metadata)
        empty = _HEAD_BYTES + _COLUMN_BYTES * (len(FIXED) + len(fields))
        self._limit = max(MESSAGE_BYTES - empty, MESSAGE_BYTES // 8)

    def sizes(self, events: EventBatch, keys: EntityKeys) -> I64:
        """Bytes that each record of a batch takes in a message, at most; int64[n]."""
        sizes = np.diff(keys.offsets) + (_ROW_BYTES + _VALUE_BYTES * len(self._fields))
        for field in self._fields:
            if field.type in TEXTS:
                sizes += events.strings[field.name][2]
        return sizes

    @property
    def limit(self) -> int:
        """Bytes that a record may take."""
        return self._limit

    def messages(
        self, events: EventBatch, keys: EntityKeys, rows: I64, sizes: I64
    ) -> Iterator[tuple[int, bytes]]:
        """(partition, message) of the records ``rows``, in their order within a partition."""
        target = np.empty(len(events), dtype=np.int32)
        partition_of(keys.keys, keys.offsets, self._partitions, target)
        order = rows[np.argsort(target[rows], kind="stable")]
        batch = self._batch(events, keys, order)
        bounds = np.searchsorted(target[order], np.arange(self._partitions + 1))
        for partition in np.flatnonzero(np.diff(bounds)).tolist():
            first, last = int(bounds[partition]), int(bounds[partition + 1])
            for part in message_slices(sizes[order[first:last]], self._limit):
                some = batch.slice(first + part.start, part.stop - part.start)
                yield partition, write_message(some)

    def _batch(self, events: EventBatch, keys: EntityKeys, rows: I64) -> pa.RecordBatch:
        """The records ``rows`` as one record batch of the message's columns."""
        n, binary = len(rows), events.binary
        data, offsets = select_bytes(keys.keys, keys.offsets, rows)
        arrays = [
            pa.array(np.full(n, self._place, dtype=np.int32)),
            pa.array(np.full(n, events.source.partition, dtype=np.int32)),
            _flat(FIXED["__offset"], binary.offsets[rows], None),
            _flat(FIXED["__broker_time"], binary.timestamps_ms[rows], None),
            _flat(FIXED["__event_time"], events.event_time[rows], None),
            _text(FIXED["__key"], data, offsets, None),
        ]
        arrays += [_column(events, field, rows) for field in self._fields]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)


def _column(events: EventBatch, field: Field, rows: I64) -> Any:
    valid = events.valid[field.name][rows] == 1
    bits = None if valid.all() else np.packbits(valid, bitorder="little")
    type_ = WIRE_TYPES[field.type]
    if field.type in TEXTS:
        text, start, length = events.strings[field.name]
        length = length[rows] * valid
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(length, out=offsets[1:])
        out = np.empty(int(offsets[-1]), dtype=np.uint8)
        take_spans(_readable(text), start[rows], length, offsets, out)
        return _text(type_, out, offsets, bits)
    values = events.columns[field.name][rows]
    if field.type is FieldType.BOOL:
        packed = np.packbits(values != 0, bitorder="little")
        return pa.Array.from_buffers(type_, len(rows), _buffers(bits, packed))
    return _flat(type_, values, bits)


def _flat(type_: Any, values: npt.NDArray[Any], bits: npt.NDArray[np.uint8] | None) -> Any:
    return pa.Array.from_buffers(type_, len(values), _buffers(bits, values))


def _text(
    type_: Any, data: npt.NDArray[np.uint8], offsets: I64, bits: npt.NDArray[np.uint8] | None
) -> Any:
    """An array of texts; a batch's are below 2 GiB, since the batch itself is."""
    return pa.Array.from_buffers(
        type_, len(offsets) - 1, _buffers(bits, offsets.astype(np.int32), data)
    )


def _buffers(bits: Any, *data: Any) -> list[Any]:
    """Validity and data of an array as Arrow buffers, which keep theirs alive."""
    return [None if bits is None else pa.py_buffer(bits), *map(pa.py_buffer, data)]


def _readable(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A read-only view: the kernel compiles once, whoever owns the buffer."""
    view = data.view()
    view.flags.writeable = False
    return view
