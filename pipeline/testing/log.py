"""A log in memory, and the lane and publisher that read and write it: Kafka without a server."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.errors import BrokerUnavailableError, LogTruncatedError
from pipeline.ingest.batch import BinaryBatch, TopicPartition
from pipeline.ingest.lane import BEGINNING, END, Health, OnAssign, OnRevoke, Position
from pipeline.kernels.hash import partition_of

__all__ = ["LoggedRecord", "MemoryLane", "MemoryLog", "MemoryPublisher"]


@dataclass(frozen=True, slots=True)
class LoggedRecord:
    """One record: ``offset`` in its partition, broker time in ms."""

    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int


@dataclass
class MemoryLog:
    """Topics with partitions; append-only. ``generation`` counts the group's rebalances."""

    topics: dict[str, list[list[LoggedRecord]]] = field(default_factory=dict)
    generation: int = 0
    committed: dict[TopicPartition, int] = field(default_factory=dict)
    starts: dict[TopicPartition, int] = field(default_factory=dict)

    def create(self, topic: str, partitions: int) -> None:
        """Add an empty topic."""
        self.topics[topic] = [[] for _ in range(partitions)]

    def append(
        self, topic: str, key: bytes | None, value: bytes | None, timestamp_ms: int,
        partition: int | None = None, skip: int = 0,
    ) -> TopicPartition:  # fmt: skip
        """Add a record, to the partition of its key unless told; ``skip`` leaves an offset gap."""
        partitions = self.topics[topic]
        if partition is None:
            data = np.frombuffer(key or b"", dtype=np.uint8)
            out = np.empty(1, dtype=np.int32)
            partition_of(data, np.array([0, len(data)], dtype=np.int64), len(partitions), out)
            partition = int(out[0])
        records = partitions[partition]
        offset = records[-1].offset + 1 if records else 0
        records.append(LoggedRecord(offset + skip, key, value, timestamp_ms))
        return TopicPartition(topic, partition)

    def truncate(self, source: TopicPartition, offset: int) -> None:
        """Drop what is before ``offset``, as retention does."""
        records = self.topics[source.topic][source.partition]
        records[:] = [r for r in records if r.offset >= offset]
        self.starts[source] = offset

    def records(self, source: TopicPartition) -> list[LoggedRecord]:
        """The records of one partition."""
        return self.topics[source.topic][source.partition]


class MemoryLane:
    """A :class:`~pipeline.ingest.lane.Lane` over a :class:`MemoryLog`.

    ``share`` picks the partitions this lane is given: (its number, of how many). A call of
    :meth:`rebalance` moves them, as another worker's coming and going does.
    """

    def __init__(self, log: MemoryLog, share: tuple[int, int] = (0, 1)) -> None:
        self._log = log
        self._share = share
        self._topics: list[str] = []
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._assign: OnAssign | None = None
        self._revoke: OnRevoke | None = None
        self._due = False
        self._generation = -1

    @property
    def health(self) -> Health:
        """Always connected."""
        return Health(True, "", {})

    def subscribe(self, topics: Sequence[str], *, on_assign: OnAssign, on_revoke: OnRevoke) -> None:
        """Partitions are assigned by the next :meth:`poll`."""
        self._topics = list(topics)
        self._assign, self._revoke = on_assign, on_revoke
        self._due = True

    def assign(self, starts: Mapping[TopicPartition, Position]) -> None:
        """Read exactly these."""
        self._positions = {s: self._resolve(s, start.offset) for s, start in starts.items()}

    def rebalance(self, share: tuple[int, int]) -> None:
        """Own another share from the next :meth:`poll` on."""
        self._share = share
        self._due = True

    def poll(self, max_records: int, timeout_ms: int) -> list[BinaryBatch]:
        """Up to ``max_records`` records, whole partitions first; never waits."""
        if self._due:
            self._rebalance()
        batches: list[BinaryBatch] = []
        left = max_records
        for source, position in self._positions.items():
            if left <= 0 or source in self._paused:
                continue
            held = self._log.records(source)
            first = bisect_left(held, position, key=lambda r: r.offset)
            records = held[first : first + left]
            if records:
                self._positions[source] = records[-1].offset + 1
                batches.append(binary_batch(source, records))
                left -= len(records)
        return batches

    def seek(self, source: TopicPartition, offset: int, leader_epoch: int = -1) -> None:
        """Continue at ``offset``; a log in memory has one epoch."""
        self._positions[source] = self._resolve(source, offset)

    def pause(self, sources: Iterable[TopicPartition]) -> None:
        """Leave these out of :meth:`poll`."""
        self._paused.update(sources)

    def resume(self, sources: Iterable[TopicPartition]) -> None:
        """Read these again."""
        self._paused.difference_update(sources)

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Kept in the log's ``committed``, as a broker does."""
        self._log.committed.update(offsets)

    def committed(self, source: TopicPartition) -> int:
        """What any lane over this log committed."""
        return self._log.committed.get(source, -1)

    def watermarks(self, source: TopicPartition) -> tuple[int, int]:
        """Where the log starts, which is before any gap, and the offset after its last record."""
        records, start = self._log.records(source), self._log.starts.get(source, 0)
        return start, records[-1].offset + 1 if records else start

    def generation(self) -> int:
        """The group's generation when this lane last took part in a rebalance."""
        return self._generation

    def at_end(self, source: TopicPartition) -> bool:
        """Whether everything was returned."""
        return self._positions[source] >= self.watermarks(source)[1]

    def held_back(self, source: TopicPartition) -> tuple[int, int] | None:
        """A log in memory has no transactions."""
        return None

    def close(self) -> None:
        """Give the partitions back."""
        owned = sorted(self._positions)
        self._positions.clear()
        if owned and self._revoke is not None:
            self._revoke(owned, False)

    def crash(self) -> None:
        """Vanish: nothing is revoked, no partition is closed."""
        self._positions.clear()
        self._topics.clear()
        self._assign = self._revoke = None

    def _rebalance(self) -> None:
        self._due = False
        self._log.generation += 1
        self._generation = self._log.generation
        number, of = self._share
        wanted = [
            TopicPartition(topic, p)
            for topic in self._topics
            for p in range(len(self._log.topics[topic]))
            if p % of == number
        ]
        gone = [s for s in self._positions if s not in wanted]
        for source in gone:
            del self._positions[source]
        if gone and self._revoke is not None:
            self._revoke(gone, False)
        new = [s for s in wanted if s not in self._positions]
        if new and self._assign is not None:
            starts = self._assign(new)
            for source in new:
                start = starts[source]
                offset = start.offset if isinstance(start, Position) else start
                self._positions[source] = self._resolve(source, offset)
            self._paused.difference_update(new)

    def _resolve(self, source: TopicPartition, offset: int) -> int:
        low, high = self.watermarks(source)
        if offset in (BEGINNING, END):
            return low if offset == BEGINNING else high
        if not low <= offset <= high:
            raise LogTruncatedError(f"{source}: offset {offset} is outside {low} to {high}")
        return offset


