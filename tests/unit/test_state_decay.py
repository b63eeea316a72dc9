"""Decayed sums against their definition: the sum of every value, halved once per half-life."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pipeline as pp
from pipeline.errors import DefinitionError
from pipeline.features.aggregations import Aggregation
from pipeline.features.plan import ListKind
from pipeline.features.planjson import from_json, to_json
from pipeline.kernels.jit import JIT_ENABLED
from pipeline.state.batch import Outcome
from pipeline.state.status import Status
from pipeline.state.table import StateTable
from tests.reference.cases import pack_keys
from tests.reference.decay import defined_sum, nearly
from tests.reference.payments import Value, plan_of, read, rows_of, run
from tests.reference.rows import reseal

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

EDGES = (math.nan, -0.0, 0.0, 1e17, 0.1, 5e-324, None)
VALUES = st.one_of(st.none(), st.sampled_from(EDGES), st.integers(-40, 40).map(lambda v: v / 8))
HALF_LIVES = st.sampled_from((1, 7, 60, 10**6, 10**15))
PRESENT = Status.PRESENT


def features(half_life: int) -> dict[str, Aggregation]:
    return {
        "s": pp.decayed_sum("price", half_life),
        "n": pp.decayed_count(half_life),
        "m": pp.ewma("price", half_life),
    }


@settings(max_examples=250 if JIT_ENABLED else 80)
@given(HALF_LIVES, st.lists(st.tuples(st.integers(1, 400), VALUES), min_size=1, max_size=25))
@example(1, [(1, 1.0), (300, 2.0), (2, 4.0), (301, 0.5)])
@example(7, [(1, 1e17), (400, 0.1)])
@example(60, [(5, 1.0), (5, -1.0)])
@example(10**15, [(5, None)])
def test_values_equal_their_definition(half_life: int, events: list[tuple[int, Value]]) -> None:
    plan = plan_of(features(half_life))
    (row,) = rows_of(plan, events)
    table, stored, outcomes = run(plan, events)
    assert stored[b"k"] == row
    assert set(outcomes) == {Outcome.APPLIED}
    there = [(t, float(v)) for t, v in events if v is not None and not math.isnan(v)]
    newest = max(t for t, _ in events)
    for at in {newest, newest + 1, newest + half_life, newest + 3 * half_life + 1}:
        (total, count, mean), statuses = read(plan, table, at)
        assert statuses == [PRESENT] * 3
        assert total is not None
        assert count is not None
        exact = defined_sum(there, at, half_life)
        size = defined_sum([(t, abs(v)) for t, v in there], at, half_life)
        assert nearly(total, exact, size, 1e-14)
        all_of_them = defined_sum([(t, 1.0) for t, _ in events], at, half_life)
        assert nearly(count, all_of_them, all_of_them, 1e-14)
        if not there:
            assert mean is None
            continue
        weight = defined_sum([(t, 1.0) for t, _ in there], at, half_life)
        assert mean is not None
        assert nearly(mean, exact / weight, size / weight, 1e-14)


def test_one_event_counts_exactly_one_at_its_time() -> None:
    plan = plan_of(features(7))
    for times in ([100], [1, 2000], [1, 30, 3, 5000]):
        table, _, _ = run(plan, [(t, 3.1) for t in times])
        values, _ = read(plan, table, times[-1])
        assert values == [3.1, 1.0, 3.1]
        assert read(plan, table, times[-1] + 7)[0] == [1.55, 0.5, 3.1]
    table, _, _ = run(plan, [(100, 1.0), (100, 2.0), (100, 3.0)])
    assert read(plan, table, 100)[0] == [6.0, 3.0, 2.0]


def test_errors_do_not_grow_with_the_events() -> None:
    """Steps that are all rounded the same way would be off by some 1e-12 here."""
    half_life, n = 10**6, 20_000 if JIT_ENABLED else 2000
    times = [1 + 37 * i for i in range(n)]
    plan = plan_of({"n": pp.decayed_count(half_life)})
    table, _, _ = run(plan, [(t, 1.0) for t in times])
    (count,), _ = read(plan, table, times[-1])
    exact = math.fsum(2.0 ** (-(times[-1] - t) / half_life) for t in times)
    assert count == pytest.approx(exact, rel=3e-15)


def test_late_events_are_never_refused_and_order_hardly_matters() -> None:
    rng = random.Random(3)
    events: list[tuple[int, Value]] = [(rng.randint(1, 1000), 1.0) for _ in range(300)]
    plan = plan_of({**features(50), "c": pp.count().over(10, slide=5)})
    table, _, outcomes = run(plan, events)
    assert set(outcomes) == {Outcome.APPLIED}
    forward, _, _ = run(plan, sorted(events))
    for at in (1000, 1234):
        got, _ = read(plan, table, at)
        assert got == pytest.approx(read(plan, forward, at)[0], rel=1e-14)


def test_a_ttl_empties_and_an_empty_list_is_zero() -> None:
    plan = plan_of({**features(10), "other": pp.decayed_sum("units", 10)}, ttl=100)
    table, _, _ = run(plan, [(1, 5.0), (150, None)])
    values, statuses = read(plan, table, 150)
    assert values == [0.0, 1.0, None, 0.0]
    assert statuses == [PRESENT] * 4
    assert read(plan, table, 251) == ([None] * 4, [Status.EXPIRED] * 4)


def test_a_default_where_there_is_no_mean() -> None:
    plan = plan_of({"m": pp.ewma("cents", 10, default=1.5), "d": pp.ewma("price", 10, default=-1)})
    table, _, _ = run(plan, [(5, None)])
    assert read(plan, table, 5) == ([1.5, -1.0], [PRESENT] * 2)


def test_before_the_newest_event_nothing_is_undone() -> None:
    plan = plan_of(features(7))
    table, _, _ = run(plan, [(100, 2.0)])
    assert read(plan, table, 50) == ([2.0, 1.0, 2.0], [Status.DEGRADED] * 3)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([math.inf], math.inf),
        ([-math.inf, 1.0], -math.inf),
        ([math.inf, -math.inf], None),
        ([1e308, 1e308], math.inf),
    ],
)
def test_what_leaves_float64(values: list[float], expected: float | None) -> None:
    plan = plan_of(features(10**6))
    table, _, _ = run(plan, [(5, v) for v in values])
    got, statuses = read(plan, table, 10**15)
    assert got[0] == expected
    assert statuses[0] is (Status.DEGRADED if expected is None else PRESENT)


def test_decimals_integers_and_booleans() -> None:
    plan = plan_of(
        {
            "c": pp.decayed_sum("cents", 10), "u": pp.decayed_sum("units", 10),
            "m": pp.ewma("cents", 10), "p": pp.ewma("paid", 10),
        }
    )  # fmt: skip
    table, _, _ = run(plan, [(10, 1), (10, 0), (10, 1), (10, 1)])
    assert read(plan, table, 10)[0] == [0.03, 3.0, 0.0075, 0.75]
    assert read(plan, table, 20)[0][:2] == [0.015, 1.5]


def test_what_a_view_keeps_and_shares() -> None:
    big = pl.col("units") > 3
    plan = plan_of(
        {
            "s": pp.decayed_sum("price", 10), "m": pp.ewma("price", 10), "n": pp.decayed_count(10),
            "h": pp.decayed_sum("price", 20), "w": pp.decayed_count(10, where=big),
        }
    )  # fmt: skip
    assert [(s.kind, s.input, s.mask, s.bound, s.horizon_ns) for s in plan.lists] == [
        (ListKind.DECAYED, 0, -1, 1, 10),
        (ListKind.DECAYED, -1, -1, 1, 10),
        (ListKind.DECAYED, 0, -1, 1, 20),
        (ListKind.DECAYED, -1, 0, 1, 10),
    ]
    assert [f.a for f in plan.features] == [0, 0, 1, 2, 3]
    assert from_json(to_json(plan)) == plan


@pytest.mark.parametrize(
    ("feature", "field", "part"),
    [
        (pp.decayed_sum("price", 0), "v.a.half_life", "longer than 0"),
        (pp.decayed_sum("price", -5), "v.a.half_life", "negative"),
        (pp.ewma("price", "nonsense"), "v.a.half_life", "nonsense"),
        (pp.decayed_count("1h").over("1d"), "v.a.over", "no window"),
        (pp.decayed_count("1h").over("1d", slide="1h"), "v.a.over", "no window"),
        (pp.decayed_sum("shop", "1h"), "v.a", "cannot add"),
        (pp.ewma("at", "1h"), "v.a", "cannot add"),
        (pp.ratio(pp.decayed_count(5), pp.count()).over(9), "v.a.numerator", "counts and sums"),
    ],
)  # fmt: skip
def test_a_wrong_definition_names_its_argument(feature: Aggregation, field: str, part: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        plan_of({"a": feature})
    assert caught.value.field == field
    assert part in caught.value.problem


WEIGHT, SUM = np.float64(1.5).tobytes(), np.float64(-2.0).tobytes()


@pytest.mark.parametrize(
    ("body", "accepted"),
    [
        (b"\0", True),
        (b"\1\0" + WEIGHT + SUM, True),
        (b"\1\x08" + WEIGHT + SUM, True),  # 4 ahead of the newest event
        (b"\1\x14" + WEIGHT + SUM, False),  # as far ahead as a half-life
        (b"\1\x13" + WEIGHT + SUM, True),  # 10 behind
        (b"\2\0" + WEIGHT + SUM, False),
        (b"\1\0" + WEIGHT, False),
        (b"\1\0" + WEIGHT + SUM + b"\0", False),
        (b"\1\0" + np.float64(0.25).tobytes() + SUM, False),  # no event counts as little
        (b"\1\0" + np.float64(math.inf).tobytes() + SUM, False),
        (b"\1\0" + np.float64(-1.5).tobytes() + SUM, False),
        (b"\1\0" + WEIGHT + np.float64(math.inf).tobytes(), True),
        (b"\1\0" + WEIGHT + (0x7FF8000000000000).to_bytes(8, "little"), True),
        (b"\1\0" + WEIGHT + (0xFFF8000000000000).to_bytes(8, "little"), False),
    ],
)
def test_a_list_that_no_writer_made_is_refused(body: bytes, accepted: bool) -> None:
    plan = plan_of({"s": pp.decayed_sum("price", 10)})
    _, stored, _ = run(plan, [(100, 1.0)])
    row = stored[b"k"][:48] + body
    row = reseal(row[:4] + len(row).to_bytes(4, "little") + row[8:])
    table = StateTable(plan)
    slots = table.lookup(*pack_keys([b"k"])).slots
    assert table.load(slots, [row]) == ([] if accepted else [0])
    if accepted:
        assert table.encode(slots).row(0) == row


def test_the_bytes_are_those_of_the_description() -> None:
    plan = plan_of({"s": pp.decayed_sum("price", 10), "n": pp.decayed_count(10)})
    _, stored, _ = run(plan, [(100, 1.0), (104, 3.0)])
    # The reference moved by one half-life, to 110: 6 ahead of the newest event.
    weight, total = 0.5 + 2.0**-0.6, 0.5 + 3.0 * 2.0**-0.6
    expected = b"\1\x0c" + np.float64(weight).tobytes() + np.float64(total).tobytes()
    assert stored[b"k"][48:] == expected + b"\1\x0c" + np.float64(weight).tobytes()
    assert Fraction(weight) > 1
