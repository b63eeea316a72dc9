"""Messages of a repartition topic, back to typed events; a row each, whoever wrote the message.

Nothing is taken on trust (:mod:`pipeline.ingest.arrowipc`): a message that is not what
:mod:`pipeline.app.transfer` writes is one reject with its reason, and the rest is applied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.app.transfer import FIXED, FORMAT, TEXTS, WIRE_TYPES, wire_type
from pipeline.contracts.contract import Field, FieldType
from pipeline.features.repartition import Repartition
from pipeline.ingest.arrowipc import Limits, read_message
from pipeline.ingest.batch import BinaryBatch, EventBatch, Origin, Reason
from pipeline.ingest.tombstones import accept as accept_tombstones
from pipeline.kernels.checks import MAX_KEY_BYTES
from pipeline.kernels.hash import hash_spans, partition_of

__all__ = ["ROW_BITS", "RowDecoder"]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Texts = tuple[U8, I64, I64]

ROW_BITS = 20
"""A row's offset is that of its message, shifted left by so many bits, plus its number in it."""

LIMITS = Limits(max_rows=1 << ROW_BITS, max_bytes=16 << 20)  # more than is ever written
_NO_TEXT = np.empty(0, dtype=np.uint8)


class _Refused(Exception):  # noqa: N818  (never leaves the module)
    """A message that is not what it should be: ``reason`` for the dead letter."""

    def __init__(self, reason: Reason, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Message:
    """One message: its rows, or why it has none; ``fields`` names the usable columns."""

    number: int
    rows: pa.RecordBatch | None
    reason: int
    fields: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return 1 if self.rows is None else int(self.rows.num_rows)


class RowDecoder:
    """Decodes batches of one repartition topic. Holds no state between batches.

    ``fields`` are those that the views of the topic use; ``topic_ids`` of the sources, for dead
    letters; ``partitions`` of the repartition topic, to see rows of another partition.

    A message without a value deletes the entity of its key, as in every topic.

    A message without a column that its source has (an earlier set of views sent fewer) is not
    wrong: ``absent`` says which rows lack what, and they come again with it.
    """

    def __init__(
        self,
        repartition: Repartition,
        fields: Sequence[Field],
        topic_ids: Sequence[str],
        partitions: int,
    ) -> None:
        self._repartition = repartition
        self._fields = {field.name: field for field in fields}
        self._topics = tuple(source.topic for source in repartition.sources)
        self._topic_ids = tuple(topic_ids)
        self._partitions = partitions
        self._has = [frozenset(source.schema.names) for source in repartition.sources]

    def decode(self, batch: BinaryBatch) -> EventBatch:
        """The rows of all messages. Never raises for what a message holds."""
        messages = [self._open(batch, i) for i in range(len(batch))]
        good = [m for m in messages if m.rows is not None and len(m)]
        starts = np.zeros(len(messages) + 1, dtype=np.int64)
        np.cumsum([len(m) for m in messages], out=starts[1:])
        rows = _Rows(int(starts[-1]), [(int(starts[m.number]), m) for m in good])
        number = np.repeat(np.arange(len(messages)), np.diff(starts))
        position = np.arange(len(number)) - starts[number]
        reason = np.array([m.reason for m in messages], dtype=np.uint8)[number]
        message = batch.offsets[number]
        origin = Origin(
            topics=self._topics,
            topic_ids=self._topic_ids,
            message=message,
            topic=rows.integers("__source", np.dtype(np.int32), -1),
            partition=rows.integers("__partition", np.dtype(np.int32), -1),
            offset=rows.integers("__offset", np.dtype(np.int64), -1),
            next_offset=batch.next_offset,
            absent=self._absent(messages, number),
        )
        binary = self._binary(batch, rows, messages, number, (message << ROW_BITS) + position)
        events = self._events(binary, rows, reason, origin)
        accept_tombstones(events, self._repartition.key_type.split("|"))
        reason[(binary.key_null == 1) & (reason == Reason.OK)] = Reason.TOMBSTONE
        self._refuse_strays(binary, reason)
        return events

    # -- one message

    def _open(self, batch: BinaryBatch, i: int) -> _Message:
        first, last = int(batch.value_offsets[i]), int(batch.value_offsets[i + 1])
        if batch.value_null[i]:
            return _Message(i, None, Reason.TOMBSTONE)
        if batch.value_size[i] > min(last - first, LIMITS.max_bytes):
            return _Message(i, None, Reason.TOO_LARGE)
        rows = read_message(batch.payload[first:last].data, None, LIMITS)
        if isinstance(rows, Reason):
            return _Message(i, None, rows)
        try:
            return _Message(i, rows, Reason.OK, self._usable(rows))
        except _Refused as refused:
            return _Message(i, None, refused.reason)

    def _usable(self, rows: pa.RecordBatch) -> frozenset[str]:
        """Fields that the message has as this program knows them. _Refused if it is of no
        repartition like this, or a row has no place in it."""
        noted = rows.schema.metadata or {}
        repartition = self._repartition
        expected = {
            b"format": FORMAT.encode(),
            b"sources": json.dumps(list(self._topics)).encode(),
            b"entity": json.dumps(list(repartition.entity)).encode(),
            b"key_type": repartition.key_type.encode(),
        }
        for name, value in expected.items():
            if noted.get(name) != value:
                raise _Refused(Reason.SCHEMA, f"{name!r} is {noted.get(name)!r}")
        names = rows.schema.names
        for fixed, type_ in FIXED.items():
            if names.count(fixed) != 1 or rows.schema.field(fixed).type != type_:
                raise _Refused(Reason.SCHEMA, f"there is no column {fixed} of type {type_}")
            if rows.column(fixed).null_count:
                raise _Refused(Reason.SCHEMA, f"{fixed} is null")
        self._check_places(rows)
        return frozenset(n for n, f in self._fields.items() if _has(rows, noted, f))

    def _check_places(self, rows: pa.RecordBatch) -> None:
        """_Refused for a source that there is not, or a key that no record can have."""
        if not rows.num_rows:
            return
        keys: Any = rows.column("__key")
        lengths: Any = pc.binary_length(keys)
        bounds = (
            ("__source", rows.column("__source"), 0, len(self._topics) - 1),
            ("__partition", rows.column("__partition"), 0, None),
            ("__offset", rows.column("__offset"), 0, None),
            ("__key", lengths, 1, MAX_KEY_BYTES),
        )
        for name, column, least, most in bounds:
            found: Any = pc.min_max(column)
            low, high = found["min"].as_py(), found["max"].as_py()
            if low < least or (most is not None and high > most):
                raise _Refused(Reason.RANGE, f"{name} from {low} to {high}")

    # -- all rows

    def _absent(self, messages: Sequence[_Message], number: I64) -> Mapping[str, U8]:
        """Field -> uint8[n], 1 for rows that lack it though their source has it; if any do."""
        found: dict[str, U8] = {}
        for name in self._fields:
            lacks = np.array([self._lacks(m, name) for m in messages], dtype=np.uint8)
            if lacks.any():
                found[name] = lacks[number]
        return found

    def _lacks(self, message: _Message, name: str) -> bool:
        if message.rows is None or name in message.fields:
            return False
        sources: Any = pc.unique(message.rows.column("__source"))
        return any(name in self._has[source] for source in sources.to_pylist())

    def _binary(
        self, batch: BinaryBatch, rows: _Rows, messages: Sequence[_Message], number: I64,
        offsets: I64,
    ) -> BinaryBatch:  # fmt: skip
        """A record a row: its key and broker time, and no value but that of a refused message."""
        bad = np.array([m.rows is None for m in messages], dtype=np.bool_)[number]
        source = number[bad]
        sizes = np.zeros(len(number), dtype=np.int64)
        sizes[bad] = np.diff(batch.value_offsets)[source]
        ends = np.zeros(len(number) + 1, dtype=np.int64)
        np.cumsum(sizes, out=ends[1:])
        values = [
            batch.payload[batch.value_offsets[i] : batch.value_offsets[i + 1]] for i in source
        ]
        wire = np.zeros(len(number), dtype=np.int64)
        wire[bad] = batch.value_size[source]
        null = np.ones(len(number), dtype=np.uint8)
        null[bad] = batch.value_null[source]
        deletes = bad & (batch.value_null[number] == 1) & (batch.key_null[number] == 0)
        keys, key_ends = _keys(rows, batch, number, deletes)
        times = rows.integers("__broker_time", np.dtype(np.int64), -1)
        times[bad] = batch.timestamps_ms[source]
        return BinaryBatch(
            source=batch.source,
            payload=np.concatenate([_NO_TEXT, *values]),
            value_offsets=ends,
            value_null=null,
            value_size=wire,
            keys=keys,
            key_offsets=key_ends,
            key_null=(bad & ~deletes).view(np.uint8),
            offsets=offsets,
            timestamps_ms=times,
            leader_epoch=batch.leader_epoch,
        )

    def _refuse_strays(self, binary: BinaryBatch, reason: U8) -> None:
        """MISROUTED where the key belongs to another partition."""
        target = np.empty(len(binary), dtype=np.int32)
        partition_of(binary.keys, binary.key_offsets, self._partitions, target)
        reason[(reason == Reason.OK) & (target != binary.source.partition)] = Reason.MISROUTED

    def _events(self, binary: BinaryBatch, rows: _Rows, reason: U8, origin: Origin) -> EventBatch:
        columns: dict[str, Any] = {}
        valid: dict[str, U8] = {}
        strings: dict[str, Texts] = {}
        for name, field in self._fields.items():
            valid[name] = rows.valid(name)
            if field.type in TEXTS:
                strings[name] = rows.texts(name)
                columns[name] = np.empty(len(binary), dtype=np.int64)
                hash_spans(*strings[name], columns[name])
            else:
                columns[name] = rows.values(name, field.type)
        return EventBatch(
            binary=binary,
            columns=columns,
            valid=valid,
            strings=strings,
            event_time=rows.integers("__event_time", np.dtype(np.int64), 0),
            reason=reason,
            fields=self._fields,
            origin=origin,
        )


def _keys(
    rows: _Rows, batch: BinaryBatch, number: I64, deletes: npt.NDArray[np.bool_]
) -> tuple[U8, I64]:
    """Keys of all rows back to back, and their offsets: of rows that delete, the message's."""
    texts, _, length = rows.texts("__key")
    length[deletes] = np.diff(batch.key_offsets)[number[deletes]]
    ends = np.zeros(len(number) + 1, dtype=np.int64)
    np.cumsum(length, out=ends[1:])
    if not deletes.any():
        return texts, ends
    keys = np.empty(int(ends[-1]), dtype=np.uint8)
    of_messages = np.repeat(deletes, length)
    keys[~of_messages] = texts
    named = [batch.keys[batch.key_offsets[i] : batch.key_offsets[i + 1]] for i in number[deletes]]
    keys[of_messages] = np.concatenate(named)
    return keys, ends


class _Rows:
    """Columns of ``n`` rows, some of which stand for messages without any."""

    def __init__(self, n: int, parts: Sequence[tuple[int, _Message]]) -> None:
        self._n = n
        self._parts = parts

    def integers(self, name: str, dtype: np.dtype[Any], absent: int) -> Any:
        """A fixed column, ``absent`` where there are no rows."""
        out = np.full(self._n, absent, dtype=dtype)
        for first, message in self._parts:
            out[first : first + len(message)] = _numbers(_column(message, name), dtype)
        return out

    def valid(self, name: str) -> U8:
        """uint8[n], 1 where there is a value."""
        out = np.zeros(self._n, dtype=np.uint8)
        for first, message in self._parts:
            if name in message.fields:
                found: Any = pc.is_valid(_column(message, name))
                out[first : first + len(message)] = found.to_numpy(zero_copy_only=False)
        return out

    def values(self, name: str, kind: FieldType) -> Any:
        """int64[n], or float64[n]; undefined where null."""
        dtype = np.dtype(np.float64 if kind is FieldType.FLOAT64 else np.int64)
        out = np.zeros(self._n, dtype=dtype)
        for first, message in self._parts:
            if name in message.fields:
                column = _column(message, name)
                part = out[first : first + len(message)]
                if kind is FieldType.BOOL:
                    part[:] = pc.fill_null(column, False).to_numpy(zero_copy_only=False)
                else:
                    part[:] = _numbers(column, dtype)
        return out

    def texts(self, name: str) -> Texts:
        """(bytes, start int64[n], length int64[n]); a row without a text has length 0."""
        start = np.zeros(self._n, dtype=np.int64)
        length = np.zeros(self._n, dtype=np.int64)
        data: list[U8] = [_NO_TEXT]
        total = 0
        for first, message in self._parts:
            if name == "__key" or name in message.fields:
                text, offsets = _text(_column(message, name))
                rows = slice(first, first + len(message))
                start[rows] = offsets[:-1] + total
                length[rows] = np.diff(offsets)
                data.append(text)
                total += len(text)
        return np.concatenate(data), start, length


def _has(rows: pa.RecordBatch, noted: Mapping[bytes, bytes], field: Field) -> bool:
    """Whether there is one column of the field's name and type."""
    try:
        columns = json.loads(noted.get(b"columns", b""))
        declared = columns.get(field.name)
    except (ValueError, AttributeError, RecursionError) as error:
        raise _Refused(Reason.SCHEMA, f"columns: {error}") from error
    if declared != wire_type(field) or rows.schema.names.count(field.name) != 1:
        return False
    return bool(rows.schema.field(field.name).type == WIRE_TYPES[field.type])


def _column(message: _Message, name: str) -> Any:
    if message.rows is None:
        raise ValueError(f"message {message.number} has no rows")
    return message.rows.column(name)


def _numbers(column: Any, dtype: np.dtype[Any]) -> Any:
    """The values of a flat column as they lie, whatever is where it is null."""
    data = column.buffers()[1]
    return np.frombuffer(
        data, dtype=dtype, count=len(column), offset=column.offset * dtype.itemsize
    )


def _text(column: Any) -> tuple[U8, I64]:
    """Bytes of a text column and its n + 1 offsets into them, beginning at 0."""
    _, bounds, data = column.buffers()
    offsets = np.frombuffer(bounds, dtype=np.int32)[column.offset : column.offset + len(column) + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    if data is None or first == last:
        return _NO_TEXT, np.zeros(len(column) + 1, dtype=np.int64)
    text = np.frombuffer(data, dtype=np.uint8)[first:last]
    return text, offsets.astype(np.int64) - first
