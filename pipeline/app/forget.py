"""Erases an entity: a message without a value into every topic whose views have a row of it.

The deletion takes the way of every record, so it is fenced, survives a rollback of the store and
empties the caches of workers. Dead letters of the entity are closed. What the log itself holds goes
with the topic's retention or compaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.app.outputs import TopicNames
from pipeline.app.topic import Topic
from pipeline.config import BrokerConfig
from pipeline.errors import UnknownNameError
from pipeline.kernels.hash import partition_of
from pipeline.produce.letters import open_letters
from pipeline.produce.publisher import Publisher
from pipeline.store.partition import RowRead, Store

__all__ = ["Forgotten", "forget"]

PAUSE_S = 0.2
DELETED = 1  # flag of a row
DELETED_AT = slice(48, 56)


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Topics that were told, dead letters closed, and views whose row still stood at the end."""

    topics: list[str]
    letters: int
    waiting: list[str]


def forget(
    names: TopicNames,
    topics: Sequence[Topic],
    key: bytes,
    broker: BrokerConfig,
    store: Store,
    *,
    timeout_s: float,
    clock_ms: Callable[[], int],
) -> Forgotten:
    """Erase the entity of this message ``key`` from every view of ``topics``.

    Waits up to ``timeout_s`` for workers to have done it. Raises UnavailableError; what was told
    stays told.
    """
    told = [topic for topic in topics if topic.views]
    began_ms = clock_ms()
    with Publisher(broker) as publisher:
        for topic in told:
            publisher.publish(topic.topic, None, key=key)
        publisher.flush()
        deadline = time.monotonic() + timeout_s
        waiting = list(_standing(names.app, told, key, store, began_ms))
        while waiting and time.monotonic() < deadline:
            time.sleep(PAUSE_S)
            waiting = list(_standing(names.app, told, key, store, began_ms))
        # Last: routes that begin at a topic dead-letter the deletion, which names no entity there.
        letters = _close_letters(broker, names.dead_letters, key, publisher)
    return Forgotten([topic.topic for topic in told], letters, waiting)


def _close_letters(broker: BrokerConfig, topic: str, key: bytes, publisher: Publisher) -> int:
    try:
        mine = [letter for letter in open_letters(broker, topic) if letter.key == key]
    except UnknownNameError:  # the application never ran
        return 0
    publisher.publish_many(topic, [None] * len(mine), [letter.id.encode() for letter in mine])
    publisher.flush()
    return len(mine)


def _standing(
    app: str, topics: Sequence[Topic], key: bytes, store: Store, began_ms: int
) -> Iterator[str]:
    """Views whose row was not deleted since ``began_ms``."""
    data = np.frombuffer(bytearray(key), dtype=np.uint8)
    offsets = np.array([0, len(key)], dtype=np.int64)
    for topic in topics:
        partition = np.empty(1, dtype=np.int32)
        partition_of(data, offsets, topic.partitions, partition)
        for plan in topic.views:
            read = RowRead(app, topic.topic, plan.view.plan.fingerprint, data, offsets, partition)
            (row,) = store.fetch([read])[0].rows
            if row is None or _deleted_ms(row) < began_ms:
                yield plan.view.name


def _deleted_ms(row: bytes) -> int:
    """When the entity of a packed row was deleted last, -1 for never."""
    if not row[3] & DELETED:
        return -1
    return int.from_bytes(row[DELETED_AT], "little", signed=True) // 1_000_000
