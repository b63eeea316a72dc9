"""Ids of a row: thousands of them, through growth, loss and reloading, against a plain set."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from pipeline.features.plan import CellType, ListKind, ListState, Plan
from pipeline.kernels.jit import JIT_ENABLED
from pipeline.state.batch import Outcome
from pipeline.state.table import StateTable
from tests.reference.cases import feed, make_plan, pack_keys
from tests.reference.rows import encode_row
from tests.reference.state import Event, ReferenceState

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

EVENTS = 3_000 if JIT_ENABLED else 1_500


def plan_of(bound: int, horizon: int) -> Plan:
    """Nothing but ids, and a last value that makes every event count."""
    return replace(
        make_plan(random.Random(0), ids=False), rings=(), accumulators=(), features=(), ttl_ns=0,
        filter=-1, inputs=("id",), input_types=(CellType.INT,), input_scales=(0,), masks=(),
        lists=(
            ListState(ListKind.LAST, -1, 0, -1, 1, 0, CellType.INT),
            ListState(ListKind.IDS, -1, 0, -1, bound, horizon, CellType.INT),
        ),
    )  # fmt: skip


def events_of(rng: random.Random, n: int, spread: int, first: int = 0) -> list[Event]:
    ids = [
        rng.getrandbits(64) - 2**63 if rng.random() < 0.5 else i for i in range(first, first + n)
    ]
    made = []
    for i in range(n):
        back = rng.choice((0, 0, 1, spread))
        value = ids[max(0, i - rng.randint(0, spread))] if rng.random() < 0.2 else ids[i]
        made.append(Event(b"k", first + i, -1, first + i - back, True, (value,), ()))
    return made


@pytest.mark.parametrize(
    ("bound", "horizon"), [(1, 10**9), (2, 10**9), (5, 10**9), (1500, 10**9), (1500, 700), (9, 4)]
)
def test_what_came_before_is_known_whatever_the_block_went_through(
    bound: int, horizon: int
) -> None:
    rng = random.Random(bound * horizon)
    plan = plan_of(bound, horizon)
    events = events_of(rng, EVENTS, min(2 * bound, 4000))
    kept: list[tuple[int, int, int]] = []
    newest, expected = events[0].time, []
    for event in events:
        (value,) = event.inputs
        assert isinstance(value, int)
        if any(e[2] == value for e in kept):
            expected.append(Outcome.DUPLICATE)
            continue
        expected.append(Outcome.APPLIED)
        newest = max(newest, event.time)
        if event.time > newest - horizon:
            kept.append((event.time, event.offset, value))
        kept = sorted(e for e in kept if e[0] > newest - horizon)[-bound:]
    stored: dict[bytes, bytes] = {}
    table, got = StateTable(plan, max_bytes=1), []
    at = 0
    while at < len(events):  # after every batch the row goes, and is loaded again
        n = rng.choice((1, 17, 900))
        got += feed(table, events[at : at + n], stored).outcome.tolist()
        at += n
    assert got == expected
    assert expected.count(Outcome.DUPLICATE) > EVENTS / 100 or bound == 1
    whole: dict[bytes, bytes] = {}
    assert feed(StateTable(plan), events, whole).outcome.tolist() == expected
    assert whole == stored
    table.clear()
    slots = table.lookup(*pack_keys([b"k"])).slots
    assert table.load(slots, [stored[b"k"]]) == []
    assert table.encode(slots).row(0) == stored[b"k"]


def test_the_bytes_are_those_of_the_twin() -> None:
    rng = random.Random(1)
    plan = plan_of(50, 300)
    events = events_of(rng, 400, 60)
    stored: dict[bytes, bytes] = {}
    feed(StateTable(plan), events, stored)
    state = ReferenceState(plan)
    state.apply(events)
    assert stored[b"k"] == encode_row(plan, state.rows[b"k"])
