"""Tombstones from the log to the reader: deleted is deleted, whatever comes late or again."""

from __future__ import annotations

import json
import random
from typing import Any

import polars as pl
import pytest

import pipeline as pp
from pipeline.store.memory import MemoryStore
from pipeline.testing.driver import Clock, Driver
from pipeline.testing.log import MemoryLog

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

CONTRACT = pp.Contract.load(
    {
        "title": "visit",
        "type": "object",
        "properties": {
            "user": {"type": "integer"},
            "page": {"type": "string"},
            "at": {"type": "integer", "x-unix-time": "ms"},
        },
        "required": ["user", "page", "at"],
    }
)
STREAM = pp.EventStream("visits", contract=CONTRACT, key="user", time="at")
START = 1_700_000_000_000
MINUTE = 60_000
VISITS = pp.FeatureView(
    "visits", source=STREAM, entity="user", ttl="30d",
    features={
        "hits": pp.count().over("1d", slide="1h"),
        "recent": pp.count().over("2h"),
        "pages": pp.distinct("page").over("1d", slide="1h"),
        "last_at": pp.last("at"),
    },
)  # fmt: skip
FEATURES = ["visits:hits", "visits:recent", "visits:pages", "visits:last_at"]


def visit(log: MemoryLog, user: int, at: int, page: str = "a", broker: int | None = None) -> None:
    value = json.dumps({"user": user, "page": page, "at": at}).encode()
    log.append("visits", b"%d" % user, value, at if broker is None else broker)


def delete(log: MemoryLog, user: int, at: int) -> None:
    log.append("visits", b"%d" % user, None, at)


def empty_log(partitions: int = 1) -> MemoryLog:
    log = MemoryLog()
    log.create("visits", partitions)
    return log


def drive(log: MemoryLog, **options: Any) -> Driver:
    options.setdefault("clock", Clock(START + 10**9))
    views = options.pop("views", [VISITS])
    driver = Driver(views, log=log, **options)
    driver.run()
    return driver


def read(driver: Driver, user: int, at_ms: int) -> dict[str, Any]:
    query = pp.FeatureClient(driver.store).prepare(FEATURES)
    return query.read({"user": [user]}, at=at_ms * 10**6).to_pylist()[0]


def letters(driver: Driver, topic: str) -> list[tuple[str, int]]:
    sent = driver.publisher.sent.get(topic, [])
    return [(x["reason"], x["offset"]) for x in (json.loads(value) for _, _, value in sent)]


def test_a_deleted_entity_is_missing_for_readers_and_null_on_the_changes_topic() -> None:
    log = empty_log()
    visit(log, 1, START)
    visit(log, 2, START)
    delete(log, 1, START + MINUTE)
    driver = drive(log, max_records=2)
    row = read(driver, 1, START + 2 * MINUTE)
    assert row["visits__status"] == "missing"
    nulls = ["hits", "recent", "pages", "last_at", "visits__event_time", "visits__source_offset"]
    assert {row[name] for name in [*nulls, "visits__age"]} == {None}
    assert read(driver, 2, START + 2 * MINUTE)["hits"] == 1
    assert len(driver.rows("visits")[b"1"]) == 56
    last = driver.changes("visits").to_pylist()[-1]
    assert (last["user"], last["source_offset"]) == (1, 2)
    assert last["event_time"].value == (START + MINUTE) * 10**6
    assert {last[name] for name in ("hits", "recent", "pages", "last_at")} == {None}
    (marker,) = driver.markers("visits")
    assert (marker.consumed, marker.applied) == (3, 3)


def test_older_events_cannot_bring_it_back_and_newer_ones_begin_anew() -> None:
    log = empty_log()
    visit(log, 1, START)
    delete(log, 1, START + MINUTE)
    driver = drive(log)
    visit(log, 1, START + MINUTE)  # at the very moment
    visit(log, 1, START + 30_000)
    driver.run()
    assert read(driver, 1, START + MINUTE)["visits__status"] == "missing"
    visit(log, 1, START + MINUTE + 1, "b")
    visit(log, 1, START + MINUTE)
    driver.run()
    row = read(driver, 1, START + MINUTE + 1)
    assert (row["hits"], row["recent"], row["pages"], row["visits__status"]) == (1, 1, 1, "present")
    (marker,) = driver.markers("visits")
    assert (marker.applied, marker.late) == (3, 3)
    assert letters(driver, driver.names.late) == [("late", 2), ("late", 3), ("late", 5)]
    assert driver.names.dead_letters not in driver.publisher.sent


def test_what_outlived_its_ttl_is_still_deleted() -> None:
    log = empty_log()
    delete(log, 1, START)
    visit(log, 1, START + 1)
    visit(log, 1, START + 90 * 24 * 60 * MINUTE)  # beyond the ttl of the one before
    visit(log, 1, START)
    driver = drive(log, max_records=1)
    (marker,) = driver.markers("visits")
    assert (marker.applied, marker.late) == (3, 1)


