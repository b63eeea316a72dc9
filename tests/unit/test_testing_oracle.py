"""The oracle against values worked out by hand, and the engine against the oracle."""

from __future__ import annotations

import json
import math
from typing import Any

import polars as pl
import pytest

import pipeline as pp
from pipeline.kernels.hash import partition_of as kernel_partition
from pipeline.testing.driver import Driver
from pipeline.testing.log import MemoryLog
from pipeline.testing.oracle import (
    Expected,
    Oracle,
    Record,
    RefusedError,
    disagreements,
    miscounts,
    read_json,
    records_of,
)
from pipeline.testing.oracle.keys import entity_from, key_bytes, partition_of
from tests.reference import json as reference

CONTRACT = pp.Contract.load(
    {
        "title": "sale",
        "type": "object",
        "properties": {
            "user": {"type": "string"},
            "n": {"type": ["integer", "null"]},
            "price": {"type": ["number", "null"]},
            "cents": {"type": "number", "x-decimal": 2},
            "at": {"type": "integer", "x-unix-time": "ns"},
        },
        "required": ["user", "at"],
    }
)
STREAM = pp.EventStream("sales", contract=CONTRACT, key="user", time="at")


def view(ttl: int | None = None, where: pl.Expr | None = None, **features: Any) -> pp.FeatureView:
    return pp.FeatureView(
        "sales_view", source=STREAM, entity="user", features=features, ttl=ttl, where=where
    )


def sale(at: int, **fields: Any) -> dict[str, Any]:
    return {"user": "u", "at": at, **fields}


def fed(view: pp.FeatureView, *events: dict[str, Any] | bytes | None) -> tuple[Oracle, list[str]]:
    oracle = Oracle(view)
    values = [json.dumps(e).encode() if isinstance(e, dict) else e for e in events]
    outcomes = oracle.feed(Record("sales", 0, i, -1, b"u", v) for i, v in enumerate(values))
    return oracle, outcomes


def value(oracle: Oracle, at: int, name: str = "x") -> tuple[Any, str]:
    expected = oracle.features(b"u", at)[name]
    return expected.value, expected.status


@pytest.mark.parametrize(
    ("at", "counted"), [(100, 3), (109, 3), (110, 3), (111, 3), (120, 1), (129, 1), (130, 0)]
)
def test_a_window_of_30_by_10_begins_after_the_last_multiple_of_10_less_30(
    at: int, counted: int
) -> None:
    """At 119 it is (80, 119], at 120 (90, 120]."""
    oracle, _ = fed(view(x=pp.count().over(30, slide=10)), sale(70), sale(81), sale(90), sale(100))
    assert value(oracle, at) == (counted, "present")


@pytest.mark.parametrize(("at", "counted"), [(100, 2), (110, 2), (111, 1), (130, 1), (131, 0)])
def test_an_exact_window_is_open_at_its_start_and_closed_at_its_end(at: int, counted: int) -> None:
    oracle, _ = fed(view(x=pp.count().over(31)), sale(69), sale(80), sale(100))
    assert value(oracle, at) == (counted, "present")


@pytest.mark.parametrize(("at", "total"), [(109, 0), (110, 7), (120, 7), (130, 7), (131, 0)])
def test_a_delay_moves_both_ends(at: int, total: int) -> None:
    oracle, _ = fed(view(x=pp.sum("n").over(21, delay=10)), sale(100, n=7))
    assert value(oracle, at) == (total, "present")


def test_late_is_what_no_feature_takes_judged_by_the_newest_event_before() -> None:
    """Tiles of 10, four of them: at 100 (tile 9) the ring holds the tiles 6 to 9, (60, 100]."""
    tiled = view(x=pp.count().over(30, slide=10))
    oracle, outcomes = fed(tiled, sale(100), sale(61), sale(60), sale(131), sale(61), sale(101))
    assert outcomes == ["applied", "applied", "late", "applied", "late", "applied"]
    both = view(x=pp.count().over(30, slide=10), y=pp.count().over(45))
    _, outcomes = fed(both, sale(100), sale(60), sale(56), sale(55))
    assert outcomes == ["applied", "applied", "applied", "late"]
    assert oracle.accounting[0].late == 2
    assert oracle.accounting[0].consumed == 6


