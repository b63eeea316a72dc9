"""Proof at start that the native lane reads this process's librdkafka correctly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaException

from pipeline.errors import NativeLaneError, PipelineError
from pipeline.ingest import rdkafka as rd
from pipeline.ingest.batch import BinaryBatch, TopicPartition
from pipeline.ingest.fetch import Fetch, Indexed
from pipeline.ingest.lane import LaneConfig
from pipeline.ingest.mock import MockCluster

__all__ = ["self_check"]

_Read = tuple[int, bytes | None, bytes | None, int]

_SOURCE = TopicPartition("self-check", 2)
_START = 1
# (key, value, broker time in ms): every combination that the struct can show, no size twice.
_RECORDS: tuple[tuple[bytes | None, bytes | None, int], ...] = (
    (b"skipped", b"before the start offset", 1_600_000_000_000),
    (b"k\x00\xff", b"value \x00\xff", 1_600_000_000_001),
    (None, b"no key", 1_600_000_000_002),
    (b"", b"", 1_600_000_000_003),
    (b"tombstone", None, 1_600_000_000_004),
)
_MAX_BYTES = 1 << 16
_IN_HAND = 16  # the records and a few error messages (end of partition)
_POLLS = 200
_POLL_TIMEOUT_MS = 20


def self_check() -> None:
    """Send known records through a mock cluster and compare every field; about 0.1 s.

    Covers the version, the functions, the structs of messages and partition lists, and the
    kernels. The structs' numbers are compared before any of their pointers is followed. Raises
    ``NativeLaneError``, which names what differed; the portable lane is then the right one.
    Compiles the kernels on a first start.
    """
    try:
        read = _round_trip()
    except (PipelineError, KafkaException) as error:
        raise NativeLaneError(f"self-check of the native lane: {error}") from error
    sent = [(offset, *record) for offset, record in enumerate(_RECORDS)][_START:]
    if read != sent:
        raise NativeLaneError(
            f"self-check of the native lane: copied other bytes: sent {sent!r}, read {read!r}"
        )


def _round_trip() -> list[_Read]:
    rdkafka = rd.library()
    fetch = Fetch(rdkafka, _MAX_BYTES, _MAX_BYTES)
    with MockCluster({_SOURCE.topic: _SOURCE.partition + 1}) as cluster:
        _produce(cluster.brokers)
        with _consumer(rdkafka, cluster.brokers) as queue:
            try:
                for _ in range(_POLLS):
                    fetch.fill(queue, _IN_HAND, _POLL_TIMEOUT_MS)
                    if len(fetch.indexed()) == len(_RECORDS) - _START:
                        break
                _compare(fetch.indexed())
                (batch,) = fetch.gather({_SOURCE}).batches
            finally:
                fetch.release()
    return _records(batch)


@contextmanager
def _consumer(rdkafka: Any, brokers: str) -> Iterator[int]:
    """Yield the queue of a consumer of the one partition, from the start offset."""
    settings = LaneConfig(brokers=brokers, group="self-check").settings()
    client = rd.new_client(rdkafka, rd.CONSUMER, settings)
    queue = rdkafka.rd_kafka_queue_get_consumer(client)
    try:
        with rd.partition_list(rdkafka, {_SOURCE: _START}) as partitions:
            if rd.read_partitions(partitions) != [(_SOURCE, _START, 0)]:
                raise NativeLaneError("struct layout of partition lists differs")
            code = rdkafka.rd_kafka_assign(client, partitions)
            if code:
                raise NativeLaneError(f"assign: {rd.code_text(rdkafka, code)}")
        yield queue
    finally:
        rdkafka.rd_kafka_consumer_close(client)
        rdkafka.rd_kafka_queue_destroy(queue)
        rdkafka.rd_kafka_destroy(client)


def _compare(found: list[Indexed]) -> None:
    expected = [
        Indexed(
            partition=_SOURCE.partition,
            offset=offset,
            timestamp_ms=timestamp_ms,
            value_size=None if value is None else len(value),
            key_size=None if key is None else len(key),
        )
        for offset, (key, value, timestamp_ms) in enumerate(_RECORDS)
    ][_START:]
    if found != expected:
        raise NativeLaneError(f"struct layout differs: sent {expected!r}, read {found!r}")


def _records(batch: BinaryBatch) -> list[_Read]:
    offsets, times = batch.offsets.tolist(), batch.timestamps_ms.tolist()
    return [(offsets[i], batch.key(i), batch.value(i), times[i]) for i in range(len(batch))]


def _produce(brokers: str) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": brokers, "linger.ms": "0"})
    for key, value, timestamp in _RECORDS:
        producer.produce(
            _SOURCE.topic,
            key=key,
            value=value,
            partition=_SOURCE.partition,
            timestamp=timestamp,
        )
    if producer.flush(_POLLS * _POLL_TIMEOUT_MS / 1000):
        raise NativeLaneError("the mock cluster took no records")
