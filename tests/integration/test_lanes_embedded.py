"""Both lanes against the embedded broker: group membership, seek and end of partition."""

from __future__ import annotations

import time
import uuid

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from pipeline.embedded import EmbeddedServers
from pipeline.ingest.batch import TopicPartition
from pipeline.ingest.lane import LaneConfig
from pipeline.ingest.native import NativeLane
from pipeline.ingest.portable import PortableLane

pytestmark = pytest.mark.embedded

COUNT = 2_000
DEADLINE_S = 30.0


@pytest.mark.parametrize("kind", [NativeLane, PortableLane], ids=["native", "portable"])
def test_reads_seeks_and_sees_the_end(
    embedded_servers: EmbeddedServers, kind: type[NativeLane] | type[PortableLane]
) -> None:
    topic = f"lanes-{uuid.uuid4().hex[:8]}"
    sources = [TopicPartition(topic, p) for p in range(3)]
    admin = AdminClient({"bootstrap.servers": embedded_servers.brokers})
    admin.create_topics([NewTopic(topic, len(sources), 1)])[topic].result(DEADLINE_S)
    producer = confluent_kafka.Producer({"bootstrap.servers": embedded_servers.brokers})
    for i in range(COUNT):
        producer.produce(topic, key=b"%d" % i, value=b"value %d" % i, partition=i % 2)
    assert producer.flush(DEADLINE_S) == 0
    # This broker lets a group form for half a session timeout.
    quick = {"session.timeout.ms": "1000", "heartbeat.interval.ms": "300"}
    lane = kind(LaneConfig(brokers=embedded_servers.brokers, group=topic, properties=quick))
    read: dict[TopicPartition, list[int]] = {s: [] for s in sources}
    revoked: list[TopicPartition] = []

    def until_the_end() -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not all(map(lane.at_end, sources)):
            assert time.monotonic() < deadline, lane.health
            for batch in lane.poll(500, 50):
                read[batch.source] += batch.offsets.tolist()

    try:
        lane.subscribe(
            [topic],
            on_assign=lambda assigned: dict.fromkeys(assigned, 0),
            on_revoke=lambda given, lost: revoked.extend(given),
        )
        until_the_end()
        half = list(range(COUNT // 2))
        assert list(read.values()) == [half, half, []]
        assert lane.watermarks(sources[1]) == (0, COUNT // 2)
        lane.seek(sources[1], 990)
        until_the_end()
        assert read[sources[1]] == half + half[990:]
    finally:
        lane.close()
    assert sorted(revoked) == sources