def test_a_row_expires_and_is_emptied_after_its_ttl() -> None:
    ttl = view(ttl=50, x=pp.last("n"))
    oracle, _ = fed(ttl, sale(100, n=1))
    assert value(oracle, 149) == (1, "present")
    assert value(oracle, 151) == (None, "expired")
    assert value(oracle, 99)[1] == "degraded"
    oracle, _ = fed(ttl, sale(100, n=1), sale(151))
    assert value(oracle, 151) == (None, "present")
    assert oracle.features(b"nobody", 5)["x"].status == "missing"


def test_a_record_is_dead_lettered_before_it_is_filtered_before_it_is_late() -> None:
    positive = view(where=pl.col("n") > 0, x=pp.count().over(10))
    bad = sale(100, n=1.5)
    _, outcomes = fed(
        positive, sale(100, n=1), bad, sale(5, n=0), sale(5), sale(5, n=1), b"[", b"", None
    )
    assert outcomes[:5] == ["applied", "schema", "filtered", "filtered", "late"]
    assert outcomes[5:7] == ["decode", "empty"]


def test_an_expression_that_fails_is_a_dead_letter_whatever_the_filter() -> None:
    fails = pl.col("n").cast(pl.Int8)
    oracle, outcomes = fed(
        view(where=pl.col("price") > 0, x=pp.sum(fails).over(10)),
        sale(100, n=1000, price=0.0),
        sale(100, n=100, price=1.0),
    )
    assert outcomes == ["expression", "applied"]
    assert oracle.accounting[0].reasons == {"expression": 1}


def test_sums_are_exact_or_say_how_exact() -> None:
    everything = view(
        n=pp.sum("n").over(10), price=pp.sum("price").over(10), cents=pp.sum("cents").over(10)
    )
    oracle, _ = fed(
        everything,
        sale(1, n=2**62, price=1e17, cents=0.1), sale(2, n=2**62, price=0.1, cents=0.2),
        sale(3, n=-1, price=-1e17, cents=0.3),
    )  # fmt: skip
    found = oracle.features(b"u", 3)
    assert found["n"] == Expected(2**63 - 1, loose=True)
    assert found["n"].problem(None, "degraded") is None
    assert found["n"].problem(2**63 - 2, "present") is not None
    assert found["cents"].value == 0.6
    assert found["cents"].problem(math.nextafter(0.6, 1), "present") is not None
    assert found["price"].value == 0.1
    assert found["price"].problem(0.0, "present") is None  # what is left of it in offset order
    assert found["price"].problem(1e6, "present") is not None
    oracle, _ = fed(everything, sale(1, n=2**62), sale(2, n=2**62))
    assert value(oracle, 3, "n") == (None, "degraded")


def test_nan_is_null_and_infinity_is_a_number() -> None:
    zero = pl.col("price") - pl.col("price")
    oracle, _ = fed(
        view(x=pp.sum(zero / zero).over(10), y=pp.sum(pl.col("price") / zero).over(10)),
        sale(1, price=1.0),
    )
    assert value(oracle, 1) == (0.0, "present")
    assert value(oracle, 1, "y") == (math.inf, "present")


def test_what_a_bound_dropped_is_told_where_it_counts() -> None:
    bounded = view(x=pp.count().over(50, bound=2), y=pp.last("n", n=2).over(50, delay=0))
    oracle, _ = fed(bounded, sale(10, n=1), sale(20, n=2), sale(30, n=3), sale(15, n=4))
    assert value(oracle, 30) == (2, "degraded")
    assert value(oracle, 65) == (2, "present")  # (15, 65]
    assert value(oracle, 64) == (2, "degraded")
    assert value(oracle, 30, "y") == ([3, 2], "present")


