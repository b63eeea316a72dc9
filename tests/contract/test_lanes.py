"""One suite for both lanes, against librdkafka's mock cluster."""

from __future__ import annotations

import itertools
import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import confluent_kafka
import pytest

from pipeline.errors import (
    ConfigurationError,
    LogTruncatedError,
    PipelineError,
    UnknownNameError,
)
from pipeline.ingest.batch import BinaryBatch, TopicPartition
from pipeline.ingest.lane import BEGINNING, END, Lane, LaneConfig
from pipeline.ingest.mock import MockCluster
from pipeline.ingest.native import NativeLane
from pipeline.ingest.portable import PortableLane

TOPIC = "events"
PARTITIONS = 4
SOURCES = [TopicPartition(TOPIC, p) for p in range(PARTITIONS)]
DEADLINE_S = 20.0
# The mock cluster lets each rebalance wait for a second less than the session timeout.
QUICK = {"heartbeat.interval.ms": "100", "session.timeout.ms": "2000"}
NOW_MS = 1_700_000_000_000

Record = tuple[bytes | None, bytes | None]
Starts = Callable[[list[TopicPartition]], dict[TopicPartition, int]]
_groups = itertools.count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[MockCluster]:
    with MockCluster({}) as cluster:
        yield cluster


@pytest.fixture
def topic(cluster: MockCluster) -> str:
    """A topic of its own for each test."""
    name = f"{TOPIC}-{next(_groups)}"
    cluster.create_topic(name, PARTITIONS)
    return name


@pytest.fixture(params=[NativeLane, PortableLane], ids=["native", "portable"])
def kind(request: pytest.FixtureRequest) -> type[NativeLane] | type[PortableLane]:
    return request.param  # type: ignore[no-any-return]


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


@pytest.fixture
def open_reader(
    cluster: MockCluster, topic: str, kind: type[NativeLane] | type[PortableLane]
) -> Iterator[Callable[..., Reader]]:
    opened: list[Lane] = []

    def make(starts: Starts | None = None, group: str = "", **options: int) -> Reader:
        config = LaneConfig(
            brokers=cluster.brokers,
            group=group or topic,
            properties=QUICK,
            **options,
        )
        opened.append(kind(config))
        return Reader(opened[-1], topic, starts)

    yield make
    for lane in opened:
        lane.close()


@pytest.fixture
def send(cluster: MockCluster, topic: str) -> Callable[..., None]:
    def produce(records: list[Record], partition: int = 0, first_ms: int = NOW_MS) -> None:
        producer = confluent_kafka.Producer(
            {"bootstrap.servers": cluster.brokers, "linger.ms": "5"}
        )
        for i, (key, value) in enumerate(records):
            producer.produce(
                topic, key=key, value=value, partition=partition, timestamp=first_ms + i
            )
        assert producer.flush(DEADLINE_S) == 0

    return produce


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


def test_every_shape_of_record(
    open_reader: Callable[..., Reader], send: Callable[..., None]
) -> None:
    records: list[Record] = [
        (b"key", b"value"),
        (None, b"no key"),
        (b"", b"empty key"),
        (b"tombstone", None),
        (b"empty", b""),
        (bytes(range(256)), bytes(range(255, -1, -1))),
        (None, None),
        (b"{braces}\x00", "\u00e9\U0001f600".encode()),
        (b"k" * 65_536, b"v" * 200_000),
    ]
    send(records)
    reader = open_reader()
    batches = reader.records(len(records))
    expected = [(i, record, NOW_MS + i) for i, record in enumerate(records)]
    assert contents(batches) == {0: expected}
    for batch in batches:
        assert batch.value_size.tolist() == [len(records[i][1] or b"") for i in batch.offsets]
        assert batch.leader_epoch == 0
        assert batch.value_offsets[0] == batch.key_offsets[0] == 0


