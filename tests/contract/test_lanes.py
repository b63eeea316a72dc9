"""Records through both lanes: shapes, offsets, limits, seek and pause, on a mock cluster."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import confluent_kafka
import pytest

from pipeline.errors import (
    PipelineError,
)
from pipeline.ingest.batch import TopicPartition
from pipeline.ingest.lane import BEGINNING, END, Lane, LaneConfig, Position
from pipeline.ingest.mock import MockCluster
from pipeline.ingest.native import NativeLane
from pipeline.kernels.jit import JIT_ENABLED
from tests.contract.lanes import (
    DEADLINE_S,
    NOW_MS,
    PARTITIONS,
    Reader,
    Record,
    contents,
    numbered,
)


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
    open_reader: Callable[..., Reader], send: Callable[..., None], lane_topic: str
) -> None:
    for partition in range(PARTITIONS):
        send(numbered(1000 + partition), partition)
    batches = open_reader().records(4 * 1000 + 6)
    found = contents(batches)
    for partition in range(PARTITIONS):
        expected = numbered(1000 + partition)
        assert [(o, r) for o, r, _ in found[partition]] == list(enumerate(expected))


def test_gaps_in_offsets_are_kept(
    cluster: MockCluster, open_reader: Callable[..., Reader], lane_topic: str
) -> None:
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": cluster.brokers, "transactional.id": lane_topic}
    )
    producer.init_transactions(DEADLINE_S)
    for _ in range(3):
        producer.begin_transaction()
        for key, value in numbered(3):
            producer.produce(lane_topic, key=key, value=value, partition=1)
        producer.commit_transaction(DEADLINE_S)
    reader = open_reader()
    batches = reader.records(9)
    assert reader.read[TopicPartition(lane_topic, 1)] == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert batches[-1].next_offset == 11


def test_max_records_bounds_a_poll(
    open_reader: Callable[..., Reader], send: Callable[..., None]
) -> None:
    for partition in range(PARTITIONS):
        send(numbered(300), partition)
    reader = open_reader()
    sizes: list[int] = []
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
    lane_topic: str,
    start: int,
    first: int | None,
) -> None:
    source = TopicPartition(lane_topic, 0)
    send(numbered(10))
    reader = open_reader(lambda sources: dict.fromkeys(sources, 0) | {source: start})
    reader.until(lambda: reader.lane.at_end(source))
    assert reader.read[source] == ([] if first is None else list(range(first, 10)))
    send(numbered(2))
    reader.until(lambda: bool(reader.read[source]) and reader.read[source][-1] == 11)
    assert reader.read[source] == list(range(10 if first is None else first, 12))


def test_at_end_follows_the_log(
    open_reader: Callable[..., Reader], send: Callable[..., None], lane_topic: str
) -> None:
    source = TopicPartition(lane_topic, 1)
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
    open_reader: Callable[..., Reader], send: Callable[..., None], lane_topic: str
) -> None:
    source = TopicPartition(lane_topic, 0)
    send(numbered(50))
    reader = open_reader()
    while len(reader.read.get(source, [])) < 49:
        reader.poll(max_records=1)
        assert len(reader.read.get(source, [])) == 50 or not reader.lane.at_end(source)


def test_seek_drops_what_was_fetched_ahead(
    open_reader: Callable[..., Reader], send: Callable[..., None], lane_topic: str
) -> None:
    source = TopicPartition(lane_topic, 0)
    send(numbered(1000))
    reader = open_reader()
    reader.records(10, max_records=10)
    for target in (500, 3, 990, 0):
        reader.read[source].clear()
        reader.lane.seek(source, target)
        reader.until(lambda: len(reader.read[source]) >= 5, max_records=5)
        assert reader.read[source][:5] == list(range(target, target + 5))


def test_seek_to_logical_offsets(
    open_reader: Callable[..., Reader], send: Callable[..., None], lane_topic: str
) -> None:
    source = TopicPartition(lane_topic, 0)
    send(numbered(10))
    reader = open_reader()
    reader.records(10)
    reader.lane.seek(source, BEGINNING)
    reader.until(lambda: len(reader.read[source]) == 20)
    reader.lane.seek(source, END)
    reader.until(lambda: reader.lane.at_end(source))
    assert reader.read[source] == [*range(10), *range(10)]


def test_pause_keeps_the_position(
    open_reader: Callable[..., Reader], send: Callable[..., None], lane_topic: str
) -> None:
    paused, other = TopicPartition(lane_topic, 0), TopicPartition(lane_topic, 1)
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
    calls: tuple[Callable[[], None], ...] = (
        lambda: reader.lane.seek(stranger, 0),
        lambda: reader.lane.pause([stranger]),
        lambda: reader.lane.resume([stranger]),
    )
    for call in calls:
        with pytest.raises(PipelineError, match=r"elsewhere\[0\] is not assigned"):
            call()


def test_poll_waits_for_the_first_record_only(
    open_reader: Callable[..., Reader], send: Callable[..., None], lane_topic: str
) -> None:
    reader = open_reader()
    reader.until(lambda: all(reader.lane.at_end(TopicPartition(lane_topic, p)) for p in range(4)))
    send(numbered(1))
    begin = time.monotonic()
    assert sum(map(len, reader.lane.poll(10_000, 10_000))) == 1
    assert time.monotonic() - begin < 5


@pytest.mark.skipif(not JIT_ENABLED, reason="plain Python kernels allocate")
def test_the_native_lane_allocates_nothing_for_a_record(
    cluster: MockCluster, lane_topic: str, send: Callable[..., None]
) -> None:
    source, count = TopicPartition(lane_topic, 0), 10_000
    send(numbered(count))
    lane = NativeLane(LaneConfig(brokers=cluster.brokers, group=lane_topic))
    taken = 0

    def read_all() -> None:
        nonlocal taken
        end = taken + count
        while taken < end:
            taken += sum(map(len, lane.poll(count, 100)))
        lane.seek(source, 0)

    try:
        lane.subscribe(
            [lane_topic],
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


def test_partitions_are_read_without_a_group(
    open_lane: Callable[[], Lane], send: Callable[..., None], lane_topic: str
) -> None:
    """Beside a reader of a group of that name, which keeps its own; begun anew where it is told."""
    first, second = TopicPartition(lane_topic, 0), TopicPartition(lane_topic, 2)
    for partition in range(PARTITIONS):
        send(numbered(100), partition)
    lane = open_lane()
    read: dict[TopicPartition, list[int]] = {}

    def until(done: Callable[[], bool], max_records: int = 10_000) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            assert time.monotonic() < deadline, f"{read} {lane.health}"
            for batch in lane.poll(max_records, 50):
                read.setdefault(batch.source, []).extend(batch.offsets.tolist())

    lane.assign({first: Position(90), second: Position(97, 0)})
    until(lambda: lane.at_end(first) and lane.at_end(second))
    assert read == {first: list(range(90, 100)), second: [97, 98, 99]}
    read.clear()
    lane.assign({first: Position(20)})
    assert not lane.at_end(first)
    until(lambda: len(read.get(first, [])) >= 5, max_records=5)
    at = read[first][-1] + 1
    lane.assign({first: Position(at), second: Position(50)})
    until(lambda: lane.at_end(first) and lane.at_end(second))
    assert read == {first: list(range(20, 100)), second: list(range(50, 100))}
    read.clear()
    lane.assign({})
    for partition in range(PARTITIONS):
        send(numbered(3), partition)
    assert lane.poll(100, 300) == []
    with pytest.raises(PipelineError, match="not assigned"):
        lane.seek(first, 0)