def test_equal_times_go_by_offset() -> None:
    oracle, _ = fed(view(x=pp.last("n", n=3)), sale(5, n=1), sale(5, n=2), sale(4, n=3))
    assert value(oracle, 5) == ([2, 1, 3], "present")


def test_zeros_have_signs_where_they_are_values() -> None:
    oracle, _ = fed(
        view(low=pp.min("price").over(9), kinds=pp.distinct("price").over(9)),
        sale(1, price=0.0), sale(2, price=-0.0),
    )  # fmt: skip
    low = oracle.features(b"u", 2)["low"]
    assert low.problem(0.0, "present") is not None
    assert low.problem(-0.0, "present") is None
    assert value(oracle, 2, "kinds") == (1, "present")


def test_a_deletion_empties_the_row_and_makes_what_is_older_late() -> None:
    records = [
        (0, sale(100)), (1_000, None), (0, sale(10**9)), (0, sale(10**9 + 1)), (-1, None),
        (500, None), (0, sale(10**9 + 2)),
    ]  # fmt: skip
    oracle = Oracle(view(x=pp.count().over(10)))
    outcomes = oracle.feed(
        Record("sales", 0, i, ms, b"u", None if e is None else json.dumps(e).encode())
        for i, (ms, e) in enumerate(records)
    )
    assert outcomes == [
        "applied", "applied", "late", "applied", "tombstone", "applied", "applied",
    ]  # fmt: skip
    assert value(oracle, 10**9 + 2) == (1, "present")
    assert oracle.feed([Record("sales", 0, 9, 2_000, b"u", None)]) == ["applied"]
    assert value(oracle, 10**9 + 2) == (None, "missing")


def test_an_id_counts_once_while_the_row_keeps_it() -> None:
    stream = pp.EventStream(
        "sales", contract=CONTRACT, key="user", time="at", event_id="n", dedup=50, dedup_bound=2
    )
    counted = pp.FeatureView(
        "sales_view", source=stream, entity="user", features={"x": pp.count().over(200)}
    )
    _, outcomes = fed(counted, sale(100, n=1), sale(101, n=1), sale(90, n=1), sale(102), sale(103))
    assert outcomes == ["applied", "duplicate", "duplicate", "applied", "applied"]
    _, outcomes = fed(counted, sale(100, n=1), sale(150, n=2), sale(151, n=1))
    assert outcomes == ["applied"] * 3  # 100 is not later than 150 - 50
    _, outcomes = fed(counted, sale(100, n=1), sale(99, n=2), sale(98, n=3), sale(97, n=3))
    assert outcomes == ["applied"] * 4  # of two, 98 was the oldest at once


def test_offsets_that_go_back_are_a_mistake() -> None:
    oracle = Oracle(view(x=pp.count().over(9)))
    oracle.feed([Record("sales", 0, 5, -1, b"u", b"")])
    with pytest.raises(ValueError, match="goes back"):
        oracle.feed([Record("sales", 0, 5, -1, b"u", b"")])