def test_columns_have_the_types_of_the_contract(
    open_reader: Callable[..., Reader], send: Callable[..., None]
) -> None:
    send(numbered(3))
    (batch,) = open_reader().records(3)[:1]
    columns = {name: getattr(batch, name).dtype.name for name in batch.__slots__[1:-1]}
    assert columns == {
        "payload": "uint8",
        "value_offsets": "int64",
        "value_null": "uint8",
        "value_size": "int64",
        "keys": "uint8",
        "key_offsets": "int64",
        "key_null": "uint8",
        "offsets": "int64",
        "timestamps_ms": "int64",
    }


def test_values_over_the_limit_are_left_out(
    open_reader: Callable[..., Reader], send: Callable[..., None]
) -> None:
    send([(b"a", b"x" * 100), (b"b", b"y" * 101), (b"c", b"z" * 3)])
    batches = open_reader(max_value_bytes=100).records(3)
    rows = contents(batches)[0]
    assert [record for _, record, _ in rows] == [(b"a", b"x" * 100), (b"b", b""), (b"c", b"zzz")]
    assert [int(s) for b in batches for s in b.value_size] == [100, 101, 3]
    assert not any(int(n) for b in batches for n in b.value_null)


def test_several_partitions_in_offset_order(
    open_reader: Callable[..., Reader], send: Callable[..., None], topic: str
) -> None:
    for partition in range(PARTITIONS):
        send(numbered(1000 + partition), partition)
    batches = open_reader().records(4 * 1000 + 6)
    found = contents(batches)
    for partition in range(PARTITIONS):
        expected = numbered(1000 + partition)
        assert [(o, r) for o, r, _ in found[partition]] == list(enumerate(expected))


def test_gaps_in_offsets_are_kept(
    cluster: MockCluster, open_reader: Callable[..., Reader], topic: str
) -> None:
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": cluster.brokers, "transactional.id": topic}
    )
    producer.init_transactions(DEADLINE_S)
    for _ in range(3):
        producer.begin_transaction()
        for key, value in numbered(3):
            producer.produce(topic, key=key, value=value, partition=1)
        producer.commit_transaction(DEADLINE_S)
    reader = open_reader()
    batches = reader.records(9)
    assert reader.read[TopicPartition(topic, 1)] == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert batches[-1].next_offset == 11


def test_max_records_bounds_a_poll(
    open_reader: Callable[..., Reader], send: Callable[..., None]
) -> None:
    for partition in range(PARTITIONS):
        send(numbered(300), partition)
    reader = open_reader()
    sizes = []
    while sum(sizes) < 1200:
        sizes.append(sum(map(len, reader.poll(max_records=70))))
    assert max(sizes) <= 70
    assert {s.partition: offsets for s, offsets in reader.read.items()} == {
        p: list(range(300)) for p in range(PARTITIONS)
    }


def test_max_batch_bytes_bounds_a_poll(
    open_reader: Callable[..., Reader], send: Callable[..., None]
) -> None:
    count, size = 20_000, 100
    send(numbered(count, size))
    reader = open_reader(max_batch_bytes=size)
    reader.join()
    time.sleep(0.5)
    batches = reader.records(count, max_records=100_000)
    assert max(map(len, batches)) < count
    assert reader.read[batches[0].source] == list(range(count))


@pytest.mark.parametrize(
    ("start", "first"), [(0, 0), (7, 7), (10, None), (BEGINNING, 0), (END, None)]
)
def test_start_offsets(
    open_reader: Callable[..., Reader],
    send: Callable[..., None],
    topic: str,
    start: int,
    first: int | None,
) -> None:
    source = TopicPartition(topic, 0)
    send(numbered(10))
    reader = open_reader(lambda sources: dict.fromkeys(sources, 0) | {source: start})
    reader.until(lambda: reader.lane.at_end(source))
    assert reader.read[source] == ([] if first is None else list(range(first, 10)))
    send(numbered(2))
    reader.until(lambda: bool(reader.read[source]) and reader.read[source][-1] == 11)
    assert reader.read[source] == list(range(10 if first is None else first, 12))


