"""Which partitions of a topic an open transaction holds back, as the broker tells."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from pipeline.config import BrokerConfig
from pipeline.produce.client import Connection, broker_config

__all__ = ["held_back"]


def held_back(
    brokers: str | BrokerConfig, topic: str, partitions: int
) -> dict[int, tuple[int, int]]:
    """(last stable offset, end) of the partitions where these differ now.

    Also a transaction that ends in a moment is open now. Raises
    :class:`~pipeline.errors.BrokerUnavailableError` when no broker answers.
    """
    connection = Connection(broker_config(brokers, None))
    admin = connection.open(AdminClient, {})
    places = [TopicPartition(topic, number) for number in range(partitions)]
    doing = f"ask for the last stable offsets of topic {topic!r}"
    # the stable ones first: an end that is asked for later is not before them
    stable, ends = (
        _latest(connection, admin, places, level, doing)
        for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)
    )
    return {p: (stable[p], ends[p]) for p in stable if stable[p] < ends[p]}


def _latest(
    connection: Connection,
    admin: AdminClient,
    places: Sequence[TopicPartition],
    level: IsolationLevel,
    doing: str,
) -> dict[int, int]:
    """Where a reader of this isolation level comes to an end, by partition."""
    latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = admin.list_offsets(
        dict.fromkeys(places, latest),
        isolation_level=level,
        request_timeout=connection.timeout_s,
    )
    try:
        found = {p.partition: f.result(connection.timeout_s + 1) for p, f in asked.items()}
    except KafkaException as error:
        admin.poll(0)
        raise connection.translate(error.args[0], doing) from error
    except TimeoutError as error:
        admin.poll(0)
        raise connection.unavailable(doing) from error
    return {partition: info.offset for partition, info in found.items()}
