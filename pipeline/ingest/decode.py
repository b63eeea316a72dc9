"""JSON records to typed columns, with the reason for every record that cannot be applied."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.contracts.contract import Contract, FieldType
from pipeline.ingest.batch import BinaryBatch, EventBatch, Reason
from pipeline.ingest.envelope import Envelope, frozen
from pipeline.ingest.fieldtable import FieldTable
from pipeline.ingest.forms import Text, base64_bytes, lower_uuids
from pipeline.kernels import json as kernel

__all__ = ["JsonDecoder"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

_FORMS = {FieldType.UUID: lower_uuids, FieldType.BYTES: base64_bytes}
_NUMBER = re.compile(rb"[-+.0-9eE]+")


class JsonDecoder:
    """Decodes batches of one stream: one JSON object (RFC 8259, UTF-8) a record.

    Holds no state between batches, so the result does not depend on how a log is cut into them.

    The arguments are those of :class:`~pipeline.ingest.envelope.Envelope`.

    How values are read, by type (a JSON type that is not named here is ``SCHEMA``):

    * INT64: a number that is integral, also ``1.0`` or ``1e3`` (as JSON Schema has it); else
      SCHEMA. Beyond int64: RANGE.
    * DECIMAL: a number, exact. Nonzero digits beyond the scale, or beyond int64: RANGE.
    * FLOAT64: a number, the nearest float64 to the last bit. Beyond the largest one: RANGE.
    * BOOL, STRING: true or false; a string.
    * UUID: a string of 8-4-4-4-12 hexadecimal digits, read in lower case; else SCHEMA.
    * BYTES: a string of padded base64; else SCHEMA.
    * TIMESTAMP: RFC 3339 text or an integer of the field's unit. Text that is no such time:
      SCHEMA. Beyond int64 ns, finer than 1 ns, a leap second: RANGE.
    * null is SCHEMA unless the field is nullable; so is a required field that is missing.

    Raises :class:`DefinitionError` if the key or time field cannot serve as such.
    """

    def __init__(
        self,
        contract: Contract,
        key: str | Sequence[str],
        time_field: str,
        partitions: int,
        max_future_ms: int = 3_600_000,
        earliest_ns: int = 0,
        max_value_bytes: int = 1 << 20,
    ) -> None:
        envelope = Envelope(
            contract, key, time_field, partitions, max_future_ms, earliest_ns, max_value_bytes
        )
        self._set(contract, envelope)

    @classmethod
    def within(cls, contract: Contract, envelope: Envelope) -> JsonDecoder:
        """A decoder with these checks."""
        decoder = cls.__new__(cls)
        decoder._set(contract, envelope)
        return decoder

    def _set(self, contract: Contract, envelope: Envelope) -> None:
        self.contract = contract
        self._envelope = envelope
        self._fields = FieldTable.of(contract)
        self._by_name = {field.name: field for field in contract.fields}
        self._row = {name: row for row, name in enumerate(contract.names)}

    def decode(self, batch: BinaryBatch) -> EventBatch:
        """Typed columns of all records of ``batch``. Never raises for what a record holds."""
        n, fields = len(batch), self._fields
        payload, value_offsets = frozen(batch.payload), frozen(batch.value_offsets)
        reason = self._envelope.admit(batch)
        out = np.zeros((len(fields.table), n), dtype=np.int64)
        valid = np.ones((len(fields.table), n), dtype=np.uint8)
        start = np.zeros((len(fields.texts), n), dtype=np.int64)
        length = np.zeros((len(fields.texts), n), dtype=np.int64)
        side = np.empty(len(batch.payload), dtype=np.uint8)
        used = kernel.parse(
            payload,
            value_offsets,
            fields.table,
            fields.words,
            fields.masks,
            fields.names,
            fields.slots,
            not self.contract.additional,
            reason,
            out,
            out.view(np.float64),
            valid,
            start,
            length,
            side,
            np.empty(len(fields.table), dtype=np.int64),
            np.empty(len(fields.table) + 1, dtype=np.int64),
        )
        text = payload if used == 0 else np.concatenate([payload, side[:used]])
        columns = self._columns(payload, out, valid, reason)
        events = EventBatch(
            binary=batch,
            columns=columns,
            valid=dict(zip(self.contract.names, valid, strict=True)),
            strings={
                name: self._text(name, (text, start[row], length[row]), valid, reason, out)
                for row, name in enumerate(fields.texts)
            },
            event_time=out[self._envelope.time],
            reason=reason,
            fields=self._by_name,
        )
        self._envelope.finish(events)
        return events

    def _columns(
        self, payload: U8, out: I64, valid: U8, reason: U8
    ) -> dict[str, npt.NDArray[np.int64] | npt.NDArray[np.float64]]:
        columns: dict[str, npt.NDArray[np.int64] | npt.NDArray[np.float64]] = {}
        for index, field in enumerate(self.contract.fields):
            column = out[index]
            if field.type is FieldType.FLOAT64:
                columns[field.name] = column.view(np.float64)
                _read_floats(payload, column, valid[index], reason)
            else:
                columns[field.name] = column
        return columns

    def _text(self, name: str, text: Text, valid: U8, reason: U8, out: I64) -> Text:
        row = self._row[name]
        settle = _FORMS.get(self.contract.fields[row].type)
        return text if settle is None else settle(text, valid[row], reason, out[row])


def _read_floats(payload: U8, column: I64, valid: U8, reason: U8) -> None:
    """Replace the positions that the kernel left for floats by their values, in place."""
    if valid.max(initial=0) < kernel.UNDECIDED:
        return
    rows = np.flatnonzero(valid == kernel.UNDECIDED)
    buffer = payload.data
    values = column.view(np.float64)
    for row in rows.tolist():
        # What follows a number in a document that is not well-formed may look like more of it.
        match = _NUMBER.match(buffer, int(column[row])) if reason[row] != Reason.DECODE else None
        value = float(match[0]) if match else math.nan
        valid[row] = 1
        values[row] = value
        if math.isinf(value):
            values[row] = 0.0
            if reason[row] == Reason.OK:
                reason[row] = Reason.RANGE