def test_at_end_follows_the_log(
    open_reader: Callable[..., Reader], send: Callable[..., None], topic: str
) -> None:
    source = TopicPartition(topic, 1)
    reader = open_reader()
    reader.until(lambda: reader.lane.at_end(source))
    send(numbered(5), 1)
    reader.until(lambda: len(reader.read[source]) == 5)
    reader.until(lambda: reader.lane.at_end(source))
    reader.lane.seek(source, 2)
    assert not reader.lane.at_end(source)
    reader.until(lambda: reader.lane.at_end(source))
    assert reader.read[source] == [0, 1, 2, 3, 4, 2, 3, 4]


def test_at_end_is_false_while_records_are_left(
    open_reader: Callable[..., Reader], send: Callable[..., None], topic: str
) -> None:
    source = TopicPartition(topic, 0)
    send(numbered(50))
    reader = open_reader()
    while len(reader.read.get(source, [])) < 49:
        reader.poll(max_records=1)
        assert len(reader.read.get(source, [])) == 50 or not reader.lane.at_end(source)


def test_seek_drops_what_was_fetched_ahead(
    open_reader: Callable[..., Reader], send: Callable[..., None], topic: str
) -> None:
    source = TopicPartition(topic, 0)
    send(numbered(1000))
    reader = open_reader()
    reader.records(10, max_records=10)
    for target in (500, 3, 990, 0):
        reader.read[source].clear()
        reader.lane.seek(source, target)
        reader.until(lambda: len(reader.read[source]) >= 5, max_records=5)
        assert reader.read[source][:5] == list(range(target, target + 5))


def test_seek_to_logical_offsets(
    open_reader: Callable[..., Reader], send: Callable[..., None], topic: str
) -> None:
    source = TopicPartition(topic, 0)
    send(numbered(10))
    reader = open_reader()
    reader.records(10)
    reader.lane.seek(source, BEGINNING)
    reader.until(lambda: len(reader.read[source]) == 20)
    reader.lane.seek(source, END)
    reader.until(lambda: reader.lane.at_end(source))
    assert reader.read[source] == [*range(10), *range(10)]


def test_pause_keeps_the_position(
    open_reader: Callable[..., Reader], send: Callable[..., None], topic: str
) -> None:
    paused, other = TopicPartition(topic, 0), TopicPartition(topic, 1)
    send(numbered(1000), 0)
    reader = open_reader()
    reader.records(10, max_records=10)
    reader.lane.pause([paused])
    at_pause = len(reader.read[paused])
    send(numbered(100), 1)
    reader.until(lambda: len(reader.read[other]) == 100)
    assert len(reader.read[paused]) == at_pause
    reader.lane.resume([paused])
    reader.until(lambda: len(reader.read[paused]) == 1000)
    assert reader.read[paused] == list(range(1000))


def test_partitions_of_others_are_refused(open_reader: Callable[..., Reader]) -> None:
    reader = open_reader()
    reader.join()
    stranger = TopicPartition("elsewhere", 0)
    for call in (
        lambda: reader.lane.seek(stranger, 0),
        lambda: reader.lane.pause([stranger]),
        lambda: reader.lane.resume([stranger]),
    ):
        with pytest.raises(PipelineError, match=r"elsewhere\[0\] is not assigned"):
            call()


