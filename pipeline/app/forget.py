"""Erases an entity: a message without a value into every topic whose views have a row of it.

The deletion takes the way of every record, so it is fenced, survives a rollback of the store and
empties the caches of workers. Copies of corrupt rows are removed, dead letters are closed. What the
log itself holds goes with the topic's retention or compaction.
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
from pipeline.features.lookups import row_plans
from pipeline.features.plan import Plan
from pipeline.ingest.batch import TopicPartition
from pipeline.kernels.hash import partition_of
from pipeline.produce.letters import open_letters
from pipeline.produce.publisher import Publisher
from pipeline.state.table import StateTable
from pipeline.store.keys import partition_tag, quarantine_key, row_key
from pipeline.store.partition import RowRead, Store

__all__ = ["Forgotten", "forget"]

PAUSE_S = 0.2
DELETED = 1  # flag of a row
DELETED_AT = slice(48, 56)


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Topics that were told, dead letters closed, copies of corrupt rows removed, and views with a
    row (their own, or one that they keep for a look-up) that still stood at the end."""

    topics: list[str]
    letters: int
    copies: int
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

    Waits up to ``timeout_s`` for workers to have done it. A corrupt row is removed first: as long
    as it stands, its entity's records are dead-lettered, deletions too. Raises UnavailableError;
    what was told stays told.
    """
    told = [topic for topic in topics if topic.views]
    rows = list(_rows(names.app, told, key))
    began_ms = clock_ms()
    store.drop([row.key for row in rows if row.corrupt(store)])
    with Publisher(broker) as publisher:
        for topic in told:
            publisher.publish(topic.topic, None, key=key)
        publisher.flush()
        deadline = time.monotonic() + timeout_s
        waiting = _standing(rows, store, began_ms)
        while waiting and time.monotonic() < deadline:
            time.sleep(PAUSE_S)
            waiting = _standing(rows, store, began_ms)
        # Last: until its row was deleted, a worker may have put something aside of it.
        copies = store.drop([row.copy for row in rows])
        letters = _close_letters(broker, names.dead_letters, key, publisher)
    return Forgotten([topic.topic for topic in told], letters, copies, waiting)


@dataclass(frozen=True, slots=True)
class _Row:
    """Where a row of the entity is, and whose: ``view`` as people are told."""

    view: str
    plan: Plan
    read: RowRead
    key: bytes
    copy: bytes

    def fetch(self, store: Store) -> bytes | None:
        """The row as it is stored."""
        (row,) = store.fetch([self.read])[0].rows
        return row

    def corrupt(self, store: Store) -> bool:
        """Whether there is one that fails its checks."""
        row = self.fetch(store)
        table = StateTable(self.plan)
        slots = table.lookup(self.read.keys, self.read.key_offsets).slots
        return row is not None and bool(table.load(slots, [row]))


def _rows(app: str, topics: Sequence[Topic], key: bytes) -> Iterator[_Row]:
    """Every row that the entity can have, those that are kept for look-ups included."""
    data = np.frombuffer(bytearray(key), dtype=np.uint8)
    offsets = np.array([0, len(key)], dtype=np.int64)
    for topic in topics:
        partition = np.empty(1, dtype=np.int32)
        partition_of(data, offsets, topic.partitions, partition)
        tag = partition_tag(app, TopicPartition(topic.topic, int(partition[0])))
        for plan in topic.views:
            for rows in row_plans(plan.view.plan):
                read = RowRead(app, topic.topic, rows.fingerprint, data, offsets, partition)
                yield _Row(
                    plan.label, rows, read, row_key(tag, rows.fingerprint, key),
                    quarantine_key(tag, rows.fingerprint, key),
                )  # fmt: skip


def _close_letters(broker: BrokerConfig, topic: str, key: bytes, publisher: Publisher) -> int:
    try:
        mine = [letter for letter in open_letters(broker, topic) if letter.key == key]
    except UnknownNameError:  # the application never ran
        return 0
    publisher.publish_many(topic, [None] * len(mine), [letter.id.encode() for letter in mine])
    publisher.flush()
    return len(mine)


def _standing(rows: Sequence[_Row], store: Store, began_ms: int) -> list[str]:
    """Views of which a row was not deleted since ``began_ms``."""
    standing: dict[str, None] = {}
    for row in rows:
        found = row.fetch(store)
        if found is None or _deleted_ms(found) < began_ms:
            standing[row.view] = None
    return list(standing)


def _deleted_ms(row: bytes) -> int:
    """When the entity of a packed row was deleted last, -1 for never."""
    if not row[3] & DELETED:
        return -1
    return int.from_bytes(row[DELETED_AT], "little", signed=True) // 1_000_000