@pytest.mark.parametrize(
    "text",
    [
        "{}", "[]", "1", "nul", '{"user": "u", "at": 1}', '{"user": "u", "at": 1, "at": 2}',
        '{"user": "u", "at": 1, "x": 1, "x": 2}', '{"user": 1, "at": 1}', '{"user": "\\ud800"}',
        '{"user": "u", "at": 1e3, "n": 1.0}', '{"user": "u", "at": 1, "n": 1.5}',
        '{"user": "u", "at": 1, "n": 9223372036854775808}', '{"user": "u", "at": -1, "n": -0}',
        '{"user": "u", "at": 1, "cents": 1.005}', '{"user": "u", "at": 1, "cents": 1.0050e3}',
        '{"user": "u", "at": 1, "cents": null}', '{"user": "u", "at": 1, "price": 1e309}',
        '{"user": "u", "at": 1, "price": 1e309, "n": 1.5}', '{"user": "u", "at": NaN}',
        '{"user": "u", "at": true}', '{"user": "u", "at": 1, "n": 1e-400}', "[" * 70,
        '{"user": "u", "at": 1, "n": 1e400}', '{"user": "u", "at": 1, "n": 0e999999999}',
        '{"user": "u", "at": 1, "cents": 92233720368547758.07}',
        '{"user": "u", "at": 1, "cents": 92233720368547758.08}',
    ],
)  # fmt: skip
def test_records_are_read_as_the_decoders_twin_reads_them(text: str) -> None:
    reason, row = reference.parse(CONTRACT, text.encode())
    try:
        found: Any = read_json(CONTRACT, text.encode())
    except RefusedError as refused:
        found = refused.reason
    if reason:
        assert found == reason.name.lower()
    else:
        if row["cents"] is not None:
            found["cents"] *= 100
        assert found == row


@pytest.mark.parametrize("size", range(12))
def test_partitions_are_those_of_the_kernel(size: int) -> None:
    import numpy as np

    key = bytes(range(250, 250 - size, -1))
    out = np.empty(1, dtype=np.int32)
    data = np.frombuffer(key, dtype=np.uint8).copy()
    with np.errstate(over="ignore"):
        kernel_partition(data, np.array([0, size], dtype=np.int64), 7, out)
    assert partition_of(key, 7) == out[0]


@pytest.mark.parametrize(
    ("entity", "key"),
    [
        ((-7,), b"-7"), (("a|b\\",), b"a|b\\"), ((b"\0|",), b"\0|"), ((1, "x"), b"1|x"),
        (("a|b", "c\\"), b"a\\|b|c\\\\"), ((b"\0\xff", 2), b"00ff|2"), (("", "é"), b"|\xc3\xa9"),
    ],
)  # fmt: skip
def test_keys_are_those_of_the_description(entity: tuple[Any, ...], key: bytes) -> None:
    assert key_bytes(entity) == key
    names = {int: "int64", str: "string", bytes: "bytes"}
    assert entity_from(key, [names[type(value)] for value in entity]) == entity


@pytest.mark.parametrize(
    ("key", "types"),
    [
        (b"01", ["int64"]), (b"9223372036854775808", ["int64"]), (b"\xff", ["string"]),
        (b"a|b|c", ["string", "string"]), (b"a", ["string"] * 2), (b"0G|1", ["bytes", "int64"]),
        (b"AB|1", ["bytes", "int64"]), (b"00000000-0000-0000-0000-00000000000A", ["uuid"]),
        (b"a\\b|1", ["string", "int64"]),
    ],
)  # fmt: skip
def test_a_key_that_no_entity_has_is_told(key: bytes, types: list[str]) -> None:
    assert entity_from(key, types) is None


def test_a_wrong_row_a_wrong_count_and_a_wrong_status_are_told() -> None:
    log = MemoryLog()
    log.create("sales", 1)
    counted = view(x=pp.count().over(30, slide=10))
    driver = Driver([counted], log=log)
    for at in (100, 101, 10):
        driver.pipe("sales", sale(at))
    driver.run()
    oracle = Oracle(counted)
    oracle.feed(records_of(log, "sales"))
    assert disagreements(driver.store, oracle, [None, 102, 500], others=["nobody"]) == []
    assert miscounts(driver.markers("sales_view"), oracle) == []
    oracle.feed([Record("sales", 0, 9, -1, b"u", json.dumps(sale(102)).encode())])
    (line,) = disagreements(driver.store, oracle, [102])
    assert line.startswith("sales_view.x of b'u' at 102: value 2, expected 3")
    assert miscounts(driver.markers("sales_view"), oracle) == [
        "sales_view[0].applied: 2, expected 3 ({})"
    ]
