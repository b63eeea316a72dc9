"""A new view is filled beside the others, which do not wait for it; exactly, and at a rate."""

from __future__ import annotations

import json
import logging
from random import Random
from typing import Any

import pytest

import pipeline as pp
from pipeline.app.catchup import CatchUp
from pipeline.errors import BrokerUnavailableError, LogTruncatedError
from pipeline.features.view import FeatureView
from pipeline.ingest.batch import TopicPartition
from pipeline.ingest.lane import Position
from pipeline.store.memory import MemoryStore
from pipeline.testing.driver import Clock, Driver
from pipeline.testing.log import MemoryLane, MemoryLog

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

PARTITIONS = 2
CONTRACT = {
    "title": "sale",
    "type": "object",
    "properties": {
        "user": {"type": "integer"},
        "shop": {"type": "string"},
        "cents": {"type": "integer"},
        "at": {"type": "integer", "x-unix-time": "ms"},
    },
    "required": ["user", "shop", "cents", "at"],
}
STREAM = pp.EventStream("sales", pp.Contract.load(CONTRACT), key="user", time="at")
OLD = FeatureView("old", source=STREAM, entity="user", features={"n": pp.count().over("1h")})
NEW = FeatureView(
    "new", source=STREAM, entity="user", features={"spent": pp.sum("cents").over("1d")}
)
SHOPS = FeatureView("shops", source=STREAM, entity="shop", features={"n": pp.count().over("1h")})


class World:
    """A log with some sales, a store where the old view is up to date."""

    def __init__(self, sales: int = 600) -> None:
        self.log, self.store, self.clock = MemoryLog(), MemoryStore(), Clock(1_800_000_000_000)
        self.sold = 0
        first = self.worker([OLD])
        self.sell(sales)
        first.run()
        first.plane.close()

    def worker(self, views: list[FeatureView], **options: Any) -> Driver:
        return Driver(
            views, log=self.log, store=self.store, clock=self.clock, partitions=PARTITIONS,
            **{"max_records": 20, **options},
        )  # fmt: skip

    def sell(self, count: int) -> None:
        rng = Random(self.sold)
        for i in range(self.sold, self.sold + count):
            sale = {"user": i % 7, "shop": f"s{rng.randrange(3)}", "cents": i, "at": 10**12 + i}
            data = b"{" if i % 41 == 0 else json.dumps(sale).encode()
            self.log.append("sales", b"%d" % (i % 7), data, 10**12 + i)
        self.sold += count


def consumed(driver: Driver, view: str) -> int:
    return sum(m.consumed for m in driver.markers(view))


def quiet(view: FeatureView, log: MemoryLog) -> Driver:
    """One worker with that view alone, over the same sales."""
    parts = {"sales": [list(part) for part in log.topics["sales"]]}
    driver = Driver([view], log=MemoryLog(parts), max_records=1 << 20)
    driver.run()
    return driver


def test_live_views_do_not_wait_and_the_new_one_joins_them() -> None:
    world = World()
    driver = world.worker([OLD, NEW], apart_records_per_s=100)
    driver.plane.step()
    world.sell(10)
    world.clock.advance(100)
    driver.plane.step()
    assert consumed(driver, "old") == 610
    assert 0 < consumed(driver, "new") <= 30
    steps = 0
    while consumed(driver, "new") < world.sold:
        world.sell(1)
        world.clock.advance(100)
        driver.plane.step()
        steps += 1
        assert consumed(driver, "old") == world.sold
    assert 600 / 10 < steps < 600 / 9 + 10  # ten records in every step, and one more to read
    for _ in range(3):  # from now on both are read together, whatever the rate
        world.sell(15)
        driver.plane.step()
        assert consumed(driver, "new") == consumed(driver, "old") == world.sold
    for view in (OLD, NEW):
        assert driver.digest(view) == quiet(view, world.log).digest(view)
    letters = driver.publisher.sent["test-dead-letter"]
    assert len(letters) == len({key for _, key, _ in letters})


def test_a_view_that_is_a_little_behind_is_read_with_the_others() -> None:
    world = World(sales=30)
    driver = world.worker([OLD, NEW], max_records=20, apart_records_per_s=1)
    driver.run()
    assert consumed(driver, "new") == 30


def test_nothing_is_said_to_be_read_that_was_not() -> None:
    world = World()
    driver = world.worker([OLD, NEW], apart_records_per_s=10)
    for _ in range(5):
        world.clock.advance(1_100)
        driver.plane.step()
    assert min(m.processed_through_ms for m in driver.markers("old")) > 1_800_000_000_000
    assert max(m.processed_through_ms for m in driver.markers("new")) < 1_100_000_000_000
    assert sum(driver.plane.lag().values()) == 600 - consumed(driver, "new")


