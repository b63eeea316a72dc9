"""Runs feature views without a server: the data plane over a log and a store in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.app.outputs import TopicNames
from pipeline.app.plane import DataPlane, PlaneSettings
from pipeline.app.sender import Sender
from pipeline.app.stored import Registration, kept_up, stored_views
from pipeline.app.topic import Place, Topic, arrange, check_topics
from pipeline.app.viewplan import ViewPlan, view_plans
from pipeline.features.entity import event_key
from pipeline.features.lookups import row_plans
from pipeline.features.plan import Plan
from pipeline.features.view import FeatureView, Trigger
from pipeline.ingest.batch import TopicPartition
from pipeline.store.keys import partition_tag, row_key
from pipeline.store.marker import Marker
from pipeline.store.memory import MemoryStore
from pipeline.testing.log import MemoryLane, MemoryLog, MemoryPublisher

__all__ = ["Clock", "Driver"]


class Clock:
    """A clock that only the test advances; ms and s since an epoch of its own."""

    def __init__(self, now_ms: int = 0) -> None:
        self.now_ms = now_ms

    def advance(self, ms: int) -> None:
        """Let ``ms`` pass."""
        self.now_ms += ms

    def ms(self) -> int:
        """Wall time in ms."""
        return self.now_ms

    def monotonic(self) -> float:
        """The same in seconds."""
        return self.now_ms / 1000


class Driver:
    """An application's views over in-memory topics.

    ``partitions`` of every source topic; ``max_records`` is the batch size. Views that are more
    than ``apart`` records (that many by default) behind the first are read apart. Several drivers
    may share ``log`` and ``store``, as workers of one group do. ``FeatureClient(driver.store)``
    reads the views. Repartition topics are topics of ``log`` too. ``under_way`` full batches may
    be computed on top of before they are committed, by ``threads`` beside the one that steps.
    """

    def __init__(
        self,
        views: Sequence[FeatureView],
        triggers: Sequence[Trigger] = (),
        *,
        app: str = "test",
        partitions: int = 1,
        max_records: int = 1000,
        cache_bytes: int = 1 << 24,
        log: MemoryLog | None = None,
        store: MemoryStore | None = None,
        clock: Clock | None = None,
        share: tuple[int, int] = (0, 1),
        replay_horizon_ms: int = 7 * 86_400_000,
        sweep_keys_per_s: int = 0,
        apart: int | None = None,
        apart_records_per_s: int = 0,
        under_way: int = 0,
        threads: int = 0,
    ) -> None:
        self.app = app
        self.log = log or MemoryLog()
        self.store = store or MemoryStore()
        self.clock = clock or Clock()
        self.publisher = MemoryPublisher(self.log, self.clock.ms)
        self.lane = MemoryLane(self.log, share)
        self.names = TopicNames(app, "-dead-letter", "-late", "-changes")
        self._views = {v.name: v for v in views}
        self._streams = {s.topic: s for v in views for s in v.sources}
        check_topics(app, views)
        self._triggers, self._partitions = tuple(triggers), partitions
        self._settings = PlaneSettings(
            max_records,
            0,
            cache_bytes,
            1000,
            1000,
            replay_horizon_ms,
            sweep_keys_per_s,
            max_records if apart is None else apart,
            apart_records_per_s,
            under_way,
            threads,
        )
        self._built = False
        self._build()

    def _build(self) -> None:
        """The plane, of these views and of every version that is registered beside them."""
        registry, views = self.store.registry, list(self._views.values())
        if self._built:
            views = kept_up(registry, self.app, views)
        plans = view_plans(views, self._triggers)
        if not self._built:
            Registration.of(registry, self.app, self._arranged(plans)).tell(self.clock.ms())
        others = stored_views(registry, self.app, views, lambda topic: topic)
        self._topics = self._arranged([*plans, *view_plans(others, [])])
        self.plane = DataPlane(
            names=self.names,
            topics=self._topics,
            settings=self._settings,
            lane=self.lane,
            store=self.store,
            sender=Sender(self.names, self.publisher, self.clock.ms),
            clock_ms=self.clock.ms,
            monotonic=self.clock.monotonic,
            open_lane=lambda: MemoryLane(self.log),
            registration=Registration.of(registry, self.app, self._topics),
        )
        self._built = True
        self.plane.start()

    def _arranged(self, plans: Sequence[ViewPlan]) -> list[Topic]:
        return arrange(
            self.app,
            plans,
            lambda topic: self._topic(topic, self._partitions),
            lambda topic, count, _: self._topic(topic, count),
        )

    def pipe(self, topic: str, event: Mapping[str, Any], timestamp_ms: int = -1) -> None:
        """Publish one event as a producer does: JSON, keyed by the stream's key."""
        stream = self._streams[topic]
        key = event_key(stream.schema, stream.key_fields, event)
        self.log.append(topic, key, json.dumps(event).encode(), timestamp_ms)

    def run(self) -> None:
        """Step until everything is applied; 10 000 idle steps are an error."""
        idle = 0
        while idle < 2:
            step = self.plane.step()
            if step.outdated:
                self.plane.close()
                self._build()
            idle = 0 if step.polled or step.batches or step.resets or step.outdated else idle + 1

    def crash(self) -> None:
        """End as a killed process does: nothing more is read, written or given back.

        What it had committed stays in ``store``; another driver over ``log`` and ``store`` goes on.
        """
        self.lane.crash()

    def digest(self, view: str | FeatureView) -> str:
        """SHA-256 of every stored row of a view, those it keeps for its look-ups included, and of
        each partition's offset and accounting.

        Equal for equal logs, whatever the batches, workers and crashes on the way.
        """
        digest = hashlib.sha256()
        found = self._view(view)
        for plan in row_plans(found.plan):
            for key, row in sorted(self._rows(found, plan).items()):
                digest.update(b"%d %d " % (len(key), len(row)) + key + row)
        for m in self.markers(view):
            counts = (m.applied, m.duplicate, m.late, m.dead_lettered, m.filtered)
            digest.update(repr((m.partition, m.next_offset, m.consumed, counts)).encode())
        return digest.hexdigest()

    def changes(self, view: str) -> pa.Table:
        """Every changed row published so far."""
        messages = self.publisher.sent.get(self.names.changes(view), [])
        return pa.concat_tables(pa.ipc.open_stream(value).read_all() for _, _, value in messages)

    def markers(self, view: str | FeatureView) -> list[Marker]:
        """Markers of a view, by partition; partitions without one are left out."""
        given = self._view(view)
        found = (self.store.marker(tag, given.plan.fingerprint) for tag in self._tags(given))
        return [marker for marker in found if marker is not None]

    def route_markers(self, topic: str) -> list[Marker]:
        """Markers of the ways out of a source topic into repartition topics, by partition."""
        tags = [
            partition_tag(self.app, TopicPartition(topic, p))
            for p in range(len(self.log.topics[topic]))
        ]
        routes = [r for t in self._topics if t.topic == topic for r in t.routes]
        found = (self.store.marker(tag, r.fingerprint) for r in routes for tag in tags)
        return [marker for marker in found if marker is not None]

    def rows(self, view: str | FeatureView) -> dict[bytes, bytes]:
        """Packed rows of a view by entity key, over all partitions."""
        found = self._view(view)
        return self._rows(found, found.plan)

    def _view(self, view: str | FeatureView) -> FeatureView:
        """A view by name, or as it is: a version that is kept up and not defined here."""
        return self._views[view] if isinstance(view, str) else view

    def _rows(self, view: FeatureView, plan: Plan) -> dict[bytes, bytes]:
        self.store.purge()
        prefixes = tuple(row_key(tag, plan.fingerprint, b"") for tag in self._tags(view))
        return {
            key[len(prefix) :]: value
            for key, value in self.store.values.items()
            for prefix in prefixes
            if key.startswith(prefix)
        }

    def _topic(self, topic: str, partitions: int) -> Place:
        """A topic of the log, made with so many partitions unless it is there."""
        if topic not in self.log.topics:
            self.log.create(topic, partitions)
        return "", len(self.log.topics[topic])

    def _tags(self, view: FeatureView) -> list[bytes]:
        topic = view.stream.topic_in(self.app)
        partitions = range(len(self.log.topics[topic]))
        return [partition_tag(self.app, TopicPartition(topic, p)) for p in partitions]
