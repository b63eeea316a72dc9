"""What a null does: nothing, the feature's own null, or the end of the record."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pipeline as pp
from pipeline.errors import DefinitionError
from pipeline.features.aggregations import Aggregation
from pipeline.features.plan import AccOp, ListKind, Plan
from pipeline.features.planjson import from_json, to_json
from pipeline.inference.request import decode_requests
from pipeline.kernels.jit import JIT_ENABLED
from pipeline.serve.client import FeatureClient
from pipeline.state.batch import Outcome
from pipeline.state.status import Status
from pipeline.testing.driver import Driver
from pipeline.testing.oracle import Oracle, disagreements, miscounts, records_of
from tests.reference.payments import STREAM, Value, plan_of, read, rows_of, run

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

PRESENT = Status.PRESENT
EVENTS = st.lists(
    st.tuples(st.integers(1, 60), st.sampled_from((None, math.nan, 1.0, 2.0, 3.0, 4.0))),
    min_size=1,
    max_size=25,
)


def features(**windowed: Any) -> dict[str, Aggregation]:
    """Every aggregation that has a column, ``over(**windowed)`` where it takes a window."""
    made = {
        "count": pp.count("price", nulls="propagate"), "sum": pp.sum("price", nulls="propagate"),
        "mean": pp.mean("price", nulls="propagate", default=7.0),
        "min": pp.min("price", nulls="propagate"), "max": pp.max("price", nulls="propagate"),
        "var": pp.var("price", nulls="propagate"), "std": pp.std("price", nulls="propagate"),
        "first": pp.first("price", nulls="propagate"),
        "ratio": pp.ratio(pp.sum("price", nulls="propagate"), pp.count()),
    }  # fmt: skip
    if "slide" not in windowed or "delay" not in windowed:
        made["last"] = pp.last("price", nulls="propagate")
        made["distinct"] = pp.distinct("price", nulls="propagate")
    return {name: one.over(**windowed) for name, one in made.items()}


@settings(max_examples=100 if JIT_ENABLED else 30)
@given(EVENTS)
@example([(10, None), (10, 1.0), (50, 2.0)])
@example([(50, 1.0), (11, None), (10, None)])
@pytest.mark.parametrize(
    "windowed",
    [
        {"window": 20}, {"window": 20, "slide": 10}, {"window": 20, "delay": 15},
        {"window": 20, "slide": 10, "delay": 20},
    ],
    ids=["exact", "tiles", "exact before", "tiles before"],
)  # fmt: skip
def test_null_as_long_as_a_null_is_in_the_window(
    windowed: dict[str, int], events: list[tuple[int, Value]]
) -> None:
    window, slide = windowed["window"], windowed.get("slide", 0)
    delay = windowed.get("delay", 0)
    plan = plan_of(features(**windowed))
    assert len(rows_of(plan, events)) == 1
    plain = plan_of({n: _without(a) for n, a in features(**windowed).items()})
    table, _, outcomes = run(plan, events)
    other, _, same = run(plain, events)
    assert outcomes == same
    newest = max(t for t, _ in events)
    for at in range(newest, newest + 60, 3):
        end = (at // slide * slide if slide else at) - delay
        nulls = [
            t
            for (t, v), outcome in zip(events, outcomes, strict=True)
            if (v is None or math.isnan(v)) and outcome is Outcome.APPLIED
            if end - window < t and (t <= end or (slide and not delay))
        ]
        values, statuses = read(plan, table, at)
        assert statuses == [PRESENT] * len(values)
        assert values == ([None] * len(values) if nulls else read(plain, other, at)[0]), (at, nulls)


def _without(aggregation: Aggregation) -> Aggregation:
    parts = tuple(replace(p, nulls="ignore") for p in aggregation.parts)
    return replace(aggregation, nulls="ignore", parts=parts)


def test_without_a_window_a_null_lasts_as_long_as_what_it_spoils() -> None:
    forever = {
        "last": pp.last("price", nulls="propagate"),
        "sum": pp.decayed_sum("price", 10, nulls="propagate"),
        "mean": pp.ewma("price", 10, nulls="propagate", default=3.0),
    }
    plan = plan_of(forever)
    table, _, _ = run(plan, [(10, 1.0), (20, None), (15, 2.0)])
    assert read(plan, table, 10**6) == ([None] * 3, [PRESENT] * 3)
    bounded = plan_of(forever, ttl=100)
    table, _, _ = run(bounded, [(10, None), (20, None), (90, 2.0), (115, 4.0)])
    assert read(bounded, table, 120)[0] == [None] * 3
    assert read(bounded, table, 121)[0] == [4.0, None, None]  # last() looks back a ttl
    assert read(bounded, table, 121)[1] == [PRESENT] * 3
    table, _, _ = run(bounded, [(10, None), (200, 2.0)])
    assert read(bounded, table, 200)[0] == [2.0, 2.0, 2.0]  # the row was emptied in between


def test_what_a_view_keeps_for_it() -> None:
    plan = plan_of(
        {
            "t": pp.sum("units", nulls="propagate").over(100, slide=10),
            "e": pp.sum("units", nulls="propagate").over(50),
            "f": pp.max("units", nulls="propagate").over(70),
            "d": pp.sum("units", nulls="propagate").over(50, delay=5, bound=9),
            "l": pp.last("units", nulls="propagate"),
        },
        ttl=1000,
    )
    nulls = [s for s in plan.lists if s.input < 0]
    assert [(s.kind, s.bound, s.horizon_ns, s.mask) for s in nulls] == [
        (ListKind.EVENTS, 1, 1000, 0),
        (ListKind.EVENTS, 9, 55, 0),
    ]
    used = [plan.accumulators[f.nulls] for f in plan.features]
    assert all(a.op is AccOp.COUNT and a.input < 0 and a.mask == 0 for a in used)
    assert [a.ring for a in used] == [0, 2, 2, 4, 2]
    assert plan.reject == -1
    assert from_json(to_json(plan)) == plan


def test_ignoring_is_what_no_policy_is() -> None:
    a = plan_of({"s": pp.sum("units").over(100)})
    b = plan_of({"s": pp.sum("units", nulls="ignore").over(100)})
    assert (a.fingerprint, to_json(a)) == (b.fingerprint, to_json(b))
    assert "nulls" not in to_json(a)
    assert "reject" not in to_json(a)
    others = {
        plan_of({"s": pp.sum("units", nulls=policy).over(100)}).fingerprint
        for policy in ("ignore", "propagate", "reject")
    }
    assert len(others) == 3


@pytest.mark.parametrize(
    ("feature", "field", "part"),
    [
        (lambda: pp.sum("units", nulls="drop").over(5), "v.a.nulls", "none of ignore"),  # type: ignore[arg-type]
        (lambda: pp.count(nulls="reject").over(5), "v.a.nulls", "none is named"),
        (
            lambda: pp.ratio(pp.count(nulls="propagate"), pp.count()).over(5),
            "v.a.numerator.nulls",
            "none is named",
        ),
        (
            lambda: pp.ratio(pp.count(), pp.sum("nope", nulls="reject")).over(5),
            "v.a.denominator",
            "no field",
        ),
    ],
)
def test_a_wrong_policy_names_its_argument(feature: Any, field: str, part: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        plan_of({"a": feature()})
    assert caught.value.field == field
    assert part in caught.value.problem


# ---- from the topic to the reader


def view(**features: Aggregation) -> pp.FeatureView:
    return pp.FeatureView(
        "v", source=STREAM, entity="user", features=features, where=pl.col("shop") != "closed"
    )


def driven(made: pp.FeatureView, events: list[dict[str, Any]], **options: Any) -> Driver:
    driver = Driver([made], [pp.Trigger("each", view=made)], **options)
    for i, event in enumerate(events):
        driver.pipe("payments", {"user": "k", "at": f"2024-01-01T00:00:{i:02d}Z", **event})
    driver.run()
    return driver


def letters(driver: Driver) -> list[tuple[str, int, str | None]]:
    """(reason, offset, view) of every dead letter."""
    sent = driver.publisher.sent.get(driver.names.dead_letters, [])
    found = [json.loads(value) for _, _, value in sent]
    return [(f["reason"], f["offset"], f.get("view")) for f in found]


EVENT = {"shop": "a", "price": 1.0, "units": 1, "cents": 1.25, "paid": True}


@pytest.mark.parametrize("max_records", [1, 3, 1000])
def test_a_rejected_record_is_a_dead_letter_of_its_view_alone(max_records: int) -> None:
    made = view(
        spend=pp.sum("price", where=pl.col("units") > 0, nulls="reject").over("1h"),
        shops=pp.distinct("shop", nulls="reject").over("1h", slide="1m"),
        units=pp.decayed_sum("units", "1h"),
    )
    other = pp.FeatureView(
        "other", source=STREAM, entity="user", features={"n": pp.count().over("1h")}
    )
    driver = Driver([made, other], max_records=max_records)
    changed: list[dict[str, Any]] = [
        {}, {"price": None}, {"price": None, "units": 0}, {"price": None, "units": None},
        {"shop": None}, {"shop": None, "price": None}, {"price": 2.0}, {"shop": "closed"},
        {"shop": "closed", "price": None}, {"units": "x"},
    ]  # fmt: skip
    for i, change in enumerate(changed):
        driver.pipe(
            "payments", {"user": "k", "at": f"2024-01-01T00:00:{i:02d}Z", **EVENT, **change}
        )
    driver.run()
    assert sorted(letters(driver), key=lambda letter: letter[1]) == [
        ("null_value", 1, "v"), ("null_value", 4, "v"), ("null_value", 5, "v"),
        ("null_value", 8, "v"), ("schema", 9, None),
    ]  # fmt: skip
    (marker,) = driver.markers("v")
    assert (marker.applied, marker.dead_lettered, marker.filtered, marker.late) == (4, 5, 1, 0)
    (marker,) = driver.markers("other")
    assert (marker.applied, marker.dead_lettered) == (9, 1)
    for one in (made, other):
        oracle = Oracle(one)
        oracle.feed(records_of(driver.log, "payments"))
        assert miscounts(driver.markers(one.name), oracle) == []
        assert disagreements(driver.store, oracle, [None]) == []
    assert made.plan.reject >= 0


def test_reader_triggers_and_changes_say_the_same() -> None:
    made = view(
        v=pp.var("price").over("1h"), s=pp.std("cents", nulls="propagate").over("10s", slide="1s"),
        f=pp.first("units").over("5s"), d=pp.decayed_sum("price", "2s"),
        n=pp.decayed_count("2s"), m=pp.ewma("cents", "2s"),
    )  # fmt: skip
    events = [
        {**EVENT, "price": float(i), "cents": None if i == 3 else i / 4, "units": i}
        for i in range(20)
    ]
    driver = driven(made, events, max_records=7)
    names = list(made.features)
    table = FeatureClient(driver.store).prepare([f"v:{n}" for n in names]).read(["k"], at="event")
    shown = [table[n][0].as_py() for n in names]
    changes = driver.changes("v").to_pylist()
    assert [changes[-1][n] for n in names] == shown
    fired = driver.publisher.sent[driver.names.requests("each")]
    last = decode_requests(fired[-1][2], names)
    assert [last.batch[n][-1].as_py() for n in names] == shown
    assert shown[2] == 15
    oracle = Oracle(made)
    oracle.feed(records_of(driver.log, "payments"))
    newest = oracle.newest(b"k")
    assert newest is not None
    times = [None, *(newest + k * 10**9 for k in range(20))]
    assert disagreements(driver.store, oracle, times) == []


def test_the_plan_of_a_view_is_its_own_text() -> None:
    plan: Plan = view(a=pp.sum("price", nulls="reject").over("1h")).plan
    text = json.loads(to_json(plan))
    assert text["reject"] == 1
    null, nan = (
        {"Function": {"function": {"Boolean": name}, "input": [{"Column": "price"}]}}
        for name in ("IsNull", "IsNan")
    )
    assert json.loads(plan.masks[1]) == {"BinaryExpr": {"left": null, "op": "Or", "right": nan}}
