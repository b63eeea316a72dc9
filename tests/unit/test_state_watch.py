"""Features right after every event, as look-ups read them, against the twin."""

from __future__ import annotations

import random

import pytest

from pipeline.features.plan import Plan
from pipeline.kernels.jit import JIT_ENABLED
from pipeline.state.status import Status
from pipeline.state.table import StateTable
from pipeline.state.watch import Watch
from tests.reference.cases import columns, make_events, make_plan, pack_keys
from tests.reference.state import Cell, Event, ReferenceState, bits_of

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")
SEEDS = range(80) if JIT_ENABLED else range(20)


def seen(reference: ReferenceState, event: Event) -> list[Cell]:
    """Every feature after the event, as of its time or of the row's newest event."""
    reference.apply([event])
    row = reference.rows.get(event.key)
    at = event.time if row is None or not row.live else max(event.time, row.time)
    return reference.finalize(event.key, at)


def cell(plan: Plan, cells: list[Cell], feature: int) -> list[Cell]:
    found = plan.features[feature]
    return cells[found.cell : found.cell + found.width]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("seed", SEEDS)
def test_features_after_every_event_equal_the_twin(seed: int, size: int) -> None:
    rng = random.Random(seed)
    plan = make_plan(rng)
    events = make_events(rng, 200 if JIT_ENABLED else 50, rng.choice((1, 3, 20)), 0)
    positions = rng.sample(range(len(plan.features)), k=rng.randint(1, len(plan.features)))
    reference, table, watch = ReferenceState(plan), StateTable(plan), Watch.of(plan, positions)
    for start in range(0, len(events), size):
        batch = events[start : start + size]
        lookup = table.lookup(*pack_keys([e.key for e in batch]))
        table.load(lookup.slots[lookup.missing], [None] * len(lookup.missing))
        applied = table.apply(lookup.slots, *columns(batch), watch=watch)
        got = applied.watched
        assert got is not None
        for i, event in enumerate(batch):
            cells = seen(reference, event)
            wanted = [c for f in positions for c in cell(plan, cells, f)]
            statuses = [s for f, s in zip(positions, got.status[i], strict=True)
                        for _ in range(plan.features[f].width)]  # fmt: skip
            assert [
                (int(c) if v else None, Status(s))
                for c, v, s in zip(got.cells[i], got.valid[i], statuses, strict=True)
            ] == [(None if value is None else bits_of(value), s) for value, s in wanted]
