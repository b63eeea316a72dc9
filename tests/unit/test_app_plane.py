"""The data plane over a log in memory: same bytes however it is cut, everything accounted for."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import pipeline as pp
from pipeline.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    FencedError,
    LogTruncatedError,
    PipelineError,
    StoreUnavailableError,
)
from pipeline.ingest.batch import TopicPartition
from pipeline.store.memory import MemoryStore
from pipeline.testing.driver import Driver
from pipeline.testing.log import MemoryLog

CONTRACT = {
    "title": "payment",
    "type": "object",
    "properties": {
        "user": {"type": "integer"},
        "shop": {"type": "integer"},
        "cents": {"type": "number", "x-decimal": 2},
        "price": {"type": "number"},
        "at": {"type": "string", "format": "date-time"},
    },
    "required": ["user", "shop", "cents", "price", "at"],
}
PARTITIONS = 4


def stream() -> pp.EventStream:
    return pp.EventStream("payments", contract=pp.Contract.load(CONTRACT), key="user", time="at")


def view(source: pp.EventStream, name: str = "spending") -> pp.FeatureView:
    return pp.FeatureView(
        name,
        source=source,
        entity="user",
        ttl="20d",
        where=pl.col("shop") != 13,
        features={
            "payments_1d": pp.count().over("1d", slide="1h"),
            "spent_3d": pp.sum("cents").over("3d", slide="6h"),
            "priced_3d": pp.sum("price").over("3d", slide="6h"),
            "dearest_3d": pp.max("price").over("3d", slide="6h"),
            "shops_3d": pp.distinct("shop").over("3d", slide="6h"),
            "last_shops": pp.last("shop", n=3),
            "last_shop": pp.last("shop"),
        },
    )


def events(n: int, seed: int) -> list[dict[str, Any]]:
    """Out of order by up to a week, with equal times and a hot key."""
    draw = random.Random(seed)
    minute = 0
    made = []
    for _ in range(n):
        minute += draw.randint(0, 240)
        late = draw.choice([0, 0, 0, 0, 30, 3000, 40000])
        at = max(0, minute - late)
        day, rest = divmod(at, 1440)
        made.append(
            {
                "user": draw.choice([1, 1, 1, draw.randint(1, 12)]),
                "shop": draw.randint(10, 20),
                "cents": draw.randint(-500, 10_000) / 100,
                "price": draw.uniform(-1, 1) * 10 ** draw.randint(-3, 6),
                "at": f"2024-{1 + day // 28 % 12:02d}-{1 + day % 28:02d}"
                f"T{rest // 60:02d}:{rest % 60:02d}:00Z",
            }
        )
    return made


def logged(n: int = 1500, seed: int = 7) -> MemoryLog:
    log = MemoryLog()
    log.create("payments", PARTITIONS)
    for i, event in enumerate(events(n, seed)):
        log.append("payments", str(event["user"]).encode(), json.dumps(event).encode(), -1,
                   skip=int(i % 97 == 0))  # fmt: skip
    return log


def drive(log: MemoryLog, **options: Any) -> Driver:
    source = stream()
    spending = view(source)
    return Driver(
        [spending],
        [
            pp.Trigger("new_shop", view=spending, when=pp.changed("shop"), features=["spent_3d"]),
            pp.Trigger("dear", view=spending, when=pl.col("price") > 1000, features=["spent_3d"]),
        ],
        log=log,
        **options,
    )


@pytest.fixture(scope="module")
def expected() -> dict[bytes, bytes]:
    driver = drive(logged(), max_records=100_000)
    driver.run()
    rows = driver.rows("spending")
    assert len(rows) == 12
    return rows


def identity_holds(driver: Driver, records: int) -> None:
    markers = driver.markers("spending")
    assert sum(m.consumed for m in markers) == records
    for m in markers:
        assert m.consumed == m.applied + m.duplicate + m.late + m.dead_lettered + m.filtered


@pytest.mark.parametrize("max_records", [1, 7, 1000])
def test_the_stored_bytes_do_not_depend_on_the_batch_size(
    expected: dict[bytes, bytes], max_records: int
) -> None:
    driver = drive(logged(), max_records=max_records)
    driver.run()
    assert driver.rows("spending") == expected
    identity_holds(driver, 1500)


def test_the_stored_bytes_do_not_depend_on_the_cache(expected: dict[bytes, bytes]) -> None:
    driver = drive(logged(), max_records=50, cache_bytes=1)  # every row is evicted after its commit
    driver.run()
    assert driver.rows("spending") == expected


def requests_of(drivers: Sequence[Driver], trigger: str) -> list[tuple[Any, ...]]:
    """Rows of a trigger's requests, in order, without repetitions and without wall times."""
    rows: dict[tuple[int, int], tuple[Any, ...]] = {}
    for driver in drivers:
        for _, _, value in driver.publisher.sent.get(driver.names.requests(trigger), []):
            for row in pa.ipc.open_stream(value).read_all().to_pylist():
                del row["requested_at"]
                position = (row["source_partition"], row["source_offset"])
                assert rows.setdefault(position, tuple(row.items())) == tuple(row.items())
    return [rows[p] for p in sorted(rows)]


