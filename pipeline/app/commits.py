"""Batches on their way into the store: outputs acknowledged, transaction sent, answer read.

While the transaction of one batch is under way the next is computed, and the outputs of that one
are acknowledged meanwhile. In a partition one transaction is sent after the answer to the one
before, so a failure loses the batches behind it and nothing else: they are read again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.app.crashpoints import reach
from pipeline.app.expiry import Expiry
from pipeline.app.partition import Partition, StagedBatch
from pipeline.app.sender import Sender, Sent
from pipeline.errors import FencedError, PipelineError, UnavailableError
from pipeline.store.partition import RowExpiry

__all__ = ["Commits", "Done"]


@dataclass
class Done:
    """Batches that were committed, dead letters that were acknowledged by topic and reason."""

    batches: list[tuple[Partition, StagedBatch]] = field(default_factory=list)
    rejected: dict[str, Counter[str]] = field(default_factory=dict)

    def letters(self, letters: Mapping[str, Mapping[str, int]]) -> None:
        """Add dead letters."""
        for topic, reasons in letters.items():
            self.rejected.setdefault(topic, Counter()).update(reasons)


@dataclass
class _Work:
    """One partition's part of a flight, with the expiries that its transaction sets."""

    partition: Partition
    batch: StagedBatch
    expiries: list[RowExpiry] = field(default_factory=list)


@dataclass
class _Flight:
    """What one poll gave, and its outputs."""

    works: list[_Work]
    sent: Sent


class Commits:
    """Batches under way, oldest first; ``reset`` is told of a partition that has to begin again,
    and calls :meth:`discard`."""

    def __init__(
        self,
        sender: Sender,
        expiry: Expiry,
        reset: Callable[[Partition, PipelineError], None],
    ) -> None:
        self._sender = sender
        self._expiry = expiry
        self._reset = reset
        self._waiting: deque[_Flight] = deque()  # outputs sent, transaction not
        self._begun: _Flight | None = None  # transaction sent
        self._done = Done()

    def add(self, staged: Sequence[tuple[Partition, StagedBatch]]) -> None:
        """Send the outputs of batches that were computed, one of a partition."""
        if not staged:
            return
        reach("computed")
        works = [_Work(partition, batch) for partition, batch in staged]
        with self.or_nothing():
            try:
                for partition, batch in staged:
                    self._sender.send(partition, batch)
            except UnavailableError as error:
                self._waiting.append(_Flight(works, self._sender.seal()))
                self._lose(error)
                return
            self._waiting.append(_Flight(works, self._sender.seal()))

    def go_on(self, under_way: int) -> Done:
        """Until at most so many polls are under way; what was done since the last call."""
        with self.or_nothing():
            self._go_on(under_way)
        done, self._done = self._done, Done()
        return done

    def _go_on(self, under_way: int) -> None:
        while self._waiting or self._begun is not None:
            count = len(self._waiting) + (self._begun is not None)
            if self._waiting and (count > under_way or self._acknowledged()):
                self._finish()
                self._begin()
            elif count > under_way:
                self._finish()
            else:
                break

    def _acknowledged(self) -> bool:
        """Whether the outputs of the oldest that waits were taken; nothing waits if they are
        lost."""
        try:
            return self._sender.acknowledged(self._waiting[0].sent)
        except UnavailableError as error:
            self._lose(error)
            return False

    def discard(self, partition: Partition) -> None:
        """Forget what is under way in a partition: it is read again. What was committed, as a read
        found that failed afterwards, is done all the same."""
        if self._begun is not None and partition.store.settled:
            for work in (w for w in self._begun.works if w.partition is partition):
                self._expiry.given(work.expiries)
                self._done.batches.append((partition, work.batch))
        for flight in (*self._waiting, self._begun):
            if flight is not None:
                flight.works = [w for w in flight.works if w.partition is not partition]

    @contextmanager
    def or_nothing(self) -> Iterator[None]:
        """An error that ends the plane ends what is under way: partitions are still given back
        then, and nothing may be committed whose outputs, or what was before it, went with the
        error."""
        try:
            yield
        except BaseException:
            for flight in (*self._waiting, self._begun):
                for work in [] if flight is None else flight.works:
                    work.partition.drop()
            self._waiting.clear()
            self._begun = None
            raise

    def _lose(self, error: UnavailableError) -> None:
        """Outputs were not taken, and with them none behind: nothing of that may be committed.
        What was sent may come twice, under the same ids."""
        self._sender.drop()
        self._finish()
        lost = {id(w.partition): w.partition for flight in self._waiting for w in flight.works}
        self._waiting.clear()
        for partition in lost.values():
            self._reset(partition, error)

    def _begin(self) -> None:
        """All transactions of a poll are sent before the first answer is awaited."""
        if not self._waiting:
            return
        try:
            self._done.letters(self._sender.wait(self._waiting[0].sent))
        except UnavailableError as error:
            self._lose(error)
            return
        reach("sent")
        flight = self._begun = self._waiting.popleft()
        for work in list(flight.works):
            work.expiries = self._expiry.take(work.partition.source)
            writes = [write for view in work.batch.views for write in view.writes]
            try:
                work.partition.store.begin_commit(writes, work.batch.markers, work.expiries)
            except (UnavailableError, FencedError) as error:
                self._reset(work.partition, error)
        if flight.works:
            reach("begun")

    def _finish(self) -> None:
        """Await the answers to what :meth:`_begin` sent."""
        committed = False
        for work in [] if self._begun is None else list(self._begun.works):
            try:
                work.partition.store.finish_commit()
            except (UnavailableError, FencedError) as error:
                self._reset(work.partition, error)
            else:
                self._settle(work)
                committed = True
        self._begun = None
        if committed:
            reach("committed")

    def _settle(self, work: _Work) -> None:
        self._expiry.given(work.expiries)
        for fingerprint, rows in work.partition.settle(work.batch):
            self._expiry.left(work.partition.source, fingerprint, rows)
        self._done.batches.append((work.partition, work.batch))
