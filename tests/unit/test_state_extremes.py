"""The largest and smallest values of a window: definitions, answers, order, bytes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline as pp
from pipeline.errors import DefinitionError
from pipeline.features.aggregations import Aggregation
from pipeline.features.plan import ListKind
from pipeline.features.planjson import from_json, to_json
from pipeline.kernels.jit import JIT_ENABLED
from pipeline.state.columns import feature_type
from pipeline.state.status import Status
from pipeline.state.table import StateTable
from tests.reference.cases import feed, pack_keys
from tests.reference.payer import bits, event, plan, read, row_of, table_of
from tests.reference.rows import decode_row, encode_row, reseal
from tests.reference.state import Event, ReferenceState

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

EXAMPLES = 60 if JIT_ENABLED else 15
KINDS = {"max": pp.max_n, "min": pp.min_n}


# ---- definitions


def test_features_of_one_column_share_the_longest_list() -> None:
    big = pl.col("units") > 3
    got = plan(
        a=pp.max_n("units", 3).over(100, slide=10),
        b=pp.max_n("units", 7).over(300, slide=10, delay=20),
        c=pp.min_n("units", 2).over(100, slide=10),
        d=pp.max_n("units", 2, where=big).over(50, slide=10),
        e=pp.max_n("units", 4).over(70),
        f=pp.min_n("units", 1).over(90),
        g=pp.max_n("at", 1).over(70, slide=7),
    )
    assert [(s.kind, s.ring, s.mask, s.bound, s.horizon_ns) for s in got.lists] == [
        (ListKind.LARGEST, 0, -1, 7, 0),
        (ListKind.SMALLEST, 0, -1, 2, 0),
        (ListKind.LARGEST, 0, 0, 2, 0),
        (ListKind.EVENTS, -1, -1, 4096, 90),
        (ListKind.LARGEST, 1, -1, 1, 0),
    ]
    assert [f.width for f in got.features] == [3, 7, 2, 2, 4, 1, 1]
    assert [str(feature_type(got.features[i])) for i in (0, 5, 6)] == [
        "list<item: int64>", "int64", "timestamp[ns, tz=UTC]"
    ]  # fmt: skip
    assert from_json(to_json(got)) == got


@pytest.mark.parametrize(
    ("feature", "field", "part"),
    [
        (lambda: pp.max_n("units", 0).over(9, slide=3), "v.a.n", "1 to 1024"),
        (lambda: pp.min_n("units", 1025).over(9, slide=3), "v.a.n", "1 to 1024"),
        (lambda: pp.min_n("units", True).over(9), "v.a.n", "1 to 1024"),
        (lambda: pp.max_n("units", 2.0).over(9), "v.a.n", "1 to"),  # type: ignore[arg-type]
        (lambda: pp.max_n("units", 9).over(9, bound=8), "v.a.bound", "9, which is n"),
        (lambda: pp.max_n("units", 9).over(9, slide=3, bound=9), "v.a.bound", "without a slide"),
        (lambda: pp.max_n("shop", 2).over(9), "v.a", "max_n() of a string"),
        (lambda: pp.min_n("shop", 2).over(9, slide=3), "v.a", "min_n() of a string"),
        (lambda: pp.max_n("units", 2), "v.a", "no window"),
        (lambda: pp.max_n("units", 2).over(9, slide=3, delay=1), "v.a.delay", "multiple"),
        (lambda: pp.max_n("nope", 2).over(9), "v.a", "no field"),
        (lambda: pp.max_n("units", 1000).over("7d", slide="1m"), "v.features", "a full row"),
    ],
)
def test_a_wrong_definition_names_its_argument(
    feature: Callable[[], Aggregation], field: str, part: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        plan(a=feature())
    assert caught.value.field == field
    assert part in caught.value.problem


# ---- answers


VALUES: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], Any]]] = {
    "units": (st.integers(-5, 5) | st.integers(-(2**63), 2**63 - 1), int),
    "price": (
        st.sampled_from([0.0, -0.0, 1.5, -2.5, math.inf, -math.inf, 5e-324, 1e308, math.nan]),
        float,
    ),
    "cents": (st.integers(-300, 300), lambda v: float(Fraction(v, 100))),
    "paid": (st.integers(0, 1), int),
    "at": (st.integers(1, 9), int),
}


@pytest.mark.parametrize("column", VALUES)
@pytest.mark.parametrize(
    "window",
    [{"slide": 5}, {"slide": 5, "delay": 15}, {"slide": 7}, {}, {"delay": 11}],
    ids=["tiles", "tiles-delayed", "narrow-tiles", "events", "events-delayed"],
)
def test_answers_are_those_of_sorted(column: str, window: dict[str, int]) -> None:
    """However many values there are; nulls and NaN are none, and -0.0 is 0.0."""
    values, shown = VALUES[column]
    made = plan(
        high=pp.max_n(column, 3).over(20, **window), low=pp.min_n(column, 3).over(20, **window),
        best=pp.max_n(column, 1).over(20, **window),
    )  # fmt: skip
    steps = st.lists(st.tuples(st.sampled_from((0, 1, 3, 30, -4)), values | st.none()), max_size=30)

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(steps, st.integers(0, 40))
    def check(steps: list[tuple[int, Any]], ahead: int) -> None:
        now, events = 100, [event(100, 0, None)]
        for offset, (step, value) in enumerate(steps):
            now += max(step, 0)
            events.append(event(now + min(step, 0), offset + 1, value))
        at = now + ahead
        slide, delay = window.get("slide", 1), window.get("delay", 0)
        end = at // slide * slide - delay
        inside = sorted(
            abs(v) if v == 0 else v
            for time, v in ((e.time, e.inputs[0]) for e in events)
            if v is not None and not math.isnan(v) and end - 20 < time <= (end if delay else at)
        )
        low, high = ([shown(v) for v in seq[:3]] for seq in (inside, inside[::-1]))
        cells, status = read(table_of(made, events), at)
        assert cells == bits(high, 3) + bits(low, 3) + bits(high[:1], 1)
        assert set(status) == {Status.PRESENT}

    check()


def test_a_value_counts_as_often_as_it_occurs() -> None:
    made = plan(a=pp.max_n("units", 4).over(100, slide=10), b=pp.max_n("units", 2).over(100))
    table = table_of(made, [event(t, t, v) for t, v in enumerate([5, 3, 5, 9, 5, 5], start=8)])
    assert read(table, 20)[0] == [9, 5, 5, 5, 9, 5]


def test_an_exact_window_that_dropped_an_event_says_so() -> None:
    made = plan(a=pp.max_n("units", 2).over(100, bound=3))
    table = table_of(made, [event(t, t, 9 - t) for t in range(1, 5)])
    assert read(table, 4) == ([7, 6], [Status.DEGRADED])
    assert read(table, 101) == ([7, 6], [Status.PRESENT])


def test_a_null_makes_the_feature_null_where_it_should() -> None:
    made = plan(a=pp.max_n("units", 2, nulls="propagate").over(20, slide=10))
    events = [Event(b"k", i, i, 5 + i, True, (v,), (v is None,)) for i, v in enumerate([3, None])]
    table = table_of(made, events)
    assert read(table, 6) == ([None, None], [Status.PRESENT])
    feed(table, [Event(b"k", 3, 3, 31, True, (4,), (False,))], {})
    assert read(table, 31) == ([4, None], [Status.PRESENT])


# ---- bytes


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("column", ["units", "price"])
def test_bytes_depend_neither_on_the_order_in_a_tile_nor_on_cuts(name: str, column: str) -> None:
    """Of events of one tile each list is a set of values with counts; the twin agrees."""
    rng = random.Random(f"{name} {column}")
    made = plan(a=KINDS[name](column, 4).over(30, slide=10))
    scale = 1 if column == "units" else 0.25
    for _ in range(20):
        times = sorted(rng.randrange(10) * 10 + 5 for _ in range(60))
        events = [event(t, i, rng.randint(-9, 9) * scale) for i, t in enumerate(times)]
        twin = ReferenceState(made)
        twin.apply(events)
        row = row_of(table_of(made, events))
        assert row == encode_row(made, twin.rows[b"k"])
        assert decode_row(made, row).counts == twin.rows[b"k"].counts

        values = [e.inputs for e in events]
        for time in set(times):
            same = [i for i, t in enumerate(times) if t == time]
            for i, j in zip(same, rng.sample(same, len(same)), strict=True):
                events[i] = event(time, i, *values[j])
        table, stored = StateTable(made, max_bytes=1), dict[bytes, bytes]()
        while events:
            cut = rng.randint(1, 9)
            feed(table, events[:cut], stored)
            del events[:cut]
        assert stored == {b"k": row}


def test_what_left_the_ring_leaves_no_trace() -> None:
    made = plan(
        a=pp.max_n("price", 3).over(20, slide=10), b=pp.min_n("price", 3).over(20, slide=10)
    )
    before = [event(i, i, i * 1.5) for i in range(400)]
    after = [event(900 + i, 400 + i, i * 0.5) for i in range(30)]
    table = table_of(made, [*before, *after])
    assert row_of(table) == row_of(table_of(made, after))


def test_a_list_takes_no_more_memory_than_is_set_aside() -> None:
    """Descending and ascending values, late ones, over many tiles: the worst for both lists."""
    made = plan(
        a=pp.max_n("units", 5).over(300, slide=10), b=pp.min_n("units", 5).over(300, slide=10)
    )
    rng = random.Random(9)
    events = [
        event(1000 + i // 3 - rng.choice((0, 0, 250)), i, rng.choice((i, -i))) for i in range(3000)
    ]
    twin = ReferenceState(made)
    twin.apply(events)
    assert row_of(table_of(made, events)) == encode_row(made, twin.rows[b"k"])


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("body", "accepted"),
    # of a row of newest time 200: tiles 17 to 19 of 10 (slide 10, window 20), two values a tile
    [
        ([1, 0, 1, 38, 1, 0, 6, 2], True),  # 3 twice in tile 19
        ([0, 0, 0], True),
        ([6, 0, 3, 34, 2, 0, 6, 2, 1, 1, 1, 2, 0, 6, 2, 1, 1, 1, 2, 0, 6, 2, 1, 1], True),
        ([3, 0, 1, 38, 3, 0, 6, 2, 1, 1, 1, 1], False),  # more than a tile keeps
        ([7, 0, 3, 34, 2, 0, 6, 2, 1, 1, 1, 2, 0, 6, 2, 1, 1, 1, 3, 0, 6, 2, 1, 1, 1, 1], False),
        ([0, 1, 36, 0], False),  # this list drops no tile
        ([1, 0, 1, 38, 1, 1, 6, 2], False),  # and has neither level nor error
        ([0, 0, 1, 38, 0, 0], False),  # a tile without values
        ([1, 0, 1, 38, 1, 0, 6, 0], False),  # a value that did not occur
        ([1, 0, 1, 40, 1, 0, 6, 2], False),  # a tile in the future
        ([1, 0, 1, 32, 1, 0, 6, 2], False),  # a tile before the ring
        ([2, 0, 1, 38, 2, 0, 6, 2, 0, 1], False),  # the same value twice
    ],
)
def test_a_list_that_no_writer_made_is_refused(name: str, body: list[int], accepted: bool) -> None:
    made = plan(a=KINDS[name]("units", 2).over(20, slide=10))
    table = table_of(made, [event(200, 8, 1)])
    row = row_of(table)[:48] + bytes([0]) + b"".join(map(varint, body))
    row = reseal(row[:4] + len(row).to_bytes(4, "little") + row[8:])
    table.clear()
    slots = table.lookup(*pack_keys([b"k"])).slots
    assert table.load(slots, [row]) == ([] if accepted else [0])
    if accepted:
        assert row_of(table) == row
        assert encode_row(made, decode_row(made, row)) == row
        feed(table, [event(201, 9, v) for v in range(5)], {b"k": row})
