"""Proof at start that the native lane reads this process's librdkafka correctly."""

from __future__ import annotations

import confluent_kafka
from confluent_kafka import KafkaException

from pipeline.errors import NativeLaneError, PipelineError
from pipeline.ingest.batch import BinaryBatch, TopicPartition
from pipeline.ingest.lane import LaneConfig
from pipeline.ingest.mock import MockCluster
from pipeline.ingest.native import NativeLane

__all__ = ["self_check"]

_Read = tuple[int, bytes | None, bytes | None, int]

_SOURCE = TopicPartition("self-check", 2)
_START = 1
# (key, value, broker time in ms): every combination that the struct can show.
_RECORDS: tuple[tuple[bytes | None, bytes | None, int], ...] = (
    (b"skipped", b"before the start offset", 1_600_000_000_000),
    (b"k\x00\xff", b"value \x00\xff", 1_600_000_000_001),
    (None, b"no key", 1_600_000_000_002),
    (b"", b"", 1_600_000_000_003),
    (b"tombstone", None, 1_600_000_000_004),
)
_POLLS = 200
_POLL_TIMEOUT_MS = 20


def self_check() -> None:
    """Send known records through a mock cluster and compare every field; about 0.1 s.

    Covers the version, the functions, the structs of messages and partition lists, and the
    kernels. Raises ``NativeLaneError``, which names what differed; the portable lane is then the
    right one. Compiles the kernels on a first start.
    """
    try:
        read = _round_trip()
    except (PipelineError, KafkaException) as error:
        raise NativeLaneError(f"self-check of the native lane: {error}") from error
    sent = [(offset, *record) for offset, record in enumerate(_RECORDS)][_START:]
    if read != sent:
        raise NativeLaneError(
            f"self-check of the native lane: struct layout differs: sent {sent!r}, read {read!r}"
        )


def _round_trip() -> list[_Read]:
    with MockCluster({_SOURCE.topic: _SOURCE.partition + 1}) as cluster:
        _produce(cluster.brokers)
        lane = NativeLane(LaneConfig(brokers=cluster.brokers, group="self-check"))
        try:
            lane.subscribe(
                [_SOURCE.topic],
                on_assign=lambda sources: {s: _START if s == _SOURCE else 0 for s in sources},
                on_revoke=lambda sources, lost: None,
            )
            read: list[_Read] = []
            for _ in range(_POLLS):
                for batch in lane.poll(len(_RECORDS), _POLL_TIMEOUT_MS):
                    read += _records(batch)
                if len(read) >= len(_RECORDS) - _START:
                    break
            return read
        finally:
            lane.close()


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
