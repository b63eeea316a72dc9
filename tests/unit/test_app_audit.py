"""The audit: equal rows are equal, and each way of being wrong is found."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

import pipeline as pp
from pipeline.app.audit import Audit, Result
from pipeline.app.partition import view_plans
from pipeline.app.topic import arrange
from pipeline.features.lookups import row_plans
from pipeline.ingest.batch import TopicPartition
from pipeline.store.keys import partition_tag, row_key
from pipeline.testing.driver import Clock, Driver
from pipeline.testing.log import MemoryLane

START = 1_700_000_000_000
CONTRACT = pp.Contract.load(
    {
        "title": "sale",
        "type": "object",
        "properties": {
            "user": {"type": "integer"},
            "shop": {"type": "integer"},
            "cents": {"type": "integer"},
            "at": {"type": "integer", "x-unix-time": "ms"},
        },
        "required": ["user", "shop", "cents", "at"],
    }
)
STREAM = pp.EventStream("sales", CONTRACT, key="user", time="at")


def views() -> list[pp.FeatureView]:
    """One by the topic's key, one through a repartition topic."""
    features = {"n": pp.count().over("1h", slide="1m"), "spent": pp.sum("cents").over("1d")}
    return [
        pp.FeatureView("users", source=STREAM, entity="user", features=features, ttl="10d"),
        pp.FeatureView("shops", source=STREAM, entity="shop", features=features),
    ]


def driven(events: int = 2000) -> Driver:
    """Sales of 60 users in 7 shops, applied."""
    driver = Driver(views(), partitions=3, max_records=100, clock=Clock(START))
    for i in range(events):
        event = {"user": i * i % 61, "shop": i % 7, "cents": i, "at": START + i * 1000}
        driver.pipe("sales", event, START + i * 1000)
    driver.clock.advance(events * 1000)
    driver.run()
    return driver


def audit(driver: Driver, sample: int = 1000, **options: Any) -> dict[str, Result]:
    """Results by view."""
    log = driver.log
    topics = arrange(
        driver.app, view_plans(views(), []),
        lambda topic: ("", len(log.topics[topic])),
        lambda topic, *_: ("", len(log.topics[topic])),
    )  # fmt: skip
    now = options.pop("now_ns", driver.clock.now_ms * 1_000_000)
    made = Audit(driver.app, topics, driver.store, MemoryLane(log), sample=sample, now_ns=now,
                 **options)  # fmt: skip
    return {result.plan.view: result for result in made.run()}


def stored(driver: Driver, view: int, key: bytes) -> bytes:
    """Key in the store of the row of one entity."""
    topic = "sales" if view == 0 else f"{driver.app}-sales-by-shop"
    for partition in range(3):
        tag = partition_tag(driver.app, TopicPartition(topic, partition))
        name = row_key(tag, views()[view].plan.fingerprint, key)
        if name in driver.store.values:
            return name
    raise KeyError(key)


def test_a_right_store_is_right() -> None:
    driver = driven()
    found = audit(driver)
    assert {name: (r.equal, r.unknown, len(r.differing)) for name, r in found.items()} == {
        "users": (31, 0, 0), "shops": (7, 0, 0),
    }  # fmt: skip


def test_a_sample_is_drawn_whole() -> None:
    found = audit(driven(), sample=2)
    assert (found["users"].equal, found["users"].differing) == (6, [])


@pytest.mark.parametrize("view", [0, 1], ids=["users", "shops"])
def test_every_kind_of_difference_is_found(view: int) -> None:
    driver = driven()
    name = "users" if view == 0 else "shops"
    keys = sorted(driver.rows(name))
    lost, swapped, bent = (stored(driver, view, key) for key in keys[:3])
    values = driver.store.values
    before = dict(values)
    del values[lost]
    values[swapped] = before[stored(driver, view, keys[3])]
    values[bent] = before[bent][:-1] + bytes([before[bent][-1] ^ 1])
    found = audit(driver)[name]
    assert sorted(d.key for d in found.differing) == keys[:3]
    assert found.equal == len(keys) - 3
    gone = next(d for d in found.differing if d.key == keys[0])
    assert (gone.stored, gone.computed) == (None, before[lost])


