"""LEAD (load-adaptive early drop): which queued rows to run now, and which to give up.

A device runs one batch at a time and takes ``L(n) = t0 + a*n`` for ``n`` rows. While it is
idle and something is queued, the policy picks a size ``e`` from the load, gives up the oldest
rows that could not finish in time in a batch of that size (dropping them early leaves time
for those behind them), and runs at least ``e`` rows. No timer and no polling: the caller asks
at every arrival and at every completion. The policy is pure: time is an argument.

    guard = z*s + p99(delivery)     S = SLO - guard
    n* = (S/2 - t0) / a             mu* = n* / (t0 + a*n*)
    e  = n*                         while the arrival rate lam <= mu*
         lam*(S - t0)/(1 + lam*a)   above it: the size whose head waited exactly S - L(e)

Related: Shen et al., "Nexus" (SOSP 2019), whose early drop uses a fixed size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from pipeline.inference.service import ArrivalRate, RecentQuantile, ServiceTime

__all__ = ["Dispatch", "LeadBatcher", "MicroBatch", "Shed", "Wait"]

P = TypeVar("P")


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch(Generic[P]):
    """Rows that are run or given up together. Times are ns of one clock."""

    rows: int
    deadline_ns: int
    arrival_ns: int
    payload: P


@dataclass(frozen=True, slots=True)
class Dispatch(Generic[P]):
    """Run these, in this order, as one batch padded to ``bucket`` rows."""

    batches: tuple[MicroBatch[P], ...]
    rows: int
    bucket: int


@dataclass(frozen=True, slots=True)
class Shed(Generic[P]):
    """Give these up: each row becomes a recorded fallback. Ask again afterwards."""

    batches: tuple[MicroBatch[P], ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until an arrival or a completion, or until ``until_ns`` if that is given."""

    until_ns: int | None = None


