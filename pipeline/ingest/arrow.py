"""Arrow IPC messages, each of many rows, to typed columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.ingest.arrowipc import UNIT, Limits, read_message
from pipeline.ingest.batch import BinaryBatch, EventBatch, Reason
from pipeline.ingest.entity import entity_keys
from pipeline.ingest.envelope import Envelope
from pipeline.ingest.forms import Text, lower_uuids
from pipeline.kernels.hash import hash_spans, partition_of
from pipeline.kernels.take import take_bytes, taken_offsets

__all__ = ["ROW_BITS", "ArrowDecoder"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

ROW_BITS = 20
"""A row's offset is that of its message, shifted left by so many bits, plus its number in it."""

_TEXTS = {FieldType.STRING, FieldType.UUID, FieldType.BYTES}
_NO_BYTES = np.empty(0, dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class _Message:
    """A message: its rows, or why it has none."""

    rows: pa.RecordBatch | None
    reason: int

    def __len__(self) -> int:
        return 1 if self.rows is None else int(self.rows.num_rows)


class ArrowDecoder:
    """Decodes batches of one stream: an Arrow IPC stream of rows a message.

    A row becomes an event; a message is taken or refused as a whole, by the first reason, in the
    order of :class:`~pipeline.ingest.batch.Reason`, that one of its rows has. A message of no rows
    is EMPTY. The message's own key counts for nothing: each row's entity must be one of the
    partition, else MISROUTED; a row without one is NO_KEY.

    A message without a value deletes the entity of its key, as in every format.

    In the event batch ``binary`` has a record a row, with the entity as its key; its offset is that
    of the message times 2**20 plus the row's number in it; the message's bytes are the value of its
    first row. ``message`` has the message's own offset. A refused message is one row.

    How columns are read is said by :func:`~pipeline.ingest.arrowipc.read_message`. ``compressed``:
    whether bodies may be.
    """

    def __init__(self, contract: Contract, envelope: Envelope, *, compressed: bool = False) -> None:
        self.contract = contract
        self._envelope = envelope
        self._limits = Limits(max_rows=1 << ROW_BITS, compressed=compressed)
        self._schema = pa.schema([_arrow(field) for field in contract.fields])
        self._by_name = {field.name: field for field in contract.fields}

    def decode(self, batch: BinaryBatch) -> EventBatch:
        """Typed columns of all rows of ``batch``. Never raises for what a message holds."""
        admitted = self._envelope.admit(batch)
        keyless = (admitted == Reason.NO_KEY) | (admitted == Reason.MISROUTED)
        admitted[keyless & (batch.value_null == 0)] = Reason.OK
        messages = [self._open(batch, i, int(admitted[i])) for i in range(len(batch))]
        events, number = self._rows(batch, messages)
        refused = np.zeros(len(batch), dtype=np.uint8)
        bad = np.flatnonzero(events.reason)
        order = np.lexsort((events.reason[bad], number[bad]))[::-1]  # the first reason comes last
        refused[number[bad[order]]] = events.reason[bad[order]]
        broken = [i for i, m in enumerate(messages) if m.rows is not None and refused[i]]
        if broken:
            for i in broken:
                messages[i] = _Message(None, int(refused[i]))
            events, _ = self._rows(batch, messages)
        self._envelope.delete(events)
        return events

    def _open(self, batch: BinaryBatch, i: int, reason: int) -> _Message:
        if reason:
            return _Message(None, reason)
        value = batch.payload[batch.value_offsets[i] : batch.value_offsets[i + 1]]
        found = read_message(
            np.ascontiguousarray(value), self._schema, self._limits,
            closed=not self.contract.additional,
        )  # fmt: skip
        if isinstance(found, Reason):
            return _Message(None, found)
        if not found.num_rows:
            return _Message(None, Reason.EMPTY)
        for field in self.contract.fields:
            if field.type is FieldType.DECIMAL and not _fits(found.column(field.name)):
                return _Message(None, Reason.RANGE)
        return _Message(found, Reason.OK)

    def _rows(self, batch: BinaryBatch, messages: Sequence[_Message]) -> tuple[EventBatch, I64]:
        """Events of all rows with the reasons against each; the number of each one's message."""
        number = np.repeat(np.arange(len(messages)), [len(m) for m in messages])
        first = np.searchsorted(number, np.arange(len(messages)))
        reason = np.array([m.reason for m in messages], dtype=np.uint8)[number]
        parts = [
            (int(at), m.rows) for at, m in zip(first, messages, strict=True) if m.rows is not None
        ]
        columns: dict[str, Any] = {}
        valid: dict[str, U8] = {}
        strings: dict[str, Text] = {}
        for field in self.contract.fields:
            valid[field.name] = _valid(field.name, parts, len(number))
            if field.type in _TEXTS:
                text = _texts(field.name, parts, len(number))
                column = np.zeros(len(number), dtype=np.int64)
                if field.type is FieldType.UUID:
                    text = lower_uuids(text, valid[field.name], reason, column)
                else:
                    hash_spans(*text, column)
                strings[field.name], columns[field.name] = text, column
            else:
                columns[field.name] = _numbers(field, parts, len(number))
        message = batch.offsets[number]
        events = EventBatch(
            binary=batch,
            columns=columns,
            valid=valid,
            strings=strings,
            event_time=columns[self.contract.names[self._envelope.time]],
            reason=reason,
            fields=self._by_name,
            message=message,
        )
        position = np.arange(len(number)) - first[number]
        binary = self._binary(batch, events, number, position)
        return dataclasses.replace(events, binary=binary), number

    def _binary(
        self, batch: BinaryBatch, events: EventBatch, number: I64, position: I64
    ) -> BinaryBatch:
        """A record a row; NO_KEY, MISROUTED and reasons of its time go to ``events.reason``."""
        n, reason = len(number), events.reason
        bad = reason != Reason.OK
        keys = entity_keys(events, self._envelope.key)
        target = np.empty(n, dtype=np.int32)
        partition_of(keys.keys, keys.offsets, self._envelope.partitions, target)
        reason[~bad & (target != batch.source.partition % self._envelope.partitions)] = (
            Reason.MISROUTED
        )
        reason[~bad & (keys.valid == 0)] = Reason.NO_KEY
        given = batch.key_offsets - batch.key_offsets[0] + keys.offsets[-1]
        offsets = np.concatenate([keys.offsets, given[1:]])
        index = np.where(bad, n + number, np.arange(n))
        key_offsets = np.empty(n + 1, dtype=np.int64)
        taken_offsets(offsets, index, key_offsets)
        taken = np.empty(int(key_offsets[-1]), dtype=np.uint8)
        own = batch.keys[batch.key_offsets[0] : batch.key_offsets[-1]]
        take_bytes(np.concatenate([keys.keys, own]), offsets, index, key_offsets, taken)
        sizes = np.where(position == 0, np.diff(batch.value_offsets)[number], 0)
        ends = np.zeros(n + 1, dtype=np.int64)
        np.cumsum(sizes, out=ends[1:])
        binary = BinaryBatch(
            source=batch.source,
            payload=batch.payload,
            value_offsets=ends + (batch.value_offsets[0] if n else 0),
            value_null=batch.value_null[number],
            value_size=np.where(position == 0, batch.value_size[number], 0),
            keys=taken,
            key_offsets=key_offsets,
            key_null=np.where(bad, batch.key_null[number], keys.valid == 0).astype(np.uint8),
            offsets=(batch.offsets[number] << ROW_BITS) + position,
            timestamps_ms=batch.timestamps_ms[number],
            leader_epoch=batch.leader_epoch,
        )
        self._envelope.within_time(events.event_time, binary, reason)
        return binary


def _arrow(field: Field) -> Any:
    """A contract's field as the column that is wanted, with what says how to read it."""
    unit = "uuid" if field.type is FieldType.UUID else field.unit
    return pa.field(field.name, field.arrow_type, field.nullable, metadata={UNIT: unit})


def _words(column: Any) -> I64:
    """The 16-byte values of a decimal column as int64[n, 2], low word first."""
    count = 2 * (column.offset + len(column))
    words = np.frombuffer(column.buffers()[1], dtype=np.int64, count=count).reshape(-1, 2)
    return words[column.offset : column.offset + len(column)]


def _fits(column: Any) -> bool:
    """Whether every decimal that is not null is within int64."""
    low, high = _words(column).T
    fits = (low >> 63) == high
    return bool(fits.all() or fits[column.is_valid().to_numpy(zero_copy_only=False)].all())


def _valid(name: str, parts: Sequence[tuple[int, Any]], n: int) -> U8:
    out = np.zeros(n, dtype=np.uint8)
    for at, rows in parts:
        column = rows.column(name)
        out[at : at + len(column)] = (
            column.is_valid().to_numpy(zero_copy_only=False) if column.null_count else 1
        )
    return out


def _numbers(field: Field, parts: Sequence[tuple[int, Any]], n: int) -> Any:
    """int64[n], or float64[n]; whatever is there where a value is null."""
    dtype = np.dtype(np.float64 if field.type is FieldType.FLOAT64 else np.int64)
    out = np.zeros(n, dtype=dtype)
    for at, rows in parts:
        column = rows.column(field.name)
        place = out[at : at + len(column)]
        if field.type is FieldType.DECIMAL:
            place[:] = _words(column)[:, 0]
        elif field.type is FieldType.BOOL:
            place[:] = column.fill_null(False).to_numpy(zero_copy_only=False)
        else:
            size = dtype.itemsize
            place[:] = np.frombuffer(
                column.buffers()[1], dtype, count=len(column), offset=column.offset * size
            )
    return out


def _texts(name: str, parts: Sequence[tuple[int, Any]], n: int) -> Text:
    """Bytes, start and length; a row without a text has length 0."""
    start, length = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    data, total = [_NO_BYTES], 0
    for at, rows in parts:
        column = rows.column(name)
        _, bounds, text = column.buffers()
        count = column.offset + len(column) + 1  # the buffer may be longer, by any number of bytes
        ends = np.frombuffer(bounds, dtype=np.int32, count=count)[column.offset :]
        start[at : at + len(column)] = ends[:-1].astype(np.int64) + total
        length[at : at + len(column)] = np.diff(ends)
        if text is not None:
            data.append(np.frombuffer(text, dtype=np.uint8))
            total += len(data[-1])
    return np.concatenate(data), start, length