def test_a_new_way_to_a_repartition_topic_is_filled_apart() -> None:
    world = World()
    driver = world.worker([OLD, SHOPS], apart_records_per_s=50)
    world.clock.advance(100)
    driver.plane.step()
    world.sell(10)
    driver.plane.step()
    assert consumed(driver, "old") == 610
    assert sum(m.consumed for m in driver.route_markers("sales")) < 100
    for _ in range(400):
        world.clock.advance(100)
        driver.run()
    good = 610 - len([i for i in range(610) if i % 41 == 0])
    assert sum(m.applied for m in driver.markers("shops")) == good
    assert driver.digest("old") == quiet(OLD, world.log).digest(OLD)


@pytest.mark.parametrize("seed", range(12))
def test_a_crash_or_a_rebalance_on_the_way_changes_nothing(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    world, rng = World(sales=200), Random(seed)
    workers = [world.worker([OLD, NEW, SHOPS], apart=rng.choice([0, 5, 30]), max_records=7)]
    for _ in range(150):
        worker = rng.choice(workers)
        world.clock.advance(rng.choice([1, 500, 6_000]))
        worker.plane.step()
        what = rng.random()
        if what < 0.06:
            workers.remove(worker)
            worker.crash()
            workers.append(world.worker([OLD, NEW, SHOPS], apart=rng.choice([0, 5]), max_records=9))
        elif what < 0.1 and len(workers) < 3:
            workers.append(world.worker([OLD, NEW, SHOPS], apart=1, max_records=3))
        elif what < 0.14:
            world.store.lose_replies = 1
        elif what < 0.18:
            worker.publisher.fail_next = True
        elif what < 0.4:
            world.sell(rng.randrange(9))
        for number, one in enumerate(workers):
            one.lane.rebalance((number, len(workers)))
    for worker in workers[1:]:
        worker.crash()
    workers[0].publisher.fail_next, world.store.lose_replies = False, 0
    workers[0].lane.rebalance((0, 1))
    for _ in range(20):
        world.clock.advance(6_000)
        workers[0].run()
    assert consumed(workers[0], "new") == world.sold, f"seed {seed}"
    for view in (OLD, NEW):
        got, want = workers[0].digest(view), quiet(view, world.log).digest(view)
        assert got == want, f"seed {seed}"


def test_a_broker_that_is_gone_is_asked_again_and_a_lost_log_is_a_stop() -> None:
    log, clock, source = MemoryLog(), Clock(), TopicPartition("sales", 0)
    log.create("sales", 1)
    for i in range(20):
        log.append("sales", b"1", b"{}", i)
    down = True

    def open_lane() -> MemoryLane:
        if down:
            raise BrokerUnavailableError("down, says the test")
        return MemoryLane(log)

    reader = CatchUp(open_lane, 0, clock.monotonic)
    assert reader.poll(10, 0) == []  # nothing is wanted, nothing is opened
    reader.want(source, Position(5))
    assert reader.poll(10, 0) == []
    down = False
    assert reader.poll(10, 0) == []  # not at once
    clock.advance(1_000)
    (batch,) = reader.poll(10, 0)
    assert batch.offsets.tolist() == list(range(5, 15))
    assert reader.ready()
    reader.hold(["sales"])
    assert not reader.ready()
    assert reader.poll(10, 0) == []
    reader.hold(["other"])
    (batch,) = reader.poll(2, 0)
    assert batch.offsets.tolist() == [15, 16]
    reader.want(source, None)
    assert not reader.ready()
    log.truncate(source, 10)
    reader.want(source, Position(5))
    with pytest.raises(LogTruncatedError):
        reader.poll(10, 0)


def test_the_rate_is_kept_and_a_used_up_one_is_waited_for() -> None:
    log, clock, source = MemoryLog(), Clock(), TopicPartition("sales", 0)
    log.create("sales", 1)
    for i in range(1000):
        log.append("sales", b"1", b"{}", i)
    reader = CatchUp(lambda: MemoryLane(log), 100, clock.monotonic)
    reader.want(source, Position(0))
    read = []
    for _ in range(50):
        was_ready = reader.ready()
        read.append(sum(map(len, reader.poll(1000, 0))))
        assert bool(read[-1]) == was_ready
        clock.advance(10)
    assert max(read) <= 10
    assert 40 <= sum(read) <= 60  # half a second of it, and a burst
    clock.advance(60_000)
    assert sum(map(len, reader.poll(1000, 0))) == 10  # what was not read is not saved up
