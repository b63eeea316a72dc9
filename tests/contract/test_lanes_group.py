"""Group membership and errors of both lanes, on a mock cluster."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from pathlib import Path

import confluent_kafka
import pytest

from pipeline.errors import (
    ConfigurationError,
    LogTruncatedError,
    PipelineError,
    UnknownNameError,
)
from pipeline.ingest.batch import TopicPartition
from pipeline.ingest.lane import BEGINNING, LaneConfig
from pipeline.ingest.mock import MockCluster
from pipeline.ingest.portable import PortableLane
from tests.contract.lanes import (
    DEADLINE_S,
    PARTITIONS,
    QUICK,
    Kind,
    Reader,
    numbered,
)


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


def test_a_pause_ends_with_the_assignment(
    open_reader: Callable[..., Reader], send: Callable[..., None]
) -> None:
    """A partition that was paused, lost and given again is read: nobody would resume it."""
    first = open_reader()
    first.until(lambda: len(first.assigned) == PARTITIONS)
    second = open_reader()
    first.lane.pause(first.assigned)
    deadline = time.monotonic() + DEADLINE_S
    while len(second.assigned) < PARTITIONS // 2:
        assert time.monotonic() < deadline
        first.poll(timeout_ms=5)
        second.poll(timeout_ms=5)
    moved = list(second.assigned)
    second.lane.close()
    first.until(lambda: len(first.assigned) == PARTITIONS)
    for source in moved:
        send(numbered(10), source.partition)
    first.until(lambda: all(len(first.read[s]) == 10 for s in moved))


def test_eager_groups_work_too(
    cluster: MockCluster,
    lane_topic: str,
    kind: Kind,
    send: Callable[..., None],
) -> None:
    send(numbered(10))
    config = LaneConfig(
        brokers=cluster.brokers,
        group=lane_topic,
        properties={**QUICK, "partition.assignment.strategy": "range"},
    )
    lanes = [kind(config), kind(config)]
    try:
        first = Reader(lanes[0], lane_topic)
        first.records(10)
        second = Reader(lanes[1], lane_topic)
        deadline = time.monotonic() + DEADLINE_S
        while not (len(first.assigned) == len(second.assigned) == 2):
            assert time.monotonic() < deadline
            first.poll(timeout_ms=5)
            second.poll(timeout_ms=5)
        names = [name for name, _ in first.events]
        assert names == ["assign", "revoke"] * (len(names) // 2) + ["assign"]
        assert len(names) >= 3
        held = [sources for _, sources in first.events]
        assert held[0] == held[1] == sorted([*first.assigned, *second.assigned])
    finally:
        for lane in lanes:
            lane.close()


class BoomError(Exception):
    """Raised by an application in a callback."""


def test_exception_in_on_assign_leaves_the_group_and_is_raised(
    open_reader: Callable[..., Reader], send: Callable[..., None], lane_topic: str
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
    reader.lane.subscribe([lane_topic], on_assign=reader.on_assign, on_revoke=reader.on_revoke)
    reader.records(10)
    assert reader.read[TopicPartition(lane_topic, 0)] == list(range(10))


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
    open_reader: Callable[..., Reader], lane_topic: str, answer: dict[int, int], message: str
) -> None:
    reader = open_reader(lambda _: {TopicPartition(lane_topic, p): o for p, o in answer.items()})
    with pytest.raises(PipelineError, match=message):
        reader.until(lambda: False)


def test_offset_beyond_the_log_is_named(
    open_reader: Callable[..., Reader], send: Callable[..., None], lane_topic: str
) -> None:
    send(numbered(10))
    reader = open_reader(lambda sources: dict.fromkeys(sources, 1000))
    with pytest.raises(LogTruncatedError, match=rf"{lane_topic}\[\d\] at offset 1000"):
        reader.until(lambda: False)


def test_a_log_that_moved_on_is_named(
    open_reader: Callable[..., Reader], send: Callable[..., None], lane_topic: str
) -> None:
    source = TopicPartition(lane_topic, 0)
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


def test_unknown_topic_is_named(cluster: MockCluster, kind: Kind, lane_topic: str) -> None:
    lane = kind(
        LaneConfig(
            brokers=cluster.brokers,
            group=lane_topic,
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
    lane_topic: str,
) -> None:
    source = TopicPartition(lane_topic, 2)
    send(numbered(12), 2)
    reader = open_reader()
    reader.records(12)
    assert reader.lane.watermarks(source) == (0, 12)
    assert reader.lane.watermarks(TopicPartition(lane_topic, 3)) == (0, 0)
    assert reader.lane.committed(source) == -1
    reader.lane.commit({})
    reader.lane.commit({source: 9})
    observer = confluent_kafka.Consumer(
        {"bootstrap.servers": cluster.brokers, "group.id": lane_topic}
    )

    def stored() -> int:
        where = confluent_kafka.TopicPartition(lane_topic, 2)
        return int(observer.committed([where], timeout=DEADLINE_S)[0].offset)

    reader.until(lambda: stored() == 9)
    assert reader.lane.committed(source) == 9
    assert reader.lane.committed(TopicPartition(lane_topic, 3)) == -1
    observer.close()
    reader.lane.close()


def test_nothing_is_committed_by_itself(
    cluster: MockCluster,
    open_reader: Callable[..., Reader],
    send: Callable[..., None],
    lane_topic: str,
) -> None:
    send(numbered(10))
    reader = open_reader()
    reader.records(10)
    reader.lane.close()
    observer = confluent_kafka.Consumer(
        {"bootstrap.servers": cluster.brokers, "group.id": lane_topic}
    )
    (stored,) = observer.committed(
        [confluent_kafka.TopicPartition(lane_topic, 0)], timeout=DEADLINE_S
    )
    observer.close()
    assert stored.offset == confluent_kafka.OFFSET_INVALID


def test_generation(open_reader: Callable[..., Reader], kind: Kind) -> None:
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


def test_brokers_down_and_up_again(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    with MockCluster({"events": PARTITIONS}) as own:
        lane = kind(
            LaneConfig(
                brokers=own.brokers,
                group="g",
                properties={"statistics.interval.ms": "100", "reconnect.backoff.max.ms": "200"},
            )
        )
        try:
            reader = Reader(lane, "events")
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
def test_wrong_properties_are_named(kind: Kind, name: str, value: str) -> None:
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


def test_closing_leaves_no_thread_behind(cluster: MockCluster, kind: Kind, lane_topic: str) -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = threads()
    for _ in range(3):
        lane = kind(LaneConfig(brokers=cluster.brokers, group=lane_topic, properties=QUICK))
        Reader(lane, lane_topic).join()
        assert threads() > before
        lane.close()
    assert threads() == before
