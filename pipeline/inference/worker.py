"""The inference worker: request topic -> micro-batches -> model -> predictions, each row once.

One step reads messages, collects the run that is over, decides what to run next (LEAD), and
delivers answered messages: predictions and dead letters are published and acknowledged, then
rows, progress and marker are committed in one fenced transaction. A crash anywhere loses no
row: what was not committed is read again, and what was published twice has the same row id.

The polling thread does everything but the model's run, which has a thread of its own; while a
batch runs, the next is read and decoded and the last is delivered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.errors import FencedError, LogTruncatedError, PipelineError, UnavailableError
from pipeline.inference.batcher import Dispatch, LeadBatcher, MicroBatch, Shed
from pipeline.inference.delivery import InferenceSettings, Step, count
from pipeline.inference.device import Device
from pipeline.inference.flights import Flights
from pipeline.inference.manifest import ModelManifest
from pipeline.inference.model import Model
from pipeline.inference.pending import Pending, RequestPartition
from pipeline.inference.prediction import Outcome
from pipeline.ingest.batch import BinaryBatch, TopicPartition
from pipeline.ingest.lane import Lane
from pipeline.produce.messages import Outbox
from pipeline.store.partition import Store
from pipeline.store.trouble import Trouble

__all__ = ["InferenceWorker"]

log = logging.getLogger(__name__)

UNREAD_NS = 1_000_000_000  # that a full worker may leave its lane alone


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows that travel together."""

    partition: RequestPartition
    pending: Pending
    span: slice