def test_requests_do_not_depend_on_the_batch_size() -> None:
    found = []
    for max_records in (1, 13, 100_000):
        driver = drive(logged(), max_records=max_records)
        driver.run()
        found.append([requests_of([driver], t) for t in ("new_shop", "dear")])
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) > 100
    assert len(found[0][1]) > 100


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_that_come_and_go_leave_the_same_bytes(
    expected: dict[bytes, bytes], workers: int
) -> None:
    log, store = logged(), MemoryStore()
    drivers = [drive(log, store=store, max_records=37, share=(w, workers)) for w in range(workers)]
    for turn in range(30):
        for driver in drivers:
            driver.plane.step()
        for w, driver in enumerate(drivers):
            driver.lane.rebalance(((w + turn) % workers, workers))
    for driver in drivers:
        driver.run()
    assert drivers[0].rows("spending") == expected
    identity_holds(drivers[0], 1500)


def test_a_worker_that_vanishes_at_any_step_leaves_the_same_bytes(
    expected: dict[bytes, bytes],
) -> None:
    log, store = logged(), MemoryStore()
    everyone = []
    for steps in (1, 2, 3, 5, 8, 1000):
        driver = drive(log, store=store, max_records=61)
        everyone.append(driver)
        for _ in range(steps):
            driver.plane.step()  # then it is abandoned, without a goodbye
    assert everyone[-1].rows("spending") == expected
    identity_holds(everyone[-1], 1500)


def test_outputs_that_no_broker_took_are_not_committed_and_come_again(
    expected: dict[bytes, bytes],
) -> None:
    driver = drive(logged(), max_records=100)
    driver.plane.step()
    driver.publisher.fail_next = True
    before = [m.next_offset for m in driver.markers("spending")]
    step = driver.plane.step()
    assert step.resets > 0
    assert [m.next_offset for m in driver.markers("spending")] == before
    driver.clock.advance(1000)
    driver.run()
    assert driver.rows("spending") == expected
    identity_holds(driver, 1500)


def test_full_batches_are_committed_while_the_next_ones_are_computed(
    expected: dict[bytes, bytes],
) -> None:
    driver = drive(logged(), max_records=100, under_way=2)
    driver.plane.step()  # markers are compared at once, with nothing under way
    first = driver.markers("spending")
    assert driver.plane.step().batches == []
    assert driver.plane.step().batches == []
    assert driver.markers("spending") == first  # both wait for their outputs
    assert len(driver.plane.step().batches) == 1
    driver.clock.advance(1000)
    assert len(driver.plane.step().batches) > 3
    driver.run()
    assert driver.rows("spending") == expected
    identity_holds(driver, 1500)


def test_what_is_under_way_is_committed_before_partitions_go(expected: dict[bytes, bytes]) -> None:
    log, store = logged(), MemoryStore()
    driver = drive(log, store=store, max_records=100, under_way=2)
    for _ in range(3):
        driver.plane.step()
    assert sum(m.consumed for m in driver.markers("spending")) == 100
    driver.plane.close()
    assert sum(m.consumed for m in driver.markers("spending")) == 300
    after = drive(log, store=store)
    after.run()
    assert after.rows("spending") == expected
    identity_holds(after, 1500)


def test_what_is_under_way_in_a_partition_that_is_reset_comes_again_once() -> None:
    log, store = MemoryLog(), MemoryStore()
    log.create("payments", 1)
    for event in events(300, seed=7):
        log.append("payments", str(event["user"]).encode(), json.dumps(event).encode(), -1)
    driver = drive(log, store=store, max_records=5, under_way=2, cache_bytes=1)
    steps = [driver.plane.step(), driver.plane.step()]
    store.refuse = StoreUnavailableError("down, says the test")
    while not steps[-1].resets:  # until a row that is not cached is wanted
        steps.append(driver.plane.step())
    store.refuse = None
    driver.clock.advance(500)
    for _ in range(70):
        steps.append(driver.plane.step())
    assert sum(len(batch.events) for step in steps for batch in step.batches) == 300
    quiet = drive(log)
    quiet.run()
    assert driver.rows("spending") == quiet.rows("spending")
    identity_holds(driver, 300)


