"""Fixtures of the lanes' suites: one mock cluster a module, a topic of its own a test."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import confluent_kafka
import pytest

from pipeline.ingest.lane import Lane, LaneConfig
from pipeline.ingest.mock import MockCluster
from pipeline.ingest.native import NativeLane
from pipeline.ingest.portable import PortableLane
from tests.contract.lanes import DEADLINE_S, NOW_MS, PARTITIONS, QUICK, Kind, Reader, Record, Starts

_topics = itertools.count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[MockCluster]:
    with MockCluster({}) as cluster:
        yield cluster


@pytest.fixture
def lane_topic(cluster: MockCluster) -> str:
    """A lane_topic of its own for each test."""
    name = f"events-{next(_topics)}"
    cluster.create_topic(name, PARTITIONS)
    return name


@pytest.fixture(params=[NativeLane, PortableLane], ids=["native", "portable"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def open_reader(
    cluster: MockCluster, lane_topic: str, kind: Kind
) -> Iterator[Callable[..., Reader]]:
    opened: list[Lane] = []

    def make(starts: Starts | None = None, group: str = "", **options: Any) -> Reader:
        config = LaneConfig(
            brokers=cluster.brokers,
            group=group or lane_topic,
            properties=QUICK,
            **options,
        )
        opened.append(kind(config))
        return Reader(opened[-1], lane_topic, starts)

    yield make
    for lane in opened:
        lane.close()


@pytest.fixture
def open_lane(cluster: MockCluster, lane_topic: str, kind: Kind) -> Iterator[Callable[[], Lane]]:
    """A lane that nobody subscribed yet."""
    opened: list[Lane] = []

    def make() -> Lane:
        opened.append(kind(LaneConfig(brokers=cluster.brokers, group=lane_topic, properties=QUICK)))
        return opened[-1]

    yield make
    for lane in opened:
        lane.close()


@pytest.fixture
def send(cluster: MockCluster, lane_topic: str) -> Callable[..., None]:
    def produce(records: list[Record], partition: int = 0, first_ms: int = NOW_MS) -> None:
        producer = confluent_kafka.Producer(
            {"bootstrap.servers": cluster.brokers, "linger.ms": "5"}
        )
        for i, (key, value) in enumerate(records):
            producer.produce(
                lane_topic, key=key, value=value, partition=partition, timestamp=first_ms + i
            )
        assert producer.flush(DEADLINE_S) == 0

    return produce
