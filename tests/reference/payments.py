"""A stream with a nullable field of every number type, and one key's events in a state table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

import pipeline as pp
from pipeline.features.aggregations import Aggregation
from pipeline.features.plan import CellType, Plan
from pipeline.state.batch import Outcome
from pipeline.state.status import Status
from pipeline.state.table import StateTable
from tests.reference.cases import feed, pack_keys
from tests.reference.state import Event

__all__ = ["STREAM", "Value", "plan_of", "read", "rows_of", "run"]

Value = int | float | None
CONTRACT = pp.Contract.load(
    {
        "title": "payment",
        "type": "object",
        "properties": {
            "user": {"type": "string"},
            "units": {"type": ["integer", "null"]},
            "price": {"type": ["number", "null"]},
            "cents": {"type": ["number", "null"], "x-decimal": 2},
            "paid": {"type": ["boolean", "null"]},
            "shop": {"type": ["string", "null"]},
            "at": {"type": "string", "format": "date-time"},
        },
        "required": ["user", "at"],
    }
)
STREAM = pp.EventStream("payments", contract=CONTRACT, key="user", time="at")


def plan_of(features: Mapping[str, Aggregation], ttl: str | int | None = None) -> Plan:
    """The plan of a view ``v`` of ``user``."""
    return pp.FeatureView("v", source=STREAM, entity="user", ttl=ttl, features=features).plan


def run(
    plan: Plan, events: Iterable[tuple[int, Value]], size: int = 1000, max_bytes: int = 1 << 28
) -> tuple[StateTable, dict[bytes, bytes], list[Outcome]]:
    """(time, value) in offset order, the value in every input and its being there in every mask.

    Batches of ``size``. The table, the stored row, and what became of the events.
    """
    table, stored = StateTable(plan, max_bytes=max_bytes), dict[bytes, bytes]()
    made = [
        Event(
            b"k", offset, offset, time, True, (value,) * len(plan.inputs),
            (value is None or math.isnan(value),) * len(plan.masks),
        )
        for offset, (time, value) in enumerate(events)
    ]  # fmt: skip
    outcomes: list[Outcome] = []
    for i in range(0, len(made), size):
        outcomes += [Outcome(int(o)) for o in feed(table, made[i : i + size], stored).outcome]
    return table, stored, outcomes


def rows_of(plan: Plan, events: list[tuple[int, Value]]) -> set[bytes]:
    """The row's bytes, for several ways to cut batches and to evict."""
    ways = ((1, 0), (1, 1 << 28), (7, 0), (1000, 1 << 28))
    return {run(plan, events, *way)[1][b"k"] for way in ways}


def read(plan: Plan, table: StateTable, at: int) -> tuple[list[Value], list[Status]]:
    """Features of the key: values, and statuses."""
    slots = table.lookup(*pack_keys([b"k"])).slots
    got = table.finalize(slots, np.array([at], dtype=np.int64))
    values: list[Value] = []
    for feature in plan.features:
        cell = got.cells[0, feature.cell]
        real = feature.op.name in {"VAR", "STD", "DECAYED", "EWMA", "MEAN"} or feature.type in (
            CellType.FLOAT, CellType.DECIMAL,
        )  # fmt: skip
        value = float(cell.view(np.float64)) if real else int(cell)
        values.append(value if got.valid[0, feature.cell] else None)
    return values, [Status(int(s)) for s in got.status[0]]
