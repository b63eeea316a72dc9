"""Definitions become plans, or messages that name the field."""

from __future__ import annotations

import dataclasses
from typing import Any

import polars as pl
import pytest

import pipeline as pp
from pipeline.errors import DefinitionError
from pipeline.features.plan import AccOp, CellType, ListKind, Plan, Ring

HOUR = 3_600_000_000_000
DAY = 24 * HOUR
CONTRACT = {
    "title": "payment",
    "type": "object",
    "properties": {
        "user": {"type": "integer"},
        "shop": {"type": "string"},
        "units": {"type": "integer"},
        "price": {"type": "number"},
        "cents": {"type": "number", "x-decimal": 2},
        "at": {"type": "string", "format": "date-time"},
    },
    "required": ["user", "shop", "units", "price", "cents", "at"],
}


@pytest.fixture(scope="module")
def stream() -> pp.EventStream:
    return pp.EventStream("payments", contract=pp.Contract.load(CONTRACT), key="user", time="at")


def plan(stream: pp.EventStream, ttl: str | None = "60d", **features: Any) -> Plan:
    return pp.FeatureView("v", source=stream, entity="user", ttl=ttl, features=features).plan


def test_windows_of_one_slide_share_the_longest_ring(stream: pp.EventStream) -> None:
    got = plan(
        stream,
        a=pp.count().over("7d", slide="1d"),
        b=pp.count().over("30d", slide="1d"),
        c=pp.sum("units").over("1d", slide="1h"),
    )
    assert got.rings == (Ring(DAY, 31), Ring(HOUR, 25))
    assert len(got.accumulators) == 2  # both counts read the same cells
    assert [f.a for f in got.features] == [0, 0, 1]


