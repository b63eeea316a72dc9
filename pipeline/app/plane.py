"""The data plane: reads batches, applies them, sends the outputs out, commits. In that order.

This object alone decides the order of a commit; nothing else touches an offset.
It is synchronous, runs on one thread, and is driven by :meth:`DataPlane.step`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

from pipeline.app.catchup import CatchUp
from pipeline.app.commits import Commits, Done
from pipeline.app.computing import Computing
from pipeline.app.expiry import Expiry
from pipeline.app.hold import Hold
from pipeline.app.opening import open_partition
from pipeline.app.outputs import TopicNames
from pipeline.app.partition import Partition, StagedBatch
from pipeline.app.sender import Sender
from pipeline.app.step import PlaneSettings, Step
from pipeline.app.stored import Registration
from pipeline.app.topic import Topic, decoder
from pipeline.app.upstream import Upstream
from pipeline.errors import ConfigurationError, FencedError, PipelineError, UnavailableError
from pipeline.features.lookups import row_plans
from pipeline.ingest.batch import BinaryBatch, TopicPartition
from pipeline.ingest.lane import END, Lane, Position
from pipeline.store.marker import Marker
from pipeline.store.partition import RowExpiry, Store
from pipeline.store.trouble import BatchLimit, Trouble

__all__ = ["DataPlane", "PlaneSettings", "Step", "Topic", "decoder"]

log = logging.getLogger(__name__)

VERSIONS_S = 5.0  # between looks at the registry for versions that were retired
BUSY = 0.5  # of a poll's most records: more is waiting, and commits need not be awaited
BUSY_RECORDS = 10_000  # as many are, however many a poll may bring


class DataPlane:
    """Reads the source topics of an application's views and keeps their rows.

    ``clock_ms`` is wall time in ms (heartbeats only), ``monotonic`` seconds (pauses only).
    ``open_lane`` makes the consumer for views that are read apart (None: none is).
    ``registration`` is looked at now and then, and told once more where the store may have lost it.
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
        open_lane: Callable[[], Lane] | None = None,
        registration: Registration | None = None,
    ) -> None:
        self._names = names
        self._topics = {t.topic: t for t in topics}
        self._settings = settings
        self._lane = lane
        self._store = store
        self._clock_ms = clock_ms
        self._monotonic = monotonic
        self._registration = registration
        self._outdated = False
        self._versions_at = 0.0
        self._done = Done()
        self._rebalancing = False
        self._unpaused: set[TopicPartition] = set()
        self._expiry = Expiry(
            names.app,
            [(t.topic, rows) for t in topics for p in t.views for rows in row_plans(p.view.plan)],
            store,
            horizon_ms=settings.replay_horizon_ms, sweep_keys_per_s=settings.sweep_keys_per_s,
            clock_ms=clock_ms, monotonic=monotonic,
        )  # fmt: skip
        self._commits = Commits(sender, self._expiry, self._lost)
        self._partitions: dict[TopicPartition, Partition] = {}
        self._trouble: dict[TopicPartition, Trouble] = {}
        self._limit = BatchLimit(settings.max_records)
        self._failed = self._broken = False  # a commit of this step; the plane, for good
        self._computing = Computing(self._topics, clock_ms, settings.threads)
        self._upstream = Upstream(names.app, store, topics)
        self._check_at = 0.0
        self._offsets_at = 0.0
        self._resets = 0
        self._hold = Hold(lane)
        self._apart = settings.apart if open_lane is not None else None
        self._catch_up = CatchUp(open_lane, settings.apart_records_per_s, monotonic)

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
        """Read one batch a partition, apply, send out, commit; or mend what is broken. Then the
        same for what is read apart.

        Raises what cannot be mended here: :class:`LogTruncatedError`, a marker that cannot be read,
        :class:`FencedError` where another's lease was in the way for minutes. After an error or an
        interrupt nobody knows how far the batches came: it is to be closed.
        """
        if self._broken:
            raise PipelineError("an error ended this data plane: close it and build another")
        self._broken = True  # until this one has come to its end
        done = self._step()
        self._broken = False
        return done

    def _step(self) -> Step:
        self._resets = 0
        self._mend()
        if self._outdated:
            self._finish(0)
            return self._told(outdated=True)
        self._hold.keep(self._partitions, self._trouble)
        most, wait_ms = self._limit.records(self._monotonic()), self._settings.max_wait_ms
        batches = self._lane.poll(most, 0 if self._catch_up.ready() else wait_ms)
        self._pause_reset()
        polled = sum(map(len, batches))
        self._catch_up.hold(self._hold.topics)
        others = self._catch_up.poll(most, 0 if batches else wait_ms)
        busy = polled >= min(most * BUSY, BUSY_RECORDS) and not others
        under_way = self._settings.under_way if busy else 0
        if under_way and self._settings.threads:
            self._finish(under_way)
            self._computing.begin(self._ready(batches), beside=True)
        else:
            self._collect()
            self._computing.begin(self._ready(batches))
            self._finish(under_way)
        if others:
            self._computing.begin(self._ready(others), behind=True)
            self._finish(0)
        self._keep()
        return self._told(polled + sum(map(len, others)))

    def _told(self, polled: int = 0, *, outdated: bool = False) -> Step:
        if self._failed:
            self._limit.failed(self._monotonic())
            self._failed = False
        done, self._done = self._done, Done()
        batches = [batch for _, batch in done.batches]
        return Step(batches, done.rejected, self._resets, self._expiry.drain(), outdated, polled)

    def _ready(self, batches: Sequence[BinaryBatch]) -> Iterator[tuple[Partition, BinaryBatch]]:
        """Those of partitions that are ours and in order."""
        for batch in batches:
            partition = self._partitions.get(batch.source)
            if partition is not None and batch.source not in self._trouble and len(batch):
                yield partition, batch

    def _collect(self) -> None:
        """Send the outputs of what was computed. Partitions change only when nothing is: before
        one is dropped, opened or given back, and before a commit is settled."""
        with self._commits.or_nothing():
            computed = self._computing.take()
        staged: list[tuple[Partition, StagedBatch]] = []
        for partition, result in computed:
            if isinstance(result, StagedBatch):
                staged.append((partition, result))
            else:
                self._reset(partition, result)
        self._commits.add(staged)

    def _finish(self, under_way: int) -> None:
        """Commit until so many polls are under way; 0 before anything that looks at markers."""
        self._collect()
        done = self._commits.go_on(under_way)
        self._done.batches += done.batches
        self._done.letters(done.rejected)
        for partition, batch in done.batches:
            if batch.behind and partition.join():
                self._catch_up.forget(partition.source)

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
        self._catch_up.close()
        self._lane.close()
        self._computing.close()
        self._expiry.release(self._partitions.values())
        self._expiry.close()
        for partition in self._partitions.values():
            partition.store.close()
        self._partitions.clear()

    def _keep(self) -> None:
        """Once a second or so: compare leases and markers with the store, beat, tell Kafka."""
        now = self._monotonic()
        if now >= self._check_at:
            self._check_at = now + self._settings.check_interval_ms / 1000
            self._finish(0)
            self._compare([p for s, p in self._partitions.items() if s not in self._trouble])
            if now >= self._versions_at:
                self._versions_at = now + VERSIONS_S
                self._look_for_retired()
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
                    topic, through = partition.source.topic, self._upstream.through_ms
                    markers = partition.beat(partial(through, topic, now_ms), now_ms)
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

    def _lost(self, partition: Partition, error: PipelineError) -> None:
        """A batch did not get into the store."""
        self._failed = self._failed or isinstance(error, UnavailableError)
        self._reset(partition, error)

    def _reset(self, partition: Partition, error: PipelineError) -> None:
        """Drop what is cached, and read no more until it is opened again."""
        self._doubt(partition, error)
        if self._rebalancing:
            self._unpaused.add(partition.source)
        else:
            self._lane.pause([partition.source])

    def _pause_reset(self) -> None:
        """Pause what had to be reset while partitions came or went."""
        still = [s for s in self._unpaused if s in self._trouble]
        self._unpaused.clear()
        if still:
            self._lane.pause(still)

    def _doubt(self, partition: Partition, error: PipelineError) -> None:
        """Drop what is cached: the truth is in the store and in the log. Opened again later."""
        log.warning("%s: starting again from its marker: %s", partition.source, error)
        before = self._trouble.get(partition.source)
        trouble = Trouble.of(error, self._monotonic(), before)
        partition.drop()
        self._commits.discard(partition)
        self._expiry.forget(partition.source)
        self._catch_up.forget(partition.source)
        self._resets += 1
        self._trouble[partition.source] = trouble

    def _mend(self) -> None:
        for source, trouble in list(self._trouble.items()):
            if self._monotonic() < trouble.retry_at:
                continue
            partition = self._partitions[source]
            try:
                if self._registration is not None:
                    self._registration.again()
                    self._outdated = self._outdated or self._registration.outdated()
                if self._outdated:
                    return
                start = open_partition(partition, self._lane)
                self._lane.seek(source, start.offset, start.leader_epoch)
                self._catch_up.want(source, partition.behind)
                if source not in self._hold:
                    self._lane.resume([source])
            except (UnavailableError, FencedError) as error:
                self._reset(partition, error)
                continue
            del self._trouble[source]
            log.info("%s: reading again from offset %d", source, start.offset)

    def _look_for_retired(self) -> None:
        try:
            found = self._registration is not None and self._registration.outdated()
        except UnavailableError:
            return  # the partitions say so too
        self._outdated = self._outdated or found

    def _assigned(self, sources: list[TopicPartition]) -> Mapping[TopicPartition, Position]:
        self._settle_up()
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
                apart=self._apart,
            )
            self._partitions[source] = partition
            try:
                starts[source] = open_partition(partition, self._lane)
                self._catch_up.want(source, partition.behind)
            except (UnavailableError, FencedError) as error:
                # Kept, though broken: what comes from its end is left until it is mended.
                self._doubt(partition, error)
                starts[source] = Position(END)
        log.info("assigned %s", ", ".join(f"{s} from {p.offset}" for s, p in starts.items()))
        return starts

    def _revoked(self, sources: list[TopicPartition], lost: bool) -> None:
        log.info("%s %s", "lost" if lost else "revoked", ", ".join(str(s) for s in sources))
        self._settle_up(lost=sources if lost else ())
        gone = [p for s in sources if (p := self._partitions.pop(s, None)) is not None]
        for source in sources:
            self._hold.forget(source)
            self._catch_up.forget(source)
        if not lost:
            self._expiry.release(gone)
        for partition in gone:
            self._trouble.pop(partition.source, None)
            self._expiry.forget(partition.source)
            partition.store.close()

    def _settle_up(self, lost: Sequence[TopicPartition] = ()) -> None:
        """Commit what is under way before partitions come or go, but for those that are ``lost``:
        others may have them already."""
        self._rebalancing = True
        try:
            self._collect()
            for source in lost:
                if source in self._partitions:
                    self._commits.discard(self._partitions[source])
            self._finish(0)
        finally:
            self._rebalancing = False
