"""What sketches promise: errors on easy and on nasty data, order, batches, evictions."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

import pipeline as pp
from pipeline.features.plan import Plan
from pipeline.kernels.jit import JIT_ENABLED
from pipeline.state.status import Status
from pipeline.state.table import StateTable
from tests.reference.cases import feed, pack_keys
from tests.reference.rows import decode_row
from tests.reference.sketches import Tally, coarsen, relative_error
from tests.reference.state import Event

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

CONTRACT = pp.Contract.load(
    {
        "title": "reading",
        "type": "object",
        "properties": {
            "sensor": {"type": "string"},
            "value": {"type": "number"},
            "number": {"type": "integer"},
            "at": {"type": "string", "format": "date-time"},
        },
        "required": ["sensor", "value", "number", "at"],
    }
)
STREAM = pp.EventStream("readings", contract=CONTRACT, key="sensor", time="at")
N = 20_000 if JIT_ENABLED else 1_200
BOUND = 256 if JIT_ENABLED else 60
TILES = 6  # of the window; the ring has one more


def zipf(rng: random.Random, i: int) -> float:
    return float(int(rng.paretovariate(1.1)))


def infinite(rng: random.Random, i: int) -> float:
    return rng.choice((math.inf, -math.inf, 0.0, -0.0, rng.gauss(0, 1)))


DATA: dict[str, Callable[[random.Random, int], float]] = {
    "zipf": zipf,
    "uniform": lambda rng, i: rng.uniform(0, 1000),
    "normal": lambda rng, i: rng.gauss(0, 1),  # both signs
    "wide": lambda rng, i: rng.choice((-1, 1)) * 10.0 ** rng.uniform(-300, 300),
    "ascending": lambda rng, i: float(i),
    "descending": lambda rng, i: float(N - i),
    "equal": lambda rng, i: 7.25,
    "two": lambda rng, i: (1.0, 1e9)[i % 2],
    "steps": lambda rng, i: 2.0 ** (i % 2000 - 1000),  # as far apart as can be
    "infinite": infinite,
    "saw": lambda rng, i: float(i % (BOUND + 1)),  # Misra and Gries' worst: one value too many
}
each_data = pytest.mark.parametrize("name", DATA)


def plan(bound: int = BOUND, slide: int = 10) -> Plan:
    features = {
        "distinct": pp.distinct("value", bound=bound),
        "top": pp.top_k("value", 10, bound=bound),
    }
    for q in (0, 1, 10, 50, 90, 99, 100):
        features[f"p{q}"] = pp.quantile("value", q / 100, bound=bound)
    made = {name: f.over(slide * TILES, slide=slide) for name, f in features.items()}
    return pp.FeatureView("v", source=STREAM, entity="sensor", features=made).plan


def stream(name: str, seed: int = 1) -> list[Event]:
    """Events over more than the ring, a sixth of them out of order."""
    rng = random.Random(f"{name} {seed}")
    events = []
    for i in range(N):
        late = rng.randint(0, 40) if rng.random() < 0.17 else 0
        time = i * 120 // N - late
        events.append(Event(b"k", i, i, time, True, (DATA[name](rng, i),), ()))
    return events


def table_of(made: Plan, events: list[Event], batch: int = 1_000) -> StateTable:
    table = StateTable(made)
    for i in range(0, len(events), batch):
        feed(table, events[i : i + batch], {})
    return table


def window(events: list[Event], at: int, slide: int = 10) -> list[float]:
    start, newest, found = at // slide * slide - slide * TILES, -(10**9), []
    for e in events:
        if e.time > newest or (e.time - 1) // slide >= (newest - 1) // slide - TILES:
            found.append((e.time, e.inputs[0]))
        newest = max(newest, e.time)
    return [float(v) + 0.0 for t, v in found if t > start and v is not None]


class Read:
    """One read of the only row, and what its window really holds."""

    def __init__(self, name: str) -> None:
        self.plan, events = plan(), stream(name)
        self.at = max(e.time for e in events)
        table = table_of(self.plan, events)
        slots = table.lookup(*pack_keys([b"k"])).slots
        got = table.finalize(slots, np.array([self.at], dtype=np.int64))
        self.status = [Status(int(s)) for s in got.status[0]]
        self.cells, self.valid = got.cells[0], got.valid[0]
        self.row = decode_row(self.plan, table.encode(slots).row(0))
        self.values = window(events, self.at)

    def reals(self, name: str) -> list[float]:
        feature = next(f for f in self.plan.features if f.name == name)
        span = slice(feature.cell, feature.cell + feature.width)
        return [float(v) for v in self.cells[span][self.valid[span] == 1].view(np.float64)]

    def tallies(self, kind: str) -> list[Tally]:
        i = next(i for i, s in enumerate(self.plan.lists) if s.kind.name == kind)
        first = -(-(self.at // 10 * 10 - 10 * TILES) // 10)
        return [tally for tile, tally in self.row.counts[i].items() if tile >= first]


@each_data
def test_quantiles_are_as_near_as_the_stored_levels_say(name: str) -> None:
    read = Read(name)
    tallies = read.tallies("COUNTS")
    level, ascending = max(t.note for t in tallies), sorted(read.values)
    assert sum(sum(t.counts.values()) for t in tallies) == len(ascending)
    for q in (0, 1, 10, 50, 90, 99, 100):
        (found,) = read.reals(f"p{q}")
        wanted = ascending[max(1, math.ceil(Fraction(str(q / 100)) * len(ascending))) - 1]
        if math.isinf(wanted) or wanted == 0:
            assert found == wanted
        else:
            assert abs(found - wanted) <= relative_error(level) * abs(wanted) * (1 + 1e-12)
    exact = Status.PRESENT if level == 0 else Status.ESTIMATED
    assert set(read.status[2:]) == {exact}
    assert exact is Status.PRESENT or len(set(ascending)) > BOUND // TILES


@each_data
def test_levels_are_as_low_as_the_documents_say(name: str) -> None:
    """A tile was only coarsened when it had more than its share of the bound in buckets."""
    for tally in Read(name).tallies("COUNTS"):
        if tally.note > 1:
            share, level = BOUND // (TILES + 1), tally.note - 1
            octaves = 2 * 2098  # of both signs, subnormal ones too
            assert octaves * 2 ** max(0, 52 - level) >= share
            assert len(coarsen(tally, 63).counts) <= len(tally.counts) <= BOUND


def test_a_thousandfold_range_in_24_tiles_is_told_apart_to_3_percent() -> None:
    made = pp.FeatureView(
        "v", source=STREAM, entity="sensor",
        features={"q": pp.median("value").over(240, slide=10)},
    ).plan  # fmt: skip
    rng = random.Random(3)
    n = 60_000 if JIT_ENABLED else 6_000
    events = [Event(b"k", i, i, i * 240 // n, True, (1000 ** rng.random(),), ()) for i in range(n)]
    table = table_of(made, events)
    row = decode_row(made, table.encode(table.lookup(*pack_keys([b"k"])).slots).row(0))
    levels = {tally.note for tally in row.counts[0].values()}
    assert relative_error(max(levels)) <= 0.031
    assert max(levels) > 0


@each_data
def test_counts_of_frequent_values_are_too_low_by_no_more_than_the_stored_error(name: str) -> None:
    read = Read(name)
    tallies = read.tallies("FREQUENT")
    true, kept = Counter(read.values), Counter[float]()
    error = sum(t.note for t in tallies)
    for tally in tallies:
        kept.update({float(v): c for v, c in tally.counts.items()})
    for value in true.keys() | kept.keys():
        assert kept[value] <= true[value] <= kept[value] + error
    assert error <= len(read.values) * (TILES + 1) / (BOUND + 1)
    assert read.status[1] is (Status.ESTIMATED if error else Status.PRESENT)
    top = read.reals("top")
    ranked = sorted(true, key=lambda v: (-true[v], v))
    if error == 0:
        assert top == ranked[:10]
    for value, rival in zip(top, ranked, strict=False):
        assert true[value] >= true[rival] - error
    assert all(v in top for v in ranked[:10] if len(top) < 10 and true[v] > error)


@each_data
def test_distinct_counts_are_near(name: str) -> None:
    """Five standard errors; that values are regular must not matter."""
    read = Read(name)
    feature = next(f for f in read.plan.features if f.name == "distinct")
    found, true = int(read.cells[feature.cell]), len(set(read.values))
    if true <= BOUND // 4:
        assert (found, read.status[0]) == (true, Status.PRESENT)
    assert abs(found - true) <= 5 * 1.2 / math.sqrt(BOUND) * true
    i = next(i for i, s in enumerate(read.plan.lists) if s.kind.name == "DISTINCT")
    assert len(read.row.values[i]) <= BOUND
    assert read.row.steps.get(i, []) == sorted(read.row.steps.get(i, []), reverse=True)


def test_the_standard_error_of_distinct_counts() -> None:
    """Over many sets of values: about 1.2 / sqrt(bound), and no bias to speak of."""
    bound, true, runs = (64, 2_000, 200) if JIT_ENABLED else (32, 300, 30)
    made = pp.FeatureView(
        "v", source=STREAM, entity="sensor",
        features={"d": pp.distinct("number", bound=bound).over(10, slide=10)},
    ).plan  # fmt: skip
    table, errors = StateTable(made), []
    for run in range(runs):
        values = [run * 1_000_003 + i for i in range(true)]
        key = b"%d" % run
        feed(table, [Event(key, i, i, 5, True, (v,), ()) for i, v in enumerate(values)], {})
        got = table.finalize(table.lookup(*pack_keys([key])).slots, np.array([5], dtype=np.int64))
        assert got.status[0, 0] == Status.ESTIMATED
        errors.append(int(got.cells[0, 0]) / true - 1)
    spread = math.sqrt(sum(e * e for e in errors) / runs)
    assert spread < 1.5 * 1.2 / math.sqrt(bound)
    assert abs(sum(errors) / runs) < 4 * 1.2 / math.sqrt(bound * runs)


@each_data
def test_bytes_depend_on_the_order_of_events_and_on_nothing_else(name: str) -> None:
    made, events = plan(), stream(name, 2)
    results = []
    for size, max_bytes in ((N, 1 << 28), (977, 0), (64, 0)):
        stored: dict[bytes, bytes] = {}
        table = StateTable(made, max_bytes=max_bytes)
        for i in range(0, len(events), size):
            feed(table, events[i : i + size], stored)
        results.append(stored[b"k"])
    assert results[0] == results[1] == results[2]


def test_events_of_a_tile_may_come_in_any_order_while_nothing_overflows() -> None:
    made, rng = plan(slide=1000), random.Random(5)
    values = [rng.choice((rng.randint(0, 9), rng.random())) for _ in range(BOUND // 2)]
    rows = set()
    for _ in range(5):
        rng.shuffle(values)
        events = [Event(b"k", i, i, 1000, True, (float(v),), ()) for i, v in enumerate(values)]
        table = table_of(made, events)
        rows.add(table.encode(table.lookup(*pack_keys([b"k"])).slots).row(0))
    assert len(rows) == 1


def test_tiles_add_up_to_their_window() -> None:
    """A window of six tiles is what a row of each tile says, put together."""
    made, events = plan(), [e for e in stream("zipf") if 0 < e.time <= 60]
    events.sort(key=lambda e: (e.time, e.offset))
    by_tile = [list(g) for _, g in itertools.groupby(events, key=lambda e: (e.time - 1) // 10)]
    assert len(by_tile) == TILES
    whole = decode_row(made, _row(made, events))
    counts = next(i for i, s in enumerate(made.lists) if s.kind.name == "COUNTS")
    parts = [decode_row(made, _row(made, part)).counts[counts] for part in by_tile]
    together = {tile: tally for part in parts for tile, tally in part.items()}
    for tile, tally in whole.counts[counts].items():
        finer = together[tile]
        assert finer.note <= tally.note
        assert (coarsen(finer, tally.note) if finer.note < tally.note else finer) == tally


def _row(made: Plan, events: list[Event]) -> bytes:
    table = table_of(made, events)
    return table.encode(table.lookup(*pack_keys([b"k"])).slots).row(0)


def test_a_full_list_costs_no_more_memory_than_its_bound() -> None:
    made = plan()
    table, sizes = StateTable(made), []
    for start in range(0, N, N // 20):
        events = [
            Event(b"k", i, i, i // 40, True, (float(i * 7919 % 100_003),), ())
            for i in range(start, start + N // 20)
        ]
        feed(table, events, {})
        sizes.append(table.nbytes)
    assert max(sizes[5:]) <= max(sizes[:5])