@pytest.mark.parametrize("seed", range(6))
def test_any_batches_crashes_and_replays_give_the_same_rows_as_the_definition(seed: int) -> None:
    rng = random.Random(seed)
    log, users = empty_log(2), range(5)
    for i in range(200):
        user, at = rng.choice(users), START + i * MINUTE - rng.choice((0, 0, 5, 300)) * MINUTE
        if rng.random() < 0.12:
            delete(log, user, at + rng.choice((0, 1)))
        else:
            visit(log, user, at, rng.choice("abc"), broker=START + i * MINUTE)
    whole = drive(log, max_records=1000)
    at = START + 210 * MINUTE
    live = defined(log)
    for user in users:
        row, times = read(whole, user, at), live.get(b"%d" % user, [])
        day = at // (60 * MINUTE) * 60 * MINUTE - 24 * 60 * MINUTE
        assert row["hits"] == (sum(t > day for t in times) if times else None), (seed, user)
        recent = sum(t > at - 120 * MINUTE for t in times)
        assert row["recent"] == (recent if times else None), (seed, user)
    for batch in (1, 7, 50):
        store, driver = MemoryStore(), None
        for _ in range(3):  # the process ends after a few batches, then another one starts
            driver = Driver([VISITS], log=log, store=store, max_records=batch, cache_bytes=1)
            for _ in range(rng.randrange(40)):
                driver.plane.step()
            driver.crash()
        driver = drive(log, store=store, max_records=batch)
        assert driver.digest("visits") == whole.digest("visits"), (seed, batch)


def defined(log: MemoryLog) -> dict[bytes, list[int]]:
    """Times of the events that count, ms: those later than every deletion before them."""
    deleted: dict[bytes, int] = {}
    live: dict[bytes, list[int]] = {}
    for partition in log.topics["visits"]:
        for record in partition:
            assert record.key is not None
            if record.value is None:
                live[record.key] = []
                before = deleted.get(record.key, 0)
                deleted[record.key] = max(before, record.timestamp_ms)
                continue
            at = json.loads(record.value)["at"]
            if at > deleted.get(record.key, 0):
                live.setdefault(record.key, []).append(at)
    return live


def test_triggers_filters_and_failing_expressions_leave_tombstones_alone() -> None:
    view = pp.FeatureView(
        "numbers", source=STREAM, entity="user",
        where=pl.col("page").str.to_integer(strict=True) > 0,  # fails on the empty string
        features={"hits": pp.count().over("1d", slide="1h"), "last_page": pp.last("at")},
    )  # fmt: skip
    trigger = pp.Trigger("each", view=view, features=["hits"])
    log = empty_log()
    visit(log, 1, START, "5")
    delete(log, 1, START + 1)
    visit(log, 1, START + 2, "x")
    driver = drive(log, views=[view], triggers=[trigger])
    (marker,) = driver.markers("numbers")
    assert (marker.applied, marker.dead_lettered, marker.filtered) == (2, 1, 0)
    assert letters(driver, driver.names.dead_letters) == [("expression", 2)]
    assert len(driver.publisher.sent[driver.names.requests("each")]) == 1


def test_a_tombstone_has_no_nulls_to_reject() -> None:
    value = pl.when(pl.col("page") == "").then(None).otherwise(pl.lit(1, dtype=pl.Int64))
    view = pp.FeatureView(
        "strict", source=STREAM, entity="user",
        features={"n": pp.sum(value, nulls="reject").over("1d", slide="1h")},
    )  # fmt: skip
    log = empty_log()
    visit(log, 1, START, "")
    visit(log, 1, START, "a")
    delete(log, 1, START + 1)
    driver = drive(log, views=[view])
    assert letters(driver, driver.names.dead_letters) == [("null_value", 0)]
    (marker,) = driver.markers("strict")
    assert (marker.applied, marker.dead_lettered) == (2, 1)
    assert len(driver.rows("strict")[b"1"]) == 56


def test_a_tombstone_that_says_nothing_of_an_entity_is_dead_lettered() -> None:
    log = empty_log(3)
    where = log.append("visits", b"1", None, START).partition
    log.append("visits", b"1", None, -1)  # nobody knows when
    log.append("visits", b"1", None, 2**62)  # beyond int64 ns
    log.append("visits", b"1", None, START, partition=(where + 1) % 3)
    log.append("visits", None, None, START, partition=where)
    log.append("visits", b"", None, START, partition=where)
    for key in (b"one", b"01", b"-0", b"9223372036854775808"):
        log.append("visits", key, None, START)
    driver = drive(log)
    reasons = sorted(reason for reason, _ in letters(driver, driver.names.dead_letters))
    assert reasons == ["key_mismatch"] * 4 + [
        "misrouted",
        "no_key",
        "no_key",
        "tombstone",
        "tombstone",
    ]
    assert set(driver.rows("visits")) == {b"1"}
    markers = driver.markers("visits")
    assert sum(m.applied for m in markers) == 1
    assert sum(m.dead_lettered for m in markers) == len(reasons)


def test_each_view_of_a_topic_deletes_and_keeps_its_own_account() -> None:
    other = pp.FeatureView(
        "other", source=STREAM, entity="user", features={"n": pp.count().over("1d", slide="1h")}
    )
    log = empty_log()
    visit(log, 1, START)
    drive_one = drive(log, views=[VISITS])
    delete(log, 1, START + 1)
    both = Driver([VISITS, other], log=log, store=drive_one.store, clock=Clock(START + 10**9))
    both.run()
    assert {len(both.rows(name)[b"1"]) for name in ("visits", "other")} == {56}
    assert both.rows("visits")[b"1"] != both.rows("other")[b"1"]
