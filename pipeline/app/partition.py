"""The state of one assigned partition: opened on assign, closed on revoke."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.app.lookups import LookupState
from pipeline.app.outputs import changes_schema
from pipeline.app.quarantine import Quarantine
from pipeline.app.routing import Route, RouteState
from pipeline.app.staged import StagedBatch, StagedView
from pipeline.app.viewplan import ViewPlan, view_plans
from pipeline.app.viewstate import AskedView, ViewState
from pipeline.errors import LogTruncatedError
from pipeline.ingest.batch import EventBatch, TopicPartition
from pipeline.ingest.lane import Position
from pipeline.state.batch import Leaving
from pipeline.state.table import StateTable
from pipeline.store.lease import Lease
from pipeline.store.marker import Marker
from pipeline.store.partition import PartitionStore

__all__ = ["AskedBatch", "Partition", "StagedBatch", "StagedView", "ViewPlan", "view_plans"]


@dataclass(frozen=True, slots=True)
class AskedBatch:
    """A batch whose rows were asked for, by view; ``others`` as in :meth:`Partition.ask`."""

    events: EventBatch
    others: Mapping[str, EventBatch]
    views: list[AskedView]
    behind: bool


@dataclass
class Partition:
    """Rows, lease and markers of one partition, as this worker holds them.

    ``open`` takes the lease first and reads only then; everything cached before is
    dropped, so a partition can be opened again after any doubt. ``begins`` is the offset that
    each view's rows begin at, by fingerprint: the log has to hold it should the store lose them.
    ``routing`` are the routes that begin here; a route is treated as one more view, without rows.
    Those that are more than ``apart`` records behind the first are ``behind`` when it is opened:
    they are read apart until they :meth:`join` the others (None: nothing ever is).
    """

    app: str
    source: TopicPartition
    topic_id: str
    store: PartitionStore
    plans: Sequence[ViewPlan]
    cache_bytes: int
    routing: Sequence[Route] = ()
    apart: int | None = None
    views: list[ViewState] = field(default_factory=list)
    routes: list[RouteState] = field(default_factory=list)
    begins: dict[int, int] = field(default_factory=dict)

    def open(self, generation: int, log_start: int) -> Lease:
        """Take the lease, then read the markers. ``log_start`` is where a new view begins.

        Raises :class:`LogTruncatedError` where a marker that was there is gone and the log does
        not begin where the view did (at 0, unless it began before our eyes).
        """
        self.drop()
        lease = self.store.acquire(generation)
        fingerprints = [p.view.plan.fingerprint for p in self.plans]
        fingerprints += [route.fingerprint for route in self.routing]
        found = dict(zip(fingerprints, self.store.markers(fingerprints), strict=True))
        for plan in self.plans:
            compiled = plan.view.plan
            marker = self._begin(compiled.view, compiled.fingerprint, found, log_start)
            schema = changes_schema(compiled, self.app, self.source.topic, self.topic_id)
            table = StateTable(compiled, max_bytes=self.cache_bytes)
            quarantine = Quarantine(self.app, self.source, compiled.view, compiled.fingerprint)
            lookups = LookupState.of(plan.lookups, self.app, self.source, self.cache_bytes)
            self.views.append(
                ViewState(plan, self.source, schema, marker, marker, table, quarantine, lookups)
            )
        for route in self.routing:
            marker = self._begin(route.topic, route.fingerprint, found, log_start)
            self.routes.append(RouteState(route, marker, marker))
        if self.apart is not None:
            first = max(m.next_offset for m in self.markers)
            for state in self.states:
                state.behind = first - state.marker.next_offset > self.apart
        return lease

    def drop(self) -> None:
        """Forget what is cached; the truth is in the store and in the log."""
        self.views, self.routes = [], []

    @property
    def tables(self) -> list[StateTable]:
        """The cached rows of every view, those kept for look-ups included."""
        looked = [table for v in self.views for state in v.lookups for table in state.tables()]
        return [*(v.table for v in self.views), *looked]

    @property
    def states(self) -> list[ViewState | RouteState]:
        """Of views, then routes; none while the partition is not open."""
        return [*self.views, *self.routes]

    @property
    def markers(self) -> list[Marker]:
        """Those of :attr:`states`."""
        return [state.marker for state in self.states]

    @property
    def next_offset(self) -> int:
        """The lowest marker."""
        return min(marker.next_offset for marker in self.markers)

    @property
    def position(self) -> Position:
        """Where it is to be read from for those that are not behind: their lowest marker and its
        leader epoch; of equal ones the newest epoch."""
        return _lowest(state.marker for state in self.states if not state.behind)

    @property
    def behind(self) -> Position | None:
        """Where it is to be read from for those that are, if any is."""
        markers = [state.marker for state in self.states if state.behind]
        return _lowest(markers) if markers else None

    def ask(
        self,
        events: EventBatch,
        others: Mapping[str, EventBatch] | None = None,
        *,
        behind: bool = False,
    ) -> AskedBatch:
        """Ask the store for the rows that a batch needs and that are not cached, of the views that
        are ``behind``, or not. Call :meth:`stage` with the answer next.

        ``others`` is the batch for views and routes that read it in ways of their own.
        """
        others = {} if others is None else others
        views = [v for v in self.views if v.behind == behind]
        asked = [v.ask(events, others.get(v.plan.reads), self.store) for v in views]
        for view in asked:
            view.rows.ask(self.store)
        return AskedBatch(events, others, asked, behind)

    def stage(self, asked: AskedBatch, now_ms: int) -> StagedBatch:
        """Apply a batch to the cached rows; nothing leaves the process.

        ``now_ms`` is wall time: no record, whatever its time, says that more than now was read.
        """
        events, others = asked.events, asked.others
        views = [v for v in self.views if v.behind == asked.behind]
        routes = [r for r in self.routes if r.behind == asked.behind]
        staged = StagedBatch(
            events,
            [v.stage(a, now_ms, self.store) for v, a in zip(views, asked.views, strict=True)],
            max(state.staged.next_offset for state in self.states),
            [r.stage(others.get(r.route.reads, events), now_ms) for r in routes],
            asked.behind,
        )
        states: list[ViewState | RouteState] = [*views, *routes]
        for state, marker in zip(states, staged.markers, strict=True):
            state.staged = marker
        return staged

    def settle(self, staged: StagedBatch) -> list[tuple[int, Leaving]]:
        """The batch is committed: its rows may be evicted, its markers hold.

        Returns the rows that left the cache and may expire, by fingerprint.
        """
        gone: list[tuple[int, Leaving]] = []
        views = [v for v in self.views if v.behind == staged.behind]
        for state, done in zip(views, staged.views, strict=True):
            state.marker = done.marker
            state.table.settle(done.slots)
            gone.append((state.plan.view.plan.fingerprint, state.table.evict_rows()))
            gone += done.looked.settle()
        routes = [r for r in self.routes if r.behind == staged.behind]
        for route, sent in zip(routes, staged.routes, strict=True):
            route.marker = sent.marker
        return gone

    def join(self) -> bool:
        """Read those that have come to where the others are with these; whether none is left.

        Where the others are is the lowest of their markers: the next record that is read for them
        is not before it, so that nothing is left out.
        """
        met = min(state.marker.next_offset for state in self.states if not state.behind)
        for state in self.states:
            state.behind = state.behind and state.marker.next_offset < met
        return not any(state.behind for state in self.states)

    def beat(self, through_ms: Callable[[frozenset[str]], int], now_ms: int) -> list[Marker]:
        """Markers that say a quiet partition was read: up to ``through_ms`` of the fields that a
        view reads, and those of routes of none. What a worker with a wrong clock wrote of times
        that are still to come at ``now_ms`` is taken back."""
        fields = [v.plan.derivation.fields for v in self.views]
        fields += [frozenset()] * len(self.routes)
        return [
            dataclasses.replace(
                m, processed_through_ms=max(through_ms(f), min(m.processed_through_ms, now_ms))
            )
            for m, f, state in zip(self.markers, fields, self.states, strict=True)
            if not state.behind
        ]

    def beaten(self, markers: Sequence[Marker]) -> None:
        """The markers of :meth:`beat` are committed."""
        for state, marker in zip((s for s in self.states if not s.behind), markers, strict=True):
            state.marker = state.staged = marker

    def _begin(
        self, name: str, fingerprint: int, found: Mapping[int, Marker | None], log_start: int
    ) -> Marker:
        """The marker found, or that of a view or route that begins here."""
        marker = found[fingerprint]
        if marker is not None:
            self.begins.setdefault(fingerprint, 0)
            return marker
        if log_start > self.begins.setdefault(fingerprint, log_start):
            raise LogTruncatedError(
                f"{self.source}: the store lost the marker of {name} and the log starts at "
                f"{log_start}, too late to compute its rows again. Restore the store from a "
                "backup, or the log"
            )
        return Marker(
            fingerprint, self.topic_id, self.source.partition, log_start, processed_through_ms=0
        )


def _lowest(markers: Iterable[Marker]) -> Position:
    lowest = min(markers, key=lambda m: (m.next_offset, -m.leader_epoch))
    return Position(lowest.next_offset, lowest.leader_epoch)
