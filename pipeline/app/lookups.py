"""The rows that a view keeps of those it looks up, in one partition.

They take every record that the view takes, right before it does, and give it their features as
columns. They have no marker: they are where the view is, and are committed with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.app.outputs import select_bytes
from pipeline.contracts.contract import Field, FieldType
from pipeline.features.derive import Derivation
from pipeline.features.lookups import column_type, own_rows
from pipeline.features.plan import Plan
from pipeline.ingest.batch import EventBatch
from pipeline.state.batch import Finalized
from pipeline.state.table import StateTable
from pipeline.state.watch import Watch
from pipeline.store.partition import RowWrite

__all__ = ["LookupPlan", "LookupState", "Resident", "StagedLookup", "look_up", "lookup_plans"]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Resident = Callable[[Plan, StateTable, U8, I64], I32]
"""Slots of keys in a table, whose missing rows are fetched."""


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


@dataclass(frozen=True, slots=True)
class StagedLookup:
    """Rows that changed: what is to be committed, and settled then."""

    state: LookupState
    slots: I32
    write: RowWrite

    def settle(self) -> None:
        """The rows are committed."""
        self.state.table.settle(self.slots)
        self.state.table.evict()


@dataclass
class LookupState:
    """The cached rows of one looked-up view in one partition."""

    plan: LookupPlan
    table: StateTable
    lookups: tuple[LookupState, ...]

    @classmethod
    def of(cls, plans: Sequence[LookupPlan], cache_bytes: int) -> tuple[LookupState, ...]:
        """Nothing cached yet."""
        return tuple(
            cls(p, StateTable(p.plan, max_bytes=cache_bytes), cls.of(p.lookups, cache_bytes))
            for p in plans
        )


def look_up(
    states: Sequence[LookupState], events: EventBatch, wanted: Bools, resident: Resident
) -> tuple[EventBatch, list[StagedLookup]]:
    """``events`` with the columns of the look-ups, and the rows that changed on the way.

    ``wanted`` bool[n] are the events that the view takes; the columns of others are null.
    """
    staged: list[StagedLookup] = []
    seen = events
    for state in states:
        inner, below = look_up(state.lookups, events, wanted, resident)
        watched, here = _apply(state, inner, wanted, resident)
        seen = _with_columns(seen, state.plan.fields, watched)
        staged += [*below, here]
    return seen, staged


def _apply(
    state: LookupState, events: EventBatch, wanted: Bools, resident: Resident
) -> tuple[Finalized, StagedLookup]:
    """Every event that is wanted into the rows; features after each, of all n events."""
    binary, table = events.binary, state.table
    derived = state.plan.derivation.compute(events)
    index = np.flatnonzero(wanted).astype(np.int64)
    select = wanted.astype(np.uint8)
    select[derived.failed] = 0
    keys, key_offsets = select_bytes(binary.keys, binary.key_offsets, index)
    applied = table.apply(
        resident(state.plan.plan, table, keys, key_offsets),
        binary.offsets[index],
        binary.timestamps_ms[index],
        events.event_time[index],
        select[index],
        np.ascontiguousarray(derived.inputs[:, index]),
        np.ascontiguousarray(derived.valid[:, index]),
        np.ascontiguousarray(derived.masks[:, index]),
        watch=state.plan.watch,
    )
    rows = table.encode(applied.dirty)
    write = RowWrite(state.plan.plan.fingerprint, rows, state.plan.owner)
    return _spread(applied.watched, index, len(events)), StagedLookup(state, applied.dirty, write)


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
    for i, field in enumerate(fields):
        cells = np.ascontiguousarray(found.cells[:, i])
        real = field.type is FieldType.FLOAT64
        columns[field.name] = cells.view(np.float64) if real else cells
        valid[field.name] = np.ascontiguousarray(found.valid[:, i])
        known[field.name] = field
    return dataclasses.replace(events, columns=columns, valid=valid, fields=known)
