"""One view in one partition: its cached rows, its marker, and what it makes of a batch.

A batch is taken in two steps, so that a worker awaits the rows of many partitions at once:
:meth:`ViewState.ask` finds out which rows are not cached, :meth:`ViewState.stage` applies.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.app.lookups import LookedUp, LookupState, look_up
from pipeline.app.outputs import changes_batch, select_bytes
from pipeline.app.quarantine import Quarantine
from pipeline.app.routing import advanced
from pipeline.app.rows import Rows, resident
from pipeline.app.staged import StagedView
from pipeline.app.viewplan import ViewPlan
from pipeline.features.derive import Derived
from pipeline.ingest.batch import EventBatch, Origin, Reason, Rejects, TopicPartition
from pipeline.state.batch import Outcome
from pipeline.state.table import StateTable
from pipeline.store.marker import Marker
from pipeline.store.partition import PartitionStore, RowWrite
from pipeline.store.positions import repeated_rows

__all__ = ["AskedView", "ViewState"]

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_NO_ROWS = np.empty(0, dtype=np.int64)
_NONE = Rejects(_NO_ROWS, np.empty(0, dtype=np.uint8))
_SKIPPED, _TAKEN = np.uint8(0), np.uint8(1)
_APPLIED, _LATE, _FILTERED, _DUPLICATE = (  # members of an IntEnum are slow to come by
    int(outcome) for outcome in (Outcome.APPLIED, Outcome.LATE, Outcome.FILTERED, Outcome.DUPLICATE)
)


@dataclass(frozen=True, slots=True)
class AskedView:
    """A batch before its rows are there.

    ``events`` as the view reads them, ``refused`` those that only this way of reading refuses,
    ``fresh`` bool[n] those the view has not taken, ``accepted`` int64[m] the records to be applied,
    ``rows`` of their entities; ``failed``, ``nulls`` and ``long`` as in
    :class:`~pipeline.app.staged.StagedView`.
    """

    events: EventBatch
    refused: Rejects
    fresh: Bools
    accepted: I64
    rows: Rows
    looked: LookedUp
    derived: Derived
    failed: I64
    nulls: I64
    long: I64
    repeated: int
    positions: bytes


@dataclass
class ViewState:
    """A view's cached rows and its marker in one partition, and the marker after the batches that
    are under way. ``behind``: it is read apart."""

    plan: ViewPlan
    source: TopicPartition
    schema: pa.Schema
    marker: Marker
    staged: Marker
    table: StateTable
    quarantine: Quarantine
    lookups: tuple[LookupState, ...]
    behind: bool = False

    def ask(self, usual: EventBatch, own: EventBatch | None, store: PartitionStore) -> AskedView:
        """Which rows a batch needs, ``own`` being the view's way of reading it. Look-ups are done
        here, and await rows of their own; nothing else is asked for yet."""
        events = usual if own is None else own
        binary = events.binary
        fresh = events.log_offsets >= self.staged.next_offset
        accepted = fresh & (events.reason == 0)
        again, positions = 0, self.staged.positions
        if events.origin is not None:
            repeated, positions = self._repeated(events, events.origin, accepted)
            accepted &= ~repeated
            again = int(repeated.sum())
        looked = look_up(self.lookups, events, accepted, partial(resident, store))
        derived = self.plan.derivation.compute(looked.events)
        failed, nulls, long = (
            _refused(found, accepted) for found in (derived.failed, derived.nulls, derived.long)
        )
        index = accepted.nonzero()[0]
        keys, key_offsets = binary.keys, binary.key_offsets
        if len(index) != len(events):
            keys, key_offsets = select_bytes(keys, key_offsets, index)
        return AskedView(
            events=events,
            refused=_NONE if own is None else _only_here(own, usual, fresh),
            fresh=fresh,
            accepted=index,
            rows=Rows(self.table, self.quarantine, keys, key_offsets),
            looked=looked,
            derived=derived,
            failed=failed,
            nulls=nulls,
            long=long,
            repeated=again,
            positions=positions,
        )

    def stage(self, asked: AskedView, now_ms: int, store: PartitionStore) -> StagedView:
        """Apply a batch to the cached rows, once those that were asked for are there."""
        slots, broken, quarantined = asked.rows.take(store)
        events, rows, derived = asked.events, asked.accepted, asked.derived
        binary, whole = events.binary, len(rows) == len(events)
        if self.lookups:
            broken |= asked.looked.broken[rows]
        tombstones = events.tombstones if whole else events.tombstones[rows]
        applied = self.table.apply(
            slots,
            binary.offsets if whole else binary.offsets[rows],
            binary.timestamps_ms if whole else binary.timestamps_ms[rows],
            events.event_time if whole else events.event_time[rows],
            np.where(broken, _SKIPPED, _TAKEN + tombstones),
            derived.inputs if whole else np.ascontiguousarray(derived.inputs[:, rows]),
            derived.valid if whole else np.ascontiguousarray(derived.valid[:, rows]),
            derived.masks if whole else np.ascontiguousarray(derived.masks[:, rows]),
            self.plan.tables,
        )
        counts = np.bincount(applied.outcome, minlength=len(Outcome)).tolist()
        consumed = int(np.count_nonzero(asked.fresh))
        lost = int(np.count_nonzero(broken))
        outcomes = {
            "applied": counts[_APPLIED],
            "late": counts[_LATE],
            "filtered": counts[_FILTERED],
            "duplicate": asked.repeated + counts[_DUPLICATE],
            "dead_lettered": consumed - asked.repeated - len(rows) + lost,
        }
        encoded = self.table.encode(applied.dirty)
        return StagedView(
            plan=self.plan,
            events=events,
            refused=asked.refused,
            slots=applied.dirty,
            write=RowWrite(self.plan.view.plan.fingerprint, encoded),
            marker=advanced(self.staged, events, now_ms, consumed, outcomes, asked.positions),
            changes=self._changes(applied.dirty),
            fired=applied.fired,
            fired_rows=rows[applied.fired.event] if len(applied.fired) else _NO_ROWS,
            failed=asked.failed,
            nulls=asked.nulls,
            long=asked.long,
            late=rows[applied.outcome == _LATE] if counts[_LATE] else _NO_ROWS,
            corrupt=rows[broken] if lost else _NO_ROWS,
            quarantined=quarantined,
            outcomes=outcomes,
            looked=asked.looked,
        )

    def _changes(self, dirty: I32) -> pa.RecordBatch | None:
        if not len(dirty) or not self.plan.tells:
            return None
        table = self.table
        keys, key_offsets = table.keys(dirty)
        return changes_batch(
            self.plan.view.plan, self.schema, self.source, keys, key_offsets,
            table.event_time(dirty), table.source_offset(dirty), table.finalize(dirty, "event"),
        )  # fmt: skip

    def _repeated(self, events: EventBatch, origin: Origin, accepted: Bools) -> tuple[Bools, bytes]:
        """Accepted rows of a repartition topic that were sent before, or will be sent again with a
        field that the view needs and their message lacks; the positions after the batch."""
        positions = self.staged.positions
        lacking = np.zeros(len(events), dtype=np.bool_)
        if not len(events):
            return lacking, positions
        for name in self.plan.derivation.fields & origin.absent.keys():
            lacking = lacking | (origin.absent[name] == 1)
        lacking = lacking & accepted
        seen, positions = repeated_rows(
            positions, origin.topic, origin.partition, origin.offset,
            (accepted & ~lacking & (origin.topic >= 0)).view(np.uint8),  # -1: our own deletion
        )  # fmt: skip
        return lacking | (seen == 1), positions


def _only_here(own: EventBatch, usual: EventBatch, fresh: Bools) -> Rejects:
    """Fresh records that a view's own way of reading refuses, and the usual one does not."""
    refused = own.rejects()
    known = np.unique(usual.binary.offsets[usual.reason != Reason.OK])
    new = fresh[refused.index] & ~np.isin(own.binary.offsets[refused.index], known)
    return Rejects(refused.index[new], refused.reason[new])


def _refused(rows: I64, accepted: Bools) -> I64:
    """Those of ``rows`` that were accepted so far; accepted no more."""
    if not len(rows):
        return rows
    refused = rows[accepted[rows]]
    accepted[refused] = False
    return refused
