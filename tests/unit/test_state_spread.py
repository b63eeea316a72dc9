"""Variance and first value against their definition over the raw events."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pipeline as pp
from pipeline.errors import DefinitionError
from pipeline.features.aggregations import Aggregation
from pipeline.features.plan import AccOp, FeatureOp, Ring
from pipeline.features.planjson import from_json, to_json
from pipeline.kernels.jit import JIT_ENABLED
from pipeline.state.batch import Outcome
from pipeline.state.status import Status
from tests.reference.moments import defined_variance
from tests.reference.payments import Value, plan_of, read, rows_of, run

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

SEEDS = range(60) if JIT_ENABLED else range(15)
EDGES = (math.nan, math.inf, -math.inf, -0.0, 0.0, 1e17, 0.1, 1e308, 5e-324, None)
VALUES = st.one_of(st.none(), st.sampled_from(EDGES), st.integers(-40, 40).map(lambda v: v / 8))
EVENTS = st.lists(st.tuples(st.integers(1, 100), VALUES), min_size=1, max_size=25)
PRESENT = Status.PRESENT


def windows() -> dict[str, Aggregation]:
    """Of each kind: tiles, events, events a while ago, tiles a while ago."""
    made: dict[str, Aggregation] = {}
    for name, one in (
        ("v1", pp.var("price")),
        ("v0", pp.var("price", ddof=0)),
        ("s", pp.std("price")),
        ("f", pp.first("price")),
    ):
        made[f"{name}_tiles"] = one.over(40, slide=10)
        made[f"{name}_events"] = one.over(25)
        made[f"{name}_before"] = one.over(25, delay=30)
        made[f"{name}_tiles_before"] = one.over(20, slide=10, delay=30)
    return made


def inside(feature: Aggregation, events: list[tuple[int, Value]], at: int) -> list[float]:
    """The non-null values of the window, by (time, offset)."""
    end = at // feature.slide_ns * feature.slide_ns if feature.slide_ns else at
    start, end = end - feature.delay_ns - feature.window_ns, end - feature.delay_ns
    seen = [
        (t, offset, v)
        for offset, (t, v) in enumerate(events)
        if v is not None and not math.isnan(v) and start < t
        if t <= end or (feature.slide_ns and not feature.delay_ns)
    ]
    return [v for _, _, v in sorted(seen, key=lambda e: e[:2])]


def agrees(feature: Aggregation, values: list[float], value: Value, status: Status) -> bool:
    """Whether an answer is what the definition says."""
    if feature.op is FeatureOp.FIRST:
        expected = values[0] if values else None
        same = value is expected or (value, _sign(value)) == (expected, _sign(expected))
        return same and status is PRESENT
    if len(values) <= feature.ddof:
        return value is None and status is PRESENT
    if any(map(math.isinf, values)):
        return value is None and status is Status.DEGRADED
    exact = defined_variance(values, feature.ddof)
    assert exact is not None
    if exact > 1e306:  # may have left float64 on the way
        return value is None or value == pytest.approx(float(exact) if exact < 1e308 else math.inf)
    root = feature.op is FeatureOp.STD
    expected = math.sqrt(exact) if root else float(exact)
    return status is PRESENT and value == pytest.approx(expected, rel=1e-13, abs=1e-150)


def _sign(value: Value) -> float:
    return math.copysign(1, value or 0.0)


@settings(max_examples=200 if JIT_ENABLED else 60)
@given(EVENTS)
@example([(5, 1e17), (6, 0.1), (7, -1e17)])
@example([(5, math.inf), (30, 1.0), (60, 2.0), (61, 3.0)])
@example([(50, 2.0), (41, -0.0), (41, 0.0), (55, None)])
def test_windows_equal_their_definition(events: list[tuple[int, Value]]) -> None:
    features = windows()
    plan = plan_of(features)
    (row,) = rows_of(plan, events)
    table, stored, outcomes = run(plan, events)
    assert stored[b"k"] == row
    applied = [e for e, outcome in zip(events, outcomes, strict=True) if outcome == Outcome.APPLIED]
    newest = max(t for t, _ in events)
    for at in {newest, newest + 1, newest + 9, newest + 25, newest + 40, newest + 70}:
        values, statuses = read(plan, table, at)
        for (name, feature), value, status in zip(features.items(), values, statuses, strict=True):
            seen = inside(feature, applied, at)
            assert agrees(feature, seen, value, status), (name, at, seen, value, status)


@pytest.mark.parametrize("seed", SEEDS)
def test_tiles_leave_late_events_come_and_large_means_cost_nothing(seed: int) -> None:
    rng = random.Random(seed)
    offset = rng.choice((0.0, 1e9, -1e12, 1e15))
    now, events = 1000, list[tuple[int, Value]]()
    for _ in range(200):
        now += rng.choice((0, 1, 3))
        late = rng.choice((0, 0, rng.randint(0, 20)))
        events.append((now - late, offset + rng.randint(-8, 8) / 8))
    features = windows()
    plan = plan_of(features)
    (row,) = rows_of(plan, events)
    table, stored, outcomes = run(plan, events)
    assert stored[b"k"] == row
    assert set(outcomes) == {Outcome.APPLIED}
    for at in range(now, now + 80, 7):
        values, statuses = read(plan, table, at)
        for (name, feature), value, status in zip(features.items(), values, statuses, strict=True):
            seen = inside(feature, events, at)
            assert agrees(feature, seen, value, status), (name, at, value, status)


def test_integers_and_decimals_are_taken_exactly() -> None:
    features = {
        "u": pp.var("units").over(100), "t": pp.var("units").over(100, slide=10),
        "c": pp.var("cents").over(100), "d": pp.std("cents", ddof=0).over(100, slide=10),
        "f": pp.first("cents").over(100), "p": pp.var("paid").over(100),
    }  # fmt: skip
    plan = plan_of(features)
    big = 2**62
    table, _, _ = run(plan, [(1, big + 1), (2, big + 2), (15, big + 4)])
    values, _ = read(plan, table, 20)
    assert values[:2] == pytest.approx([float(Fraction(7, 3))] * 2, rel=4e-16)
    table, _, _ = run(plan, [(1, 1050), (12, 1150)])
    assert read(plan, table, 20)[0][2:5] == [0.5, 0.5, 10.5]
    table, _, _ = run(plan, [(1, 1), (2, 0), (3, 1), (4, 1)])
    assert read(plan, table, 20)[0][5] == pytest.approx(0.25, rel=4e-16)


@pytest.mark.parametrize(
    ("n", "ddof", "there"), [(1, 0, 1), (1, 1, 0), (2, 1, 1), (2, 2, 0), (0, 0, 0)]
)
def test_as_many_values_as_ddof_are_too_few(n: int, ddof: int, there: bool) -> None:
    plan = plan_of(
        {
            "v": pp.var("price", ddof=ddof).over(100, slide=10),
            "s": pp.std("price", ddof=ddof).over(100),
        }
    )
    table, _, _ = run(plan, [(1, None), *[(2, 5.0)] * n])
    values, statuses = read(plan, table, 5)
    assert [v == 0.0 for v in values] == [there, there]
    assert [v is None for v in values] == [not there] * 2
    assert statuses == [PRESENT] * 2


def test_a_dropped_event_degrades_first_and_variance() -> None:
    plan = plan_of(
        {"f": pp.first("price").over(100, bound=2), "v": pp.var("price").over(100, bound=2)}
    )
    table, _, _ = run(plan, [(1, 1.0), (2, 3.0), (3, 5.0)])
    assert read(plan, table, 10) == ([3.0, 2.0], [Status.DEGRADED] * 2)
    assert read(plan, table, 101) == ([3.0, 2.0], [PRESENT] * 2)  # the one at 1 is out of both


def test_what_a_view_keeps() -> None:
    plan = plan_of(
        {
            "v": pp.var("price").over(100, slide=10),
            "s": pp.std("price").over(50, slide=10),
            "f": pp.first("units").over(50, slide=10),
            "e": pp.std("price").over(50),
        }
    )
    assert plan.rings == (Ring(10, 11),)
    assert [a.op for a in plan.accumulators] == [
        AccOp.VAR_FLOAT, AccOp.VAR_MEAN, AccOp.VAR_LOW, AccOp.VAR_M2,
        AccOp.FIRST_AT, AccOp.FIRST_INT, AccOp.VAR_FLOAT,
    ]  # fmt: skip
    assert [(f.a, f.ddof) for f in plan.features] == [(0, 1), (0, 1), (4, 0), (6, 1)]
    assert from_json(to_json(plan)) == plan
    assert "ddof" not in to_json(plan_of({"v": pp.count().over(5)}))


@pytest.mark.parametrize(
    ("feature", "field", "part"),
    [
        (pp.var("price", ddof=-1).over(5), "v.a.ddof", "whole number"),
        (pp.var("price", ddof=True).over(5), "v.a.ddof", "whole number"),
        (pp.std("price", ddof=0.5).over(5), "v.a.ddof", "whole number"),  # type: ignore[arg-type]
        (pp.var("shop").over(5), "v.a", "cannot add"),
        (pp.var("at").over(5), "v.a", "cannot add"),
        (pp.var("price"), "v.a", "no window"),
        (pp.first("price"), "v.a", "no window"),
        (pp.first("shop", max_bytes=0).over(5), "v.a.max_bytes", "1 to 255"),
        (pp.first("nope").over(5), "v.a", "no field"),
    ],
)
def test_a_wrong_definition_names_its_argument(feature: Aggregation, field: str, part: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        plan_of({"a": feature})
    assert caught.value.field == field
    assert part in caught.value.problem
