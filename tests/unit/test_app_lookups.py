"""Look-ups: as of every event, however the log is cut and whenever a view is added."""

from __future__ import annotations

import dataclasses
import json
import logging
from random import Random
from typing import Any

import polars as pl
import pytest

import pipeline as pp
from pipeline.errors import DefinitionError
from pipeline.features.lookups import column_type, own_rows, row_plans
from pipeline.features.plan import CellType, Feature, FeatureOp
from pipeline.features.planjson import from_json, to_json
from pipeline.features.view import FeatureView
from pipeline.inference.request import decode_requests
from pipeline.ingest.batch import TopicPartition
from pipeline.serve.client import FeatureClient
from pipeline.state.columns import feature_type
from pipeline.store.keys import partition_tag, row_key
from pipeline.store.memory import MemoryStore
from pipeline.testing.driver import Driver
from pipeline.testing.fuzz import Case, EventFuzzer, Shape, fuzz_stream
from pipeline.testing.log import MemoryLog
from pipeline.testing.simulation import Simulation

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")
SECOND, HOUR = 10**9, 3600 * 10**9
SEEDS = range(4)
PARTITIONS = 3
STREAM = fuzz_stream()

PROFILE = FeatureView(
    "profile",
    source=STREAM,
    entity="key",
    ttl="10m",
    where=pl.col("count") != 3,
    features={
        "n": pp.count().over("1m", slide="10s"),
        "largest": pp.max("count").over("2m"),
        "cents": pp.sum("cents").over("5m", slide="1m"),
        "flag": pp.last("flag"),
        "seen": pp.last("seen"),
        "prices": pp.last("price", n=3),
        "lowest": pp.min("price").over("1m", slide="1m"),
    },
)
RATED = FeatureView(
    "rated",
    source=STREAM,
    entity="key",
    lookups={"n": PROFILE["n"], "total": PROFILE["cents"]},
    where=pl.col("n").is_null() | (pl.col("n") != 2),
    features={
        "most": pp.max(pl.col("count") - pl.col("n")).over("10m", slide="1m"),
        "totals": pp.last("total", n=200),
    },
)
RISK = FeatureView(
    "risk",
    source=STREAM,
    entity="key",
    lookups={
        "n": PROFILE["n"],
        "most": RATED["most"],
        "largest": PROFILE["largest"],
        "last_flag": PROFILE["flag"],
        "last_seen": PROFILE["seen"],
        "lowest": PROFILE["lowest"],
    },
    features={
        "ns": pp.last("n", n=200),
        "mosts": pp.last("most", n=200),
        "flags": pp.last("last_flag", n=200),
        "seens": pp.last("last_seen", n=200),
        "lows": pp.last("lowest", n=200),
        "above": pp.count(where=pl.col("count") > pl.col("largest") / 2).over("1h", slide="1m"),
        "new": pp.count(where=pl.col("n").is_null()).over("1h", slide="1m"),
        "by_n": pp.sum(pl.col("count") - pl.col("n")).over("1h", slide="10m"),
    },
)
VIEWS = [RATED, RISK]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)


def logged(seed: int, n: int = 150) -> MemoryLog:
    """Late, filtered, expired and refused records; sums that stay in their type."""
    log = MemoryLog()
    log.create(STREAM.topic, PARTITIONS)
    edges = (10 * SECOND, 60 * SECOND, 600 * SECOND)
    fuzzer = EventFuzzer(
        STREAM, Random(seed), edges_ns=edges, partitions=PARTITIONS, shape=Shape(edges=0)
    )
    fuzzer.fill(log, n)
    return log


def run(log: MemoryLog, views: list[FeatureView], **options: Any) -> Driver:
    driver = Driver(views, log=log, **options)
    driver.run()
    driver.plane.close()
    log.committed.clear()
    return driver


