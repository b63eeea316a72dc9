"""Answered messages on their way: published, acknowledged, then committed in one transaction.

While the acknowledgement of some is awaited, more are read, run and published. In a partition
one transaction is sent after the answer to the one before, and none before all that is published
for it is acknowledged.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from pipeline.errors import FencedError, PipelineError, StoreFullError, UnavailableError
from pipeline.inference.delivery import InferenceSettings, publish
from pipeline.inference.manifest import ModelManifest
from pipeline.inference.pending import Answered, RequestPartition
from pipeline.inference.progress import Progress
from pipeline.produce.messages import Outbox
from pipeline.store.marker import Marker
from pipeline.store.trouble import FIRST_PAUSE_S

__all__ = ["Flights", "Settled"]

log = logging.getLogger(__name__)

Settled: TypeAlias = tuple[RequestPartition, list[Answered], int]


@dataclass
class _Work:
    """One partition's part of a flight, with what its transaction writes once that is sent."""

    partition: RequestPartition
    messages: list[Answered]
    after: tuple[Marker, Progress] | None = None


@dataclass
class _Flight:
    """What was published together, and when that began."""

    works: list[_Work]
    ticket: Any
    started_ns: int


class Flights:
    """Messages under way, oldest first; ``reset`` is told of a partition that has to begin again,
    and calls :meth:`discard`. For one thread."""

    def __init__(
        self,
        publisher: Outbox,
        settings: InferenceSettings,
        manifest: ModelManifest,
        monotonic_ns: Callable[[], int],
        reset: Callable[[RequestPartition, PipelineError], None],
    ) -> None:
        self._publisher, self._settings, self._manifest = publisher, settings, manifest
        self._monotonic_ns = monotonic_ns
        self._reset = reset
        self._waiting: deque[_Flight] = deque()  # published, transaction not sent
        self._begun: _Flight | None = None  # transaction sent
        self._settled: list[Settled] = []
        self._again_at = 0

    def __len__(self) -> int:
        return len(self._waiting) + (self._begun is not None)

    @property
    def paused(self) -> bool:
        """Whether broker or store did not take something a moment ago."""
        return self._monotonic_ns() < self._again_at

    def add(self, partitions: Iterable[RequestPartition]) -> None:
        """Publish what is answered in these partitions."""
        found = [_Work(p, p.take(self._settings.max_queued_rows)) for p in partitions]
        works = [work for work in found if work.messages]
        if not works:
            return
        started = self._monotonic_ns()
        with self._or_nothing():
            self._waiting.append(_Flight(works, None, started))
            try:
                for work in works:
                    source = work.partition.source
                    publish(self._publisher, self._settings, self._manifest, source, work.messages)
            except UnavailableError as error:
                self._lose(error)
                return
            self._waiting[-1].ticket = self._publisher.ticket()

    def go_on(self, under_way: int) -> list[Settled]:
        """Until at most so many are under way, unless :attr:`paused`; what was committed since the
        last call, with the time that it was under way in ns."""
        with self._or_nothing():
            if self._answering():
                self._finish()
            while len(self) and not (self.paused and self._begun is None):
                if self._waiting and (len(self) > under_way or self._acknowledged()):
                    self._finish()
                    self._begin()
                elif len(self) > under_way:
                    self._finish()
                else:
                    break
        settled, self._settled = self._settled, []
        return settled

    def land(self) -> None:
        """Await the answers to transactions that were sent; :meth:`go_on` tells of them."""
        with self._or_nothing():
            self._finish()

    def discard(self, partition: RequestPartition) -> None:
        """Forget what is under way in a partition: it is read again."""
        for flight in (*self._waiting, self._begun):
            if flight is not None:
                flight.works = [w for w in flight.works if w.partition is not partition]

    def _answering(self) -> bool:
        """Whether the transaction that was sent last is answered."""
        begun = self._begun
        return begun is not None and all(w.partition.store.answering() for w in begun.works)

    def _acknowledged(self) -> bool:
        try:
            return self._publisher.acknowledged(self._waiting[0].ticket)
        except UnavailableError as error:
            self._lose(error)
            return False

    def _begin(self) -> None:
        """All transactions are sent before the first answer is awaited."""
        if not self._waiting or self.paused:
            return
        try:
            self._publisher.wait(self._waiting[0].ticket)
        except UnavailableError as error:
            self._lose(error)
            return
        flight = self._begun = self._waiting.popleft()
        for work in list(flight.works):
            write, marker, progress = work.partition.staged(work.messages)
            try:
                work.partition.store.begin_commit([write], [marker])
            except (UnavailableError, FencedError) as error:
                flight.works = [w for w in flight.works if w is not work]
                self._refused(work, flight, error)
            else:
                work.after = marker, progress

    def _finish(self) -> None:
        """Await the answers to what :meth:`_begin` sent."""
        flight = self._begun
        if flight is None:
            return
        for work in list(flight.works):
            try:
                work.partition.store.finish_commit()
            except (UnavailableError, FencedError) as error:
                flight.works = [w for w in flight.works if w is not work]
                self._refused(work, flight, error)
            else:
                if work.after is not None:
                    work.partition.committed(work.messages, *work.after)
                took = self._monotonic_ns() - flight.started_ns
                self._settled.append((work.partition, work.messages, took))
        self._begun = None

    def _lose(self, error: UnavailableError) -> None:
        """Messages were not taken, and with them none behind: all are published again, later."""
        log.warning("predictions were not published, trying again: %s", error)
        self._pause()
        self._finish()
        for flight in self._waiting:
            for work in flight.works:
                work.partition.untake()
        self._waiting.clear()

    def _refused(self, work: _Work, flight: _Flight, error: PipelineError) -> None:
        """A commit was not applied; the same one is tried again only if the store says it may."""
        if isinstance(error, StoreFullError) and work.partition.store.held:
            log.warning("%s: the store is full, trying again: %s", work.partition.source, error)
            self._pause()
            self._waiting.appendleft(_Flight([work], flight.ticket, self._again_at))
        else:
            self._reset(work.partition, error)

    def _pause(self) -> None:
        self._again_at = self._monotonic_ns() + int(FIRST_PAUSE_S * 1e9)

    @contextmanager
    def _or_nothing(self) -> Iterator[None]:
        """An error that ends the worker ends what is under way: partitions are still given back
        then, and nothing may be committed whose messages, or those before it, went with it."""
        try:
            yield
        except BaseException:
            for flight in (*self._waiting, self._begun):
                for work in [] if flight is None else flight.works:
                    work.partition.drop()
            self._waiting.clear()
            self._begun = None
            raise
