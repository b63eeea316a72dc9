"""A schema that changes in mid-stream: both shapes in one batch, and what no longer fits."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest

import pipeline as pp
from pipeline.store.memory import MemoryStore
from pipeline.testing.driver import Clock, Driver
from pipeline.testing.log import MemoryLog

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

START = 1_700_000_000_000
BATCHES = pytest.mark.parametrize("max_records", [1, 3, 1000])


def contract(*, additional: bool = True, **fields: Any) -> pp.Contract:
    properties: dict[str, Any] = {
        "user": {"type": "string"},
        "cents": {"type": "number", "x-decimal": 2},
        "at": {"type": "integer", "x-unix-time": "ms"},
    }
    optional = {name: {"type": [kind, "null"]} for name, kind in fields.items()}
    return pp.Contract.load(
        {
            "title": "payment",
            "type": "object",
            "properties": properties | optional,
            "required": list(properties),
            "additionalProperties": additional,
        }
    )


def view(schema: pp.Contract, **features: Any) -> pp.FeatureView:
    stream = pp.EventStream("payments", contract=schema, key="user", time="at")
    return pp.FeatureView("spend", source=stream, entity="user", features=features)


SPEND = pp.sum("cents").over("9d", slide="1h")


class Payments:
    """A log of payments in any shape."""

    def __init__(self) -> None:
        self.log, self.store = MemoryLog(), MemoryStore()
        self.log.create("payments", 1)

    def add(self, *events: dict[str, Any], user: str = "u") -> None:
        for event in events:
            whole = {"user": user, "cents": 1.25, "at": START, **event}
            text = json.dumps({k: v for k, v in whole.items() if v is not ...})
            self.log.append("payments", user.encode(), text.encode(), START)

    def run(self, shown: pp.FeatureView, **options: Any) -> Driver:
        options = {"clock": Clock(START), "store": self.store, **options}
        driver = Driver([shown], log=self.log, **options)
        driver.run()
        return driver

    def read(self, shown: pp.FeatureView, user: str = "u") -> dict[str, Any]:
        names = [f"{shown.name}:{name}" for name in shown.features]
        query = pp.FeatureClient(self.store).prepare(names)
        row = query.read({"user": [user]}, at="event").to_pylist()[0]
        return {name: row[name] for name in shown.features}


def rejected(driver: Driver) -> list[tuple[str, int]]:
    sent = driver.publisher.sent.get(driver.names.dead_letters, [])
    return [(x["reason"], x["offset"]) for x in (json.loads(v) for _, _, v in sent)]


@BATCHES
def test_an_optional_field_that_appears_and_disappears_is_null_without(max_records: int) -> None:
    shown = view(
        contract(tip="integer"), spend=SPEND, tips=pp.sum("tip").over("9d", slide="1h"),
        tipped=pp.count("tip").over("9d", slide="1h"), last_tip=pp.last("tip"),
    )  # fmt: skip
    payments = Payments()
    payments.add({}, {}, {"tip": 3}, {}, {"tip": None}, {"tip": 4}, {}, {})
    driver = payments.run(shown, max_records=max_records)
    assert payments.read(shown) == {"spend": 10.0, "tips": 7, "tipped": 2, "last_tip": 4}
    assert not rejected(driver)
    assert driver.markers("spend")[0].applied == 8


@BATCHES
def test_a_field_the_contract_does_not_know_is_skipped_or_refused(max_records: int) -> None:
    for additional, reasons in ((True, []), (False, [("schema", 1), ("schema", 3)])):
        shown = view(contract(additional=additional), spend=SPEND)
        payments = Payments()
        payments.add({}, {"tip": 3}, {}, {"tip": {"deep": [1, {}]}, "x": "y"})
        driver = payments.run(shown, max_records=max_records)
        assert rejected(driver) == reasons
        assert payments.read(shown) == {"spend": 1.25 * (4 - len(reasons))}


@BATCHES
def test_types_that_drift_are_dead_lettered_and_the_rest_of_the_batch_applied(
    max_records: int,
) -> None:
    shown = view(contract(tip="integer"), spend=SPEND, tips=pp.sum("tip").over("9d", slide="1h"))
    payments = Payments()
    drifted: list[tuple[str, dict[str, Any]]] = [
        ("schema", {"cents": "1.25"}),
        ("schema", {"cents": None}),
        ("schema", {"cents": ...}),
        ("schema", {"tip": "3"}),
        ("schema", {"tip": True}),
        ("schema", {"tip": 2.5}),
        ("schema", {"tip": [3]}),
        ("schema", {"at": "2023-11-14T22:13:20Z"}),
        ("range", {"cents": 1.255}),
        ("range", {"tip": 2**63}),
        ("range", {"at": START * 1000}),  # microseconds sent as milliseconds
        ("ts_future", {"at": START + 3_600_001}),
    ]
    good: list[dict[str, Any]] = [{"tip": 1}, {"tip": 2.0}, {"cents": 2}, {"tip": None}]
    for (_, bad), ok in zip(drifted, [*good, *good, *good], strict=False):
        payments.add(bad, ok)
    driver = payments.run(shown, max_records=max_records)
    assert rejected(driver) == [(why, 2 * i) for i, (why, _) in enumerate(drifted)]
    taken = [*good, *good, *good][: len(drifted)]
    assert payments.read(shown) == {
        "spend": sum(e.get("cents", 1.25) for e in taken),
        "tips": sum(e.get("tip") or 0 for e in taken),
    }
    (marker,) = driver.markers("spend")
    assert (marker.applied, marker.dead_lettered) == (len(taken), len(drifted))


def test_a_wider_contract_goes_on_with_the_rows_and_events_of_the_old_one() -> None:
    old = view(contract(), spend=SPEND, where=pp.count(where=pl.col("cents") > 1).over("2d"))
    new = view(contract(tip="integer"), **old.features)
    assert new.plan.fingerprint == old.plan.fingerprint
    payments = Payments()
    payments.add({}, {})
    payments.run(old)
    payments.add({"tip": 5}, {})
    payments.run(new)
    assert payments.read(new) == {"spend": 5.0, "where": 4}


def test_a_view_of_the_new_field_runs_beside_the_old_one_from_the_start_of_the_log() -> None:
    wide = contract(tip="integer")
    old, new = view(wide, spend=SPEND), view(wide, spend=SPEND, tips=pp.last("tip"))
    payments = Payments()
    payments.add({}, {"tip": 5})
    payments.run(old)
    payments.add({"tip": 6})
    driver = payments.run(new)
    assert new.plan.fingerprint != old.plan.fingerprint
    assert driver.markers("spend")[0].consumed == 3
    (kept_up,) = driver.markers(old)  # the program of the new view does that
    assert kept_up.consumed == 3


def test_an_expression_over_a_field_that_is_not_there_yet_sees_nulls() -> None:
    shown = view(
        contract(tip="integer"),
        generous=pp.count(where=pl.col("tip") > 2).over("9d", slide="1h"),
        total=pp.sum(pl.col("cents") + pl.col("tip").fill_null(0)).over("9d", slide="1h"),
    )
    payments = Payments()
    payments.add({}, {"tip": 3}, {"tip": 1}, {})
    payments.run(shown, max_records=2)
    assert payments.read(shown) == {"generous": 1, "total": 9.0}