@pytest.mark.parametrize("max_records", [1, 7, 1000])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_event_sees_what_the_twin_sees(seed: int, max_records: int) -> None:
    log = logged(seed)
    driver = run(log, VIEWS, max_records=max_records)
    for view in VIEWS:
        assert Case(view, log, seed).problems(driver) == [], f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_bytes_depend_on_neither_cuts_nor_the_cache(seed: int) -> None:
    log = logged(seed)
    wanted = {v.name: run(log, VIEWS).digest(v.name) for v in VIEWS}
    for options in ({"max_records": 1}, {"max_records": 7, "cache_bytes": 1}):
        driver = run(log, VIEWS, **options)
        assert {v.name: driver.digest(v.name) for v in VIEWS} == wanted


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_befalls_the_workers_the_bytes_are_those_of_a_quiet_run(seed: int) -> None:
    log = logged(seed)
    wanted = run(log, VIEWS).digest("risk")
    simulation = Simulation(VIEWS, log=log, seed=seed)
    assert simulation.run(120).digest("risk") == wanted, f"seed {seed}: {simulation.counts}"


@pytest.mark.parametrize("first", [[PROFILE], [RATED], [PROFILE, RATED]])
def test_a_view_that_is_added_later_is_what_it_would_have_been(first: list[FeatureView]) -> None:
    """The looked-up view is far ahead, or not there at all: nothing of it is read."""
    log, store = logged(7), MemoryStore()
    wanted = run(log, [RISK], max_records=13).digest("risk")
    before = run(log, first, store=store, max_records=9)
    digests = [before.digest(view.name) for view in first]
    after = Driver([*first, RISK], log=log, store=store, max_records=5)
    for _ in range(12):
        after.plane.step()
    after.crash()
    after = Driver([*first, RISK], log=log, store=store, max_records=50)
    after.run()
    assert after.digest("risk") == wanted
    assert [after.digest(view.name) for view in first] == digests


