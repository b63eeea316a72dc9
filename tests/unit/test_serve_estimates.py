"""Sketches from the log to the reader: values, types and statuses, against the oracle as well."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import pipeline as pp
from pipeline.kernels.jit import JIT_ENABLED
from pipeline.testing.driver import Clock, Driver
from pipeline.testing.fuzz import case

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

PAYMENT = {
    "title": "payment",
    "type": "object",
    "properties": {
        "user": {"type": "integer"},
        "shop": {"type": "integer"},
        "euros": {"type": "number", "x-decimal": 2},
        "at": {"type": "string", "format": "date-time"},
    },
    "required": ["user", "shop", "euros", "at"],
}
NOW = datetime(2024, 5, 3, 20, 30, tzinfo=UTC)


def driver_of(events: int) -> Driver:
    """User 1 pays ``events`` times, each in another shop; user 2 twice."""
    stream = pp.EventStream("pay", contract=pp.Contract.load(PAYMENT), key="user", time="at")
    view = pp.FeatureView(
        "spending",
        source=stream,
        entity="user",
        features={
            "shops": pp.distinct("shop", bound=8).over("1d", slide="1h"),
            "usual": pp.top_k("shop", 2, bound=8).over("1d", slide="1h"),
            "middle": pp.median("euros", bound=8).over("1d", slide="1h"),
            "exact": pp.quantile("euros", 0.9, bound=8).over("1d"),
            "first": pp.top_k("euros", 1).over("1d", slide="1h", delay="1h"),
        },
    )
    driver = Driver([view], app="shop", clock=Clock(now_ms=int(NOW.timestamp() * 1000)))
    for i in range(events):
        driver.pipe("pay", {"user": 1, "shop": i, "euros": 1.5 + i, "at": NOW.isoformat()})
    for euros in (2.5, 7.25):
        driver.pipe("pay", {"user": 2, "shop": 7, "euros": euros, "at": NOW.isoformat()})
    driver.run()
    return driver


def test_a_reader_sees_values_types_and_statuses() -> None:
    driver = driver_of(40)
    query = pp.FeatureClient(driver.store, clock_ns=lambda: int(NOW.timestamp()) * 10**9)
    assert [str(query_type) for query_type in _types(query.prepare(["spending"]))] == [
        "int64", "list<item: int64>", "double", "double", "double"
    ]  # fmt: skip
    table = query.prepare(["spending"]).read([1, 2, 3], status="feature")
    one, two, three = table.to_pylist()
    assert two["usual"] == [7]
    assert (two["middle"], two["exact"], two["first"], two["shops"]) == (2.5, 7.25, None, 1)
    assert [one[f"{name}__status"] for name in ("shops", "usual", "middle", "exact", "first")] == [
        "estimated", "estimated", "estimated", "degraded", "present"
    ]  # fmt: skip
    assert (one["spending__status"], two["spending__status"], three["spending__status"]) == (
        "degraded", "present", "missing"
    )  # fmt: skip
    assert query.prepare(["spending:shops"]).read([1])["spending__status"].to_pylist() == [
        "estimated"
    ]
    later = query.prepare(["spending:middle"]).read([1], at=NOW + timedelta(hours=24, minutes=30))
    assert later.to_pylist()[0]["middle"] is None
    assert later["spending__status"].to_pylist() == ["present"]


def _types(query: object) -> list[object]:
    table = query.read([1])  # type: ignore[attr-defined]
    return [table.schema.field(name).type for name in query.features]  # type: ignore[attr-defined]


def test_stale_is_worse_than_estimated_and_better_than_degraded() -> None:
    query = pp.FeatureClient(driver_of(40).store, clock_ns=lambda: int(NOW.timestamp()) * 10**9)
    long_ago = timedelta(seconds=-100)  # nobody can have read that far
    for feature, status in (("shops", "stale"), ("exact", "degraded"), ("first", "stale")):
        read = query.prepare([f"spending:{feature}"]).read([1], max_staleness=long_ago)
        assert read["spending__status"].to_pylist() == [status], feature


@pytest.mark.parametrize("seed", range(120) if JIT_ENABLED else range(5))
def test_views_with_sketches_agree_with_the_oracle(seed: int) -> None:
    """The fuzzer's views; those without a quantile, top_k or distinct are left to others."""
    made = case(seed, events=150)
    ops = {aggregation.op.name for aggregation in made.view.features.values()}
    if ops & {"QUANTILE", "TOP_K", "DISTINCT"}:
        assert made.problems() == []
