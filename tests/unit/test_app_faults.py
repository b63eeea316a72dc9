"""The data plane when something fails half-way: nothing is lost, doubled, or a crash."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import pipeline as pp
from pipeline.app.partition import view_plans
from pipeline.app.plane import Topic
from pipeline.app.warm import warm_up
from pipeline.errors import (
    BrokerUnavailableError,
    FencedError,
    LogTruncatedError,
    PipelineError,
    StoreFullError,
    StoreUnavailableError,
)
from pipeline.ingest.batch import TopicPartition
from pipeline.ingest.lane import Health
from pipeline.state.table import StateTable
from pipeline.store.keys import lease_key, partition_tag
from pipeline.store.lease import Lease
from pipeline.store.memory import MemoryPartition, MemoryStore
from pipeline.testing.driver import Clock, Driver
from pipeline.testing.log import MemoryLane, MemoryLog

CONTRACT = pp.Contract.load(
    {
        "title": "visit",
        "type": "object",
        "properties": {
            "user": {"type": "string"},
            "page": {"type": "string"},
            "at": {"type": "integer", "x-unix-time": "ms"},
        },
        "required": ["user", "page", "at"],
    }
)
STREAM = pp.EventStream("visits", contract=CONTRACT, key="user", time="at")
HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000


def view(name: str, **features: Any) -> pp.FeatureView:
    return pp.FeatureView(
        name, source=STREAM, entity="user",
        features=features or {"visits": pp.count().over("1d", slide="1h")},
    )  # fmt: skip


VISITS = view("visits")
PAGES = view("pages", pages=pp.distinct("page").over("1d", slide="1h"))


def publish(log: MemoryLog, n: int, first: int = 0) -> None:
    for i in range(first, first + n):
        user, at = f"u{i % 7}", START_MS + i * 60_000
        event = {"user": user, "page": f"p{i % 5}", "at": at}
        log.append("visits", user.encode(), json.dumps(event).encode(), at)


def logged(n: int, partitions: int = 3) -> MemoryLog:
    log = MemoryLog()
    log.create("visits", partitions)
    publish(log, n)
    return log


def drive(log: MemoryLog, *views: pp.FeatureView, **options: Any) -> Driver:
    options.setdefault("clock", Clock(START_MS + 400 * 24 * HOUR_MS))
    return Driver(views or [VISITS, PAGES], log=log, **options)


def settle(driver: Driver, turns: int = 20) -> None:
    """Run, letting every pause pass."""
    for _ in range(turns):
        driver.run()
        driver.clock.advance(6000)


def accounted(driver: Driver, name: str, records: int) -> None:
    markers = driver.markers(name)
    assert sum(m.consumed for m in markers) == records
    assert sum(m.next_offset for m in markers) == records


def failing(
    monkeypatch: pytest.MonkeyPatch, cls: type, method: str, errors: Iterator[PipelineError | None]
) -> None:
    """The calls of ``method`` raise one after the other what ``errors`` says, then work."""
    works: Callable[..., Any] = getattr(cls, method)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        error = next(errors, None)
        if error is not None:
            raise error
        return works(self, *args, **kwargs)

    monkeypatch.setattr(cls, method, call)


@pytest.mark.parametrize(
    "method",
    ["begin_read", "finish_read", "begin_commit", "finish_commit", "markers", "acquire"],
)
@pytest.mark.parametrize("kind", [FencedError, StoreUnavailableError, StoreFullError])
def test_a_store_that_fails_anywhere_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, method: str, kind: type[PipelineError]
) -> None:
    clean = drive(logged(300))
    clean.run()
    driver = drive(logged(300), max_records=40)
    plan = [None, kind("first"), None, None, kind("second"), kind("third"), None, None, kind("4")]
    failing(monkeypatch, MemoryPartition, method, iter(plan))
    settle(driver)
    for name in ("visits", "pages"):
        assert driver.rows(name) == clean.rows(name)
        accounted(driver, name, 300)


@pytest.mark.parametrize("method", ["seek", "watermarks"])
def test_a_broker_that_does_not_answer_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    driver = drive(logged(300), max_records=40)
    driver.plane.step()
    driver.publisher.fail_next = True
    driver.plane.step()
    driver.clock.advance(6000)
    failing(monkeypatch, MemoryLane, method, iter([BrokerUnavailableError("away")] * 5))
    driver.plane.lag()
    settle(driver)
    accounted(driver, "visits", 300)


def test_a_lease_of_a_newer_generation_is_waited_for_then_named() -> None:
    log, store = logged(100, partitions=1), MemoryStore()
    key = lease_key(partition_tag("test", TopicPartition("visits", 0)))
    store.values[key] = Lease(5, b"n" * 16, generation=9).pack()
    driver = drive(log, store=store)
    driver.run()
    assert driver.markers("visits") == []
    log.generation = 10
    driver.lane.rebalance((1, 2))
    driver.run()
    driver.lane.rebalance((0, 1))
    settle(driver)
    accounted(driver, "visits", 100)

    store.values[key] = Lease(99, b"n" * 16, generation=999).pack()
    with pytest.raises(FencedError, match="newer than ours"):
        settle(driver, 100)


def test_a_zombie_does_not_take_the_lease_back() -> None:
    log, store = logged(300, partitions=1), MemoryStore()
    zombie = drive(log, store=store, max_records=40)
    zombie.plane.step()
    heir = drive(log, store=store, max_records=40)
    heir.plane.step()
    settle(zombie, 3)
    assert heir.plane.step().resets == 0
    settle(heir)
    accounted(heir, "visits", 300)


def test_a_partition_that_is_revoked_while_it_is_broken_comes_back_whole() -> None:
    log, store = logged(300), MemoryStore()
    driver = drive(log, store=store, max_records=40)
    driver.plane.step()
    driver.publisher.fail_next = True
    driver.plane.step()
    driver.lane.rebalance((1, 2))
    driver.plane.step()
    driver.lane.rebalance((0, 1))
    settle(driver)
    accounted(driver, "visits", 300)


def test_a_view_that_joins_catches_up_without_a_gap_and_sends_no_dead_letter_twice() -> None:
    log, store = logged(200), MemoryStore()
    log.append("visits", b"u1", b"not JSON", START_MS)
    first = drive(log, VISITS, store=store, max_records=30)
    first.run()
    before = first.rows("visits")
    both = drive(log, VISITS, PAGES, store=store, max_records=30)
    both.run()
    alone = drive(log, PAGES, max_records=1000)
    alone.run()
    assert both.rows("visits") == before
    assert both.rows("pages") == alone.rows("pages")
    accounted(both, "visits", 201)
    accounted(both, "pages", 201)
    assert len(first.publisher.sent[first.names.dead_letters]) == 1
    assert first.names.dead_letters not in both.publisher.sent
    publish(log, 50, first=200)
    log.append("visits", b"u1", b"nor is this", START_MS)
    both.run()
    assert len(both.publisher.sent[both.names.dead_letters]) == 1
    accounted(both, "visits", 252)


def test_a_second_view_that_fails_poisons_nothing_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clean = drive(logged(300))
    clean.run()
    driver = drive(logged(300), max_records=25)
    works = MemoryPartition.begin_read
    left = [4]

    def begin_read(self: MemoryPartition, fingerprint: int, *args: Any) -> Any:
        if fingerprint == PAGES.plan.fingerprint and left[0]:
            left[0] -= 1
            raise StoreUnavailableError("cut")
        return works(self, fingerprint, *args)

    monkeypatch.setattr(MemoryPartition, "begin_read", begin_read)
    settle(driver)
    assert left == [0]
    assert driver.rows("visits") == clean.rows("visits")
    assert driver.rows("pages") == clean.rows("pages")


@pytest.mark.parametrize("restarted", [False, True])
def test_a_store_that_lost_everything_is_rebuilt_only_from_a_log_that_is_whole(
    restarted: bool,
) -> None:
    log, store = logged(100, partitions=1), MemoryStore()
    driver = drive(log, store=store)
    driver.run()
    if restarted:
        driver = drive(log, store=store)
        driver.run()
    before = driver.rows("visits")
    store.restore({})
    settle(driver, 3)
    accounted(driver, "visits", 100)
    assert driver.rows("visits") == before
    log.truncate(TopicPartition("visits", 0), 60)
    store.restore({})
    with pytest.raises(LogTruncatedError, match="lost the marker of visits"):
        settle(driver, 3)


def test_a_view_that_began_in_the_middle_of_a_log_is_rebuilt_from_there() -> None:
    log, store = logged(100, partitions=1), MemoryStore()
    log.truncate(TopicPartition("visits", 0), 60)
    driver = drive(log, store=store)
    driver.run()
    before = driver.rows("visits")
    store.restore({})
    settle(driver, 3)
    assert driver.rows("visits") == before
    assert driver.markers("visits")[0].consumed == 40


def test_a_heartbeat_needs_a_broker_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = drive(logged(10, partitions=1))
    driver.run()
    connected = [True]
    monkeypatch.setattr(MemoryLane, "health", property(lambda _: Health(connected[0], "", {})))
    driver.clock.advance(5000)
    driver.run()
    assert driver.markers("visits")[0].processed_through_ms == driver.clock.ms()
    connected[0] = False
    driver.clock.advance(60_000)
    driver.run()
    assert driver.markers("visits")[0].processed_through_ms == driver.clock.ms() - 60_000


def test_a_heartbeat_needs_a_log_that_no_open_transaction_holds_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = drive(logged(10, partitions=1))
    driver.run()
    held: list[tuple[int, int] | None] = [(10, 17)]
    monkeypatch.setattr(MemoryLane, "held_back", lambda *_: held[0])
    driver.clock.advance(5000)
    driver.run()
    assert driver.markers("visits")[0].processed_through_ms == driver.clock.ms() - 5000
    assert driver.plane.held_back() == {TopicPartition("visits", 0): (10, 17)}
    held[0] = None
    driver.clock.advance(5000)
    driver.run()
    assert driver.markers("visits")[0].processed_through_ms == driver.clock.ms()
    assert driver.plane.held_back() == {}


def test_a_record_from_the_future_does_not_say_that_the_future_was_read() -> None:
    log = logged(10, partitions=1)
    event = json.dumps({"user": "u1", "page": "p", "at": START_MS}).encode()
    log.append("visits", b"u1", event, START_MS + 10**12)
    driver = drive(log)
    (batch,) = driver.plane.step().batches
    assert {v.marker.processed_through_ms for v in batch.views} == {driver.clock.ms()}
    driver.run()
    assert driver.markers("visits")[0].processed_through_ms <= driver.clock.ms()


def test_every_fired_row_is_asked_for_in_messages_that_a_broker_takes() -> None:
    trigger = pp.Trigger("every", view=VISITS, when=pl.lit(True))
    log = MemoryLog()
    log.create("visits", 1)
    for i in range(20_000):
        user = f"user-{i % 5000}-" + "x" * 60
        event = {"user": user, "page": "p", "at": START_MS + i}
        log.append("visits", user.encode(), json.dumps(event).encode(), START_MS)
    driver = Driver([VISITS], [trigger], log=log, max_records=20_000)
    driver.run()
    sent = driver.publisher.sent[driver.names.requests("every")]
    assert max(len(value) for _, _, value in sent) < 900_000
    offsets = [
        offset
        for _, _, value in sent
        for offset in pa.ipc.open_stream(value).read_all()["source_offset"].to_pylist()
    ]
    assert offsets == list(range(20_000))


def test_a_key_that_is_too_long_is_dead_lettered_in_a_message_that_a_broker_takes() -> None:
    log = logged(10, partitions=1)
    for size, value in ((900_000, b"not JSON"), (65_537, None), (65_536, None)):
        user = "u" * size
        event = {"user": user, "page": "p", "at": START_MS}
        log.append("visits", user.encode(), value or json.dumps(event).encode(), START_MS)
    driver = drive(log)
    driver.run()
    letters = driver.publisher.sent[driver.names.dead_letters]
    assert [json.loads(value)["reason"] for _, _, value in letters] == ["too_large"] * 2
    assert max(len(value) for _, _, value in letters) < 100_000
    accounted(driver, "visits", 13)
    assert driver.markers("visits")[0].applied == 11


def test_rows_of_very_different_sizes_are_published_in_messages_that_a_broker_takes() -> None:
    log = MemoryLog()
    log.create("visits", 1)
    for i in range(2000):
        user = f"{i:05d}" + "x" * (60_000 if i > 1960 else 0)
        event = {"user": user, "page": "p", "at": START_MS}
        log.append("visits", user.encode(), json.dumps(event).encode(), START_MS)
    driver = drive(log, VISITS)
    driver.run()
    sent = driver.publisher.sent[driver.names.changes("visits")]
    assert max(len(value) for _, _, value in sent) < 900_000
    assert driver.changes("visits")["user"].to_pylist() == sorted(
        key.decode() for key in driver.rows("visits")
    )


def test_kernels_are_compiled_whatever_bounds_a_stream_sets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = pp.EventStream(
        "visits",
        contract=CONTRACT,
        key="user",
        time="at",
        earliest=datetime(2090, 1, 1, tzinfo=UTC),
    )
    late = pp.FeatureView(
        "late", source=source, entity="user", where=pl.col("page") == "none",
        features={"visits": pp.count().over("1d", slide="1h")},
    )  # fmt: skip
    loaded: list[int] = []
    works = StateTable.load

    def load(self: StateTable, slots: Any, rows: Any) -> Any:
        loaded.append(len(rows))
        return works(self, slots, rows)

    monkeypatch.setattr(StateTable, "load", load)
    warm_up([Topic(source, "", 1, tuple(view_plans([late], [])))])
    assert loaded == [1, 1, 1]  # a made-up one; of the event: none yet, then its own


def test_what_a_worker_with_a_wrong_clock_said_of_the_future_is_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver, ahead_ms = drive(logged(10, partitions=1)), 0
    monkeypatch.setattr(driver.plane, "_clock_ms", lambda: driver.clock.ms() + ahead_ms)
    for ahead_ms in (0, 400 * 24 * HOUR_MS, 0, -HOUR_MS, 0):
        driver.clock.advance(2000)
        driver.run()
        found = driver.markers("visits")[0].processed_through_ms
        assert found == driver.clock.ms() + ahead_ms
