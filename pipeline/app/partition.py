"""The state of one assigned partition: opened on assign, closed on revoke."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.app.lookups import LookupState, look_up
from pipeline.app.outputs import changes_batch, changes_schema, select_bytes
from pipeline.app.quarantine import Quarantine
from pipeline.app.routing import Route, RouteState, advanced
from pipeline.app.staged import StagedBatch, StagedView
from pipeline.app.viewplan import ViewPlan, view_plans
from pipeline.errors import LogTruncatedError
from pipeline.ingest.batch import EventBatch, Origin, Reason, Rejects, TopicPartition
from pipeline.ingest.lane import Position
from pipeline.state.batch import Leaving, Outcome
from pipeline.state.table import StateTable
from pipeline.store.lease import Lease
from pipeline.store.marker import Marker
from pipeline.store.partition import PartitionStore, RowWrite
from pipeline.store.positions import repeated_rows

__all__ = ["Partition", "StagedBatch", "StagedView", "ViewPlan", "view_plans"]

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
_NO_ROWS = np.empty(0, dtype=np.int64)
_NONE = Rejects(_NO_ROWS, np.empty(0, dtype=np.uint8))
_SKIPPED, _TAKEN = np.uint8(0), np.uint8(1)
_APPLIED, _LATE, _FILTERED, _DUPLICATE = (  # members of an IntEnum are slow to come by
    int(outcome) for outcome in (Outcome.APPLIED, Outcome.LATE, Outcome.FILTERED, Outcome.DUPLICATE)
)


@dataclass
class ViewState:
    """A view's cached rows and its marker in one partition, and the marker after the batches that
    are under way. ``behind``: it is read apart."""

    plan: ViewPlan
    schema: pa.Schema
    marker: Marker
    staged: Marker
    table: StateTable
    quarantine: Quarantine
    lookups: tuple[LookupState, ...]
    behind: bool = False


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
            self.views.append(ViewState(plan, schema, marker, marker, table, quarantine, lookups))
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

    def stage(
        self,
        events: EventBatch,
        now_ms: int,
        others: Mapping[str, EventBatch] | None = None,
        *,
        behind: bool = False,
    ) -> StagedBatch:
        """Apply a batch to the cached rows of the views that are ``behind``, or not; nothing leaves
        the process.

        ``now_ms`` is wall time: no record, whatever its time, says that more than now was read.
        ``others`` is the batch for views and routes that read it in ways of their own.
        """
        others = {} if others is None else others
        views = [v for v in self.views if v.behind == behind]
        routes = [r for r in self.routes if r.behind == behind]
        staged = StagedBatch(
            events,
            [self._stage_view(v, events, others.get(v.plan.reads), now_ms) for v in views],
            max(state.staged.next_offset for state in self.states),
            [r.stage(others.get(r.route.reads, events), now_ms) for r in routes],
            behind,
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

    def _stage_view(
        self, state: ViewState, usual: EventBatch, own: EventBatch | None, now_ms: int
    ) -> StagedView:
        events = usual if own is None else own
        binary = events.binary
        fresh = events.log_offsets >= state.staged.next_offset
        accepted = fresh & (events.reason == 0)
        again, positions = 0, state.staged.positions
        if events.origin is not None:
            repeated, positions = _repeated(state, events, events.origin, accepted)
            accepted &= ~repeated
            again = int(repeated.sum())
        looked = look_up(state.lookups, events, accepted, self._resident)
        derived = state.plan.derivation.compute(looked.events)
        failed, nulls, long = (
            _refused(found, accepted) for found in (derived.failed, derived.nulls, derived.long)
        )
        rows = accepted.nonzero()[0]
        whole = len(rows) == len(events)
        keys, key_offsets = binary.keys, binary.key_offsets
        if not whole:
            keys, key_offsets = select_bytes(keys, key_offsets, rows)
        slots, broken, quarantined = self._resident(
            state.table, state.quarantine, keys, key_offsets
        )
        if state.lookups:
            broken |= looked.broken[rows]
        tombstones = events.tombstones if whole else events.tombstones[rows]
        applied = state.table.apply(
            slots,
            binary.offsets if whole else binary.offsets[rows],
            binary.timestamps_ms if whole else binary.timestamps_ms[rows],
            events.event_time if whole else events.event_time[rows],
            np.where(broken, _SKIPPED, _TAKEN + tombstones),
            derived.inputs if whole else np.ascontiguousarray(derived.inputs[:, rows]),
            derived.valid if whole else np.ascontiguousarray(derived.valid[:, rows]),
            derived.masks if whole else np.ascontiguousarray(derived.masks[:, rows]),
            state.plan.tables,
        )
        counts = np.bincount(applied.outcome, minlength=len(Outcome)).tolist()
        consumed = int(np.count_nonzero(fresh))
        lost = int(np.count_nonzero(broken))
        outcomes = {
            "applied": counts[_APPLIED],
            "late": counts[_LATE],
            "filtered": counts[_FILTERED],
            "duplicate": again + counts[_DUPLICATE],
            "dead_lettered": consumed - again - len(rows) + lost,
        }
        return StagedView(
            plan=state.plan,
            events=events,
            refused=_NONE if own is None else _only_here(own, usual, fresh),
            slots=applied.dirty,
            write=RowWrite(state.plan.view.plan.fingerprint, state.table.encode(applied.dirty)),
            marker=advanced(state.staged, events, now_ms, consumed, outcomes, positions),
            changes=self._changes(state, applied.dirty),
            fired=applied.fired,
            fired_rows=rows[applied.fired.event] if len(applied.fired) else _NO_ROWS,
            failed=failed,
            nulls=nulls,
            long=long,
            late=rows[applied.outcome == _LATE] if counts[_LATE] else _NO_ROWS,
            corrupt=rows[broken] if lost else _NO_ROWS,
            quarantined=quarantined,
            outcomes=outcomes,
            looked=looked,
        )

    def _resident(
        self, table: StateTable, quarantine: Quarantine, keys: U8, key_offsets: I64
    ) -> tuple[I32, npt.NDArray[np.bool_], RowWrite | None]:
        """Slots of n keys; rows that are not cached are fetched in one round trip.

        Then bool[n], true where the stored row is corrupt (read again for every batch, so that one
        that was mended is noticed), and what of these goes to quarantine.
        """
        lookup = table.lookup(keys, key_offsets)
        broken = np.zeros(len(lookup.slots), dtype=bool)
        if not len(lookup.missing):
            return lookup.slots, broken, None
        rows = self.store.read(table.plan.fingerprint, keys, key_offsets, lookup.missing)
        corrupt = table.load(lookup.slots[lookup.missing], rows)
        if not corrupt:
            return lookup.slots, broken, None
        index = lookup.missing[corrupt]
        broken = np.isin(lookup.slots, lookup.slots[index])
        names = [keys[key_offsets[i] : key_offsets[i + 1]].tobytes() for i in index.tolist()]
        found = [(name, rows[i] or b"") for name, i in zip(names, corrupt, strict=True)]
        return lookup.slots, broken, quarantine.take(found)

    def _changes(self, state: ViewState, dirty: I32) -> pa.RecordBatch | None:
        if not len(dirty) or not state.plan.tells:
            return None
        table = state.table
        keys, key_offsets = table.keys(dirty)
        return changes_batch(
            state.plan.view.plan, state.schema, self.source, keys, key_offsets,
            table.event_time(dirty), table.source_offset(dirty), table.finalize(dirty, "event"),
        )  # fmt: skip


def _lowest(markers: Iterable[Marker]) -> Position:
    lowest = min(markers, key=lambda m: (m.next_offset, -m.leader_epoch))
    return Position(lowest.next_offset, lowest.leader_epoch)


def _only_here(own: EventBatch, usual: EventBatch, fresh: npt.NDArray[np.bool_]) -> Rejects:
    """Fresh records that a view's own way of reading refuses, and the usual one does not."""
    refused = own.rejects()
    known = np.unique(usual.binary.offsets[usual.reason != Reason.OK])
    new = fresh[refused.index] & ~np.isin(own.binary.offsets[refused.index], known)
    return Rejects(refused.index[new], refused.reason[new])


def _refused(rows: I64, accepted: npt.NDArray[np.bool_]) -> I64:
    """Those of ``rows`` that were accepted so far; accepted no more."""
    if not len(rows):
        return rows
    refused = rows[accepted[rows]]
    accepted[refused] = False
    return refused


def _repeated(
    state: ViewState, events: EventBatch, origin: Origin, accepted: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.bool_], bytes]:
    """Accepted rows of a repartition topic that were sent before, or will be sent again with a
    field that the view needs and their message lacks; the positions after the batch."""
    positions = state.staged.positions
    lacking = np.zeros(len(events), dtype=np.bool_)
    if not len(events):
        return lacking, positions
    for name in state.plan.derivation.fields & origin.absent.keys():
        lacking = lacking | (origin.absent[name] == 1)
    lacking = lacking & accepted
    seen, positions = repeated_rows(
        positions, origin.topic, origin.partition, origin.offset,
        (accepted & ~lacking & (origin.topic >= 0)).view(np.uint8),  # -1: a deletion of our own
    )  # fmt: skip
    return lacking | (seen == 1), positions
