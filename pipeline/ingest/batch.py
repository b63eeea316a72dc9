"""The two columnar shapes of a batch: bytes from the broker, and typed events.

Neither holds a Python object per record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from pipeline.contracts.contract import Field

__all__ = ["BinaryBatch", "EventBatch", "Origin", "Reason", "Rejects", "TopicPartition"]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, order=True)
class TopicPartition:
    """One partition of one topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class Reason(IntEnum):
    """Why a record was refused; stored in dead letters by its lower-case name.

    The order is the order of the checks: a record that fails several is
    rejected for the first.
    """

    OK = 0
    TOO_LARGE = 1  # value longer than the stream's limit (its body is not copied), or key
    TOMBSTONE = 2  # null value that cannot delete its entity: no broker time (checked after 5)
    EMPTY = 3  # value of 0 bytes
    NO_KEY = 4  # null or empty message key
    MISROUTED = 5  # murmur2(key) % partitions is another partition
    DECODE = 6  # not well-formed in the stream's format
    SCHEMA = 7  # a required field is missing or null, or a value has the wrong type
    RANGE = 8  # a number or time does not fit its column's type
    KEY_MISMATCH = 9  # the message key is not the entity named in the value
    TS_FUTURE = 10  # event time beyond broker time + the stream's bound
    TS_PAST = 11  # event time before the stream's earliest accepted time
    EXPRESSION = 12  # an expression of a view failed on this record
    LATE = 13  # too late for every window of a view, or not after the entity's deletion
    NULL_VALUE = 14  # null in a column of which a view rejects nulls
    CORRUPT_ROW = 15  # the stored row of its entity fails its checks, see Partition
    TEXT_TOO_LONG = 16  # a string that a view keeps is longer than its ``max_bytes``


@dataclass(frozen=True, slots=True)
class BinaryBatch:
    """Records of one partition in offset order, as bytes in columns.

    ``n`` records; the buffers are owned by the batch and never written again.

    ``payload``        uint8[..]   values back to back
    ``value_offsets``  int64[n+1]  value ``i`` is ``payload[value_offsets[i]:value_offsets[i+1]]``
    ``value_null``     uint8[n]    1 where the value is null (a tombstone)
    ``value_size``     int64[n]    size on the wire; larger than the slice only where the value
                                   was over the limit and left out (``too_large``)
    ``keys``           uint8[..]   keys back to back
    ``key_offsets``    int64[n+1]
    ``key_null``       uint8[n]    1 where the key is null
    ``offsets``        int64[n]    Kafka offsets, strictly increasing, gaps allowed
    ``timestamps_ms``  int64[n]    broker time (CreateTime or LogAppendTime), -1 where absent
    ``leader_epoch``   epoch of the last record, -1 where the broker gives none
    """

    source: TopicPartition
    payload: U8
    value_offsets: I64
    value_null: U8
    value_size: I64
    keys: U8
    key_offsets: I64
    key_null: U8
    offsets: I64
    timestamps_ms: I64
    leader_epoch: int = -1

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def next_offset(self) -> int:
        """Offset after the last record of the batch (0 for an empty batch)."""
        return int(self.offsets[-1]) + 1 if len(self.offsets) else 0

    def value(self, i: int) -> bytes | None:
        """Value of record ``i`` as bytes; for dead letters and tests, not for the hot path."""
        if self.value_null[i]:
            return None
        return self.payload[self.value_offsets[i] : self.value_offsets[i + 1]].tobytes()

    def key(self, i: int) -> bytes | None:
        """Key of record ``i`` as bytes; for dead letters and tests, not for the hot path."""
        if self.key_null[i]:
            return None
        return self.keys[self.key_offsets[i] : self.key_offsets[i + 1]].tobytes()


@dataclass(frozen=True, slots=True)
class Rejects:
    """The records of a batch that cannot be applied, as columns.

    ``index``   int64[m]  row in the :class:`BinaryBatch`, increasing
    ``reason``  uint8[m]  a :class:`Reason`, never ``OK``
    """

    index: I64
    reason: U8

    def __len__(self) -> int:
        return len(self.index)

    def part(self, first: int, last: int) -> Rejects:
        """Rejects ``first`` to ``last``, without copying them."""
        return Rejects(self.index[first:last], self.reason[first:last])

    def counts(self) -> dict[str, int]:
        """Number of rejects by lower-case reason name; reasons without one are absent."""
        values, counts = np.unique(self.reason, return_counts=True)
        return {Reason(int(v)).name.lower(): int(c) for v, c in zip(values, counts, strict=True)}


