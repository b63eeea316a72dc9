"""Compiles every kernel that a worker needs, before it owns a partition.

A first compilation takes longer than a consumer group waits for a silent member.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from pipeline.app.partition import Partition
from pipeline.app.plane import Topic, decoder
from pipeline.contracts.contract import Contract, FieldType
from pipeline.features.entity import event_key
from pipeline.features.stream import EventStream
from pipeline.ingest.batch import BinaryBatch, Reason, TopicPartition
from pipeline.store.memory import MemoryStore

__all__ = ["sample_event", "warm_up"]

APP = "warm-up"
CACHE_BYTES = 1 << 20
SAMPLES: dict[FieldType, Any] = {
    FieldType.INT64: 1,
    FieldType.FLOAT64: 1.5,
    FieldType.DECIMAL: 1.0,
    FieldType.BOOL: True,
    FieldType.STRING: "a",
    FieldType.UUID: "00000000-0000-0000-0000-000000000000",
    FieldType.BYTES: "AA==",
}


def warm_up(topics: Sequence[Topic]) -> None:
    """Take one made-up event of every topic through decode, apply, encode, commit and reload."""
    for topic in topics:
        source = TopicPartition(topic.stream.topic, 0)
        store = MemoryStore()
        for _ in range(2):  # the second time round its row is read back
            partition = Partition(
                APP, source, "", store.open_partition(APP, source), topic.views, CACHE_BYTES
            )
            partition.open(-1, 0)
            events = decoder(topic.stream, 1).decode(
                sample_batch(topic.stream, partition.next_offset)
            )
            events.reason[:] = Reason.OK  # whatever bounds the stream sets
            staged = partition.stage(events, 0)
            partition.store.commit(
                [v.write for v in staged.views], [v.marker for v in staged.views]
            )
            partition.settle(staged)
        for view in partition.views:
            view.table.max_bytes = 0
            view.table.evict()
            view.table.compact()


def sample_batch(stream: EventStream, offset: int) -> BinaryBatch:
    """One well-formed event at ``offset`` of partition 0 of 1."""
    event = sample_event(stream.schema)
    value = np.frombuffer(json.dumps(event).encode(), dtype=np.uint8)
    key = np.frombuffer(event_key(stream.schema, stream.key_fields, event), dtype=np.uint8)
    return BinaryBatch(
        source=TopicPartition(stream.topic, 0),
        payload=value.copy(),
        value_offsets=np.array([0, len(value)], dtype=np.int64),
        value_null=np.zeros(1, dtype=np.uint8),
        value_size=np.array([len(value)], dtype=np.int64),
        keys=key.copy(),
        key_offsets=np.array([0, len(key)], dtype=np.int64),
        key_null=np.zeros(1, dtype=np.uint8),
        offsets=np.array([offset], dtype=np.int64),
        timestamps_ms=np.array([-1], dtype=np.int64),
    )


def sample_event(contract: Contract) -> dict[str, Any]:
    """An event with a value in every field, as the contract writes it."""
    event: dict[str, Any] = {}
    for field in contract.fields:
        if field.type is not FieldType.TIMESTAMP:
            event[field.name] = SAMPLES[field.type]
        elif field.unit.startswith("iso"):
            event[field.name] = datetime(2020, 1, 1, tzinfo=UTC).isoformat()
        else:
            event[field.name] = 1
    return event
