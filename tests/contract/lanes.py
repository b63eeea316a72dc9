"""What the suites of the lanes share: a reader with its log, records to send."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipeline.ingest.batch import BinaryBatch, TopicPartition
from pipeline.ingest.lane import Lane
from pipeline.ingest.native import NativeLane
from pipeline.ingest.portable import PortableLane

PARTITIONS = 4
DEADLINE_S = 20.0
# The mock cluster lets each rebalance wait for a second less than the session timeout.
QUICK = {"heartbeat.interval.ms": "100", "session.timeout.ms": "2000"}
NOW_MS = 1_700_000_000_000

Kind = type[NativeLane] | type[PortableLane]
Record = tuple[bytes | None, bytes | None]
Starts = Callable[[list[TopicPartition]], dict[TopicPartition, int]]


class Reader:
    """A lane under test and what it told its application."""

    def __init__(self, lane: Lane, topic: str, starts: Starts | None = None) -> None:
        self.lane = lane
        self.assigned: list[TopicPartition] = []
        self.events: list[tuple[str, list[TopicPartition]]] = []
        self.read: dict[TopicPartition, list[int]] = {}
        self.starts = starts or (lambda sources: dict.fromkeys(sources, 0))
        lane.subscribe([topic], on_assign=self.on_assign, on_revoke=self.on_revoke)

    def on_assign(self, sources: list[TopicPartition]) -> dict[TopicPartition, int]:
        self.events.append(("assign", sorted(sources)))
        offsets = self.starts(sources)
        self.assigned += sources
        for source in sources:
            self.read.setdefault(source, [])
        return offsets

    def on_revoke(self, sources: list[TopicPartition], lost: bool) -> None:
        self.events.append(("lost" if lost else "revoke", sorted(sources)))
        self.assigned = [s for s in self.assigned if s not in sources]

    def poll(self, max_records: int = 10_000, timeout_ms: int = 50) -> list[BinaryBatch]:
        batches = self.lane.poll(max_records, timeout_ms)
        for batch in batches:
            assert batch.source in self.assigned
            self.read[batch.source] += batch.offsets.tolist()
        return batches

    def until(self, done: Callable[[], bool], max_records: int = 10_000) -> list[BinaryBatch]:
        batches: list[BinaryBatch] = []
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            assert time.monotonic() < deadline, f"{self.events} {self.read} {self.lane.health}"
            batches += self.poll(max_records)
        return batches

    def join(self, partitions: int = PARTITIONS) -> None:
        self.until(lambda: len(self.assigned) == partitions)

    def records(self, count: int, max_records: int = 10_000) -> list[BinaryBatch]:
        return self.until(lambda: sum(map(len, self.read.values())) >= count, max_records)


def contents(batches: list[BinaryBatch]) -> dict[int, list[tuple[int, Record, int]]]:
    """(offset, (key, value), broker time) of every record by partition."""
    found: dict[int, list[tuple[int, Record, int]]] = {}
    for batch in batches:
        rows = found.setdefault(batch.source.partition, [])
        for i in range(len(batch)):
            record = (batch.key(i), batch.value(i))
            rows.append((int(batch.offsets[i]), record, int(batch.timestamps_ms[i])))
    return found


def numbered(n: int, size: int = 100) -> list[Record]:
    return [(b"%d" % i, b"%d".ljust(size, b".") % i) for i in range(n)]
