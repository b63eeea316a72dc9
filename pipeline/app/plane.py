"""The data plane: reads batches, applies them, sends the outputs out, commits. In that order.

This object alone decides the order of a commit; nothing else touches an offset.
It is synchronous, runs on one thread, and is driven by :meth:`DataPlane.step`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.app.crashpoints import reach
from pipeline.app.expiry import Expiry
from pipeline.app.hold import Hold
from pipeline.app.outputs import TopicNames
from pipeline.app.partition import Partition, StagedBatch
from pipeline.app.sender import Sender
from pipeline.app.topic import Topic, decoder
from pipeline.app.upstream import Upstream
from pipeline.errors import (
    ConfigurationError,
    FencedError,
    LogTruncatedError,
    PipelineError,
    UnavailableError,
)
from pipeline.features.lookups import row_plans
from pipeline.ingest.batch import TopicPartition
from pipeline.ingest.lane import END, Lane, Position
from pipeline.store.marker import Marker
from pipeline.store.partition import RowExpiry, Store

__all__ = ["DataPlane", "PlaneSettings", "Step", "Topic", "decoder"]

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
LONGEST_REFUSAL_S = 120.0  # a worker that fell behind hears of its group much earlier


@dataclass(frozen=True, slots=True)
class PlaneSettings:
    """How a data plane works. ``cache_bytes`` is per view and partition; the last two are those
    of :class:`~pipeline.app.expiry.Expiry`."""

    max_records: int
    max_wait_ms: int
    cache_bytes: int
    check_interval_ms: int
    commit_interval_ms: int
    replay_horizon_ms: int = 7 * 86_400_000
    sweep_keys_per_s: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did: the batches it committed, dead letters by topic and reason, resets,
    rows that were given an expiry by view and cause."""

    batches: list[StagedBatch]
    rejected: Mapping[str, Mapping[str, int]]
    resets: int
    expiring: Mapping[tuple[str, str], int] = field(default_factory=dict)


@dataclass
class _Trouble:
    """A partition that has to be opened again, and when; since when others have its lease."""

    retry_at: float
    pause_s: float
    fenced_at: float | None


