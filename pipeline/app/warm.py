"""Compiles every kernel that a worker needs, before it owns a partition.

A first compilation takes longer than a consumer group waits for a silent member.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from pipeline.app.ahead import compiling_ahead, small_view
from pipeline.app.partition import Partition
from pipeline.app.topic import Topic
from pipeline.contracts.contract import Contract, FieldType
from pipeline.features.entity import event_key
from pipeline.features.repartition import Repartition
from pipeline.features.stream import EventStream
from pipeline.ingest.batch import BinaryBatch, EventBatch, Reason, TopicPartition
from pipeline.ingest.decode import JsonDecoder
from pipeline.ingest.envelope import Decoder, Envelope
from pipeline.state.warm import compile_answers, compile_rows
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


def warm_up(topics: Sequence[Topic], *, answers: bool = False) -> None:
    """Take one made-up event of every topic through decode, apply, encode, commit and reload.

    Sources come before the repartition topics that their routes lead to. Where nothing is compiled
    yet, a second process compiles the largest kernel meanwhile; each finds what the other kept.
    What makes features of rows is left to readers where nobody is told of changed rows, unless
    ``answers`` are wanted.
    """
    answers = answers or any(plan.tells for topic in topics for plan in topic.views)
    with compiling_ahead(answers=answers):
        for topic in topics:
            if isinstance(topic.stream, EventStream):
                sample_events(topic.stream, 0)
        plan = small_view().plan
        compile_rows(plan)
        _warm_up(topics)
        if answers:
            compile_answers(plan)


def _warm_up(topics: Sequence[Topic]) -> None:
    sent: dict[str, bytes] = {}
    for topic in topics:
        source = TopicPartition(topic.topic, 0)
        store = MemoryStore()
        alone = dataclasses.replace(topic, partitions=1)
        decoder, others = alone.decoder(), alone.other_decoders()
        for _ in range(2):  # the second time round its row is read back
            partition = Partition(
                APP, source, "", store.open_partition(APP, source), topic.views, CACHE_BYTES,
                topic.routes,
            )  # fmt: skip
            partition.open(-1, 0)
            offset = partition.next_offset
            events = _sample(topic.stream, decoder, source, sent, offset)
            apart = {
                reads: _sample(stream, others[reads], source, sent, offset)
                for reads, stream in topic.others().items()
            }
            staged = partition.stage(partition.ask(events, apart), 0)
            for route in staged.routes:
                sent |= dict.fromkeys([route.route.topic], route.messages[0][1])
            partition.store.commit([w for v in staged.views for w in v.writes], staged.markers)
            partition.settle(staged)
        for table in partition.tables:
            table.max_bytes = 0
            table.evict()
            table.compact()


def _sample(
    stream: EventStream | Repartition, decoder: Decoder, source: TopicPartition,
    sent: Mapping[str, bytes], offset: int,
) -> EventBatch:  # fmt: skip
    if isinstance(stream, EventStream):
        if stream.format != "json":
            decoder.decode(_record(source, b"\xff", b"", offset))  # compiles it
        events = sample_events(stream, offset)
    else:
        events = decoder.decode(_record(source, sent[source.topic], b"", offset))
    events.reason[:] = Reason.OK  # whatever bounds the stream sets
    return events


def sample_events(stream: EventStream, offset: int) -> EventBatch:
    """One well-formed event at ``offset`` of partition 0 of 1: JSON, whatever the stream has."""
    event = sample_event(stream.schema)
    key = event_key(stream.schema, stream.key_fields, event)
    envelope = Envelope(stream.schema, stream.key_fields, stream.time, 1)
    batch = _record(TopicPartition(stream.topic, 0), json.dumps(event).encode(), key, offset)
    return JsonDecoder.within(stream.schema, envelope).decode(batch)


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


def _record(source: TopicPartition, value: bytes, key: bytes, offset: int) -> BinaryBatch:
    return BinaryBatch(
        source=source,
        payload=np.frombuffer(value, dtype=np.uint8).copy(),
        value_offsets=np.array([0, len(value)], dtype=np.int64),
        value_null=np.zeros(1, dtype=np.uint8),
        value_size=np.array([len(value)], dtype=np.int64),
        keys=np.frombuffer(key, dtype=np.uint8).copy(),
        key_offsets=np.array([0, len(key)], dtype=np.int64),
        key_null=np.zeros(1, dtype=np.uint8),
        offsets=np.array([offset], dtype=np.int64),
        timestamps_ms=np.array([-1], dtype=np.int64),
    )
