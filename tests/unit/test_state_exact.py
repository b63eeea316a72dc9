"""Exact windows and delays: every edge to the nanosecond, overflow of the list, the bytes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import polars as pl
import pytest

import pipeline as pp
from pipeline.errors import DefinitionError
from pipeline.features.aggregations import Aggregation
from pipeline.features.plan import AccOp, CellType, ListKind, Plan, Ring
from pipeline.features.planjson import from_json, to_json
from pipeline.kernels.jit import JIT_ENABLED
from pipeline.state.batch import Outcome
from pipeline.state.status import Status
from pipeline.state.table import StateTable
from tests.reference.cases import feed, pack_keys
from tests.reference.rows import reseal
from tests.reference.state import Event

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

CONTRACT = pp.Contract.load(
    {
        "title": "payment",
        "type": "object",
        "properties": {
            "user": {"type": "string"},
            "units": {"type": "integer"},
            "price": {"type": "number"},
            "cents": {"type": "number", "x-decimal": 2},
            "at": {"type": "string", "format": "date-time"},
        },
        "required": ["user", "units", "price", "cents", "at"],
    }
)
STREAM = pp.EventStream("payments", contract=CONTRACT, key="user", time="at")
SEEDS = range(60) if JIT_ENABLED else range(15)


def plan(ttl: str | None = None, **features: Aggregation) -> Plan:
    return plan_of(features, ttl)


def plan_of(features: dict[str, Aggregation], ttl: str | None = None) -> Plan:
    return pp.FeatureView("v", source=STREAM, entity="user", ttl=ttl, features=features).plan


def event(time: int, offset: int, *inputs: float, masks: tuple[bool, ...] = ()) -> Event:
    return Event(b"k", offset, offset, time, True, inputs, masks)


def run(made: Plan, *times: int) -> tuple[StateTable, list[Outcome]]:
    """A table with events at ``times``, each with the value of its position."""
    table = StateTable(made)
    events = [event(t, i, *[i] * len(made.inputs)) for i, t in enumerate(times)]
    return table, [Outcome(int(o)) for o in feed(table, events, {}).outcome]


def read(table: StateTable, at: int) -> tuple[list[int | None], set[Status]]:
    slots = table.lookup(*pack_keys([b"k"])).slots
    got = table.finalize(slots, np.array([at], dtype=np.int64))
    cells = [int(c) if v else None for c, v in zip(got.cells[0], got.valid[0], strict=True)]
    return cells, {Status(int(s)) for s in got.status[0]}


def real(cell: int | None) -> float:
    return float(np.int64(cell or 0).view(np.float64))


# ---- definitions


def test_equal_input_mask_and_bound_share_the_list_of_the_longest_reach() -> None:
    big = pl.col("units") > 3
    got = plan(
        a=pp.mean("units").over(100),
        b=pp.sum("units").over(300),
        c=pp.max("units").over(50, delay=400),
        d=pp.count().over(100),
        e=pp.count(where=big).over(100),
        f=pp.distinct("units").over(100),
        g=pp.sum("units").over(100, bound=9),
        h=pp.ratio(pp.sum("units"), pp.count("units")).over(70),
    )
    assert [(s.kind, s.ring, s.input, s.mask, s.bound, s.horizon_ns) for s in got.lists] == [
        (ListKind.EVENTS, -1, 0, -1, 4096, 450),
        (ListKind.EVENTS, -1, -1, -1, 4096, 100),
        (ListKind.EVENTS, -1, -1, 0, 4096, 100),
        (ListKind.EVENTS, -1, 0, -1, 9, 100),
    ]
    assert got.rings == ()
    assert [(a.ring, a.op) for a in got.accumulators][:2] == [(0, AccOp.SUM_INT), (0, AccOp.COUNT)]
    assert from_json(to_json(got)) == got


def test_sections_of_lists_come_after_those_of_rings() -> None:
    got = plan(a=pp.sum("units").over(100), b=pp.count().over(100, slide=10))
    assert got.rings == (Ring(10, 11),)
    assert [a.ring for a in got.accumulators] == [0, 1]
    assert [f.a for f in got.features] == [1, 0]


def test_the_last_values_of_a_window_that_ends_now_need_no_more_than_themselves() -> None:
    got = plan(a=pp.last("units", n=3).over(100), b=pp.last("units", n=3).over(100, delay=5))
    assert [(s.kind, s.bound, s.horizon_ns) for s in got.lists] == [
        (ListKind.LAST, 3, 100),
        (ListKind.EVENTS, 4096, 105),
    ]


def test_a_delay_of_0_is_no_delay() -> None:
    a = plan(a=pp.count().over(100, slide=10))
    b = plan(a=pp.count().over(100, slide=10, delay=0))
    assert (a.fingerprint, to_json(a)) == (b.fingerprint, to_json(b))
    assert "delay" not in to_json(a)
    assert "delay" in to_json(plan(a=pp.count().over(100, slide=10, delay=10)))
    assert a.fingerprint != plan(a=pp.count().over(100, slide=10, delay=10)).fingerprint


@pytest.mark.parametrize(
    ("feature", "field", "part"),
    [
        (lambda: pp.count().over(100, slide=10, delay=5), "v.a.delay", "multiple of 10ns"),
        (lambda: pp.distinct("units").over(100, slide=10, delay=10), "v.a.delay", "newest"),
        (lambda: pp.last("units").over(100, slide=10, delay=10), "v.a.delay", "newest"),
        (lambda: pp.count().over(100, slide=10, bound=5), "v.a.bound", "without a slide"),
        (lambda: pp.count().over(100, bound=0), "v.a.bound", "1 to"),
        (lambda: pp.count().over(100, bound=65_537), "v.a.bound", "1 to"),
        (lambda: pp.last("units", n=9).over(100, delay=5, bound=8), "v.a.bound", "9, which is n"),
        (lambda: pp.last("units").over(100, bound=5), "v.a.bound", "leave it out"),
        (lambda: pp.last("units", n=0).over(100), "v.a.n", "1 to"),
        (lambda: pp.count().over("200d", delay="200d"), "v.ttl", "window + slide + delay"),
        (lambda: pp.count().over(2**62, delay=2**62), "v.a.over", "292 years"),
        (lambda: pp.count().over(0), "v.a", "no window"),
        (lambda: pp.count().over(10, delay=-1), "over(delay=-1)", "negative"),
    ],
)
def test_a_wrong_window_names_its_argument(
    feature: Callable[[], Aggregation], field: str, part: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        plan(ttl="300d", a=feature())
    assert caught.value.field == field
    assert part in caught.value.problem


# ---- edges


@pytest.mark.parametrize(("at", "count"), [(100, 1), (199, 1), (200, 0)])
def test_the_window_is_open_at_its_start(at: int, count: int) -> None:
    table, _ = run(plan(a=pp.count().over(100)), 100)
    assert read(table, at) == ([count], {Status.PRESENT})


@pytest.mark.parametrize(("at", "count"), [(149, 0), (150, 1), (249, 1), (250, 0)])
def test_a_delayed_window_is_closed_at_its_end(at: int, count: int) -> None:
    table, _ = run(plan(a=pp.count().over(100, delay=50)), 100)
    assert read(table, at) == ([count], {Status.PRESENT})


@pytest.mark.parametrize(("at", "count"), [(129, 0), (130, 1), (139, 1), (149, 1), (150, 0)])
def test_a_delayed_window_of_tiles_begins_and_ends_with_them(at: int, count: int) -> None:
    """(floor(T, 10) - 20 - 20, floor(T, 10) - 20]: 110 is in it from 130 to 149."""
    table, _ = run(plan(a=pp.count().over(20, slide=10, delay=20)), 110)
    assert read(table, at) == ([count], {Status.PRESENT})


@pytest.mark.parametrize(("time", "outcome"), [(50, Outcome.LATE), (51, Outcome.APPLIED)])
def test_an_event_is_late_once_no_window_can_hold_it(time: int, outcome: Outcome) -> None:
    made = plan(a=pp.count().over(50, delay=100), b=pp.count().over(20))
    table, outcomes = run(made, 200, time)
    assert outcomes[1] is outcome
    assert read(table, 200)[0] == [int(outcome is Outcome.APPLIED), 1]


def test_equal_times_go_by_offset() -> None:
    made = plan(
        a=pp.sum("price").over(100), b=pp.last("price", n=4).over(100, delay=1, bound=4),
    )  # fmt: skip
    table = StateTable(made)
    prices = [1e17, 1.0, -1e17, 4.0]
    feed(
        table,
        [event(t, i, p) for i, (t, p) in enumerate(zip([5, 7, 7, 7], prices, strict=True))],
        {},
    )
    cells, _ = read(table, 8)
    assert [real(c) for c in cells] == [(1e17 + 1.0 - 1e17) + 4.0, 4.0, -1e17, 1.0, 1e17]


def test_sums_of_integers_are_exact_and_say_when_they_cannot_be() -> None:
    made = plan(a=pp.sum("units").over(100), b=pp.mean("cents").over(100))
    table = StateTable(made)
    feed(table, [event(1, 0, 2**62, 1), event(2, 1, 2**62 - 1, 2)], {})
    cells, status = read(table, 2)
    assert (cells[0], real(cells[1]), status) == (2**63 - 1, 0.015, {Status.PRESENT})
    feed(table, [event(3, 2, 1, 2)], {})
    slots = table.lookup(*pack_keys([b"k"])).slots
    got = table.finalize(slots, np.array([3, 102, 101], dtype=np.int64))
    assert (got.valid[0, 0], got.status[0].tolist()) == (0, [Status.DEGRADED, Status.PRESENT])


def test_what_the_bound_dropped_degrades_only_reads_that_need_it() -> None:
    made = plan(
        n=pp.count("units").over(100, bound=3), s=pp.sum("units").over(100, bound=3),
        d=pp.distinct("units").over(100, bound=3),
        l=pp.last("units", n=2).over(90, delay=10, bound=3),
    )  # fmt: skip
    table, _ = run(made, 10, 20, 30)
    assert read(table, 30) == ([3, 3, 3, 1, 0], {Status.PRESENT})
    feed(table, [event(40, 3, 3)], {})
    slots = table.lookup(*pack_keys([b"k"])).slots
    cells, _ = read(table, 40)
    assert cells == [3, 6, 3, 2, 1]
    got = table.finalize(np.repeat(slots, 2), np.array([109, 110], dtype=np.int64))
    assert got.status[0].tolist() == [Status.DEGRADED] * 3 + [Status.PRESENT]
    assert got.status[1].tolist() == [Status.PRESENT] * 4  # the one at 10 is out of every window
    feed(table, [event(39, 4, 9), event(15, 5, 7)], {})  # in order it is 20 that goes, then 15
    assert table.encode(slots).row(0)[48 + 1] == 1
    got = table.finalize(np.repeat(slots, 2), np.array([119, 120], dtype=np.int64))
    assert got.status[:, 0].tolist() == [Status.DEGRADED, Status.PRESENT]


def test_the_bytes_are_those_of_the_description() -> None:
    made = plan(n=pp.count().over(100, bound=2), s=pp.sum("units").over(50, bound=2))
    table = StateTable(made)
    feed(table, [event(10, 3, -1), event(20, 5, 70), event(15, 8, 2)], {})
    slots = table.lookup(*pack_keys([b"k"])).slots
    body = bytes([2, 1, 20, 5, 0, 5, 5]) + bytes([2, 1, 20, 5, 0, 4, 5, 5, 140, 1])
    assert table.encode(slots).row(0)[48:] == body
    other = StateTable(made)
    assert other.load(other.lookup(*pack_keys([b"k"])).slots, [table.encode(slots).row(0)]) == []
    assert read(other, 20) == ([2, 72], {Status.DEGRADED})


@pytest.mark.parametrize(
    ("body", "accepted"),
    [
        ([2, 0, 5, 1, 5, 2], True),  # (15, 7), (20, 8) in a row of newest event 20 and offset 8
        ([2, 1, 2 * 79 - 1, 5, 1, 5, 2], True),
        ([2, 1, 2 * 80 - 1, 5, 1, 5, 2], False),  # dropped where the horizon does not reach
        ([1, 1, 20, 5, 0], False),  # dropped one though there was room
        ([2, 1, 32, 5, 1, 5, 2], False),  # dropped one that is newer than the oldest it kept
        ([2, 0, 5, 1, 5, 4], False),  # a higher offset than the row's
        ([2, 0, 5, 1, 6, 2], False),  # later than the row
        ([2, 0, 5, 1, 0, 0], False),  # the same event twice
        ([2, 0, 5, 1, 0, 1], False),  # not in order
        ([1, 0, 99, 0], True),
        ([1, 0, 100, 0], False),  # as old as the horizon
        ([3, 0, 5, 1, 0, 2, 0, 2], False),  # more than the bound
        ([2, 2, 5, 1, 5, 2], False),
        ([2, 0, 5, 1, 5], False),
        ([2, 0, 5, 1, 5, 2, 0], False),
    ],
)
def test_a_list_that_no_writer_made_is_refused(body: list[int], accepted: bool) -> None:
    table = StateTable(plan(n=pp.count().over(100, bound=2)))
    feed(table, [event(15, 7), event(20, 8)], {})
    slots = table.lookup(*pack_keys([b"k"])).slots
    rest = b"".join(bytes([b]) if b < 128 else bytes([b & 127 | 128, b >> 7]) for b in body)
    row = table.encode(slots).row(0)[:48] + rest
    row = reseal(row[:4] + len(row).to_bytes(4, "little") + row[8:])
    table.clear()
    slots = table.lookup(*pack_keys([b"k"])).slots
    assert table.load(slots, [row]) == ([] if accepted else [0])
    if accepted:
        assert table.encode(slots).row(0) == row


def test_a_full_list_costs_no_more_memory_than_its_bound() -> None:
    table = StateTable(plan(n=pp.sum("units").over(10**9, bound=100)))
    sizes = set()
    for start in range(0, 2000, 50):
        feed(table, [event(t, t, 1) for t in range(start, start + 50)], {})
        sizes.add(table.nbytes)
    assert max(sizes) < 8 * 512 + 500
    assert read(table, 1999) == ([100], {Status.DEGRADED})


# ---- against the definition


def defined(feature: Aggregation, events: list[Event], at: int) -> object:
    end = at // feature.slide_ns * feature.slide_ns if feature.slide_ns else at
    end -= feature.delay_ns
    seen = [e for e in events if end - feature.window_ns < e.time <= end]
    units = [int(e.inputs[0] or 0) for e in sorted(seen, key=lambda e: (e.time, e.offset))]
    values: dict[str, Callable[[], object]] = {
        "COUNT": lambda: len(units),
        "SUM": lambda: sum(units),
        "MEAN": lambda: float(Fraction(sum(units), len(units))) if units else None,
        "MIN": lambda: min(units, default=None),
        "MAX": lambda: max(units, default=None),
        "RATIO": lambda: float(Fraction(sum(units), len(units))) if units else None,
        "DISTINCT": lambda: len(set(units)),
        "LAST": lambda: units[-1] if units else None,
    }
    return values[feature.op.name]()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_aggregation_equals_its_definition_whatever_the_batches(seed: int) -> None:
    rng = random.Random(seed)
    makers: tuple[Callable[[], Aggregation], ...] = (
        lambda: pp.count("units"), lambda: pp.sum("units"), lambda: pp.mean("units"),
        lambda: pp.min("units"), lambda: pp.max("units"), lambda: pp.distinct("units"),
        lambda: pp.last("units"), lambda: pp.ratio(pp.sum("units"), pp.count("units")),
    )  # fmt: skip
    features: dict[str, Aggregation] = {}
    for i, maker in enumerate(makers):
        window, delay = rng.randint(1, 60), rng.choice((0, rng.randint(1, 60)))
        features[f"e{i}"] = maker().over(window, delay=delay)
        if i not in (5, 6):
            features[f"t{i}"] = maker().over(20, slide=5, delay=5 * rng.randint(1, 6))
    made = plan_of(features)
    assert made.input_types == (CellType.INT,)
    now, events = rng.choice((0, -300, 10**18)), []
    for offset in range(150):
        now += rng.choice((0, 0, 1, 2, 9))
        late = rng.choice((0, 0, rng.randint(0, 70)))
        events.append(event(now - late, offset, rng.randint(-5, 5)))
    rows = []
    for size, max_bytes in ((1, 0), (7, 1 << 28), (1000, 0)):
        table, stored = StateTable(made, max_bytes=max_bytes), dict[bytes, bytes]()
        for i in range(0, len(events), size):
            feed(table, events[i : i + size], stored)
        rows.append(stored)
    assert rows[0] == rows[1] == rows[2]
    found = table.lookup(*pack_keys([b"k"]))
    table.load(found.slots, [rows[0][b"k"]])
    newest = max(e.time for e in events)
    reads = np.arange(newest, newest + 130)
    got = table.finalize(np.repeat(found.slots, len(reads)), reads)
    assert set(got.status.ravel().tolist()) == {Status.PRESENT}
    for (i, at), (k, feature) in itertools.product(enumerate(reads), enumerate(features.values())):
        cell = int(got.cells[i, k]) if got.valid[i, k] else None
        expected = defined(feature, events, int(at))
        if isinstance(expected, float):
            assert real(cell) == expected
        else:
            assert cell == expected, (k, at)