def test_outputs_that_are_refused_for_good_are_not_committed_when_partitions_go_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = drive(logged(), max_records=100, under_way=2)
    for _ in range(3):
        driver.plane.step()
    assert sum(m.consumed for m in driver.markers("spending")) == 100
    refusals = [PipelineError("too large, says the test")]  # and the queue is emptied with it

    def wait(_: int) -> None:
        if refusals:
            raise refusals.pop()

    monkeypatch.setattr(driver.publisher, "wait", wait)
    with pytest.raises(PipelineError, match="too large"):
        driver.plane.step()
    driver.plane.close()
    assert sum(m.consumed for m in driver.markers("spending")) == 100


def test_outputs_that_are_found_lost_before_they_are_waited_for_come_again(
    expected: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = drive(logged(), max_records=100, under_way=2)
    driver.plane.step()

    def lost(ticket: int) -> bool:
        raise BrokerUnavailableError("fatal, says the test")

    with monkeypatch.context() as patch:
        patch.setattr(driver.publisher, "acknowledged", lost)
        step = driver.plane.step()
    assert (step.batches, step.resets) == ([], 1)
    driver.clock.advance(1000)
    driver.run()
    assert driver.rows("spending") == expected
    identity_holds(driver, 1500)


def test_an_error_that_ends_the_plane_is_not_hidden_by_what_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, store = logged(), MemoryStore()
    zombie = drive(log, store=store, max_records=400, under_way=2)
    for _ in range(3):
        zombie.plane.step()
    monkeypatch.setattr("pipeline.store.trouble.LONGEST_REFUSAL_S", -1.0)
    drive(log, store=store, max_records=50).plane.step()  # takes every lease
    with pytest.raises(FencedError):
        zombie.run()
    zombie.plane.close()
    after = drive(log, store=store)
    after.run()
    identity_holds(after, 1500)


def test_changed_rows_are_published_unless_the_view_says_not(expected: dict[bytes, bytes]) -> None:
    quiet = dataclasses.replace(view(stream()), publish_changes=False)
    assert quiet.plan.fingerprint == view(stream()).plan.fingerprint
    driver = Driver([quiet], log=logged())
    step = driver.plane.step()
    assert [v.changes for batch in step.batches for v in batch.views] == [None] * len(step.batches)
    driver.run()
    assert driver.rows("spending") == expected
    assert driver.names.changes("spending") not in driver.publisher.sent


def test_a_zombie_is_fenced_and_its_rows_are_not_applied(expected: dict[bytes, bytes]) -> None:
    log, store = logged(), MemoryStore()
    zombie = drive(log, store=store, max_records=50)
    zombie.plane.step()
    heir = drive(log, store=store, max_records=50)
    heir.plane.step()
    assert zombie.plane.step().resets > 0
    heir.run()
    assert heir.rows("spending") == expected
    identity_holds(heir, 1500)


def test_every_bad_record_is_dead_lettered_with_its_reason_and_the_rest_applied() -> None:
    log = MemoryLog()
    log.create("payments", 1)
    good = events(20, 3)
    for event in good:
        log.append("payments", str(event["user"]).encode(), json.dumps(event).encode(), -1)
    text = json.dumps(good[0]).encode()
    key = str(good[0]["user"]).encode()
    bad: list[tuple[str, bytes | None, bytes | None]] = [
        ("tombstone", key, None),
        ("empty", key, b""),
        ("no_key", None, text),
        ("decode", key, text[:-1]),
        ("decode", key, b"[" * 10_000),
        ("schema", key, text.replace(b'"cents"', b'"sents"')),
        ("range", key, text.replace(b'"user": %s' % key, b'"user": 99999999999999999999')),
        ("key_mismatch", b"777", text),
        ("too_large", key, text + b" " * (1 << 20)),
    ]
    for _, k, v in bad:
        log.append("payments", k, v, -1, partition=0)
    driver = drive(log)
    driver.run()
    (marker,) = driver.markers("spending")
    assert marker.dead_lettered == len(bad)
    assert marker.consumed == len(good) + len(bad)
    letters = driver.publisher.sent[driver.names.dead_letters]
    assert sorted(json.loads(v)["reason"] for _, _, v in letters) == sorted(r for r, _, _ in bad)


def test_late_records_go_to_their_topic_and_change_nothing() -> None:
    log = MemoryLog()
    log.create("payments", 1)
    event = {"user": 1, "shop": 1, "cents": 1.0, "price": 1.0, "at": "2024-03-01T00:00:00Z"}
    old = event | {"at": "2024-01-01T00:00:00Z"}
    log.append("payments", b"1", json.dumps(event).encode(), -1)
    driver = drive(log)
    driver.run()
    before = driver.rows("spending")
    log.append("payments", b"1", json.dumps(old).encode(), -1)
    driver.run()
    assert driver.rows("spending") == before
    (marker,) = driver.markers("spending")
    assert (marker.consumed, marker.applied, marker.late) == (2, 1, 1)
    ((_, _, letter),) = driver.publisher.sent[driver.names.late]
    assert json.loads(letter)["offset"] == 1


def test_a_store_that_lost_its_rows_is_rebuilt_from_the_log(expected: dict[bytes, bytes]) -> None:
    log, store = logged(), MemoryStore()
    driver = drive(log, store=store, max_records=100)
    for _ in range(5):
        driver.plane.step()
    copy = store.snapshot()
    for _ in range(5):
        driver.plane.step()
    store.restore(copy)
    driver.clock.advance(2000)
    driver.run()
    driver.clock.advance(2000)
    driver.run()
    assert driver.rows("spending") == expected
    identity_holds(driver, 1500)


def test_a_log_that_starts_after_the_marker_is_a_named_stop() -> None:
    log, store = logged(), MemoryStore()
    first = drive(log, store=store, max_records=10)
    for _ in range(8):
        first.plane.step()
    for p in range(PARTITIONS):
        source = TopicPartition("payments", p)
        log.truncate(source, log.records(source)[-1].offset)
    second = drive(log, store=store)
    with pytest.raises(LogTruncatedError, match="events in between are gone"):
        second.plane.step()


def test_an_empty_topic_is_no_event() -> None:
    log = MemoryLog()
    log.create("payments", PARTITIONS)
    driver = drive(log)
    driver.run()
    assert driver.rows("spending") == {}
    assert driver.plane.lag() == {TopicPartition("payments", p): 0 for p in range(PARTITIONS)}


def test_partitions_that_are_added_under_a_running_worker_stop_it() -> None:
    """Keys change their partition: rows would be split in two, or records called misrouted."""
    source = stream()
    driver = Driver([view(source)], partitions=PARTITIONS)
    for event in events(50, seed=1):
        driver.pipe("payments", event)
    driver.run()
    driver.log.topics["payments"].append([])
    driver.lane.rebalance((0, 1))
    with pytest.raises(ConfigurationError, match="more partitions than the 4"):
        driver.run()


def test_rows_that_nobody_can_compute_again_stop_a_new_worker() -> None:
    """The store is empty, the group has an offset, the log begins later: no fresh start."""
    source, log, store = stream(), MemoryLog(), MemoryStore()
    first = Driver([view(source)], log=log, store=store)
    for event in events(50, seed=1):
        first.pipe("payments", event)
    first.run()
    first.plane.close()
    store.restore({})
    again = Driver([view(source)], log=log, store=store)
    again.run()
    assert again.rows("spending") == first.rows("spending")
    again.plane.close()
    store.restore({})
    log.truncate(TopicPartition("payments", 0), 30)
    with pytest.raises(LogTruncatedError, match="the log starts at 30"):
        Driver([view(source)], log=log, store=store).run()
    log.committed.clear()  # a group that never read is a new application
    Driver([view(source)], log=log, store=store).run()


def test_a_store_that_lost_everything_is_told_of_the_views_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver([view(stream())])
    told: list[int] = []
    register = driver.store.registry.register

    def tell(*given: Any, **options: Any) -> int:
        told.append(len(driver.store.values))
        return register(*given, **options)

    monkeypatch.setattr(driver.store.registry, "register", tell)
    for event in events(20, seed=1):
        driver.pipe("payments", event)
    driver.run()
    assert not told
    driver.store.restore({})
    driver.clock.advance(2_000)
    driver.plane.step()
    driver.clock.advance(2_000)
    driver.run()
    assert told == [0]
    assert driver.markers("spending")[0].consumed == 20
