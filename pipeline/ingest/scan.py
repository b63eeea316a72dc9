"""Reads a topic once, from its start to where it ended when asked, or chosen records of it.

No group is joined and no offset is committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException

from pipeline.errors import BrokerUnavailableError, UnknownNameError

__all__ = ["ScannedRecord", "fetch", "scan"]

AT_ONCE = 1000
SLICE_S = 0.1  # the client returns early only once it has AT_ONCE messages
FAR = 10_000  # records: beyond, asking for another offset is quicker than reading on
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
    yield from _consume(properties, topic, lambda consumer: _read(consumer, topic))


def fetch(
    properties: Mapping[str, str], topic: str, offsets: Mapping[int, Sequence[int]]
) -> Iterator[ScannedRecord]:
    """The records at these ascending ``offsets``, by partition; those that are gone are left out.

    Raises as :func:`scan` does.
    """
    yield from _consume(properties, topic, lambda consumer: _pick(consumer, topic, offsets))


def _consume(
    properties: Mapping[str, str], topic: str, read: Callable[[Any], Iterator[ScannedRecord]]
) -> Iterator[ScannedRecord]:
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
        yield from read(consumer)
    except KafkaException as error:
        raise BrokerUnavailableError(f"cannot read topic {topic!r}: {error.args[0]}") from error
    finally:
        consumer.close()


def _pick(
    consumer: Any, topic: str, offsets: Mapping[int, Sequence[int]]
) -> Iterator[ScannedRecord]:
    for partition, wanted in offsets.items():
        place = confluent_kafka.TopicPartition(topic, partition)
        low, high = consumer.get_watermark_offsets(place, timeout=QUIET_S)
        position, asked = -1, set(wanted)
        for offset in wanted:
            if not low <= offset < high or offset < position:
                continue
            if position < 0 or offset - position > FAR:
                place.offset = offset
                consumer.assign([place])
            for record in _from_one(consumer, topic, offset):
                position = record.offset + 1
                if record.offset in asked:
                    yield record


def _from_one(consumer: Any, topic: str, offset: int) -> Iterator[ScannedRecord]:
    """What comes next, up to ``offset`` or what stands in its place."""
    quiet_s = 0.0
    while quiet_s <= QUIET_S:
        message = consumer.poll(SLICE_S)
        if message is None:
            quiet_s += SLICE_S
            continue
        if message.error() is not None:
            if message.error().code() == KafkaError._PARTITION_EOF:
                return
            raise KafkaException(message.error())
        quiet_s = 0.0
        yield _record(message)
        if message.offset() >= offset:
            return
    raise BrokerUnavailableError(
        f"topic {topic!r} has a record {offset}, but nothing came for {QUIET_S:g} s"
    )


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
                yield _record(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                unfinished.discard(message.partition())
            else:
                raise KafkaException(error)


def _record(message: Any) -> ScannedRecord:
    kind, timestamp_ms = message.timestamp()
    return ScannedRecord(
        message.partition(),
        message.offset(),
        -1 if kind == confluent_kafka.TIMESTAMP_NOT_AVAILABLE else timestamp_ms,
        message.key(),
        message.value(),
    )