class MemoryPublisher:
    """What a :class:`~pipeline.produce.publisher.Publisher` sent, by topic.

    Messages for a topic of ``log`` are appended there (at the time that ``clock_ms`` tells), all
    others are kept in ``sent``. ``fail_next`` makes the next flush fail as a broker that is gone
    does, after ``fail_after`` messages were taken.
    """

    def __init__(
        self, log: MemoryLog | None = None, clock_ms: Callable[[], int] = lambda: -1
    ) -> None:
        self.sent: dict[str, list[tuple[int | None, bytes | None, bytes]]] = {}
        self.fail_next = False
        self.fail_after = 0
        self._log = log or MemoryLog()
        self._clock_ms = clock_ms
        self._waiting: list[tuple[str, tuple[int | None, bytes | None, bytes]]] = []
        self._delivered = 0

    def publish(
        self, topic: str, value: bytes, *, key: bytes | None = None, partition: int | None = None
    ) -> None:
        """Queue one message."""
        self._waiting.append((topic, (partition, key, value)))

    def publish_many(self, topic: str, values: Sequence[bytes], keys: Sequence[bytes]) -> None:
        """Queue many messages."""
        for value, key in zip(values, keys, strict=True):
            self.publish(topic, value, key=key)

    def ticket(self) -> int:
        """The number of messages so far."""
        return self._delivered + len(self._waiting)

    def acknowledged(self, ticket: int) -> bool:
        """Whether they are delivered: no sooner than somebody waits for them."""
        return ticket <= self._delivered

    def wait(self, ticket: int) -> None:
        """Deliver what was queued before ``ticket`` was taken."""
        count = max(0, ticket - self._delivered)
        later, self._waiting = self._waiting[count:], self._waiting[:count]
        try:
            self.flush()
        except BrokerUnavailableError:
            self._delivered += len(later)  # gone, as all that a producer had queued
            raise
        self._waiting = later

    def flush(self) -> None:
        """Deliver what is queued."""
        waiting, self._waiting = self._waiting, []
        self._delivered += len(waiting)
        failing, self.fail_next = self.fail_next, False
        for topic, message in waiting[: self.fail_after] if failing else waiting:
            self._deliver(topic, *message)
        if failing:
            raise BrokerUnavailableError(
                "the broker did not take the messages (asked for by a test)"
            )

    def close(self) -> None:
        """Nothing to close."""

    def _deliver(self, topic: str, partition: int | None, key: bytes | None, value: bytes) -> None:
        if topic in self._log.topics:
            self._log.append(topic, key, value, self._clock_ms(), partition)
        else:
            self.sent.setdefault(topic, []).append((partition, key, value))


def binary_batch(source: TopicPartition, records: Sequence[LoggedRecord]) -> BinaryBatch:
    """Records as the columns a lane returns."""
    values = [r.value or b"" for r in records]
    keys = [r.key or b"" for r in records]
    return BinaryBatch(
        source=source,
        payload=np.frombuffer(b"".join(values), dtype=np.uint8).copy(),
        value_offsets=_ends(values),
        value_null=np.array([r.value is None for r in records], dtype=np.uint8),
        value_size=np.array([len(v) for v in values], dtype=np.int64),
        keys=np.frombuffer(b"".join(keys), dtype=np.uint8).copy(),
        key_offsets=_ends(keys),
        key_null=np.array([r.key is None for r in records], dtype=np.uint8),
        offsets=np.array([r.offset for r in records], dtype=np.int64),
        timestamps_ms=np.array([r.timestamp_ms for r in records], dtype=np.int64),
    )


def _ends(parts: Sequence[bytes]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64)
