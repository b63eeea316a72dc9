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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import FencedError, LogTruncatedError, StoreFullError, UnavailableError
from pipeline.inference.batcher import Dispatch, LeadBatcher, MicroBatch, Shed
from pipeline.inference.delivery import InferenceSettings, Publisher, Step, count, publish
from pipeline.inference.device import Device
from pipeline.inference.manifest import ModelManifest
from pipeline.inference.model import Model
from pipeline.inference.pending import Pending, RequestPartition
from pipeline.inference.prediction import Outcome
from pipeline.ingest.batch import BinaryBatch, TopicPartition
from pipeline.ingest.lane import Lane
from pipeline.store.partition import Store

__all__ = ["InferenceWorker"]

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows of one message that travel together."""

    partition: RequestPartition
    message: Pending
    span: slice


@dataclass(slots=True)
class _Trouble:
    retry_at: int
    pause_s: float


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
        publisher: Publisher,
        settings: InferenceSettings,
        clock_ns: Callable[[], int],
        monotonic_ns: Callable[[], int],
    ) -> None:
        self._app, self._topic_ids = app, dict(topic_ids)
        self._manifest, self._model = manifest, model
        self._lane, self._store, self._publisher = lane, store, publisher
        self._settings = settings
        self._clock_ns, self._monotonic_ns = clock_ns, monotonic_ns
        self._partitions: dict[TopicPartition, RequestPartition] = {}
        self._trouble: dict[TopicPartition, _Trouble] = {}
        self._running: tuple[MicroBatch[_Part], ...] = ()
        self._full = False
        self._wake_ns: int | None = None
        self._publish_at = 0
        self._check_at = 0
        self._batcher = self._warmed_batcher()
        self._device = Device(
            model,
            max_batch=settings.max_batch,
            null_value=manifest.null_value,
            timeout_ns=settings.model_timeout_ms * 1_000_000,
            monotonic_ns=monotonic_ns,
        )
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
        self._accept(self._lane.poll(self._settings.max_messages, self._poll_wait_ms()))
        self._collect(0.0 if self._deliverable() else 0.001)
        self._decide()
        self._deliver()
        self._check()
        return self._step

    def close(self) -> None:
        """Leave the group; what was not committed is read again by the next owner."""
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

    def _poll_wait_ms(self) -> int:
        if self._device.busy or self._deliverable():
            return 0
        if len(self._batcher):
            left = 0 if self._wake_ns is None else self._wake_ns - self._clock_ns()
            return min(max(left // 1_000_000, 0), self._settings.max_wait_ms)
        return self._settings.max_wait_ms

    def _throttle(self) -> None:
        """Pause the lane while too many rows wait, resume it at half of that."""
        waiting = sum(len(m.rows) for p in self._partitions.values() for m in p.pending)
        limit = self._settings.max_queued_rows
        healthy = [source for source in self._partitions if source not in self._trouble]
        if not self._full and waiting >= limit:
            self._full = True
            self._lane.pause(healthy)
        elif self._full and waiting < limit // 2:
            self._full = False
            self._lane.resume(healthy)

    def _accept(self, batches: Sequence[BinaryBatch]) -> None:
        for batch in batches:
            partition = self._partitions.get(batch.source)
            if partition is None or batch.source in self._trouble:
                continue
            now = self._clock_ns()
            for message in partition.accept(batch):
                for start in range(0, len(message.rows), self._micro_batch):
                    span = slice(start, min(start + self._micro_batch, len(message.rows)))
                    asked = int(message.requested_at_ms(span).min()) * 1_000_000
                    deadline = asked + self._settings.slo_ms * 1_000_000
                    part = _Part(partition, message, span)
                    self._batcher.offer(MicroBatch(span.stop - start, deadline, now, part))

    @property
    def _micro_batch(self) -> int:
        return min(self._settings.micro_batch, self._settings.max_batch)

    # -- running

    def _collect(self, wait_s: float) -> None:
        """Give the rows of a finished run their outcome."""
        run = self._device.finished(wait_s)
        if run is None:
            return
        if run.service_ns is not None:
            self._batcher.completed(run.bucket, run.service_ns)
            self._step.runs.append((run.rows, run.service_ns))
        now_ms, at = self._clock_ns() // 1_000_000, 0
        for batch in self._running:
            rows = slice(at, at + batch.rows)
            part = batch.payload
            part.message.answer(part.span, run.outcome[rows], run.score[rows], now_ms)
            at += batch.rows
        self._running = ()

    def _decide(self) -> None:
        self._wake_ns = None
        while True:
            now = self._clock_ns()
            choice = self._batcher.decide(now, not self._device.busy)
            if isinstance(choice, Shed):
                for batch in choice.batches:
                    part = batch.payload
                    part.message.answer(part.span, Outcome.DEADLINE, np.nan, now // 1_000_000)
            elif isinstance(choice, Dispatch):
                self._running = choice.batches
                blocks = [b.payload.message.block[b.payload.span] for b in choice.batches]
                self._device.start(blocks, choice.bucket)
            else:
                self._wake_ns = choice.until_ns
                return

    # -- delivering

    def _deliverable(self) -> bool:
        """Whether a message could be committed now."""
        if self._monotonic_ns() < self._publish_at:
            return False
        return any(
            partition.pending and not partition.pending[0].open
            for source, partition in self._partitions.items()
            if source not in self._trouble
        )

    def _deliver(self) -> None:
        """Publish, wait for the acknowledgement, commit. In that order."""
        if not self._deliverable():
            return
        started = self._monotonic_ns()
        ready = {
            source: found
            for source, partition in self._partitions.items()
            if source not in self._trouble
            and (found := partition.ready(self._settings.max_queued_rows))
        }
        try:
            for source, messages in ready.items():
                publish(self._publisher, self._settings, self._manifest, source, messages)
            self._publisher.flush()
        except UnavailableError as error:
            self._later(error)
            return
        for messages in ready.values():
            for message in messages:
                message.published = True
        self._commit(ready)
        self._batcher.delivery.observe(self._monotonic_ns() - started)

    def _commit(self, ready: Mapping[TopicPartition, list[Pending]]) -> None:
        """All transactions are sent before the first answer is awaited."""
        begun = []
        for source, messages in ready.items():
            partition = self._partitions[source]
            write, marker, progress = partition.staged(messages)
            try:
                partition.store.begin_commit([write], [marker])
            except (UnavailableError, FencedError) as error:
                self._refused(partition, error)
            else:
                begun.append((partition, messages, marker, progress))
        offsets = {}
        for partition, messages, marker, progress in begun:
            try:
                partition.store.finish_commit()
            except (UnavailableError, FencedError) as error:
                self._refused(partition, error)
                continue
            partition.committed(messages, marker, progress)
            offsets[partition.source] = marker.next_offset
            for message in messages:
                count(self._step, message, self._settings.slo_ms)
        if offsets:
            self._lane.commit(offsets)

    # -- what can go wrong

    def _later(self, error: UnavailableError) -> None:
        """The broker did not take the messages: nothing is lost, they are sent again."""
        log.warning("predictions were not published, trying again: %s", error)
        self._publish_at = self._monotonic_ns() + int(FIRST_PAUSE_S * 1e9)

    def _refused(self, partition: RequestPartition, error: Exception) -> None:
        """A commit was not applied; the same one is tried again only if the store says it may."""
        if isinstance(error, StoreFullError) and partition.store.held:
            log.warning("%s: the store is full, trying again: %s", partition.source, error)
            self._publish_at = self._monotonic_ns() + int(FIRST_PAUSE_S * 1e9)
            return
        self._reset(partition, error)

    def _reset(self, partition: RequestPartition, error: Exception) -> None:
        """Drop what is unanswered and start again from the marker, after a pause."""
        log.warning("%s: starting again from its marker: %s", partition.source, error)
        before = self._trouble.get(partition.source)
        pause = FIRST_PAUSE_S if before is None else min(LONGEST_PAUSE_S, before.pause_s * 2)
        self._step.resets += 1
        self._forget(partition)
        self._trouble[partition.source] = _Trouble(self._monotonic_ns() + int(pause * 1e9), pause)
        self._lane.pause([partition.source])

    def _mend(self) -> None:
        for source, trouble in list(self._trouble.items()):
            if self._monotonic_ns() < trouble.retry_at:
                continue
            try:
                start = self._open(self._partitions[source])
            except (UnavailableError, FencedError) as error:
                self._reset(self._partitions[source], error)
                continue
            del self._trouble[source]
            self._lane.seek(source, start)
            if not self._full:
                self._lane.resume([source])

    def _check(self) -> None:
        """Once a second: are lease and marker in the store still ours?"""
        now = self._monotonic_ns()
        if now < self._check_at:
            return
        self._check_at = now + self._settings.check_interval_ms * 1_000_000
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
            self._deliver()
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
        partition.drop()