class LeadBatcher(Generic[P]):
    """The queue of one lane (model version x device) and the LEAD policy over it.

    ``slo_ns``     time from a request to its result
    ``max_batch``  most rows of one run
    ``z``          how many residuals of the service time are kept as a guard
    ``defer``      share of the SLO that an idle device may wait for a fuller batch (shared GPU)
    ``buckets``    sizes that a run is padded to, ascending; none: runs are not padded

    Order is first in, first out, so the order of a key is kept. A micro-batch is never split.
    """

    def __init__(
        self,
        service: ServiceTime,
        *,
        slo_ns: int,
        max_batch: int,
        z: float = 3.0,
        defer: float = 0.0,
        buckets: Sequence[int] = (),
    ) -> None:
        if slo_ns <= 0 or max_batch <= 0 or z < 0 or not 0 <= defer < 1:
            raise ValueError("needs slo_ns > 0, max_batch > 0, z >= 0 and 0 <= defer < 1")
        self.service = service
        self.arrivals = ArrivalRate(5 * slo_ns)
        self.delivery = RecentQuantile(0.99)
        self._slo_ns, self._max_batch, self._z, self._defer = slo_ns, max_batch, z, defer
        self._buckets = tuple(buckets)
        self._queue: deque[MicroBatch[P]] = deque()
        self._queued = 0

    @property
    def queued_rows(self) -> int:
        """Rows waiting."""
        return self._queued

    def __len__(self) -> int:
        """Micro-batches waiting."""
        return len(self._queue)

    @property
    def guard_ns(self) -> float:
        """Time kept free for noise of the service time and for delivery of results."""
        return self._z * self.service.residual_ns + self.delivery()

    def offer(self, batch: MicroBatch[P]) -> None:
        """Queue a micro-batch of 1 to ``max_batch`` rows."""
        if not 0 < batch.rows <= self._max_batch:
            raise ValueError(f"a micro-batch has 1 to {self._max_batch} rows, not {batch.rows}")
        self._queue.append(batch)
        self._queued += batch.rows
        self.arrivals.observe(batch.rows, batch.arrival_ns)

    def completed(self, rows: int, service_ns: float, delivery_ns: float | None = None) -> None:
        """Learn from a run of ``rows`` rows, and from how long its results took to deliver."""
        self.service.observe(rows, service_ns)
        if delivery_ns is not None:
            self.delivery.observe(delivery_ns)

    def discard(self, keep: Sequence[MicroBatch[P]]) -> None:
        """Replace the queue by ``keep`` (what is left after partitions were revoked)."""
        self._queue = deque(keep)
        self._queued = sum(batch.rows for batch in keep)

    def waiting(self) -> tuple[MicroBatch[P], ...]:
        """The queue, head first."""
        return tuple(self._queue)

    def decide(self, now_ns: int, idle: bool) -> Dispatch[P] | Wait | Shed[P]:
        """What to do at ``now_ns``; what is dispatched or shed has left the queue.

        O(micro-batches in the batch), plus O(1) for each one shed.
        """
        if not idle or not self._queue:
            return Wait()
        wanted = self.target_rows(now_ns)
        until = self._deferred(now_ns, wanted)
        if until is not None:
            return Wait(until)
        shed = self._shed(now_ns, wanted)
        if shed:
            return Shed(tuple(shed))
        return self._dispatch(now_ns, wanted)

    def target_rows(self, now_ns: int) -> float:
        """The size ``e`` that suits the present load, before it is clamped to the queue."""
        t0, a = self.service.t0_ns, self.service.a_ns
        budget = max(self._slo_ns - self.guard_ns, 0.0)
        best = max((budget / 2 - t0) / a, 1.0)
        rate = self.arrivals(now_ns)
        if rate <= best / (t0 + a * best):
            return best
        return max(rate * (budget - t0) / (1.0 + rate * a), 1.0)

    def _prefix(self, rows: float) -> tuple[int, int]:
        """Micro-batches and rows of the longest prefix of at most ``rows`` rows, at least one."""
        limit = min(rows, self._max_batch)
        count = total = 0
        for batch in self._queue:
            if count and total + batch.rows > limit:
                break
            count, total = count + 1, total + batch.rows
        return count, total

    def _shed(self, now_ns: int, wanted: float) -> list[MicroBatch[P]]:
        """Take from the queue what would miss its deadline in a batch of the wanted size."""
        shed: list[MicroBatch[P]] = []
        while self._queue:
            count, rows = self._prefix(wanted)
            finish = now_ns + self.service(rows) + self.guard_ns
            before = len(shed)
            # The prefix only shortens once the queue holds less than the wanted rows; until
            # then every head in turn faces the same finish.
            while self._queued >= rows and self._queue and self._queue[0].deadline_ns < finish:
                shed.append(self._pop())
            if len(shed) == before:
                late = [b for b in islice(self._queue, count) if b.deadline_ns < finish]
                if not late:
                    break
                shed.append(self._remove(late[0]))
        return shed

    def _dispatch(self, now_ns: int, wanted: float) -> Dispatch[P]:
        count, rows = self._prefix(wanted)
        earliest = min(batch.deadline_ns for batch in islice(self._queue, count))
        slack = earliest - now_ns - self.guard_ns
        for batch in islice(self._queue, count, None):
            earliest = min(earliest, batch.deadline_ns)
            slack = earliest - now_ns - self.guard_ns
            if rows + batch.rows > self._max_batch or self.service(rows + batch.rows) > slack:
                break
            count, rows = count + 1, rows + batch.rows
        count, rows, bucket = self._fit_bucket(count, rows, slack)
        taken = tuple(self._pop() for _ in range(count))
        return Dispatch(taken, rows, bucket)

    def _fit_bucket(self, count: int, rows: int, slack: float) -> tuple[int, int, int]:
        """The bucket above if padding to it is in time, else the split at the bucket below."""
        above = next((b for b in self._buckets if b >= rows), None)
        if not self._buckets or above == rows:
            return count, rows, rows
        if above is not None and self.service(above) <= slack:
            return count, rows, above
        below = max((b for b in self._buckets if b < rows), default=0)
        if below < self._queue[0].rows:
            return count, rows, above if above is not None else rows
        fewer, kept = self._prefix(below)
        return fewer, kept, below

    def _deferred(self, now_ns: int, wanted: float) -> int | None:
        """Until when an idle device may wait for more rows; None where it may not."""
        if not self._defer or self._queued >= min(wanted, self._max_batch):
            return None
        head = self._queue[0]
        latest = head.deadline_ns - self.guard_ns - self.service(self._queued)
        until = min(head.arrival_ns + self._defer * self._slo_ns, latest)
        return int(until) if until > now_ns else None

    def _pop(self) -> MicroBatch[P]:
        batch = self._queue.popleft()
        self._queued -= batch.rows
        return batch

    def _remove(self, batch: MicroBatch[P]) -> MicroBatch[P]:
        self._queue.remove(batch)
        self._queued -= batch.rows
        return batch