def test_two_readers_share_and_hand_over(
    open_reader: Callable[..., Reader], send: Callable[..., None]
) -> None:
    done: dict[TopicPartition, int] = {}

    def resume(sources: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {s: done.get(s, 0) for s in sources}

    for partition in range(PARTITIONS):
        send(numbered(2000), partition)
    first = open_reader(resume)
    second: Reader | None = None
    deadline = time.monotonic() + DEADLINE_S
    seen: dict[TopicPartition, list[int]] = {}
    while sum(map(len, seen.values())) < 2000 * PARTITIONS:
        assert time.monotonic() < deadline
        for reader in (first, second):
            if reader is not None:
                for batch in reader.poll(max_records=100, timeout_ms=5):
                    seen.setdefault(batch.source, []).extend(batch.offsets.tolist())
                    done[batch.source] = batch.next_offset
        if second is None and sum(map(len, seen.values())) > 1000:
            second = open_reader(resume)
        if second is not None and not second.assigned:
            first.lane.pause(first.assigned)  # so that something is left to hand over
        elif second is not None:
            first.lane.resume(first.assigned)
    assert second is not None
    assert len(first.assigned) == len(second.assigned) == PARTITIONS // 2
    assert all(offsets == list(range(2000)) for offsets in seen.values())
    kinds = [name for name, _ in first.events]
    assert kinds == ["assign", "revoke"]  # cooperative: what stays is not interrupted
    moved = sorted(second.assigned)
    second.lane.close()
    first.join()
    assert second.events == [("assign", moved), ("revoke", moved)]
    assert first.events[1:] == [("revoke", moved), ("assign", moved)]


def test_eager_groups_work_too(
    cluster: MockCluster,
    topic: str,
    kind: type[NativeLane] | type[PortableLane],
    send: Callable[..., None],
) -> None:
    send(numbered(10))
    config = LaneConfig(
        brokers=cluster.brokers,
        group=topic,
        properties={**QUICK, "partition.assignment.strategy": "range"},
    )
    lanes = [kind(config), kind(config)]
    try:
        first = Reader(lanes[0], topic)
        first.records(10)
        second = Reader(lanes[1], topic)
        deadline = time.monotonic() + DEADLINE_S
        while not (len(first.assigned) == len(second.assigned) == 2):
            assert time.monotonic() < deadline
            first.poll(timeout_ms=5)
            second.poll(timeout_ms=5)
        names = [name for name, _ in first.events]
        assert names == ["assign", "revoke", "assign"]
        assert len(first.events[1][1]) == PARTITIONS
    finally:
        for lane in lanes:
            lane.close()


class BoomError(Exception):
    """Raised by an application in a callback."""


def test_exception_in_on_assign_leaves_the_group_and_is_raised(
    open_reader: Callable[..., Reader], send: Callable[..., None], topic: str
) -> None:
    send(numbered(10))
    calls = itertools.count()

    def starts(sources: list[TopicPartition]) -> dict[TopicPartition, int]:
        if next(calls) == 0:
            raise BoomError("fenced")
        return dict.fromkeys(sources, 0)

    reader = open_reader(starts)
    with pytest.raises(BoomError, match="fenced"):
        reader.until(lambda: False)
    assert [name for name, _ in reader.events] == ["assign"]  # no revoke for what it never had
    assert reader.poll(timeout_ms=200) == []
    reader.lane.subscribe([topic], on_assign=reader.on_assign, on_revoke=reader.on_revoke)
    reader.records(10)
    assert reader.read[TopicPartition(topic, 0)] == list(range(10))


def test_exception_in_on_assign_of_more_gives_all_back(
    open_reader: Callable[..., Reader], send: Callable[..., None]
) -> None:
    first = open_reader()
    first.join()
    second = open_reader()
    deadline = time.monotonic() + DEADLINE_S
    while len(second.assigned) < 2:
        assert time.monotonic() < deadline
        first.poll(timeout_ms=5)
        second.poll(timeout_ms=5)

    def refuse(_sources: list[TopicPartition]) -> dict[TopicPartition, int]:
        raise BoomError("second lease")

    first.starts = refuse
    kept = sorted(first.assigned)
    second.lane.close()
    with pytest.raises(BoomError, match="second lease"):
        first.until(lambda: False)
    assert first.events[-1] == ("revoke", kept)


def test_exception_in_on_revoke_is_raised_by_close(open_reader: Callable[..., Reader]) -> None:
    reader = open_reader()
    reader.join()
    original = reader.on_revoke

    def refuse(sources: list[TopicPartition], lost: bool) -> None:
        original(sources, lost)
        raise BoomError("last commit")

    reader.lane.subscribe([reader.assigned[0].topic], on_assign=reader.on_assign, on_revoke=refuse)
    with pytest.raises(BoomError, match="last commit"):
        reader.lane.close()
    assert [name for name, _ in reader.events] == ["assign", "revoke"]
    reader.lane.close()


@pytest.mark.parametrize(("answer", "message"), [({}, "no offset"), ({0: -1000}, "-1000 is not")])
def test_bad_answers_of_on_assign_are_named(
    open_reader: Callable[..., Reader], topic: str, answer: dict[int, int], message: str
) -> None:
    reader = open_reader(lambda _: {TopicPartition(topic, p): o for p, o in answer.items()})
    with pytest.raises(PipelineError, match=message):
        reader.until(lambda: False)


def test_offset_beyond_the_log_is_named(
    open_reader: Callable[..., Reader], send: Callable[..., None], topic: str
) -> None:
    send(numbered(10))
    reader = open_reader(lambda sources: dict.fromkeys(sources, 1000))
    with pytest.raises(LogTruncatedError, match=rf"{topic}\[\d\] at offset 1000"):
        reader.until(lambda: False)


def test_a_log_that_moved_on_is_named(
    open_reader: Callable[..., Reader], send: Callable[..., None], topic: str
) -> None:
    source = TopicPartition(topic, 0)
    send(numbered(100, 100_000))  # more than the mock cluster keeps
    reader = open_reader()
    with pytest.raises(LogTruncatedError, match="at offset 0"):
        reader.until(lambda: False)
    low, high = reader.lane.watermarks(source)
    assert 0 < low < high == 100
    reader.lane.close()
    again = open_reader(lambda sources: dict.fromkeys(sources, BEGINNING))
    again.until(lambda: again.lane.at_end(source))
    assert again.read[source] == list(range(low, high))


def test_unknown_topic_is_named(
    cluster: MockCluster, kind: type[NativeLane] | type[PortableLane], topic: str
) -> None:
    lane = kind(
        LaneConfig(
            brokers=cluster.brokers,
            group=topic,
            properties={
                "topic.metadata.propagation.max.ms": "100",
                "allow.auto.create.topics": "false",
            },
        )
    )
    cluster.refuse_topic("missing")
    try:
        reader = Reader(lane, "missing")
        with pytest.raises(UnknownNameError, match="missing"):
            reader.until(lambda: False)
    finally:
        lane.close()


def test_commit_and_watermarks(
    cluster: MockCluster,
    open_reader: Callable[..., Reader],
    send: Callable[..., None],
    topic: str,
) -> None:
    source = TopicPartition(topic, 2)
    send(numbered(12), 2)
    reader = open_reader()
    reader.records(12)
    assert reader.lane.watermarks(source) == (0, 12)
    assert reader.lane.watermarks(TopicPartition(topic, 3)) == (0, 0)
    reader.lane.commit({})
    reader.lane.commit({source: 9})
    observer = confluent_kafka.Consumer({"bootstrap.servers": cluster.brokers, "group.id": topic})

    def stored() -> int:
        where = confluent_kafka.TopicPartition(topic, 2)
        return int(observer.committed([where], timeout=DEADLINE_S)[0].offset)

    reader.until(lambda: stored() == 9)
    observer.close()
    reader.lane.close()


def test_nothing_is_committed_by_itself(
    cluster: MockCluster, open_reader: Callable[..., Reader], send: Callable[..., None], topic: str
) -> None:
    send(numbered(10))
    reader = open_reader()
    reader.records(10)
    reader.lane.close()
    observer = confluent_kafka.Consumer({"bootstrap.servers": cluster.brokers, "group.id": topic})
    (stored,) = observer.committed([confluent_kafka.TopicPartition(topic, 0)], timeout=DEADLINE_S)
    observer.close()
    assert stored.offset == confluent_kafka.OFFSET_INVALID


def test_generation(
    open_reader: Callable[..., Reader], kind: type[NativeLane] | type[PortableLane]
) -> None:
    inside: list[int] = []
    reader = open_reader()
    starts = reader.starts

    def look(sources: list[TopicPartition]) -> dict[TopicPartition, int]:
        inside.append(reader.lane.generation())
        return starts(sources)

    reader.starts = look
    reader.join()
    if kind is PortableLane:
        assert inside == [-1]
    else:
        assert inside == [reader.lane.generation()]
        assert inside[0] >= 0


def test_brokers_down_and_up_again(
    kind: type[NativeLane] | type[PortableLane], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    with MockCluster({TOPIC: PARTITIONS}) as own:
        lane = kind(
            LaneConfig(
                brokers=own.brokers,
                group="g",
                properties={"statistics.interval.ms": "100", "reconnect.backoff.max.ms": "200"},
            )
        )
        try:
            reader = Reader(lane, TOPIC)
            reader.join()
            assert lane.health.connected
            own.stop_broker(1)
            reader.until(lambda: not lane.health.connected)
            assert lane.health.last_error
            assert sum(lane.health.errors.values()) >= 1
            own.start_broker(1)
            reader.until(lambda: lane.health.connected)
        finally:
            lane.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable.auto.commit", "true"),
        ("auto.offset.reset", "latest"),
        ("bootstrap.servers", "elsewhere:9092"),
        ("no.such.property", "1"),
        ("fetch.wait.max.ms", "minus one"),
    ],
)
def test_wrong_properties_are_named(
    kind: type[NativeLane] | type[PortableLane], name: str, value: str
) -> None:
    with pytest.raises(ConfigurationError, match=name.replace(".", r"\.")):
        kind(LaneConfig(brokers="127.0.0.1:1", group="g", properties={name: value}))


