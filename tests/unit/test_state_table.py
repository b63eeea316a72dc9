"""The state table against its twin, whatever the batches; seeds are in the test ids."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from pipeline.features.plan import ListKind, Plan
from pipeline.kernels.jit import JIT_ENABLED
from pipeline.state.status import Status
from pipeline.state.table import StateTable
from tests.reference.cases import (
    feed,
    make_events,
    make_plan,
    make_triggers,
    pack_keys,
)
from tests.reference.rows import decode_row, encode_row
from tests.reference.state import Cell, Event, ReferenceState, bits_of

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

SEEDS = range(150) if JIT_ENABLED else range(40)
BASES = (0, -500, 1_700_000_000_000_000_000)


def case(seed: int) -> tuple[random.Random, Plan, list[Event]]:
    rng = random.Random(seed)
    plan = make_plan(rng)
    n = rng.choice((40, 400)) if JIT_ENABLED else 60
    return rng, plan, make_events(rng, n, rng.choice((1, 3, 20)), rng.choice(BASES))


def cut(events: list[Event], size: int) -> list[list[Event]]:
    return [events[i : i + size] for i in range(0, len(events), size)]


def as_cells(cells: np.ndarray, valid: np.ndarray, status: np.ndarray, plan: Plan) -> list[object]:
    """Per output cell (bits or None, status), as the twin gives them."""
    spread = [status[i] for i, f in enumerate(plan.features) for _ in range(f.width)]
    return [
        (int(c) if v else None, Status(s)) for c, v, s in zip(cells, valid, spread, strict=True)
    ]


def with_bits(cells: list[Cell]) -> list[object]:
    return [(None if value is None else bits_of(value), status) for value, status in cells]


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_outcomes_features_and_triggers_equal_the_twin(seed: int) -> None:
    rng, plan, events = case(seed)
    triggers = make_triggers(rng, plan)
    reference, table = ReferenceState(plan), StateTable(plan)
    stored: dict[bytes, bytes] = {}
    for batch in cut(events, rng.choice((1, 7, 1000))):
        outcomes, dirty, fired = reference.apply(batch, triggers)
        applied = feed(table, batch, stored, triggers)
        assert applied.outcome.tolist() == outcomes
        keys, offsets = table.keys(applied.dirty)
        assert [keys[a:b].tobytes() for a, b in itertools.pairwise(offsets)] == dirty
        got = applied.fired
        assert list(zip(got.event.tolist(), got.trigger.tolist(), strict=True)) == [
            (e, t) for e, t, _ in fired
        ]
        for i, (_, _, cells) in enumerate(fired):
            assert as_cells(got.cells[i], got.valid[i], got.status[i], plan) == with_bits(cells)
    assert stored == {key: encode_row(plan, row) for key, row in reference.rows.items()}
    compare_features(rng, plan, reference, table)


def compare_features(
    rng: random.Random, plan: Plan, reference: ReferenceState, table: StateTable
) -> None:
    keys = [*reference.rows, b"never seen"]
    found = table.lookup(*pack_keys(keys))
    table.load(found.slots[found.missing], [None] * len(found.missing))
    newest = max((row.time for row in reference.rows.values()), default=0)
    for delta in (0, 1, -1, 9, 60, 333, 5000, -40):
        at = np.array([newest + delta * rng.choice((1, 1, 3)) for _ in keys], dtype=np.int64)
        got = table.finalize(found.slots, at)
        for i, key in enumerate(keys):
            expected = with_bits(reference.finalize(key, int(at[i])))
            assert as_cells(got.cells[i], got.valid[i], got.status[i], plan) == expected
    own = table.finalize(found.slots[:-1], "event")
    times = table.event_time(found.slots[:-1])
    same = table.finalize(found.slots[:-1], times)
    assert own.cells.tolist() == same.cells.tolist()
    assert own.status.tolist() == same.status.tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_bytes_do_not_depend_on_batches_eviction_or_reload(seed: int) -> None:
    rng, plan, events = case(seed)
    results = []
    for size, max_bytes in ((1, 0), (7, 1 << 28), (7, 0), (1000, 1 << 28), (len(events), 0)):
        stored: dict[bytes, bytes] = {}
        table = StateTable(plan, max_bytes=max_bytes)
        for batch in cut(events, size):
            feed(table, batch, stored)
        if max_bytes == 0:
            assert table.rows == 0
            assert table.nbytes == 0
        results.append(stored)
    assert all(result == results[0] for result in results)
    for row in results[0].values():
        assert encode_row(plan, decode_row(plan, row)) == row
    random_cuts: dict[bytes, bytes] = {}
    table = StateTable(plan, max_bytes=rng.choice((500, 5000)))
    rest = events
    while rest:
        n = rng.randint(1, 60)
        feed(table, rest[:n], random_cuts)
        rest = rest[n:]
    assert random_cuts == results[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_encode_decode_encode(seed: int) -> None:
    _, plan, events = case(seed)
    stored: dict[bytes, bytes] = {}
    feed(StateTable(plan), events, stored)
    table = StateTable(plan)
    found = table.lookup(*pack_keys(list(stored)))
    assert table.load(found.slots, list(stored.values())) == []
    again = table.encode(found.slots)
    assert [again.row(i) for i in range(len(again))] == list(stored.values())
    assert [again.key(i) for i in range(len(again))] == list(stored)


@pytest.mark.parametrize("seed", SEEDS)
def test_features_before_and_after_a_reload_are_equal(seed: int) -> None:
    """Also for T before the newest event, where what lingers in memory must not show."""
    rng, plan, events = case(seed)
    stored: dict[bytes, bytes] = {}
    kept, fresh = StateTable(plan), StateTable(plan)
    feed(kept, events, stored)
    keys = pack_keys(list(stored))
    old, new = kept.lookup(*keys).slots, fresh.lookup(*keys).slots
    fresh.load(new, list(stored.values()))
    for _ in range(20):
        at = kept.event_time(old) + rng.randint(-400, 400)
        a, b = kept.finalize(old, at), fresh.finalize(new, at)
        assert a.cells.tolist() == b.cells.tolist()
        assert a.valid.tolist() == b.valid.tolist()
        assert a.status.tolist() == b.status.tolist()


def test_reference_lists_overflow_somewhere() -> None:
    """The fuzz reaches the corner cases that it is for."""
    seen = dict.fromkeys(
        ("dropped", "events dropped", "late", "degraded", "emptied", "sampled", "level", "error"), 0
    )
    kinds: set[ListKind] = set()
    for seed in range(120):
        _, plan, events = case(seed)
        reference = ReferenceState(plan)
        outcomes, _, _ = reference.apply(events)
        seen["late"] += sum(o.name == "LATE" for o in outcomes)
        for key, row in reference.rows.items():
            for state, dropped in zip(plan.lists, row.dropped, strict=True):
                name = "events dropped" if state.kind is ListKind.EVENTS else "dropped"
                seen[name] += dropped is not None
            seen["sampled"] += any(row.steps.values())
            for i, tiles in row.counts.items():
                name = "level" if plan.lists[i].kind is ListKind.COUNTS else "error"
                seen[name] += any(tally.note for tally in tiles.values())
            cells = reference.finalize(key, row.time)
            seen["degraded"] += sum(s is Status.DEGRADED for _, s in cells)
            applied = [e for e, o in zip(events, outcomes, strict=True) if e.key == key and o == 1]
            seen["emptied"] += len(row.events) < len(applied)
        kinds |= {s.kind for s in plan.lists}
    assert kinds == set(ListKind)
    assert min(seen.values()) > 5, seen
