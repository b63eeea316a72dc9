"""One entity of a stream of payments: its plan, events, table, cells and row."""

from __future__ import annotations

from typing import Any

import numpy as np

import pipeline as pp
from pipeline.features.aggregations import Aggregation
from pipeline.features.plan import Plan
from pipeline.state.status import Status
from pipeline.state.table import StateTable
from tests.reference.cases import feed, pack_keys
from tests.reference.state import Event, bits_of

__all__ = ["STREAM", "bits", "event", "plan", "read", "row_of", "table_of"]

CONTRACT = pp.Contract.load(
    {
        "title": "payment",
        "type": "object",
        "properties": {
            "user": {"type": "string"},
            "shop": {"type": "string"},
            "units": {"type": "integer"},
            "price": {"type": "number"},
            "cents": {"type": "number", "x-decimal": 2},
            "paid": {"type": "boolean"},
            "at": {"type": "string", "format": "date-time"},
        },
        "required": ["user", "shop", "units", "price", "cents", "paid", "at"],
    }
)
STREAM = pp.EventStream("payments", contract=CONTRACT, key="user", time="at")


def plan(**features: Aggregation) -> Plan:
    """Of a view of payments."""
    return pp.FeatureView("v", source=STREAM, entity="user", features=features).plan


def event(time: int, offset: int, *inputs: float | None) -> Event:
    """Of the only entity."""
    return Event(b"k", offset, offset, time, True, inputs, ())


def table_of(made: Plan, events: list[Event]) -> StateTable:
    """A table that has applied these events."""
    table = StateTable(made)
    feed(table, events, {})
    return table


def read(table: StateTable, at: int) -> tuple[list[int | None], list[Status]]:
    """Cells (None: null) and statuses of the entity as of a time."""
    slots = table.lookup(*pack_keys([b"k"])).slots
    got = table.finalize(slots, np.array([at], dtype=np.int64))
    cells = [int(c) if v else None for c, v in zip(got.cells[0], got.valid[0], strict=True)]
    return cells, [Status(int(s)) for s in got.status[0]]


def row_of(table: StateTable) -> bytes:
    """The entity's packed row."""
    return table.encode(table.lookup(*pack_keys([b"k"])).slots).row(0)


def bits(values: list[Any], width: int) -> list[int | None]:
    """Cells that hold these values, then nulls."""
    return [*map(bits_of, values), *[None] * (width - len(values))]