class DataPlane:
    """Reads the source topics of an application's views and keeps their rows.

    ``clock_ms`` is wall time in ms (heartbeats only), ``monotonic`` seconds (pauses only).
    ``register`` tells the store's registry of the views once more: it may have lost them too.
    """

    def __init__(
        self,
        *,
        names: TopicNames,
        topics: Sequence[Topic],
        settings: PlaneSettings,
        lane: Lane,
        store: Store,
        sender: Sender,
        clock_ms: Callable[[], int],
        monotonic: Callable[[], float],
        register: Callable[[], None] = lambda: None,
    ) -> None:
        self._names = names
        self._topics = {t.topic: t for t in topics}
        self._settings = settings
        self._lane = lane
        self._store = store
        self._sender = sender
        self._clock_ms = clock_ms
        self._monotonic = monotonic
        self._register = register
        self._expiry = Expiry(
            names.app,
            [(t.topic, rows) for t in topics for p in t.views for rows in row_plans(p.view.plan)],
            store,
            horizon_ms=settings.replay_horizon_ms, sweep_keys_per_s=settings.sweep_keys_per_s,
            clock_ms=clock_ms, monotonic=monotonic,
        )  # fmt: skip
        self._partitions: dict[TopicPartition, Partition] = {}
        self._trouble: dict[TopicPartition, _Trouble] = {}
        self._decoders = {t.topic: t.decoder() for t in topics}
        self._upstream = Upstream(names.app, store, topics)
        self._check_at = 0.0
        self._offsets_at = 0.0
        self._resets = 0
        self._hold = Hold(lane)

    def start(self) -> None:
        """Join the consumer group; partitions arrive during :meth:`step`."""
        self._lane.subscribe(list(self._topics), on_assign=self._assigned, on_revoke=self._revoked)

    @property
    def assignment(self) -> list[TopicPartition]:
        """Partitions this worker owns now."""
        return sorted(self._partitions)

    def lag(self) -> dict[TopicPartition, int]:
        """Records between each partition's lowest marker and the end of its log.

        Partitions whose end nobody tells now are left out.
        """
        found: dict[TopicPartition, int] = {}
        for source, partition in self._partitions.items():
            if partition.markers:
                try:
                    end = self._lane.watermarks(source)[1]
                except UnavailableError:
                    continue
                found[source] = max(0, end - partition.next_offset)
        return found

    def held_back(self) -> dict[TopicPartition, tuple[int, int]]:
        """As :meth:`~pipeline.ingest.lane.Lane.held_back`, of the partitions it does so."""
        sources = self._partitions.keys() - self._trouble.keys()
        return {s: found for s in sources if (found := self._lane.held_back(s)) is not None}

    def step(self) -> Step:
        """Read one batch a partition, apply, send out, commit; or mend what is broken.

        Raises what cannot be mended here: :class:`LogTruncatedError`, a marker that cannot be read,
        :class:`FencedError` where another's lease was in the way for minutes.
        """
        self._resets = 0
        self._mend()
        self._hold.keep(self._partitions, self._trouble)
        batches = self._lane.poll(self._settings.max_records, self._settings.max_wait_ms)
        staged: list[tuple[Partition, StagedBatch]] = []
        for batch in batches:
            partition = self._partitions.get(batch.source)
            if partition is None or batch.source in self._trouble or not len(batch):
                continue
            try:
                events = self._decoders[batch.source.topic].decode(batch)
                staged.append((partition, partition.stage(events, self._clock_ms())))
            except (UnavailableError, FencedError) as error:
                self._reset(partition, error)
        if staged:
            reach("computed")
        try:
            for partition, work in staged:
                self._sender.send(partition, work)
            rejected = self._sender.flush()
        except UnavailableError as error:
            # What was sent may come twice, under the same ids; nothing was committed.
            self._sender.drop()
            for partition, _ in staged:
                self._reset(partition, error)
            return Step([], {}, self._resets)
        committed = self._commit(staged)
        self._keep()
        expiring = self._expiry.drain()
        return Step([work for _, work in committed], rejected, self._resets, expiring)

    def hold(self, views: Collection[str]) -> None:
        """Until the next call, read no more of the topics of these views; the rest goes on."""
        held = (
            name
            for name, topic in self._topics.items()
            if any(plan.view.name in views for plan in topic.views)
        )
        self._hold.change(held, self._trouble)

    def close(self) -> None:
        """Leave the group and close every partition; what was not committed is read again."""
        self._lane.close()
        self._expiry.release(self._partitions.values())
        self._expiry.close()
        for partition in self._partitions.values():
            partition.store.close()
        self._partitions.clear()

    def _commit(
        self, staged: Sequence[tuple[Partition, StagedBatch]]
    ) -> list[tuple[Partition, StagedBatch]]:
        """All transactions are sent before the first answer is awaited."""
        if staged:
            reach("sent")
        begun: list[tuple[Partition, StagedBatch, list[RowExpiry]]] = []
        for partition, batch in staged:
            expiries = self._expiry.take(partition.source)
            try:
                partition.store.begin_commit(
                    [write for v in batch.views for write in v.writes], batch.markers, expiries
                )
                begun.append((partition, batch, expiries))
            except (UnavailableError, FencedError) as error:
                self._reset(partition, error)
        if begun:
            reach("begun")
        committed: list[tuple[Partition, StagedBatch]] = []
        for partition, batch, expiries in begun:
            try:
                partition.store.finish_commit()
            except (UnavailableError, FencedError) as error:
                self._reset(partition, error)
            else:
                self._expiry.given(expiries)
                for fingerprint, rows in partition.settle(batch):
                    self._expiry.left(partition.source, fingerprint, rows)
                committed.append((partition, batch))
        if committed:
            reach("committed")
        return committed

    def _keep(self) -> None:
        """Once a second or so: compare leases and markers with the store, beat, tell Kafka."""
        now = self._monotonic()
        if now >= self._check_at:
            self._check_at = now + self._settings.check_interval_ms / 1000
            self._compare([p for s, p in self._partitions.items() if s not in self._trouble])
            self._expiry.sweep(self._partitions.keys())
        if now >= self._offsets_at:
            self._offsets_at = now + self._settings.commit_interval_ms / 1000
            offsets = {s: p.next_offset for s, p in self._partitions.items() if p.markers}
            if offsets:
                self._lane.commit(offsets)

    def _compare(self, partitions: Sequence[Partition]) -> None:
        """Look whether the store holds what we wrote. Where everything was read, a commit of
        markers that say so does it; without a broker nobody knows whether it was."""
        connected = self._lane.health.connected
        self._upstream.look()
        begun: list[tuple[Partition, list[Marker], list[RowExpiry]]] = []
        for partition in partitions:
            try:
                if connected and self._at_end(partition.source):
                    now_ms = self._clock_ms()
                    through = self._upstream.through_ms(partition.source.topic, now_ms)
                    markers = partition.beat(through, now_ms)
                    expiries = self._expiry.take(partition.source)
                    partition.store.begin_commit([], markers, expiries)
                    begun.append((partition, markers, expiries))
                elif not partition.store.check():
                    raise FencedError(f"{partition.source}: lease or markers stored are not ours")
            except (UnavailableError, FencedError) as error:
                self._reset(partition, error)
        for partition, markers, expiries in begun:
            try:
                partition.store.finish_commit()
            except (UnavailableError, FencedError) as error:
                self._reset(partition, error)
            else:
                self._expiry.given(expiries)
                partition.beaten(markers)

    def _at_end(self, source: TopicPartition) -> bool:
        """Whether everything was read that was acknowledged to a producer."""
        return self._lane.at_end(source) and self._lane.held_back(source) is None

    def _reset(self, partition: Partition, error: PipelineError) -> None:
        """Drop what is cached, and read no more until it is opened again."""
        self._doubt(partition, error)
        self._lane.pause([partition.source])

    def _doubt(self, partition: Partition, error: PipelineError) -> None:
        """Drop what is cached: the truth is in the store and in the log. Opened again later."""
        log.warning("%s: starting again from its marker: %s", partition.source, error)
        before, now = self._trouble.get(partition.source), self._monotonic()
        pause = min(LONGEST_PAUSE_S, before.pause_s * 2) if before else FIRST_PAUSE_S
        fenced_at = None
        if isinstance(error, FencedError):
            fenced_at = before.fenced_at if before and before.fenced_at is not None else now
            if now - fenced_at > LONGEST_REFUSAL_S:
                raise error
        partition.drop()
        self._expiry.forget(partition.source)
        self._resets += 1
        self._trouble[partition.source] = _Trouble(now + pause, pause, fenced_at)

    def _mend(self) -> None:
        for source, trouble in list(self._trouble.items()):
            if self._monotonic() < trouble.retry_at:
                continue
            partition = self._partitions[source]
            try:
                self._register()
                start = self._open(partition)
                self._lane.seek(source, start.offset, start.leader_epoch)
                if source not in self._hold:
                    self._lane.resume([source])
            except (UnavailableError, FencedError) as error:
                self._reset(partition, error)
                continue
            del self._trouble[source]
            log.info("%s: reading again from offset %d", source, start.offset)

    def _open(self, partition: Partition) -> Position:
        """Open a partition; where to read from. The log must still hold it, and what was before:
        the lane compares the leader epoch of the last record that was read with the broker's."""
        # Only the start is looked at: a marker beyond the end makes the lane stop at its first
        # fetch, and an end that is asked for may lag behind (the embedded broker's does).
        low, _ = self._lane.watermarks(partition.source)
        lease = partition.open(self._lane.generation(), low)
        if lease.epoch == 1 and low > 0 and self._lane.committed(partition.source) >= 0:
            raise LogTruncatedError(
                f"{partition.source}: the store lost its rows (there never was a lease, but the "
                f"group has an offset) and the log starts at {low}, too late to compute them "
                "again. Restore the store or the log, or use a new application name"
            )
        start = partition.position
        if start.offset < low:
            raise LogTruncatedError(
                f"{partition.source}: the marker is at offset {start.offset} but the log starts at "
                f"{low}; events in between are gone. Restore the log, or backfill the views"
            )
        for marker in partition.markers:
            if marker.topic_id and partition.topic_id and marker.topic_id != partition.topic_id:
                raise LogTruncatedError(
                    f"{partition.source}: the marker belongs to topic id {marker.topic_id}, "
                    f"the broker's topic is {partition.topic_id}: it was deleted and created again"
                )
        return start

    def _assigned(self, sources: list[TopicPartition]) -> Mapping[TopicPartition, Position]:
        starts: dict[TopicPartition, Position] = {}
        for source in sources:
            topic = self._topics[source.topic]
            if source.partition >= topic.partitions and topic.fixed:
                raise ConfigurationError(
                    f"topic {source.topic!r} got more partitions than the {topic.partitions} it "
                    "had: keys change their partition. Use a new topic, or a new application name "
                    "and a backfill"
                )
            partition = Partition(
                app=self._names.app,
                source=source,
                topic_id=topic.topic_id,
                store=self._store.open_partition(self._names.app, source),
                plans=topic.views,
                cache_bytes=self._settings.cache_bytes,
                routing=topic.routes,
            )
            self._partitions[source] = partition
            try:
                starts[source] = self._open(partition)
            except (UnavailableError, FencedError) as error:
                # Kept, though broken: what comes from its end is left until it is mended.
                self._doubt(partition, error)
                starts[source] = Position(END)
        log.info("assigned %s", ", ".join(f"{s} from {p.offset}" for s, p in starts.items()))
        return starts

    def _revoked(self, sources: list[TopicPartition], lost: bool) -> None:
        log.info("%s %s", "lost" if lost else "revoked", ", ".join(str(s) for s in sources))
        gone = [p for s in sources if (p := self._partitions.pop(s, None)) is not None]
        for source in sources:
            self._hold.forget(source)
        if not lost:
            self._expiry.release(gone)
        for partition in gone:
            self._trouble.pop(partition.source, None)
            self._expiry.forget(partition.source)
            partition.store.close()