def test_a_row_that_missed_its_last_event_differs() -> None:
    driver = driven(1000)
    key = stored(driver, 0, b"1")
    old = driver.store.values[key]
    for i in range(1000, 1200):
        event = {"user": 1, "shop": 1, "cents": i, "at": START + i * 1000}
        driver.pipe("sales", event, START + i * 1000)
    driver.run()
    assert audit(driver)["users"].differing == []
    driver.store.values[key] = old
    (difference,) = audit(driver)["users"].differing
    assert difference.key == b"1"


def test_named_keys_alone_are_compared() -> None:
    driver = driven()
    found = audit(driver, keys=[b"4", b"9", b"nobody"])
    assert (found["users"].equal, found["shops"].equal) == (2, 1)


def test_what_the_log_has_lost_is_unknown() -> None:
    driver = driven()
    source = TopicPartition("sales", 0)
    records = driver.log.records(source)
    driver.log.truncate(source, records[len(records) // 2].offset)
    found = audit(driver)["users"]
    assert found.differing == []
    assert found.unknown > 0
    assert found.equal > 0


def test_an_expired_row_may_be_gone() -> None:
    driver = driven()
    del driver.store.values[stored(driver, 0, b"1")]
    later = (START + 30 * 86_400_000) * 1_000_000
    found = audit(driver, now_ns=later)["users"]
    assert (found.expired, found.differing) == (1, [])


def looking_up() -> pp.FeatureView:
    """A view that looks up one of users, which looks up another."""
    count = pp.FeatureView(
        "counted", source=STREAM, entity="user", features={"n": pp.count().over("1h")},
        where=pl.col("cents") % 3 != 0,
    )  # fmt: skip
    most = pp.FeatureView(
        "most", source=STREAM, entity="user", lookups={"n": count["n"]},
        features={"most": pp.max("n").over("1d")},
    )  # fmt: skip
    return pp.FeatureView(
        "risk",
        source=STREAM,
        entity="user",
        lookups={"most": most["most"]},
        features={"last": pp.last("most")},
    )


def test_the_rows_of_look_ups_are_compared_and_copies_of_corrupt_ones_counted() -> None:
    view = looking_up()
    driver = Driver([view], partitions=3, max_records=100, clock=Clock(START))
    for i in range(700):
        event = {"user": i * i % 61, "shop": i % 7, "cents": i, "at": START + i * 1000}
        driver.pipe("sales", event, START + i * 1000)
    driver.run()
    sizes = {"sales": 3}
    topics = arrange("test", view_plans([view], []), lambda topic: ("", sizes[topic]),
                     lambda topic, *_: ("", sizes[topic]))  # fmt: skip

    def results() -> dict[str, Result]:
        lane = MemoryLane(driver.log)
        made = Audit("test", topics, driver.store, lane, sample=1000, now_ns=START * 10**6)
        return {result.name: result for result in made.run()}

    found = results()
    assert {n: (r.equal, r.quarantined, len(r.differing)) for n, r in found.items()} == {
        "risk": (31, 0, 0), "risk/most": (31, 0, 0), "risk/counted": (31, 0, 0),
    }  # fmt: skip
    _, most, counted = row_plans(view.plan)
    values = driver.store.values
    lost = next(k for k in values if b":r:%016x:" % counted.fingerprint in k)
    kept = next(k for k in values if b":r:%016x:" % most.fingerprint in k)
    del values[lost]
    values[kept.replace(b":r:", b":q:")] = b"what stood there"
    found = results()
    assert {n: (r.equal, r.quarantined, len(r.differing)) for n, r in found.items()} == {
        "risk": (31, 0, 0), "risk/most": (31, 1, 0), "risk/counted": (30, 0, 1),
    }  # fmt: skip
    (difference,) = found["risk/counted"].differing
    assert difference.view == "risk/counted"
    assert lost.endswith(b":" + difference.key)
