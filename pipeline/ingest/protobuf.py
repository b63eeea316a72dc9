"""Protobuf messages to typed columns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.contracts.contract import Contract, FieldType
from pipeline.ingest.batch import BinaryBatch, EventBatch, Reason
from pipeline.ingest.envelope import Envelope, frozen
from pipeline.ingest.prototable import ProtoTable
from pipeline.kernels import protobuf as kernel
from pipeline.kernels.binary import UUID_LENGTH
from pipeline.kernels.protowire import MAX_GROUPS, confluent_starts

__all__ = ["ProtobufDecoder"]

I64 = npt.NDArray[np.int64]


class ProtobufDecoder:
    """Decodes batches of one stream: one Protobuf message a record.

    ``confluent``: messages are in Confluent's wire format. The schema id is not looked up, as
    Protobuf reads old and new messages alike; the message's indexes must be those of the contract's
    message in its own file, else SCHEMA.

    The order of checks is that of :class:`~pipeline.ingest.batch.Reason`. DECODE: not well-formed
    (cut off, a field number 0, a group that does not end, text that is not UTF-8). SCHEMA: a field
    on another wire type than its own, an enum's number that has no name in the contract, a message
    that must be there, a Timestamp that is none. RANGE: beyond int64. Unknown fields are skipped,
    the last one of a field wins, messages that come in pieces are merged. What is skipped is not
    looked into.

    Raises :class:`~pipeline.errors.DefinitionError` if the contract is not one of Protobuf.
    """

    def __init__(self, contract: Contract, envelope: Envelope, *, confluent: bool = False) -> None:
        self.contract = contract
        self._envelope = envelope
        self._confluent = confluent
        self._table = ProtoTable.of(contract)
        self._by_name = {field.name: field for field in contract.fields}

    def decode(self, batch: BinaryBatch) -> EventBatch:
        """Typed columns of all records of ``batch``. Never raises for what a record holds."""
        n, table = len(batch), self._table
        payload, value_offsets = frozen(batch.payload), frozen(batch.value_offsets)
        reason = self._envelope.admit(batch)
        starts: I64 = value_offsets[:-1]
        if self._confluent:
            starts = np.empty(n, dtype=np.int64)
            confluent_starts(payload, value_offsets, table.path, reason, starts)
        out = np.empty((len(self.contract.fields), n), dtype=np.int64)
        valid = np.empty(out.shape, dtype=np.uint8)
        start = np.empty((len(table.texts), n), dtype=np.int64)
        length = np.empty_like(start)
        side = np.empty(n * table.uuids * UUID_LENGTH, dtype=np.uint8)
        kernel.scan(
            payload,
            frozen(starts),
            value_offsets,
            table.nodes,
            table.direct,
            table.slots,
            table.entries,
            table.owner,
            table.rows,
            table.initial,
            table.symbols,
            len(table.known),
            reason,
            out.reshape(-1),
            valid.reshape(-1),
            start.reshape(-1),
            length.reshape(-1),
            side,
            np.empty(len(table.nodes), dtype=np.uint8),
            np.empty(table.oneofs, dtype=np.int64),
            np.empty((len(table.nodes), 2), dtype=np.int64),
            np.empty((len(table.nodes), 2), dtype=np.int64),
            np.empty(MAX_GROUPS, dtype=np.int64),
        )
        for row in table.absent_uuids:
            # An absent string is "", which is no uuid.
            lost = (valid[row] == 0) & ((reason == Reason.OK) | (reason > Reason.SCHEMA))
            reason[lost] = Reason.SCHEMA
        text = payload
        if len(table.known) or len(side):
            text = np.concatenate([payload, table.known, side])
        events = EventBatch(
            binary=batch,
            columns={
                field.name: column.view(np.float64) if field.type is FieldType.FLOAT64 else column
                for field, column in zip(self.contract.fields, out, strict=True)
            },
            valid=dict(zip(self.contract.names, valid, strict=True)),
            strings={name: (text, start[row], length[row]) for row, name in enumerate(table.texts)},
            event_time=out[self._envelope.time],
            reason=reason,
            fields=self._by_name,
        )
        self._envelope.finish(events)
        return events