_NO_REJECTS = Rejects(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint8))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where ``n`` rows of a repartition topic's messages come from.

    ``topics``       the source topics, and their ``topic_ids`` ("" where unknown)
    ``message``      int64[n]  offset of the message that the row is in
    ``topic``        int32[n]  place of its source topic in ``topics``; -1 where the row stands for
                               a whole message that cannot be read
    ``partition``    int32[n]  source partition
    ``offset``       int64[n]  source offset
    ``next_offset``  the offset after the last message
    ``absent``       field -> uint8[n], 1 where the message lacks it though its source has it: it
                     was sent for other views, and comes again with it
    """

    topics: tuple[str, ...]
    topic_ids: tuple[str, ...]
    message: I64
    topic: I32
    partition: I32
    offset: I64
    next_offset: int
    absent: Mapping[str, U8] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Typed events of one partition in offset order: a decoded :class:`BinaryBatch`.

    Holds **all** ``n`` records of its binary batch, rejected ones too, so that
    row ``i`` is the same record in both; ``reason[i]`` is ``Reason.OK`` where
    the record may be applied, and column values of other rows are undefined.

    ``columns``     field name -> int64[n] (integers, decimals scaled to integers, timestamps
                    in ns since the Unix epoch, booleans as 0/1), float64[n], or for strings,
                    uuids and bytes int64[n] holding the xxh64 (seed 0) of what ``strings`` has
    ``valid``       field name -> uint8[n], 1 where not null
    ``strings``     string, uuid or bytes field name -> (bytes uint8[..], start int64[n], length
                    int64[n]): unescaped UTF-8, 36 lower-case characters, the bytes themselves
    ``event_time``  int64[n], ns since the Unix epoch
    ``reason``      uint8[n], a :class:`Reason`
    ``fields``      field name -> its contract field; for conversions, kernels need none
    ``origin``      for rows of a repartition topic: a message there holds many. ``binary`` then
                    has a record a row: its key, the source's broker time, and as its offset the
                    one of the message times 2**20 plus the row's number in it
    ``message``     for rows of a source topic whose messages hold many: int64[n], the offset of
                    each row's message; the offset in ``binary`` is made of it in the same way
    """

    binary: BinaryBatch
    columns: Mapping[str, npt.NDArray[np.int64] | npt.NDArray[np.float64]]
    valid: Mapping[str, U8]
    strings: Mapping[str, tuple[U8, I64, I64]]
    event_time: I64
    reason: U8
    fields: Mapping[str, Field] = dataclasses.field(default_factory=dict)
    origin: Origin | None = None
    message: I64 | None = None

    def __len__(self) -> int:
        return len(self.reason)

    @property
    def source(self) -> TopicPartition:
        """The partition the events came from."""
        return self.binary.source

    @property
    def log_offsets(self) -> I64:
        """Offset in the log of each record, or of the message that it is a row of, int64[n]."""
        if self.origin is not None:
            return self.origin.message
        return self.binary.offsets if self.message is None else self.message

    @property
    def next_offset(self) -> int:
        """Offset in the log after the batch (0 for an empty one)."""
        if self.origin is not None:
            return self.origin.next_offset
        return int(self.log_offsets[-1]) + 1 if len(self) else 0

    @property
    def tombstones(self) -> U8:
        """uint8[n]: 1 where a record deletes its entity as of ``event_time``, with void columns.

        In a repartition topic a message without a value does; rows of others never do.
        """
        if self.origin is not None:
            own: U8 = ((self.origin.topic < 0) & (self.reason == 0)).view(np.uint8)
            return own
        found: U8 = ((self.binary.value_null != 0) & (self.reason == 0)).view(np.uint8)
        return found

    def rejects(self) -> Rejects:
        """The rows that cannot be applied."""
        if not self.reason.any():
            return _NO_REJECTS
        index = np.flatnonzero(self.reason).astype(np.int64)
        return Rejects(index, self.reason[index])