def test_a_view_begins_where_the_log_does_then_and_so_do_its_look_ups() -> None:
    log, store = logged(3), MemoryStore()
    run(log, [PROFILE], store=store)
    for number in range(PARTITIONS):
        records = log.records(TopicPartition(STREAM.topic, number))
        source = TopicPartition(STREAM.topic, number)
        log.truncate(source, records[len(records) // 2].offset)
    driver = run(log, [PROFILE, RISK], store=store)
    # The oracle has read nothing but what was left.
    assert [p for p in Case(RISK, log, 3).problems(driver) if "consumed" not in p] == []


CONTRACT = pp.Contract.load(
    {
        "title": "payment",
        "type": "object",
        "properties": {
            "user": {"type": "integer"},
            "cents": {"type": "number", "x-decimal": 2},
            "at": {"type": "integer", "x-unix-time": "s"},
        },
        "required": ["user", "cents", "at"],
    }
)
PAYMENTS = pp.EventStream("payments", contract=CONTRACT, key="user", time="at")


def spending(**options: Any) -> FeatureView:
    features = {"hour": pp.sum("cents").over("1h"), "often": pp.count().over("1h")}
    defaults = {"name": "spending", "source": PAYMENTS, "entity": "user", "features": features}
    return FeatureView(**{**defaults, **options})


def piped(driver: Driver, *events: tuple[int, float, int]) -> Driver:
    for user, cents, at in events:
        driver.pipe("payments", {"user": user, "cents": cents, "at": at})
    driver.run()
    return driver


def test_a_value_is_of_all_records_up_to_the_event_as_of_its_time() -> None:
    profile = spending(ttl="2h", where=pl.col("cents") > 1)
    seen = FeatureView(
        "seen", PAYMENTS, "user", {"hours": pp.last("hour", n=9)}, lookups={"hour": profile["hour"]}
    )
    driver = piped(
        Driver([seen], max_records=2),
        (1, 2.0, 10_000),  # 2: the event itself is in
        (1, 3.0, 10_001),  # 5
        (1, 0.5, 13_599),  # 5: filtered there, but time goes on
        (1, 0.5, 13_600),  # 3: an hour after the first
        (1, 4.0, 12_000),  # out of order: 9, as of the row's newest event, 12000
        (1, 0.5, 19_201),  # expired there: null
        (2, 0.5, 10_000),  # filtered there: missing, null
    )
    table = FeatureClient(driver.store).prepare(["seen"]).read([1, 2], at="event")
    ordered = sorted([(10_000, 2.0), (10_001, 5.0), (13_599, 5.0), (13_600, 3.0), (12_000, 9.0)])
    assert table["hours"].to_pylist() == [[v for _, v in reversed(ordered)], None]


def test_triggers_see_looked_up_columns_and_requests_carry_them() -> None:
    risk = FeatureView(
        "risk",
        PAYMENTS,
        "user",
        {"share": pp.last(pl.col("cents") / pl.col("hour")), "hour": pp.last("hour")},
        lookups={"hour": spending()["hour"]},
    )
    trigger = pp.Trigger("ask", risk, when=pl.col("hour") > 5, features=["share", "hour"])
    driver = Driver([risk], [trigger], max_records=2)
    piped(driver, (1, 4.0, 1), (1, 6.0, 2), (2, 8.0, 3), (1, 2.0, 9000))
    messages = driver.publisher.sent[driver.names.requests("ask")]
    asked = [decode_requests(value).block(["share", "hour"], 0).tolist() for *_, value in messages]
    sent = [value for rows in asked for row in rows for value in row]
    assert sent == pytest.approx([0.6, 10.0, 1.0, 8.0])


def test_a_deleted_entity_has_nothing_to_look_up() -> None:
    profile = spending()
    view = spending(
        name="seen", features={"hours": pp.last("hour", n=9)}, lookups={"hour": profile["hour"]}
    )
    driver = piped(Driver([view]), (1, 2.0, 100), (1, 3.0, 200))
    driver.log.append("payments", b"1", None, 300_000)
    driver.log.append("payments", b"2", None, -1)  # refused: nobody knows when
    piped(driver, (1, 4.0, 250), (1, 5.0, 400), (1, 6.0, 500))
    read = FeatureClient(driver.store).prepare(["seen"]).read([1], at="event")
    assert read["hours"].to_pylist() == [[11.0, 5.0]]  # what is older than the deletion is late
    (marker,) = driver.markers("seen")
    assert (marker.applied, marker.late, marker.dead_lettered) == (5, 1, 1)


def test_an_entity_whose_looked_up_row_is_corrupt_stands_still_alone() -> None:
    view = spending(
        name="seen", features={"hours": pp.last("hour", n=9)}, lookups={"hour": spending()["hour"]}
    )
    _, kept = row_plans(view.plan)
    log, store = MemoryLog(), MemoryStore()
    log.create("payments", 1)
    piped(Driver([view], log=log, store=store), (1, 2.0, 100), (2, 3.0, 100))
    key = row_key(partition_tag("test", TopicPartition("payments", 0)), kept.fingerprint, b"1")
    right = store.values[key]
    store.values[key] = right[:-1] + bytes([right[-1] ^ 1])
    driver = piped(Driver([view], log=log, store=store), (1, 4.0, 200), (2, 5.0, 200))
    query = FeatureClient(store).prepare(["seen"])
    assert query.read([1, 2], at="event")["hours"].to_pylist() == [[2.0], [8.0, 3.0]]
    (marker,) = driver.markers("seen")
    assert (marker.applied, marker.dead_lettered) == (3, 1)
    (letter,) = driver.publisher.sent[driver.names.dead_letters]
    assert (json.loads(letter[2])["reason"], json.loads(letter[2])["view"]) == (
        "corrupt_row", "seen",
    )  # fmt: skip
    copies = [name for name in store.values if b":q:%016x:" % kept.fingerprint in name]
    assert len(copies) == 1
    store.values[key] = right
    piped(driver, (1, 1.0, 300))
    assert query.read([1], at="event")["hours"].to_pylist() == [[3.0, 2.0]]


@pytest.mark.parametrize("max_records", [2, 1000])
def test_look_ups_go_through_a_repartition_topic(max_records: int) -> None:
    """Keyed by another field than the topic's, the same events look up the same."""

    def built(stream: pp.EventStream) -> FeatureView:
        profile = spending(source=stream, entity="shop", where=pl.col("cents") > 1)
        return spending(
            name="seen",
            source=stream,
            entity="shop",
            lookups={"hour": profile["hour"], "often": profile["often"]},
            features={
                "hours": pp.last("hour", n=9),
                "often": pp.sum("often").over("1d", slide="1h"),
            },
        )

    contract = dataclasses.replace(
        CONTRACT, fields=(*CONTRACT.fields, dataclasses.replace(CONTRACT.fields[0], name="shop"))
    )
    by_user = built(pp.EventStream("by_user", contract=contract, key="user", time="at"))
    by_shop = built(pp.EventStream("by_shop", contract=contract, key="shop", time="at"))
    answers = []
    for view, topic in ((by_user, "by_user"), (by_shop, "by_shop")):
        driver = Driver([view], max_records=max_records)
        for i in range(20):
            at = 1000 * i - 2500 * (i % 3 == 2)
            event = {"user": i % 3, "shop": i % 2, "cents": float(i % 5), "at": 9000 + at}
            driver.pipe(topic, event)
        driver.run()
        read = FeatureClient(driver.store).prepare(["seen"]).read([0, 1], at="event")
        answers.append(read.select(["hours", "often"]).to_pylist())
    assert answers[0] == answers[1]
    assert all(len(row["hours"]) == 9 for row in answers[0])


@pytest.mark.parametrize(
    ("lookups", "says"),
    [
        ({"x": "hour"}, r"v\.lookups\.x: is a str, not a feature"),
        ({"cents": spending()["hour"]}, r"v\.lookups\.cents: the contract has a field of that"),
        ({"X": spending()["hour"]}, r"v\.lookups: 'X' is no name"),
        ({"x": PROFILE["n"]}, r"v\.lookups\.x: view 'profile' is not over the same stream"),
    ],
)
def test_a_wrong_look_up_is_named(lookups: Any, says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        FeatureView("v", PAYMENTS, "user", {"n": pp.count().over("1h")}, lookups=lookups)


def test_a_feature_to_look_up_is_a_scalar_that_there_is() -> None:
    with pytest.raises(DefinitionError, match=r"profile\['prices'\]: .*it has: n, largest, cents"):
        PROFILE["prices"]
    with pytest.raises(DefinitionError, match=r"profile\['nothing'\]: the view has no such scalar"):
        PROFILE["nothing"]


def test_a_view_does_not_look_itself_up() -> None:
    one = spending()
    two = spending(name="two", lookups={"hour": one["hour"]})
    with pytest.raises(
        DefinitionError, match=r"spending\.lookups\.x: view 'two' would look itself"
    ):
        spending(lookups={"x": two["often"]})
    with pytest.raises(DefinitionError, match=r"two\.lookups\.x: view 'two' would look itself"):
        spending(name="two", lookups={"x": two["often"]})


def test_another_looked_up_definition_is_another_view() -> None:
    views = [
        spending(name="two", lookups={"hour": spending(ttl=ttl)["hour"]}) for ttl in ("1h", "2h")
    ]
    fingerprints = {plan.fingerprint for view in views for plan in row_plans(view.plan)}
    assert len(fingerprints) == 4
    assert spending(name="two").plan.lookups == ()
    plan = from_json(to_json(RISK.plan))
    assert plan == RISK.plan
    assert [p.view for p in row_plans(plan)] == ["risk", "profile", "rated", "profile"]
    (first, *_) = plan.lookups
    assert own_rows(plan, first).fingerprint != first.plan.fingerprint


@pytest.mark.parametrize("type_", CellType)
@pytest.mark.parametrize("op", FeatureOp)
def test_columns_have_the_type_of_the_feature(op: FeatureOp, type_: CellType) -> None:
    """A column is read as what a reader of the feature gets."""
    feature = Feature("f", op, 0, 0, 0, 0, 0, 1, type_, 0, 0.0)
    found = column_type(feature)
    if type_ in {CellType.HASH, CellType.TEXT, CellType.BINARY}:  # no column is of these
        assert found is None or found.value in {"int64", "float64"}
        return
    assert found is not None
    names = {"int64": "int64", "double": "float64", "bool": "bool"}
    assert found.value == names.get(str(feature_type(feature)), "timestamp")
    assert column_type(dataclasses.replace(feature, width=2)) is None
