"""librdkafka's mock cluster: a broker inside the process, for checks and tests.

It speaks the protocol on a loopback port and keeps records in memory, about 5 MB a partition.
It neither fences zombies nor survives its owner.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from pipeline.errors import NativeLaneError
from pipeline.ingest.rdkafka import PRODUCER, code_text, library, new_client

__all__ = ["MockCluster"]

_UNKNOWN_TOPIC_OR_PART = 3


class MockCluster:
    """A mock cluster with ``topics`` (name -> number of partitions), until it is closed."""

    def __init__(self, topics: Mapping[str, int], *, brokers: int = 1) -> None:
        self._rdkafka = library()
        # It never connects anywhere, which librdkafka would warn of on standard error.
        self._client: int | None = new_client(self._rdkafka, PRODUCER, {"log_level": "0"})
        self._cluster = self._rdkafka.rd_kafka_mock_cluster_new(self._client, brokers)
        if not self._cluster:
            self.close()
            raise NativeLaneError("the mock cluster did not start: is loopback networking there?")
        self._rdkafka.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        for topic, partitions in topics.items():
            self.create_topic(topic, partitions)

    @property
    def brokers(self) -> str:
        """Bootstrap servers: ``host:port`` separated by commas."""
        return str(self._rdkafka.rd_kafka_mock_cluster_bootstraps(self._cluster).decode())

    def create_topic(self, topic: str, partitions: int) -> None:
        """Add a topic; raises ``NativeLaneError`` if there is one of that name."""
        code = self._rdkafka.rd_kafka_mock_topic_create(
            self._cluster, topic.encode(), partitions, 1
        )
        if code:
            raise NativeLaneError(f"mock topic {topic}: {code_text(self._rdkafka, code)}")

    def refuse_topic(self, topic: str) -> None:
        """Answer that ``topic`` does not exist, where a mock broker would create it."""
        self._rdkafka.rd_kafka_mock_topic_set_error(
            self._cluster, topic.encode(), _UNKNOWN_TOPIC_OR_PART
        )

    def stop_broker(self, broker: int) -> None:
        """Make a broker (from 1) drop its connections and refuse new ones."""
        self._rdkafka.rd_kafka_mock_broker_set_down(self._cluster, broker)

    def start_broker(self, broker: int) -> None:
        """Let a stopped broker answer again."""
        self._rdkafka.rd_kafka_mock_broker_set_up(self._cluster, broker)

    def close(self) -> None:
        """Stop the cluster and free it; again is nothing."""
        cluster, self._cluster = getattr(self, "_cluster", None), None
        client, self._client = self._client, None
        if cluster:
            self._rdkafka.rd_kafka_mock_cluster_destroy(cluster)
        if client:
            self._rdkafka.rd_kafka_destroy(client)

    def __enter__(self) -> MockCluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