def test_a_slide_that_does_not_divide_the_window_gives_tiles_of_the_common_divisor(
    stream: pp.EventStream,
) -> None:
    got = plan(stream, a=pp.count().over("90m", slide="1h"))
    assert got.rings == (Ring(HOUR // 2, 5),)  # (90 + 60) / 30 minutes


def test_accumulators_are_sorted_by_ring_and_features_follow_them(stream: pp.EventStream) -> None:
    got = plan(
        stream,
        a=pp.count().over("1d", slide="1h"),
        b=pp.count().over("2d", slide="1d"),
        c=pp.mean("price").over("1d", slide="1h"),
    )
    assert [a.ring for a in got.accumulators] == sorted(a.ring for a in got.accumulators)
    mean = got.features[2]
    assert got.accumulators[mean.a].op is AccOp.SUM_FLOAT
    assert got.accumulators[mean.b].op is AccOp.COUNT
    assert got.accumulators[mean.b].input == got.accumulators[mean.a].input


def test_decimals_are_summed_as_integers(stream: pp.EventStream) -> None:
    got = plan(stream, a=pp.sum("cents").over("1d", slide="1h"))
    assert got.accumulators[0].op is AccOp.SUM_INT
    assert (got.features[0].type, got.features[0].scale) == (CellType.DECIMAL, 2)


def test_last_keeps_the_ttl_or_its_window(stream: pp.EventStream) -> None:
    got = plan(stream, a=pp.last("units", n=3), b=pp.last("units").over("7d", slide="1d"))
    assert [(s.kind, s.bound, s.horizon_ns) for s in got.lists] == [
        (ListKind.LAST, 3, 60 * DAY + 1),  # reaches what the row's last moment does
        (ListKind.LAST, 1, 8 * DAY),
    ]
    assert [(f.cell, f.width) for f in got.features] == [(0, 3), (3, 1)]


def test_equal_definitions_have_equal_fingerprints_and_any_change_another(
    stream: pp.EventStream,
) -> None:
    base: dict[str, Any] = {"a": pp.count(where=pl.col("units") > 0).over("1d", slide="1h")}
    first = plan(stream, **base)
    assert plan(stream, **base).fingerprint == first.fingerprint
    others = [
        plan(stream, a=pp.count(where=pl.col("units") > 1).over("1d", slide="1h")),
        plan(stream, a=pp.count(where=pl.col("units") > 0).over("2d", slide="1h")),
        plan(stream, b=pp.count(where=pl.col("units") > 0).over("1d", slide="1h")),
        plan(stream, ttl="61d", **base),
    ]
    assert len({first.fingerprint, *(o.fingerprint for o in others)}) == 5


def test_tables_hold_the_plan(stream: pp.EventStream) -> None:
    got = plan(
        stream,
        a=pp.max("units").over("1d", slide="1h"),
        b=pp.distinct("shop").over("1d", slide="1h"),
    )
    tables = got.tables()
    assert tables.rings.tolist() == [[HOUR, 25, 0, 2, 3]]
    assert tables.accumulators.tolist() == [
        [*dataclasses.astuple(a), half] for a, half in zip(got.accumulators, (1, 2), strict=True)
    ]
    assert tables.lists.tolist() == [[0, 0, 1, -1, 4096, 0, CellType.HASH]]
    assert tables.features[0].tolist() == [4, DAY, HOUR, 0, 1, 0, 1, CellType.INT, 0, 0, 0, -1]


@pytest.mark.parametrize(
    ("features", "field", "part"),
    [
        ({"a": lambda: pp.sum("nope").over("1d", slide="1h")}, "v.a", "no field 'nope'"),
        ({"a": lambda: pp.sum("units")}, "v.a", "has no window"),
        ({"a": lambda: pp.sum("shop").over("1d", slide="1h")}, "v.a", "cannot add"),
        ({"a": lambda: pp.max("shop").over("1d", slide="1h")}, "v.a", "no order"),
        ({"a": lambda: pp.top_k("shop", 2).over(9)}, "v.a", "string"),
        ({"a": lambda: pp.count().over("0s", slide="0s")}, "v.a", "no window"),
        ({"a": lambda: pp.count().over("1d", slide="2d")}, "v.a.slide", "at most the window"),
        ({"a": lambda: pp.count().over("90d", slide="1d")}, "v.ttl", "shorter than"),
        ({"a": lambda: pp.count().over("1d", slide="7ns")}, "v.a.slide", "tiles"),
        ({"a": lambda: pp.count().over("1x", slide="1h")}, "over(window='1x')", "unit"),
        ({"A": lambda: pp.count().over("1d", slide="1h")}, "v.features", "'A' is no name"),
        ({"../a": lambda: pp.count().over("1d", slide="1h")}, "v.features", "is no name"),
        ({"a": lambda: 3}, "v.a", "not an aggregation"),
        ({"a": lambda: pp.distinct("shop", bound=0).over("1d", slide="1h")}, "v.a.bound", "1 to"),
        ({"a": lambda: pp.last("units", n=0)}, "v.a.n", "1 to"),
        (
            {"a": lambda: pp.ratio(pp.mean("price"), pp.count()).over("1d", slide="1h")},
            "v.a.numerator",
            "counts and sums",
        ),
        (
            {"a": lambda: pp.count(where=pl.col("units")).over("1d", slide="1h")},
            "v.a.where",
            "true or false",
        ),
        (
            {"a": lambda: pp.count(where=pl.col("unit") > 0).over("1d", slide="1h")},
            "v.a.where",
            "no field 'unit'",
        ),
        (
            {"a": lambda: pp.count(where=pl.col("shop") + 1 > 0).over("1d", slide="1h")},
            "v.a.where",
            "cannot be computed",
        ),
        ({}, "v.features", "at least one"),
    ],
)
def test_a_wrong_definition_names_its_field(
    stream: pp.EventStream, features: dict[str, Any], field: str, part: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        plan(stream, **{name: make() for name, make in features.items()})
    assert caught.value.field == field
    assert part in caught.value.problem


@pytest.mark.parametrize(
    "expression",
    [
        pl.col("units").shift(1) > 0,
        pl.col("units").sum() > 0,
        pl.col("units").cum_sum() > 0,
        pl.col("units") > pl.col("units").mean().over("shop"),
        pl.col("units").sort() > 0,
        pl.col("units").is_duplicated(),
        pl.col("units").rank() > 1,
        pl.len() > 0,
    ],
    ids=str,
)
def test_an_expression_that_looks_at_other_rows_is_refused(
    stream: pp.EventStream, expression: pl.Expr
) -> None:
    with pytest.raises(DefinitionError, match="more than its own row"):
        plan(stream, a=pp.count(where=expression).over("1d", slide="1h"))


@pytest.mark.parametrize(
    ("when", "field"),
    [(pp.changed("units"), "Trigger('t').when"), (pl.col("units"), "Trigger('t').when")],
)
def test_a_trigger_needs_what_it_looks_at(stream: pp.EventStream, when: Any, field: str) -> None:
    view = pp.FeatureView(
        "v", source=stream, entity="user", features={"a": pp.count().over("1d", slide="1h")}
    )
    with pytest.raises(DefinitionError) as caught:
        pp.Trigger("t", view=view, when=when)
    assert caught.value.field == field