class InferenceWorker:
    """Answers every row of a request topic once, with a prediction or a recorded fallback.

    ``app`` names the consumer in the store (lease, marker, rows): one model version, one name.
    ``topic_ids`` maps request topics to the broker's ids where it gives them. ``clock_ns`` is wall
    time since the Unix epoch, ``monotonic_ns`` never goes back. The caller owns lane, store,
    publisher and model, and closes them after :meth:`close`.
    """

    def __init__(
        self,
        *,
        app: str,
        topic_ids: Mapping[str, str],
        manifest: ModelManifest,
        model: Model,
        lane: Lane,
        store: Store,
        publisher: Outbox,
        settings: InferenceSettings,
        clock_ns: Callable[[], int],
        monotonic_ns: Callable[[], int],
    ) -> None:
        self._app, self._topic_ids = app, dict(topic_ids)
        self._manifest, self._model = manifest, model
        self._lane, self._store = lane, store
        self._settings = settings
        self._clock_ns, self._monotonic_ns = clock_ns, monotonic_ns
        self._partitions: dict[TopicPartition, RequestPartition] = {}
        self._trouble: dict[TopicPartition, Trouble] = {}
        self._running: list[_Part] = []
        self._full = self._paused = self._closing = False
        self._pause_at = 0
        self._wake_ns: int | None = None
        self._check_at = 0
        self._batcher = self._warmed_batcher()
        self._device = Device(
            model,
            max_batch=settings.max_batch,
            null_value=manifest.null_value,
            timeout_ns=settings.model_timeout_ms * 1_000_000,
            monotonic_ns=monotonic_ns,
        )
        self._flights = Flights(publisher, settings, manifest, monotonic_ns, self._reset)
        self._step = Step()

    def start(self) -> None:
        """Join the consumer group; partitions arrive during :meth:`step`."""
        self._lane.subscribe(
            list(self._topic_ids), on_assign=self._assigned, on_revoke=self._revoked
        )

    @property
    def partitions(self) -> Mapping[TopicPartition, RequestPartition]:
        """The request partitions that this worker owns now."""
        return self._partitions

    @property
    def idle(self) -> bool:
        """Whether nothing that was read still waits for an outcome or for its commit."""
        return not self._device.busy and not any(p.pending for p in self._partitions.values())

    def step(self) -> Step:
        """Read, collect, decide, deliver; each waits only while there is nothing else to do.

        Raises what cannot be mended here: CorruptRowError, LogTruncatedError, a model that
        does not answer any more, a message that the broker refuses.
        """
        self._step = Step()
        self._mend()
        self._throttle()
        unread = self._full and not self._paused
        batches = [] if unread else self._lane.poll(self._settings.max_messages, self._wait_ms())
        self._turn(0.0)
        self._accept(batches)
        self._turn(0.0 if batches or self._deliverable() else 0.001)
        self._deliver()
        self._turn(0.0)
        self._check()
        return self._step

    def close(self) -> None:
        """Leave the group; what was not committed is read again by the next owner."""
        self._closing = True  # a lane that is being closed takes no offsets
        self._lane.close()
        for partition in self._partitions.values():
            partition.store.close()
        self._partitions.clear()
        self._device.close()

    def _warmed_batcher(self) -> LeadBatcher[_Part]:
        most = self._settings.max_batch
        sizes = {1, most} | {64 << k for k in range(8) if 64 << k < most}
        return LeadBatcher(
            self._model.warm_up(sorted(sizes)),
            slo_ns=self._settings.slo_ms * 1_000_000,
            max_batch=most,
            z=self._settings.z,
            defer=self._settings.defer,
        )

    # -- reading

    def _wait_ms(self) -> int:
        if self._device.busy or self._deliverable():
            return 0
        if len(self._flights) and not self._flights.paused:
            return 0
        if len(self._batcher):
            left = 0 if self._wake_ns is None else self._wake_ns - self._clock_ns()
            return min(max(left // 1_000_000, 0), self._settings.max_wait_ms)
        return self._settings.max_wait_ms

    def _throttle(self) -> None:
        """While too many rows wait, until half of that, read nothing: not to poll costs nothing,
        where a lane that is paused throws away what it has fetched. That is for when it takes long,
        or there is nothing to do meanwhile: who does not poll is put out of the group."""
        waiting = sum(m.waiting for p in self._partitions.values() for m in p.pending)
        limit, now = self._settings.max_queued_rows, self._monotonic_ns()
        if waiting < (limit // 2 if self._full else limit):
            if self._paused:
                self._lane.resume([p.source for p in self._healthy()])
            self._full = self._paused = False
        elif not self._full:
            self._full, self._pause_at = True, now + UNREAD_NS
        if self._full and not self._paused:
            idle = not self._device.busy and not self._deliverable()
            if idle or now >= self._pause_at:
                self._paused = True
                self._lane.pause([p.source for p in self._healthy()])

    def _accept(self, batches: Sequence[BinaryBatch]) -> None:
        for batch in batches:
            partition = self._partitions.get(batch.source)
            if partition is None or batch.source in self._trouble:
                continue
            now = self._clock_ns()
            for pending in partition.accept(batch):
                self._offer(partition, pending, now)

    def _offer(self, partition: RequestPartition, pending: Pending, now: int) -> None:
        """Queue the rows of each message, by at most a micro-batch."""
        ends, most = pending.ends.tolist(), self._micro_batch
        cuts = [cut for first, last in pairwise(ends) for cut in range(first, last, most)]
        if not cuts:
            return
        asked = np.minimum.reduceat(pending.requested_at_ms(slice(None)), cuts)
        deadlines = (asked * 1_000_000 + self._settings.slo_ms * 1_000_000).tolist()
        for first, last, deadline in zip(cuts, [*cuts[1:], ends[-1]], deadlines, strict=True):
            part = _Part(partition, pending, slice(first, last))
            self._batcher.offer(MicroBatch(last - first, deadline, now, part))

    @property
    def _micro_batch(self) -> int:
        return min(self._settings.micro_batch, self._settings.max_batch)

    # -- running

    def _turn(self, wait_s: float) -> None:
        """Collect the run that is over, and begin the next: the device waits for nothing else."""
        self._collect(wait_s)
        self._decide()

    def _collect(self, wait_s: float) -> None:
        """Give the rows of a finished run their outcome."""
        run = self._device.finished(wait_s)
        if run is None:
            return
        if run.service_ns is not None:
            self._batcher.completed(run.bucket, run.service_ns)
            self._step.runs.append((run.rows, run.service_ns))
        now_ms, at = self._clock_ns() // 1_000_000, 0
        for part in self._running:
            rows = slice(at, at + part.span.stop - part.span.start)
            part.pending.answer(part.span, run.outcome[rows], run.score[rows], now_ms)
            at = rows.stop
        self._running = []

    def _decide(self) -> None:
        self._wake_ns = None
        while True:
            now = self._clock_ns()
            choice = self._batcher.decide(now, not self._device.busy)
            if isinstance(choice, Shed):
                for part in _joined(choice.batches):
                    part.pending.answer(part.span, Outcome.DEADLINE, np.nan, now // 1_000_000)
            elif isinstance(choice, Dispatch):
                self._running = _joined(choice.batches)
                blocks = [part.pending.block[part.span] for part in self._running]
                self._device.start(blocks, choice.bucket)
            else:
                self._wake_ns = choice.until_ns
                return

    # -- delivering

    def _deliverable(self) -> bool:
        """Whether a message could be published now."""
        if self._flights.paused or len(self._flights) > self._settings.under_way:
            return False
        return any(partition.takeable for partition in self._healthy())

    def _deliver(self) -> None:
        """Publish what is answered; commit what is acknowledged. While the model runs that is not
        waited for, unless too much is under way."""
        if self._deliverable():
            self._flights.add(self._healthy())
        offsets = self._settle(self._settings.under_way if self._device.busy else 0)
        if offsets:
            self._lane.commit(offsets)

    def _settle(self, under_way: int) -> dict[TopicPartition, int]:
        """Go on until so many are under way; where the lane's offsets are now, for lag tools."""
        offsets = {}
        for partition, messages, took_ns in self._flights.go_on(under_way):
            offsets[partition.source] = partition.marker.next_offset
            for part in messages:
                count(self._step, part, self._settings.slo_ms)
            self._batcher.delivery.observe(took_ns)
        return offsets

    def _healthy(self) -> list[RequestPartition]:
        return [p for source, p in self._partitions.items() if source not in self._trouble]

    # -- what can go wrong

    def _reset(self, partition: RequestPartition, error: PipelineError) -> None:
        """Drop what is not committed and start again from the marker, after a pause."""
        log.warning("%s: starting again from its marker: %s", partition.source, error)
        self._step.resets += 1
        self._forget(partition)
        now, before = self._monotonic_ns() / 1e9, self._trouble.get(partition.source)
        self._trouble[partition.source] = Trouble.of(error, now, before)
        self._lane.pause([partition.source])

    def _mend(self) -> None:
        for source, trouble in list(self._trouble.items()):
            if self._monotonic_ns() / 1e9 < trouble.retry_at:
                continue
            try:
                start = self._open(self._partitions[source])
            except (UnavailableError, FencedError) as error:
                self._reset(self._partitions[source], error)
                continue
            del self._trouble[source]
            self._lane.seek(source, start)
            if not self._paused:
                self._lane.resume([source])

    def _check(self) -> None:
        """Once a second: are lease and marker in the store still ours?"""
        now = self._monotonic_ns()
        if now < self._check_at:
            return
        self._check_at = now + self._settings.check_interval_ms * 1_000_000
        self._flights.land()
        for source, partition in list(self._partitions.items()):
            if source in self._trouble:
                continue
            try:
                if not partition.store.check():
                    raise FencedError(f"{source}: lease or marker in the store are not ours")
            except (UnavailableError, FencedError) as error:
                self._reset(partition, error)

    # -- partitions come and go

    def _open(self, partition: RequestPartition) -> int:
        low, high = self._lane.watermarks(partition.source)
        start = partition.open(self._lane.generation(), low)
        if not low <= start <= high:
            raise LogTruncatedError(
                f"{partition.source}: the marker is at offset {start} but the log holds {low} to "
                f"{high}; requests in between are gone"
            )
        known, found = partition.marker.topic_id, self._topic_ids[partition.source.topic]
        if known and found and known != found:
            raise LogTruncatedError(
                f"{partition.source}: the marker belongs to topic id {known}, the broker's topic "
                f"is {found}: it was deleted and created again"
            )
        return start

    def _assigned(self, sources: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        starts = {}
        for source in sources:
            store = self._store.open_partition(self._app, source)
            topic_id = self._topic_ids[source.topic]
            partition = RequestPartition(source, topic_id, store, self._manifest)
            self._partitions[source] = partition
            starts[source] = self._open(partition)
        return starts

    def _revoked(self, sources: list[TopicPartition], lost: bool) -> None:
        if not lost:
            self._flights.add(self._healthy())
            offsets = self._settle(0)
            if offsets and not self._closing:
                self._lane.commit(offsets)
        for source in sources:
            self._trouble.pop(source, None)
            partition = self._partitions.pop(source, None)
            if partition is not None:
                self._forget(partition)
                partition.store.close()

    def _forget(self, partition: RequestPartition) -> None:
        """Its rows leave the queue; a run under way answers messages that nobody commits."""
        keep = [b for b in self._batcher.waiting() if b.payload.partition is not partition]
        self._batcher.discard(keep)
        self._flights.discard(partition)
        partition.drop()


def _joined(batches: Iterable[MicroBatch[_Part]]) -> list[_Part]:
    """The parts of micro-batches, those that lie one after the other as one."""
    joined: list[_Part] = []
    for batch in batches:
        part = batch.payload
        last = joined[-1] if joined else part
        if joined and last.pending is part.pending and last.span.stop == part.span.start:
            joined[-1] = _Part(part.partition, part.pending, slice(last.span.start, part.span.stop))
        else:
            joined.append(part)
    return joined
