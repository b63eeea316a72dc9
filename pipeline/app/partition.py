"""The state of one assigned partition: opened on assign, closed on revoke."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.app.outputs import changes_batch, changes_schema, select_bytes
from pipeline.app.quarantine import Quarantine
from pipeline.errors import LogTruncatedError
from pipeline.features.derive import Derivation
from pipeline.features.view import FeatureView, Trigger
from pipeline.ingest.batch import EventBatch, TopicPartition
from pipeline.ingest.lane import Position
from pipeline.state.batch import Fired, Leaving, Outcome, TriggerKind, TriggerTables
from pipeline.state.table import StateTable
from pipeline.store.lease import Lease
from pipeline.store.marker import Marker
from pipeline.store.partition import PartitionStore, RowWrite

__all__ = ["Partition", "StagedBatch", "StagedView", "ViewPlan", "view_plans"]

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ViewPlan:
    """A view with its triggers and what they need per event; shared by all partitions."""

    view: FeatureView
    triggers: tuple[Trigger, ...]
    derivation: Derivation
    tables: TriggerTables | None

    @classmethod
    def build(cls, view: FeatureView, triggers: Sequence[Trigger]) -> ViewPlan:
        """Trigger conditions become masks after the plan's own."""
        extra = [t.mask for t in triggers if t.mask is not None]
        rows = []
        for trigger in triggers:
            if trigger.list_index >= 0:
                rows.append((TriggerKind.CHANGED, trigger.list_index, 0))
            elif trigger.mask is not None:
                rows.append((TriggerKind.MASK, len(view.plan.masks) + extra.index(trigger.mask), 0))
            else:
                rows.append((TriggerKind.EVERY, -1, 0))
        tables = TriggerTables(np.array(rows, dtype=np.int64).reshape(-1, 3)) if rows else None
        return cls(view, tuple(triggers), Derivation(view.plan, extra), tables)


def view_plans(views: Sequence[FeatureView], triggers: Sequence[Trigger]) -> list[ViewPlan]:
    """Each view with its triggers."""
    return [ViewPlan.build(v, [t for t in triggers if t.view is v]) for v in views]


@dataclass(frozen=True, slots=True)
class StagedView:
    """What one view made of one batch, computed and not yet committed.

    ``failed``, ``late`` and ``corrupt`` (their entity's stored row is) are rows of the batch;
    ``fired_rows`` the rows of ``fired``. ``quarantined`` are copies of corrupt rows to be written.
    """

    plan: ViewPlan
    slots: I32
    write: RowWrite
    marker: Marker
    changes: pa.RecordBatch | None
    fired: Fired
    fired_rows: I64
    failed: I64
    late: I64
    corrupt: I64
    quarantined: RowWrite | None
    outcomes: Mapping[str, int]

    @property
    def writes(self) -> list[RowWrite]:
        """Everything but the marker that the commit writes."""
        rows = [self.write] if len(self.slots) else []
        return rows if self.quarantined is None else [*rows, self.quarantined]


@dataclass(frozen=True, slots=True)
class StagedBatch:
    """A batch of one partition, ready to be sent out and committed.

    Its rejects before offset ``reported`` were dead-lettered when another view read them.
    """

    events: EventBatch
    views: list[StagedView]
    reported: int


@dataclass
class ViewState:
    """A view's cached rows and its marker in one partition."""

    plan: ViewPlan
    schema: pa.Schema
    marker: Marker
    table: StateTable
    quarantine: Quarantine


