"""Reads a topic once, from its start to where it ended when asked; no group, no offsets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException

from pipeline.errors import BrokerUnavailableError, UnknownNameError

__all__ = ["ScannedRecord", "scan"]

AT_ONCE = 1000
SLICE_S = 0.1  # the client returns early only once it has AT_ONCE messages
QUIET_S = 10.0  # longest wait for the next message of a topic that is known to have more


class ScannedRecord(NamedTuple):
    """One record; ``timestamp_ms`` is its broker time, -1 where absent."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


def scan(properties: Mapping[str, str], topic: str) -> Iterator[ScannedRecord]:
    """Every record of ``topic``, in offset order per partition.

    ``properties`` are librdkafka's, with ``bootstrap.servers``. Raises UnknownNameError for a
    topic that does not exist, BrokerUnavailableError when no broker answers for 10 s.
    """
    consumer = confluent_kafka.Consumer(
        {
            **properties,
            "group.id": "pipeline-scan",  # required by the client, never joined
            "enable.auto.commit": "false",
            "enable.partition.eof": "true",
            "auto.offset.reset": "error",
        }
    )
    try:
        yield from _read(consumer, topic)
    except KafkaException as error:
        raise BrokerUnavailableError(f"cannot read topic {topic!r}: {error.args[0]}") from error
    finally:
        consumer.close()


def _read(consumer: Any, topic: str) -> Iterator[ScannedRecord]:
    found = consumer.list_topics(topic, timeout=QUIET_S).topics[topic]
    if found.error is not None:
        raise UnknownNameError(f"topic {topic!r} cannot be read: {found.error}")
    starts = []
    for partition in found.partitions:
        place = confluent_kafka.TopicPartition(topic, partition)
        place.offset, high = consumer.get_watermark_offsets(place, timeout=QUIET_S)
        if place.offset < high:
            starts.append(place)
    unfinished = {place.partition for place in starts}
    consumer.assign(starts)
    quiet_s = 0.0
    while unfinished:
        messages = consumer.consume(AT_ONCE, timeout=SLICE_S)
        quiet_s = 0.0 if messages else quiet_s + SLICE_S
        if quiet_s > QUIET_S:
            raise BrokerUnavailableError(
                f"topic {topic!r} has more, but nothing came for {QUIET_S:g} s"
            )
        for message in messages:
            error = message.error()
            if error is None:
                kind, timestamp_ms = message.timestamp()
                yield ScannedRecord(
                    message.partition(),
                    message.offset(),
                    -1 if kind == confluent_kafka.TIMESTAMP_NOT_AVAILABLE else timestamp_ms,
                    message.key(),
                    message.value(),
                )
            elif error.code() == KafkaError._PARTITION_EOF:
                unfinished.discard(message.partition())
            else:
                raise KafkaException(error)
