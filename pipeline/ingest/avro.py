"""Binary Avro records to typed columns."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.contracts.avro import AvroLayout
from pipeline.contracts.avroschema import Schema
from pipeline.contracts.contract import Contract, FieldType
from pipeline.errors import DefinitionError
from pipeline.ingest.avroprogram import Programs
from pipeline.ingest.batch import BinaryBatch, EventBatch
from pipeline.ingest.envelope import Envelope, frozen
from pipeline.ingest.registry import AvroSchemas, SchemaSource
from pipeline.kernels import avro as kernel
from pipeline.kernels.binary import UUID_LENGTH, schema_ids

__all__ = ["AvroDecoder"]

log = logging.getLogger(__name__)

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

_CONFLUENT_HEADER = 5  # magic byte and schema id


class AvroDecoder:
    """Decodes batches of one stream: one binary Avro record a message.

    With ``schemas`` messages are in Confluent's wire format, and each is read by the schema that it
    names; without, they are bare records of the contract's own schema. The order of checks is that
    of :class:`~pipeline.ingest.batch.Reason`; DECODE is a wrong first byte, a value that is cut off
    or followed by more, text that is not UTF-8, an int of more than 32 bits. SCHEMA is an id that
    the registry does not know, a symbol or a union's branch that the contract does not have, null
    where there must be none, a field that is missing and has no default. RANGE: a decimal or time
    beyond int64, or a decimal with more digits than its column.

    Raises :class:`DefinitionError` where the contract has no schema to read bare records with; in
    :meth:`decode` :class:`~pipeline.errors.RegistryUnavailableError`.
    """

    def __init__(
        self, contract: Contract, envelope: Envelope, schemas: AvroSchemas | None = None
    ) -> None:
        self.contract = contract
        self._envelope = envelope
        self._schemas = schemas
        self._programs = Programs(contract)
        self._entries: dict[int, int] = {}
        self._learning = threading.Lock()  # threads share what one of them has learnt
        self._own = -1
        self._by_name = {field.name: field for field in contract.fields}
        if schemas is None:
            if not isinstance(contract.layout, AvroLayout):
                raise DefinitionError(
                    contract.name, "bare Avro needs an Avro contract (.avsc), or a registry"
                )
            self._own = self._programs.add(contract.layout.schema)

    @classmethod
    def of_writer(cls, contract: Contract, envelope: Envelope, writer: Schema) -> AvroDecoder:
        """A decoder of bare records that all have another schema than the contract's."""
        decoder = cls(contract, envelope)
        decoder._own = decoder._programs.add(writer)
        return decoder

    @classmethod
    def registered(
        cls, contract: Contract, envelope: Envelope, source: SchemaSource
    ) -> AvroDecoder:
        """A decoder of Confluent's wire format."""
        return cls(contract, envelope, AvroSchemas(source))

    def decode(self, batch: BinaryBatch) -> EventBatch:
        """Typed columns of all records of ``batch``. Never raises for what a record holds."""
        n, programs = len(batch), self._programs
        payload, value_offsets = frozen(batch.payload), frozen(batch.value_offsets)
        reason = self._envelope.admit(batch)
        with self._learning:
            entry = self._entry(payload, value_offsets, reason)
            tables = programs.tables
        out = np.zeros((len(self.contract.fields), n), dtype=np.int64)
        valid = np.ones(out.shape, dtype=np.uint8)
        start = np.zeros((len(programs.texts), n), dtype=np.int64)
        length = np.zeros_like(start)
        side = np.empty(n * programs.uuids * UUID_LENGTH, dtype=np.uint8)
        used = kernel.scan(
            payload,
            value_offsets,
            _CONFLUENT_HEADER if self._schemas else 0,
            entry,
            tables.ops.reshape(-1),
            tables.jumps,
            tables.targets,
            programs.nullable,
            tables.symbols,
            len(tables.known),
            reason,
            out.reshape(-1),
            out.reshape(-1).view(np.float64),
            valid.reshape(-1),
            start.reshape(-1),
            length.reshape(-1),
            side,
            np.empty(kernel.STACK, dtype=np.int64),
        )
        text = payload
        if used or len(tables.known):
            text = np.concatenate([payload, tables.known, side[:used]])
        events = EventBatch(
            binary=batch,
            columns={
                field.name: column.view(np.float64) if field.type is FieldType.FLOAT64 else column
                for field, column in zip(self.contract.fields, out, strict=True)
            },
            valid=dict(zip(self.contract.names, valid, strict=True)),
            strings={
                name: (text, start[row], length[row]) for row, name in enumerate(programs.texts)
            },
            event_time=out[self._envelope.time],
            reason=reason,
            fields=self._by_name,
        )
        self._envelope.finish(events)
        return events

    def _entry(self, payload: U8, value_offsets: I64, reason: U8) -> I64:
        """Where the program of each record begins, -1 where there is none."""
        if self._schemas is None:
            return np.full(len(reason), self._own, dtype=np.int64)
        ids = np.empty(len(reason), dtype=np.int64)
        schema_ids(payload, value_offsets, reason, ids)
        numbers, where = np.unique(ids, return_inverse=True)
        wanted = [n for n in numbers.tolist() if n >= 0 and n not in self._entries]
        if wanted:
            self._learn(wanted, self._schemas)
        found = [self._entries.get(n, -1) for n in numbers.tolist()]
        return np.array(found, dtype=np.int64)[where.reshape(-1)]

    def _learn(self, numbers: Sequence[int], schemas: AvroSchemas) -> None:
        """Add the programs of these schemas; what was found is never asked for again."""
        for number, schema in schemas.find(numbers).items():
            if schema is not None:
                try:
                    self._entries[number] = self._programs.add(schema)
                except DefinitionError as error:
                    log.warning("records of schema id %d are refused: %s", number, error)
                    self._entries[number] = -1