def test_a_closed_lane_says_so(open_reader: Callable[..., Reader]) -> None:
    reader = open_reader()
    reader.join()
    reader.lane.close()
    reader.lane.close()
    assert [name for name, _ in reader.events] == ["assign", "revoke"]
    with pytest.raises(PipelineError, match="closed"):
        reader.lane.poll(1, 0)


def test_poll_waits_for_the_first_record_only(
    open_reader: Callable[..., Reader], send: Callable[..., None], topic: str
) -> None:
    reader = open_reader()
    reader.until(lambda: all(reader.lane.at_end(TopicPartition(topic, p)) for p in range(4)))
    send(numbered(1))
    begin = time.monotonic()
    assert sum(map(len, reader.lane.poll(10_000, 10_000))) == 1
    assert time.monotonic() - begin < 5


def test_the_native_lane_allocates_nothing_for_a_record(
    cluster: MockCluster, topic: str, send: Callable[..., None]
) -> None:
    source, count = TopicPartition(topic, 0), 10_000
    send(numbered(count))
    lane = NativeLane(LaneConfig(brokers=cluster.brokers, group=topic))
    taken = 0

    def read_all() -> None:
        nonlocal taken
        end = taken + count
        while taken < end:
            taken += sum(map(len, lane.poll(count, 100)))
        lane.seek(source, 0)

    try:
        lane.subscribe(
            [topic],
            on_assign=lambda sources: dict.fromkeys(sources, 0),
            on_revoke=lambda sources, lost: None,
        )
        for _ in range(3):
            read_all()
        blocks, resident = sys.getallocatedblocks(), _resident_bytes()
        for _ in range(30):
            read_all()
        assert sys.getallocatedblocks() - blocks < 500
        assert _resident_bytes() - resident < 30 * count * 100 / 2  # payloads alone, if leaked
    finally:
        lane.close()


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_closing_leaves_no_thread_behind(
    cluster: MockCluster, kind: type[NativeLane] | type[PortableLane], topic: str
) -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = threads()
    for _ in range(3):
        lane = kind(LaneConfig(brokers=cluster.brokers, group=topic, properties=QUICK))
        Reader(lane, topic).join()
        assert threads() > before
        lane.close()
    assert threads() == before
