"""What is checked of a record in every format: size and key before its value is read, then whether
the key is the entity's, and the event time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.errors import DefinitionError
from pipeline.ingest.batch import BinaryBatch, EventBatch
from pipeline.ingest.entity import KEY_TYPES, match_keys
from pipeline.ingest.tombstones import accept as accept_tombstones
from pipeline.kernels import checks

__all__ = ["Decoder", "Envelope", "frozen"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


class Decoder(Protocol):
    """Reads the values of one stream's records. Holds nothing that a record could change.

    Whatever the bytes are, a record becomes a row of columns or one of the reasons, in their
    order. Raises :class:`~pipeline.errors.UnavailableError` where what it takes to read the batch
    cannot be had now: the batch is then to be read again later, all of it.
    """

    def decode(self, batch: BinaryBatch) -> EventBatch:
        """Typed columns of all records of ``batch``."""
        ...


class Envelope:
    """The checks that do not depend on the format.

    ``key``              the field or fields of the entity (:mod:`pipeline.ingest.entity`)
    ``time_field``       the event time: a TIMESTAMP
    ``partitions``       number of partitions of the topic, to see misrouted records; 1 where a
                         record may be in any
    ``max_future_ms``    how far an event time may be after the broker time
    ``earliest_ns``      earliest event time, ns since the Unix epoch
    ``max_value_bytes``  larger values are refused

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
        self.key = (key,) if isinstance(key, str) else tuple(key)
        for name in self.key:
            _required(contract, name, set(KEY_TYPES))
        self._key_types = [KEY_TYPES[contract.field(name).type] for name in self.key]
        self.time = contract.fields.index(_required(contract, time_field, {FieldType.TIMESTAMP}))
        if partitions < 1:
            raise DefinitionError(f"{contract.name}.partitions", "must be at least 1")
        self.partitions = partitions
        self._max_future_ms = max_future_ms
        self._earliest_ns = earliest_ns
        self._max_value_bytes = max_value_bytes

    def admit(self, batch: BinaryBatch) -> U8:
        """TOO_LARGE to MISROUTED, or OK: reasons uint8[n] of records whose values are not read."""
        reason = np.empty(len(batch), dtype=np.uint8)
        checks.admit(
            frozen(batch.value_offsets),
            frozen(batch.value_null),
            frozen(batch.value_size),
            frozen(batch.keys),
            frozen(batch.key_offsets),
            frozen(batch.key_null),
            batch.source.partition % self.partitions,
            self.partitions,
            self._max_value_bytes,
            reason,
        )
        return reason

    def finish(self, events: EventBatch) -> None:
        """KEY_MISMATCH, TS_FUTURE and TS_PAST of the records that are good so far; tombstones."""
        match_keys(events, self.key)
        self.within_time(events.event_time, events.binary, events.reason)
        self.delete(events)

    def delete(self, events: EventBatch) -> None:
        """Tombstones that delete an entity become good records."""
        accept_tombstones(events, self._key_types)

    def within_time(self, event_time: I64, batch: BinaryBatch, reason: U8) -> None:
        """TS_FUTURE and TS_PAST of the records that are good so far."""
        checks.within_time(
            event_time,
            frozen(batch.timestamps_ms),
            self._max_future_ms,
            self._earliest_ns,
            reason,
        )


def frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A read-only view: kernels compile once, whether a lane's buffers are writable or not."""
    view = array.view()
    view.setflags(write=False)
    return view


def _required(contract: Contract, name: str, types: set[FieldType]) -> Field:
    field = contract.field(name)
    where = f"{contract.name}.{name}"
    if field.type not in types:
        wanted = " or ".join(sorted(kind.value for kind in types))
        raise DefinitionError(where, f"is {field.type.value}, must be {wanted} here")
    if field.nullable:
        raise DefinitionError(where, "must not be nullable here")
    return field