@dataclass
class Partition:
    """Rows, lease and markers of one partition, as this worker holds them.

    ``open`` takes the lease first and reads only then; everything cached before is
    dropped, so a partition can be opened again after any doubt. ``begins`` is the offset that
    each view's rows begin at, by fingerprint: the log has to hold it should the store lose them.
    """

    app: str
    source: TopicPartition
    topic_id: str
    store: PartitionStore
    plans: Sequence[ViewPlan]
    cache_bytes: int
    views: list[ViewState] = field(default_factory=list)
    begins: dict[int, int] = field(default_factory=dict)

    def open(self, generation: int, log_start: int) -> Lease:
        """Take the lease, then read the markers. ``log_start`` is where a new view begins.

        Raises :class:`LogTruncatedError` where a marker that was there is gone and the log does
        not begin where the view did (at 0, unless it began before our eyes).
        """
        self.views = []
        lease = self.store.acquire(generation)
        fingerprints = [p.view.plan.fingerprint for p in self.plans]
        for plan, marker in zip(self.plans, self.store.markers(fingerprints), strict=True):
            compiled = plan.view.plan
            if marker is not None:
                self.begins.setdefault(compiled.fingerprint, 0)
            elif log_start > self.begins.setdefault(compiled.fingerprint, log_start):
                raise LogTruncatedError(
                    f"{self.source}: the store lost the marker of {compiled.view} and the log "
                    f"starts at {log_start}, too late to compute its rows again. Restore the "
                    "store from a backup, or the log"
                )
            else:
                marker = Marker(
                    fingerprint=compiled.fingerprint, topic_id=self.topic_id,
                    partition=self.source.partition, next_offset=log_start, leader_epoch=-1,
                    processed_through_ms=0, consumed=0, applied=0, duplicate=0, late=0,
                    dead_lettered=0, filtered=0,
                )  # fmt: skip
            schema = changes_schema(compiled, self.app, self.topic_id)
            table = StateTable(compiled, max_bytes=self.cache_bytes)
            quarantine = Quarantine(self.app, self.source, compiled.view, compiled.fingerprint)
            self.views.append(ViewState(plan, schema, marker, table, quarantine))
        return lease

    @property
    def next_offset(self) -> int:
        """The lowest marker: where the partition has to be read from."""
        return self.position.offset

    @property
    def position(self) -> Position:
        """The lowest marker and its leader epoch; of equal ones the newest epoch."""
        lowest = min((v.marker for v in self.views), key=lambda m: (m.next_offset, -m.leader_epoch))
        return Position(lowest.next_offset, lowest.leader_epoch)

    def stage(self, events: EventBatch, now_ms: int) -> StagedBatch:
        """Apply a batch to the cached rows; nothing leaves the process.

        ``now_ms`` is wall time: no record, whatever its time, says that more than now was read.
        """
        reported = max(v.marker.next_offset for v in self.views)
        return StagedBatch(
            events, [self._stage_view(v, events, now_ms) for v in self.views], reported
        )

    def settle(self, staged: StagedBatch) -> list[tuple[int, Leaving]]:
        """The batch is committed: its rows may be evicted, its markers hold.

        Returns the rows that left the cache and may expire, by fingerprint.
        """
        gone: list[tuple[int, Leaving]] = []
        for state, done in zip(self.views, staged.views, strict=True):
            state.marker = done.marker
            state.table.settle(done.slots)
            gone.append((state.plan.view.plan.fingerprint, state.table.evict_rows()))
        return gone

    def beat(self, now_ms: int) -> list[Marker]:
        """Markers that say a quiet partition was read up to ``now_ms``."""
        return [
            dataclasses.replace(
                v.marker, processed_through_ms=max(now_ms, v.marker.processed_through_ms)
            )
            for v in self.views
        ]

    def beaten(self, markers: Sequence[Marker]) -> None:
        """The markers of :meth:`beat` are committed."""
        for state, marker in zip(self.views, markers, strict=True):
            state.marker = marker

    def _stage_view(self, state: ViewState, events: EventBatch, now_ms: int) -> StagedView:
        binary = events.binary
        derived = state.plan.derivation.compute(events)
        fresh = binary.offsets >= state.marker.next_offset
        accepted = fresh & (events.reason == 0)
        failed = derived.failed[fresh[derived.failed]]
        accepted[failed] = False
        rows = np.flatnonzero(accepted).astype(np.int64)
        whole = len(rows) == len(events)
        keys, key_offsets = binary.keys, binary.key_offsets
        if not whole:
            keys, key_offsets = select_bytes(keys, key_offsets, rows)
        slots, broken, quarantined = self._resident(state, keys, key_offsets)
        applied = state.table.apply(
            slots,
            binary.offsets if whole else binary.offsets[rows],
            binary.timestamps_ms if whole else binary.timestamps_ms[rows],
            events.event_time if whole else events.event_time[rows],
            np.where(broken, 0, 1 + events.tombstones[rows]).astype(np.uint8),
            derived.inputs if whole else np.ascontiguousarray(derived.inputs[:, rows]),
            derived.valid if whole else np.ascontiguousarray(derived.valid[:, rows]),
            derived.masks if whole else np.ascontiguousarray(derived.masks[:, rows]),
            state.plan.tables,
        )
        counts = np.bincount(applied.outcome, minlength=len(Outcome))
        consumed = int(fresh.sum())
        outcomes = {
            "applied": int(counts[Outcome.APPLIED]),
            "late": int(counts[Outcome.LATE]),
            "filtered": int(counts[Outcome.FILTERED]),
            "duplicate": int(counts[Outcome.DUPLICATE]),
            "dead_lettered": consumed - len(rows) + int(broken.sum()),
        }
        marker = dataclasses.replace(
            state.marker,
            next_offset=max(state.marker.next_offset, binary.next_offset),
            leader_epoch=max(state.marker.leader_epoch, binary.leader_epoch),
            processed_through_ms=max(
                state.marker.processed_through_ms,
                min(now_ms, int(binary.timestamps_ms.max(initial=0))),
            ),
            consumed=state.marker.consumed + consumed,
            **{name: getattr(state.marker, name) + n for name, n in outcomes.items()},
        )
        return StagedView(
            plan=state.plan,
            slots=applied.dirty,
            write=RowWrite(state.plan.view.plan.fingerprint, state.table.encode(applied.dirty)),
            marker=marker,
            changes=self._changes(state, applied.dirty),
            fired=applied.fired,
            fired_rows=rows[applied.fired.event],
            failed=failed,
            late=rows[applied.outcome == Outcome.LATE],
            corrupt=rows[broken],
            quarantined=quarantined,
            outcomes=outcomes,
        )

    def _resident(
        self, state: ViewState, keys: U8, key_offsets: I64
    ) -> tuple[I32, npt.NDArray[np.bool_], RowWrite | None]:
        """Slots of n keys; rows that are not cached are fetched in one round trip.

        Then bool[n], true where the stored row is corrupt (read again for every batch, so that one
        that was mended is noticed), and what of these goes to quarantine.
        """
        lookup = state.table.lookup(keys, key_offsets)
        broken = np.zeros(len(lookup.slots), dtype=bool)
        if not len(lookup.missing):
            return lookup.slots, broken, None
        fingerprint = state.plan.view.plan.fingerprint
        rows = self.store.read(fingerprint, keys, key_offsets, lookup.missing)
        corrupt = state.table.load(lookup.slots[lookup.missing], rows)
        if not corrupt:
            return lookup.slots, broken, None
        index = lookup.missing[corrupt]
        broken = np.isin(lookup.slots, lookup.slots[index])
        names = [keys[key_offsets[i] : key_offsets[i + 1]].tobytes() for i in index.tolist()]
        found = [(name, rows[i] or b"") for name, i in zip(names, corrupt, strict=True)]
        return lookup.slots, broken, state.quarantine.take(found)

    def _changes(self, state: ViewState, dirty: I32) -> pa.RecordBatch | None:
        if not len(dirty):
            return None
        table = state.table
        keys, key_offsets = table.keys(dirty)
        return changes_batch(
            state.plan.view.plan, state.schema, self.source, keys, key_offsets,
            table.event_time(dirty), table.source_offset(dirty), table.finalize(dirty, "event"),
        )  # fmt: skip
