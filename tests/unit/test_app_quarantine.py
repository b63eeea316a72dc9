"""A stored row that fails its checks: one entity stands still, everything else goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest

import pipeline as pp
from pipeline.ingest.batch import TopicPartition
from pipeline.store.keys import partition_tag, quarantine_key, row_key
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
            "user": {"type": "string"},
            "at": {"type": "integer", "x-unix-time": "ms"},
        },
        "required": ["user", "at"],
    }
)
STREAM = pp.EventStream("visits", contract=CONTRACT, key="user", time="at")
START = 1_700_000_000_000
TAG = partition_tag("test", TopicPartition("visits", 0))


def view(name: str) -> pp.FeatureView:
    return pp.FeatureView(
        name, source=STREAM, entity="user", features={"n": pp.count().over("9d", slide="1h")}
    )


ONE, TWO = view("one"), view("two")
ROW, COPY = (make(TAG, ONE.plan.fingerprint, b"b") for make in (row_key, quarantine_key))


class Visits:
    """A log in which a, b and c come in turn, and a store that had the first of them."""

    def __init__(self) -> None:
        self.log, self.store = MemoryLog(), MemoryStore()
        self.log.create("visits", 1)
        self.add("abcabc")

    def add(self, users: str) -> None:
        for user in users:
            at = START + len(self.log.topics["visits"][0])
            self.log.append(
                "visits", user.encode(), json.dumps({"user": user, "at": at}).encode(), at
            )

    def run(self, **options: Any) -> Driver:
        driver = Driver([ONE, TWO], log=self.log, store=self.store, clock=Clock(START), **options)
        driver.run()
        return driver

    def counts(self, name: str) -> list[Any]:
        read = (
            pp.FeatureClient(self.store)
            .prepare([f"{name}:n"])
            .read({"user": list("abc")}, at="event")
        )
        return list(zip(read["n"].to_pylist(), read[f"{name}__status"].to_pylist(), strict=True))


def corrupted(how: str) -> tuple[Visits, bytes, bytes]:
    visits = Visits()
    visits.run()
    right = visits.store.values[ROW]
    wrong = {
        "flipped": right[:-1] + bytes([right[-1] ^ 4]),
        "cut": right[:20],
        "empty": b"",
        "other": right[:8] + b"\1" * 8 + right[16:],
    }[how]
    visits.store.values[ROW] = wrong
    return visits, right, wrong


def letters(driver: Driver) -> list[tuple[str, str, int]]:
    sent = driver.publisher.sent.get(driver.names.dead_letters, [])
    return [(x["reason"], x["view"], x["offset"]) for x in (json.loads(v) for _, _, v in sent)]


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "other"])
def test_the_worker_goes_on_without_the_entity(how: str, caplog: pytest.LogCaptureFixture) -> None:
    visits, _, wrong = corrupted(how)
    visits.add("abcb")
    driver = visits.run(max_records=2)
    assert visits.counts("one") == [(3, "present"), (None, "degraded"), (3, "present")]
    assert visits.counts("two") == [(3, "present"), (4, "present"), (3, "present")]
    assert letters(driver) == [("corrupt_row", "one", 7), ("corrupt_row", "one", 9)]
    one, two = driver.markers("one")[0], driver.markers("two")[0]
    assert (one.consumed, one.applied, one.dead_lettered) == (10, 8, 2)
    assert (two.consumed, two.applied, two.dead_lettered) == (10, 10, 0)
    assert visits.store.values[ROW] == wrong
    assert visits.store.values[COPY] == wrong
    told = [r for r in caplog.records if "CorruptRowError" in r.getMessage()]
    assert len(told) == 1
    assert "visits[0]: the stored row of one for key b'b' fails its checks" in told[0].getMessage()


def test_a_restored_row_goes_on_from_where_it_was() -> None:
    visits, right, _ = corrupted("flipped")
    driver = visits.run()
    visits.add("b")
    driver.run()
    visits.store.values[ROW] = right
    visits.add("bb")
    driver.run()
    assert visits.counts("one")[1] == (4, "present")
    assert driver.markers("one")[0].dead_lettered == 1


def test_a_deleted_row_begins_anew_and_a_tombstone_does_not_mend_it() -> None:
    visits, _, wrong = corrupted("flipped")
    visits.log.append("visits", b"b", None, START + 50)
    driver = visits.run()
    assert letters(driver) == [("corrupt_row", "one", 6)]
    assert visits.store.values[ROW] == wrong
    del visits.store.values[ROW]
    visits.add("b")
    driver.run()
    assert visits.counts("one")[1] == (1, "present")


def test_a_row_is_copied_once_and_again_when_it_became_wrong_in_another_way() -> None:
    visits, right, _ = corrupted("flipped")
    driver = visits.run()
    staged = []
    for wrong in (b"x", b"x", b"y", right[:30]):
        visits.store.values[ROW] = wrong
        visits.add("ab")
        (batch,) = driver.plane.step().batches
        staged.append(None if batch.views[0].quarantined is None else wrong)
        assert visits.store.values[COPY] == wrong
    assert staged == [b"x", None, b"y", right[:30]]


def test_a_crash_before_the_commit_leaves_everything_to_be_done_again() -> None:
    visits, _, wrong = corrupted("cut")
    visits.add("b")
    driver = Driver([ONE, TWO], log=visits.log, store=visits.store, clock=Clock(START))
    driver.publisher.fail_next = True
    driver.plane.step()
    assert COPY not in visits.store.values
    driver.clock.advance(10_000)
    driver.run()
    assert visits.store.values[COPY] == wrong
    assert driver.markers("one")[0].dead_lettered == 1
