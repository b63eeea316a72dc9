"""One fetch: messages taken from librdkafka's queue and turned into columns."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.ingest.batch import BinaryBatch, TopicPartition
from pipeline.ingest.faults import PARTITION_EOF
from pipeline.ingest.rdkafka import Message, address_of, code_name
from pipeline.kernels import gather

__all__ = ["ErrorMessage", "Fetch", "Gathered", "Indexed"]

# Messages asked for in one call: few enough that the byte limit holds closely, many enough that
# the call costs nothing.
_CHUNK = 8192


@dataclass(frozen=True, slots=True)
class ErrorMessage:
    """A message that carries an error instead of a record.

    ``after_records``: it came after the last record of its partition in the same fetch. The end of
    a partition (PARTITION_EOF) has neither ``name`` nor ``text``.
    """

    code: int
    name: str
    text: str
    source: TopicPartition | None
    offset: int
    after_records: bool


@dataclass(frozen=True, slots=True)
class Gathered:
    """What one fetch brought."""

    batches: list[BinaryBatch]
    errors: list[ErrorMessage]


@dataclass(frozen=True, slots=True)
class Indexed:
    """The numbers of one message struct; sizes are None where the pointer is null."""

    partition: int
    offset: int
    timestamp_ms: int
    value_size: int | None
    key_size: int | None


class Fetch:
    """The messages of one poll, from librdkafka's queue to batches.

    Owns every message between :meth:`fill` and :meth:`gather` or :meth:`release`.
    """

    def __init__(self, rdkafka: Any, max_value_bytes: int, max_batch_bytes: int) -> None:
        self._rdkafka = rdkafka
        self._timestamp_function = address_of(rdkafka.rd_kafka_message_timestamp)
        self._destroy_function = address_of(rdkafka.rd_kafka_message_destroy)
        self._max_value_bytes = max_value_bytes
        self._max_batch_bytes = max_batch_bytes
        self._stale = False
        self._reserve(1)

    def _reserve(self, records: int) -> None:
        self._handles = np.zeros(records, np.int64)
        self._group_of = np.empty(records, np.int32)
        self._errors = np.empty(records, np.int64)
        self._fields = np.empty((gather.N_FIELDS, records), np.int64)
        self._groups = np.empty((gather.N_GROUP_FIELDS, records), np.int64)
        self._clear()

    def _clear(self) -> None:
        self._count = self._n_groups = self._n_errors = 0
        self._stale = False

    def fill(self, queue: int, max_records: int, timeout_ms: int) -> None:
        """Take messages from ``queue`` until ``max_records`` are in hand.

        Waits for the first only; callbacks run meanwhile.
        """
        if len(self._handles) < max_records and self._count == 0:
            self._reserve(max_records)
        limit = min(max_records, len(self._handles))
        wanted = min(_CHUNK, limit - self._count)
        taken = self._consume(queue, wanted, 0)
        if taken == 0 and timeout_ms > 0:
            # A larger count would wait for all of them or the whole timeout.
            taken = self._consume(queue, 1, timeout_ms)
            wanted = taken
        while taken == wanted > 0 and not self._stale and self._bytes() < self._max_batch_bytes:
            wanted = min(_CHUNK, limit - self._count)
            if wanted == 0:
                break
            taken = self._consume(queue, wanted, 0)

    def _consume(self, queue: int, wanted: int, timeout_ms: int) -> int:
        begin = self._count
        address = self._handles.ctypes.data + begin * self._handles.itemsize
        taken = int(self._rdkafka.rd_kafka_consume_batch_queue(queue, timeout_ms, address, wanted))
        if taken <= 0:
            return 0
        self._count = begin + taken
        if not self._stale:
            self._index(begin)
        return taken

    def _index(self, begin: int) -> None:
        self._n_groups, self._n_errors = gather.index_messages(
            self._handles[: self._count],
            begin,
            self._n_groups,
            self._n_errors,
            self._timestamp_function,
            self._max_value_bytes,
            self._group_of,
            self._fields,
            self._groups,
            self._errors,
        )

    def _bytes(self) -> int:
        return int(self._groups[gather.G_VALUE_BYTES, : self._n_groups].sum())

    def _sources(self) -> list[TopicPartition]:
        topics: dict[int, str] = {}
        for topic in self._groups[gather.G_TOPIC, : self._n_groups].tolist():
            if topic not in topics:
                topics[topic] = self._rdkafka.rd_kafka_topic_name(topic).decode()
        pairs = self._groups[: gather.G_PARTITION + 1, : self._n_groups].T.tolist()
        return [TopicPartition(topics[topic], partition) for topic, partition in pairs]

    def indexed(self) -> list[Indexed]:
        """Return what was read from each record's struct so far; follows none of its pointers."""
        rows = np.flatnonzero(self._group_of[: self._count] >= 0)
        partitions = self._groups[gather.G_PARTITION, self._group_of[rows]].tolist()
        fields = self._fields[:, rows].T.tolist()
        return [
            Indexed(
                partition=partition,
                offset=row[gather.F_OFFSET],
                timestamp_ms=row[gather.F_TIMESTAMP],
                value_size=row[gather.F_VALUE_SIZE] if row[gather.F_VALUE] else None,
                key_size=row[gather.F_KEY_SIZE] if row[gather.F_KEY] else None,
            )
            for partition, row in zip(partitions, fields, strict=True)
        ]

    def discard(self, revoked: Collection[TopicPartition]) -> None:
        """Release what earlier calls of this fill took from ``revoked``; rebalances call it.

        librdkafka itself takes back the revoked messages of the call in which it happens, but
        not those of calls before it; they would stand before the records of a new assignment.
        """
        for g, source in enumerate(self._sources()):
            if source in revoked:
                rows = np.flatnonzero(self._group_of[: self._count] == g)
                gather.release_messages(self._handles[rows], self._destroy_function)
                self._handles[rows] = 0
        self._stale = True

    def release(self) -> None:
        """Give every message back unread."""
        gather.release_messages(self._handles[: self._count], self._destroy_function)
        self._clear()

    def gather(self, owned: Collection[TopicPartition]) -> Gathered:
        """Return the records of ``owned`` partitions and all errors; drop the other records."""
        if self._count == 0:
            return Gathered([], [])
        if self._stale:
            self._n_groups = self._n_errors = 0
            self._index(0)
        sources = self._sources()
        errors = self._error_messages(sources)
        batches = self._batches(sources, owned)
        self._clear()
        return Gathered(batches, errors)

    def _error_messages(self, sources: list[TopicPartition]) -> list[ErrorMessage]:
        if not self._n_errors:
            return []
        ends = self._groups[gather.G_LAST, : self._n_groups].tolist()
        last = dict(zip(sources, ends, strict=True))
        topics: dict[int, str] = {}
        found = []
        for index in self._errors[: self._n_errors].tolist():
            handle = int(self._handles[index])
            message = Message.from_address(handle)
            source = None
            if message.rkt and message.partition >= 0:
                if message.rkt not in topics:
                    topics[message.rkt] = self._rdkafka.rd_kafka_topic_name(message.rkt).decode()
                source = TopicPartition(topics[message.rkt], message.partition)
            name = text = ""
            if message.err != PARTITION_EOF:  # there is one for each fetch that reaches the end
                name = code_name(self._rdkafka, message.err)
                said = self._rdkafka.rd_kafka_message_errstr(handle) or b""
                text = said.decode(errors="replace")
            found.append(
                ErrorMessage(
                    code=message.err,
                    name=name,
                    text=text,
                    source=source,
                    offset=message.offset,
                    after_records=source is None or index > last.get(source, -1),
                )
            )
        return found

    def _batches(
        self, sources: list[TopicPartition], owned: Collection[TopicPartition]
    ) -> list[BinaryBatch]:
        groups = self._groups[:, : self._n_groups]
        keep = np.fromiter((s in owned for s in sources), np.bool_, len(sources))
        sizes = groups[[gather.G_COUNT, gather.G_VALUE_BYTES, gather.G_KEY_BYTES]] * keep
        ends = np.cumsum(sizes, axis=1)
        starts = ends - sizes
        records, value_bytes, key_bytes = ends[:, -1].tolist() if len(sources) else (0, 0, 0)
        columns = _Columns.empty(records, value_bytes, key_bytes, len(sources))
        epochs = [
            self._rdkafka.rd_kafka_message_leader_epoch(int(self._handles[last]))
            for last in groups[gather.G_LAST].tolist()
        ]
        cursors = starts.copy()
        cursors[0, ~keep] = -1
        gather.copy_messages(
            self._handles[: self._count],
            self._destroy_function,
            self._max_value_bytes,
            self._group_of,
            self._fields,
            cursors,
            *columns.arrays,
        )
        kept = np.flatnonzero(keep).tolist()
        return [columns.batch(sources[g], g, starts[:, g], ends[:, g], epochs[g]) for g in kept]


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns of all partitions of a fetch, one behind the other."""

    payload: npt.NDArray[np.uint8]
    value_offsets: npt.NDArray[np.int64]
    value_null: npt.NDArray[np.uint8]
    value_size: npt.NDArray[np.int64]
    keys: npt.NDArray[np.uint8]
    key_offsets: npt.NDArray[np.int64]
    key_null: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    timestamps_ms: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, records: int, value_bytes: int, key_bytes: int, groups: int) -> _Columns:
        return cls(
            np.empty(value_bytes, np.uint8),
            np.empty(records + groups, np.int64),
            np.empty(records, np.uint8),
            np.empty(records, np.int64),
            np.empty(key_bytes, np.uint8),
            np.empty(records + groups, np.int64),
            np.empty(records, np.uint8),
            np.empty(records, np.int64),
            np.empty(records, np.int64),
        )

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        return (
            self.payload,
            self.value_offsets,
            self.value_null,
            self.value_size,
            self.keys,
            self.key_offsets,
            self.key_null,
            self.offsets,
            self.timestamps_ms,
        )

    def batch(
        self,
        source: TopicPartition,
        group: int,
        starts: npt.NDArray[np.int64],
        ends: npt.NDArray[np.int64],
        leader_epoch: int,
    ) -> BinaryBatch:
        first, value, key = starts.tolist()
        last, value_end, key_end = ends.tolist()
        rows = slice(first, last)
        bounds = slice(first + group, last + group + 1)
        return BinaryBatch(
            source=source,
            payload=self.payload[value:value_end],
            value_offsets=self.value_offsets[bounds],
            value_null=self.value_null[rows],
            value_size=self.value_size[rows],
            keys=self.keys[key:key_end],
            key_offsets=self.key_offsets[bounds],
            key_null=self.key_null[rows],
            offsets=self.offsets[rows],
            timestamps_ms=self.timestamps_ms[rows],
            leader_epoch=int(leader_epoch),
        )
