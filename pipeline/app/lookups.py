"""The rows that a view keeps of those it looks up, in one partition.

They take every record that the view takes, right before it does, and give it their features as
columns. They have no marker: they are where the view is, and are committed with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.app.outputs import select_bytes
from pipeline.app.quarantine import Quarantine
from pipeline.app.rows import Found
from pipeline.contracts.contract import Field, FieldType
from pipeline.features.derive import Derivation
from pipeline.features.lookups import column_type, own_rows
from pipeline.features.plan import Plan
from pipeline.ingest.batch import EventBatch, TopicPartition
from pipeline.state.batch import Finalized, Leaving
from pipeline.state.table import StateTable
from pipeline.state.watch import Watch
from pipeline.store.partition import RowWrite

__all__ = ["LookedUp", "LookupPlan", "LookupState", "Resident", "look_up", "lookup_plans"]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Resident = Callable[[StateTable, Quarantine, U8, I64], Found]
"""Rows of keys in a table; those that are not cached are fetched."""


@dataclass(frozen=True)
class LookupPlan:
    """A looked-up view as its own rows, what is read of them, and what it looks up itself."""

    plan: Plan
    owner: int  # fingerprint of the view that has the marker
    derivation: Derivation
    watch: Watch
    fields: tuple[Field, ...]
    lookups: tuple[LookupPlan, ...]


def lookup_plans(owner: Plan, marked_by: int | None = None) -> tuple[LookupPlan, ...]:
    """Those of a view; shared by all partitions. ``marked_by``: by default the view itself."""
    made = []
    marker = owner.fingerprint if marked_by is None else marked_by
    for lookup in owner.lookups:
        plan = own_rows(owner, lookup)
        fields = []
        for name, position in zip(lookup.columns, lookup.features, strict=True):
            type_ = column_type(plan.features[position]) or FieldType.INT64
            unit = "ns" if type_ is FieldType.TIMESTAMP else ""
            fields.append(Field(name, type_, nullable=True, unit=unit))
        watch = Watch.of(plan, lookup.features)
        made.append(
            LookupPlan(
                plan, marker, Derivation(plan), watch, tuple(fields), lookup_plans(plan, marker)
            )
        )
    return tuple(made)


@dataclass
class LookupState:
    """The cached rows of one looked-up view in one partition."""

    plan: LookupPlan
    table: StateTable
    quarantine: Quarantine
    lookups: tuple[LookupState, ...]

    @classmethod
    def of(
        cls, plans: Sequence[LookupPlan], app: str, source: TopicPartition, cache_bytes: int
    ) -> tuple[LookupState, ...]:
        """Nothing cached yet."""
        return tuple(
            cls(
                p,
                StateTable(p.plan, max_bytes=cache_bytes),
                Quarantine(app, source, p.plan.view, p.plan.fingerprint),
                cls.of(p.lookups, app, source, cache_bytes),
            )
            for p in plans
        )

    def tables(self) -> list[StateTable]:
        """Its own, and those of what it looks up itself."""
        return [self.table, *(table for state in self.lookups for table in state.tables())]


@dataclass
class LookedUp:
    """What look-ups made of a batch.

    ``events``   the batch with their columns
    ``broken``   bool[n], true where a row that is looked up is corrupt
    ``changed``  rows to be settled once the batch is committed
    ``writes``   these, and copies of corrupt ones, to be committed with it
    """

    events: EventBatch
    broken: Bools
    changed: list[tuple[StateTable, I32]] = field(default_factory=list)
    writes: list[RowWrite] = field(default_factory=list)

    def settle(self) -> list[tuple[int, Leaving]]:
        """The batch is committed; the rows that left the cache and may expire, by fingerprint."""
        gone = []
        for table, slots in self.changed:
            table.settle(slots)
            gone.append((table.plan.fingerprint, table.evict_rows()))
        return gone


def look_up(
    states: Sequence[LookupState], events: EventBatch, wanted: Bools, resident: Resident
) -> LookedUp:
    """``wanted`` bool[n] are the events that the view takes; the columns of others are null."""
    found = LookedUp(events, np.zeros(len(events), dtype=np.bool_))
    for state in states:
        inner = look_up(state.lookups, events, wanted, resident)
        watched = _apply(state, inner, wanted, resident)
        found.events = _with_columns(found.events, state.plan.fields, watched)
        found.broken |= inner.broken
        found.changed += inner.changed
        found.writes += inner.writes
    return found


def _apply(state: LookupState, looked: LookedUp, wanted: Bools, resident: Resident) -> Finalized:
    """Every event that is wanted into the rows; features after each, of all n events.

    What changed and what is broken is added to ``looked``.
    """
    events, table, plan = looked.events, state.table, state.plan
    derived = plan.derivation.compute(events)
    index = np.flatnonzero(wanted).astype(np.int64)
    keys, key_offsets = select_bytes(events.binary.keys, events.binary.key_offsets, index)
    slots, broken, quarantined = resident(table, state.quarantine, keys, key_offsets)
    looked.broken[index] |= broken
    select = 1 + events.tombstones
    select[looked.broken] = 0
    select[derived.failed] = select[derived.nulls] = select[derived.long] = 0
    applied = table.apply(
        slots,
        events.binary.offsets[index],
        events.binary.timestamps_ms[index],
        events.event_time[index],
        select[index],
        np.ascontiguousarray(derived.inputs[:, index]),
        np.ascontiguousarray(derived.valid[:, index]),
        np.ascontiguousarray(derived.masks[:, index]),
        watch=plan.watch,
    )
    looked.changed.append((table, applied.dirty))
    if len(applied.dirty):
        rows = table.encode(applied.dirty)
        looked.writes.append(RowWrite(plan.plan.fingerprint, rows, owner=plan.owner))
    if quarantined is not None:
        looked.writes.append(dataclasses.replace(quarantined, owner=plan.owner))
    return _spread(applied.watched, index, len(events))


def _spread(watched: Finalized | None, index: I64, n: int) -> Finalized:
    """Rows of some events as rows of all; null in between."""
    if watched is None:
        raise ValueError("nothing was watched")
    cells = np.zeros((n, watched.cells.shape[1]), dtype=np.int64)
    valid = np.zeros((n, watched.valid.shape[1]), dtype=np.uint8)
    status = np.zeros((n, watched.status.shape[1]), dtype=np.uint8)
    cells[index], valid[index], status[index] = watched.cells, watched.valid, watched.status
    return Finalized(cells, valid, status)


def _with_columns(events: EventBatch, fields: Sequence[Field], found: Finalized) -> EventBatch:
    columns, valid, known = dict(events.columns), dict(events.valid), dict(events.fields)
    for i, made in enumerate(fields):
        cells = np.ascontiguousarray(found.cells[:, i])
        real = made.type is FieldType.FLOAT64
        columns[made.name] = cells.view(np.float64) if real else cells
        valid[made.name] = np.ascontiguousarray(found.valid[:, i])
        known[made.name] = made
    return dataclasses.replace(events, columns=columns, valid=valid, fields=known)
