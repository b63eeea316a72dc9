"""Expiry in the store: garbage collection, never a decision about what a feature is.

Whether a row has expired is decided from event times, when the next event comes and when it is
read. A row that nobody wants any more would stay in the store for ever, so it is given an expiry
when it leaves the cache, by the transaction that this partition commits next, and by a sweep for
rows whose worker was killed. Both are ``ttl + replay horizon`` from then on, later for rows whose
newest event or broker time lies in the future. Writing a row takes its expiry away.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

from pipeline.app.partition import Partition
from pipeline.errors import FencedError, UnavailableError
from pipeline.features.plan import Plan
from pipeline.ingest.batch import TopicPartition
from pipeline.state.batch import Leaving
from pipeline.store.partition import RowExpiry, Store

__all__ = ["Expiry"]

log = logging.getLogger(__name__)

ROWS_PER_COMMIT = 1_024  # a command each: a millisecond or two of the server's time
ROWS_WAITING = 1 << 17  # per partition; what does not fit is left to the sweep
ROWS_RELEASED = 1 << 13  # of a view when its partition is given back
RELEASE_S = 1.0  # longest that a rebalance waits for them
CATCH_UP_S = 5.0
AFTER_FAILURE_S = 60.0


class Expiry:
    """Which rows of an application may go, and when. ``horizon_ms`` is the replay horizon.

    ``plans`` of all rows, those that are kept for look-ups too, each with its topic.

    ``sweep_keys_per_s`` keys of the store are looked at by the worker that owns the first
    partition of all; 0: no sweep.
    """

    def __init__(
        self,
        app: str,
        plans: Iterable[tuple[str, Plan]],
        store: Store,
        *,
        horizon_ms: int,
        sweep_keys_per_s: int,
        clock_ms: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        expiring = [(topic, plan) for topic, plan in plans if plan.ttl_ns]
        self._keep_ms = {p.fingerprint: p.ttl_ns // 1_000_000 + horizon_ms for _, p in expiring}
        self._names = {p.fingerprint: p.view for _, p in expiring}
        self._first = min((TopicPartition(topic, 0) for topic, _ in expiring), default=None)
        self._sweeper = store.sweeper(app)
        self._rate = sweep_keys_per_s
        self._clock_ms = clock_ms
        self._monotonic = monotonic
        self._waiting: dict[TopicPartition, deque[RowExpiry]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._swept_at: float | None = None
        self._pause_until = 0.0

    def left(self, source: TopicPartition, fingerprint: int, rows: Leaving) -> None:
        """These rows left the cache."""
        if fingerprint not in self._keep_ms or not len(rows):
            return
        waiting = self._waiting.setdefault(source, deque())
        if sum(map(len, waiting)) + len(rows) <= ROWS_WAITING:
            waiting.append(self._expiry(fingerprint, rows))

    def take(self, source: TopicPartition) -> list[RowExpiry]:
        """What the partition's next transaction sets; not given out again."""
        waiting = self._waiting.get(source)
        taken: list[RowExpiry] = []
        room = ROWS_PER_COMMIT
        while waiting and room:
            rows = waiting.popleft()
            if len(rows) > room:
                waiting.appendleft(rows.part(room, len(rows)))
                rows = rows.part(0, room)
            taken.append(rows)
            room -= len(rows)
        return taken

    def given(self, expiries: Sequence[RowExpiry], cause: str = "evicted") -> None:
        """The transaction that set these was carried out."""
        for expiry in expiries:
            self._counts[self._names[expiry.fingerprint], cause] += len(expiry)

    def forget(self, source: TopicPartition) -> None:
        """The partition is not ours, or not known to be."""
        self._waiting.pop(source, None)

    def release(self, partitions: Iterable[Partition]) -> None:
        """Give the cached rows of partitions that go to another worker an expiry, as far as a
        second allows; it is the sweep's otherwise."""
        until = self._monotonic() + RELEASE_S
        for partition in partitions:
            self.forget(partition.source)
            expiries = [
                self._expiry(table.plan.fingerprint, table.settled(ROWS_RELEASED))
                for table in partition.tables
                if table.plan.fingerprint in self._keep_ms
            ]
            if not any(map(len, expiries)) or self._monotonic() > until:
                continue
            try:
                partition.store.commit([], [], expiries)
            except (UnavailableError, FencedError) as error:
                log.info("%s: rows left without an expiry: %s", partition.source, error)
            else:
                self.given(expiries, "released")

    def sweep(self, owned: Collection[TopicPartition]) -> None:
        """Look at some keys of the store, if it is this worker's turn."""
        now = self._monotonic()
        if not self._rate or self._first not in owned or now < self._pause_until:
            self._swept_at = None
            return
        since = now - self._swept_at if self._swept_at is not None else 1.0
        keys = int(min(since, CATCH_UP_S) * self._rate)
        if not keys:
            return
        self._swept_at = now
        try:
            found = self._sweeper.sweep(self._keep_ms, self._clock_ms(), keys)
        except UnavailableError as error:
            log.info("the sweep waits: %s", error)
            self._pause_until = now + AFTER_FAILURE_S
            return
        for fingerprint, rows in found.items():
            self._counts[self._names[fingerprint], "swept"] += rows

    def drain(self) -> Mapping[tuple[str, str], int]:
        """Rows given an expiry since the last call, by view and cause."""
        counts, self._counts = self._counts, Counter()
        return counts

    def close(self) -> None:
        """Close the sweep's connection."""
        self._sweeper.close()

    def _expiry(self, fingerprint: int, rows: Leaving) -> RowExpiry:
        newest_ms = np.maximum(rows.event_time // 1_000_000, rows.known_time)
        ahead = np.maximum(newest_ms - self._clock_ms(), 0)
        return RowExpiry(
            fingerprint, rows.keys, rows.key_offsets, self._keep_ms[fingerprint] + ahead
        )
