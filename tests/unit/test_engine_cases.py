"""The cases that stream processors get wrong, each by its number, without a server.

====  =========================================================================================
 1    test_1_any_order_within_the_ring_gives_one_result
 2    test_2_late_once_late_ever_and_counted_once
 3    test_3_edges_before_the_epoch_and_slides_that_do_not_divide_the_window
 4    no sessions are offered
 5    test_5_a_partition_that_was_quiet_wakes_with_older_events
 6    test_6_a_worker_without_partitions_writes_nothing
 7    test_7_a_time_from_the_future_makes_nothing_else_late
 8    test_8_a_batch_that_overlaps_what_a_view_has_seen_is_deduplicated_row_by_row
 9    test_9_a_crash_at_each_step_of_a_commit
10    test_app_plane: test_a_zombie_is_fenced_and_its_rows_are_not_applied; simulations
11    test_11_a_partition_that_comes_back_to_the_same_worker_twice; simulations
12    test_12_one_worker_then_two_then_three_then_one
13    test_13_nothing_pending_lies_outside_rows_and_markers
14    test_14_late_stays_late_after_a_restart
15    test_15_a_null_key_is_counted; tombstones: test_app_tombstones
16    look-ups of one view by another have tests of their own
17    test_17_a_batch_of_only_bad_records_moves_the_offset_and_changes_nothing
18    test_18_fields_that_come_and_go_in_the_middle_of_a_batch
19    test_19_gaps_in_offsets_are_no_records_and_nothing_waits_for_them
20    test_20_a_hot_key_gets_the_answer_it_would_get_alone
21    test_21_a_full_store_holds_everything_back_and_loses_nothing
22    test_22_the_last_rows_of_a_backfill_are_those_of_the_stream
23    test_testing_simulation: batch sizes, workers, caches
24    test_24_an_old_large_value_takes_nothing_from_the_window_after_it; test_testing_fuzz
25    test_hash_vectors: the vectors of the Java client
26    test_app_faults: test_a_corrupt_row_names_its_own_key; test_kernels_rows
27    test_27_a_key_that_is_refreshed_lives_on_and_expiry_can_be_replayed
28    no rules are offered
====  =========================================================================================
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import pipeline as pp
from pipeline.app import commits
from pipeline.errors import StoreFullError
from pipeline.ingest.batch import TopicPartition
from pipeline.store.memory import MemoryStore
from pipeline.testing.driver import Driver
from pipeline.testing.log import MemoryLog
from pipeline.testing.oracle import Oracle, disagreements, miscounts, records_of

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

CONTRACT = pp.Contract.load(
    {
        "title": "tick",
        "type": "object",
        "properties": {
            "user": {"type": "string"},
            "n": {"type": ["integer", "null"]},
            "price": {"type": ["number", "null"]},
            "at": {"type": "integer", "x-unix-time": "ns"},
        },
        "required": ["user", "at"],
    }
)
STREAM = pp.EventStream(
    "ticks", contract=CONTRACT, key="user", time="at", earliest=datetime(1900, 1, 1, tzinfo=UTC)
)
PARTITIONS = 3
USERS = ("ada", "bob", "cyd", "dan", "eve", "fay")


def view(stream: pp.EventStream = STREAM, ttl: int | None = None, **features: Any) -> Any:
    chosen = features or {
        "seen": pp.count().over(70, slide=20),
        "total": pp.sum("n").over(50),
        "least": pp.min("n").over(60, slide=30),
        "kinds": pp.distinct("n").over(60, slide=30),
        "newest": pp.last("n", n=2),
    }
    return pp.FeatureView("ticked", source=stream, entity="user", features=chosen, ttl=ttl)


def tick(user: str, at: int, n: int | None = 1, **fields: Any) -> dict[str, Any]:
    return {"user": user, "at": at, "n": n, **fields}


def published(
    events: Sequence[dict[str, Any] | bytes], partitions: int = PARTITIONS, skip: int = 0
) -> MemoryLog:
    log = MemoryLog()
    log.create("ticks", partitions)
    publish(log, events, skip)
    return log


def publish(log: MemoryLog, events: Sequence[dict[str, Any] | bytes], skip: int = 0) -> None:
    for event in events:
        value = event if isinstance(event, bytes) else json.dumps(event).encode()
        key = b"ada" if isinstance(event, bytes) else event["user"].encode()
        log.append("ticks", key, value, -1, skip=skip)


def stream_of(n: int, seed: int = 1, late: int = 60) -> list[dict[str, Any]]:
    draw, now, made = random.Random(seed), 1000, []
    for _ in range(n):
        now += draw.randint(0, 9)
        made.append(
            tick(draw.choice(USERS), now - draw.choice((0, 0, draw.randint(0, late))),
                 draw.choice((None, 1, 2, 3, -7)))
        )  # fmt: skip
    return made


def drive(log: MemoryLog, *views: Any, **options: Any) -> Driver:
    return Driver(views or [view()], log=log, **options)


def agrees(driver: Driver, made: Any, at: Sequence[int | None] = (None,)) -> None:
    """Every answer and every count is the oracle's."""
    oracle = Oracle(made, partitions=len(driver.log.topics["ticks"]))
    oracle.feed(records_of(driver.log, "ticks"))
    assert disagreements(driver.store, oracle, at) == []
    assert miscounts(driver.markers(made.plan.view), oracle) == []


def counts(driver: Driver) -> tuple[int, ...]:
    """Consumed, applied, late, dead-lettered and filtered over all partitions."""
    names = ("consumed", "applied", "late", "dead_lettered", "filtered")
    markers = driver.markers("ticked")
    return tuple(sum(getattr(m, name) for m in markers) for name in names)


def answers(driver: Driver, at: int) -> list[dict[str, Any]]:
    query = pp.FeatureClient(driver.store).prepare(["ticked"])
    table = query.read(list(USERS), at=at, status="feature")
    return [
        {name: v for name, v in row.items() if not name.startswith("ticked__source_offset")}
        for row in table.drop_columns(["ticked__event_time", "ticked__age"]).to_pylist()
    ]


def test_1_any_order_within_the_ring_gives_one_result() -> None:
    order_free = view(
        seen=pp.count().over(60, slide=20), total=pp.sum("n").over(60, slide=20),
        least=pp.min("n").over(60, slide=20), kinds=pp.distinct("n").over(60, slide=20),
        exact=pp.mean("n").over(60),
    )  # fmt: skip
    events = [tick("ada", 100 + d, n) for d, n in ((0, 3), (1, 5), (20, 3), (41, -2), (59, 7))]
    found = []
    for some in permutations(events):
        driver = drive(published(some), order_free)
        driver.run()
        found.append(answers(driver, 160))
        assert counts(driver) == (5, 5, 0, 0, 0)
    assert all(f == found[0] for f in found), [e["at"] for e in events]


def test_2_late_once_late_ever_and_counted_once() -> None:
    """However often the log is read again, a late record is one late record."""
    events = [tick("ada", 1000), tick("ada", 100), tick("ada", 990), tick("ada", 5)]
    made = view(seen=pp.count().over(70, slide=20))
    store, log = MemoryStore(), published(events)
    driver = drive(log, made, store=store, max_records=1)
    before = store.snapshot()
    for _ in range(3):
        store.restore(before)
        for _ in range(2):
            driver.clock.advance(2000)
            driver.run()
        assert counts(driver) == (4, 2, 2, 0, 0)
    agrees(driver, made)
    letters = driver.publisher.sent[driver.names.late]
    assert {json.loads(v)["offset"] for _, _, v in letters} == {1, 3}


@pytest.mark.parametrize("base", [-10_000, -1, 0, 59])
def test_3_edges_before_the_epoch_and_slides_that_do_not_divide_the_window(base: int) -> None:
    made = view(
        hop=pp.count().over(70, slide=30), late=pp.sum("n").over(70, slide=30, delay=20),
        exact=pp.count().over(70), back=pp.count().over(70, delay=20),
    )  # fmt: skip
    events = [tick("ada", base + d) for d in range(-90, 1)]
    driver = drive(published(events), made)
    driver.run()
    agrees(driver, made, [base + d for d in range(0, 100)])


def test_5_a_partition_that_was_quiet_wakes_with_older_events() -> None:
    """Nobody waits for it, and lateness is its own rows' affair."""
    log = published([tick(u, 1000) for u in USERS])
    driver = drive(log)
    driver.run()
    quiet = next(u for u in USERS if u != "ada")
    publish(log, [tick("ada", at) for at in range(2000, 9000, 100)])
    driver.run()
    assert not any(driver.plane.lag().values())
    publish(log, [tick(quiet, 990), tick(quiet, 1001)])
    driver.run()
    assert counts(driver)[2] == 0
    agrees(driver, view(), [None, 9000])


def test_6_a_worker_without_partitions_writes_nothing() -> None:
    log, store = published(stream_of(50)), MemoryStore()
    idle = drive(log, store=store, share=(7, 8))
    idle.run()
    idle.clock.advance(60_000)
    idle.run()
    assert store.values == {}
    assert idle.plane.assignment == []
    assert log.committed == {}


def test_7_a_time_from_the_future_makes_nothing_else_late() -> None:
    log = published([tick("ada", 10**9)], partitions=1)
    far = json.dumps(tick("ada", 10**18)).encode()
    log.append("ticks", b"ada", far, 2000)
    publish(log, [tick("ada", 10**9 - 10), tick("ada", 10**9 + 10)])
    driver = drive(log)
    driver.run()
    assert counts(driver) == (4, 3, 0, 1, 0)
    agrees(driver, view(), [None, 10**9 + 15])


def test_8_a_batch_that_overlaps_what_a_view_has_seen_is_deduplicated_row_by_row() -> None:
    """One view is ahead; the batch that the other needs begins before and ends after its marker."""
    log, store = published(stream_of(40), partitions=1), MemoryStore()
    first = view()
    drive(log, first, store=store, max_records=25).plane.step()
    other = pp.FeatureView(
        "other", source=STREAM, entity="user", features={"n": pp.sum("n").over(9)}
    )
    both = drive(log, first, other, store=store, max_records=1000)
    assert [m.next_offset for m in both.markers("ticked")] == [25]
    both.run()
    agrees(both, first)
    agrees(both, other)
    alone = drive(log, first)
    alone.run()
    assert alone.digest("ticked") == both.digest("ticked")


class CrashError(Exception):
    """The process ends here."""


@pytest.mark.parametrize("point", ["computed", "sent", "begun", "committed"])
def test_9_a_crash_at_each_step_of_a_commit(point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log, store = published(stream_of(120)), MemoryStore()
    clean = drive(log, max_records=1000)
    clean.run()
    clean.plane.close()
    armed = True

    def reach(name: str) -> None:
        if armed and name == point:
            raise CrashError(name)

    monkeypatch.setattr(commits, "reach", reach)
    for _ in range(12):  # crashes at its first batch, the next one after two more
        with pytest.raises(CrashError):
            drive(log, store=store, max_records=4).plane.step()
        armed = False
        drive(log, store=store, max_records=4, cache_bytes=1).plane.step()
        armed = True
    armed = False
    last = drive(log, store=store)
    last.run()
    assert last.digest("ticked") == clean.digest("ticked")
    agrees(last, view())


def test_11_a_partition_that_comes_back_to_the_same_worker_twice() -> None:
    log, store = published(stream_of(200)), MemoryStore()
    one = drive(log, store=store, max_records=9)
    two = drive(log, store=store, max_records=9, share=(1, 2))
    for turn in range(10):
        one.lane.rebalance((turn % 2, 2))
        two.lane.rebalance(((turn + 1) % 2, 2))
        one.plane.step()
        two.plane.step()
    one.run()
    two.run()
    agrees(one, view())


def test_12_one_worker_then_two_then_three_then_one() -> None:
    log, store = published(stream_of(200)), MemoryStore()
    clean = drive(log)
    clean.run()
    clean.plane.close()
    for workers in (1, 2, 3, 1):
        team = [drive(log, store=store, max_records=5, share=(w, workers)) for w in range(workers)]
        for _ in range(3):
            for worker in team:
                worker.plane.step()
        for worker in team:
            worker.plane.close()
    last = drive(log, store=store)
    last.run()
    assert last.digest("ticked") == clean.digest("ticked")


def test_13_nothing_pending_lies_outside_rows_and_markers() -> None:
    """A process that knows only the store answers as the one that wrote it, at any time after."""
    driver = drive(published(stream_of(150)))
    driver.run()
    store = MemoryStore()
    store.restore(driver.store.snapshot())
    store._registry = driver.store.registry
    oracle = Oracle(view(), partitions=PARTITIONS)
    oracle.feed(records_of(driver.log, "ticks"))
    driver.crash()
    newest = max(oracle.newest(key) or 0 for key in oracle.entities)
    assert disagreements(store, oracle, [None, newest, newest + 35, newest + 10**6]) == []


def test_14_late_stays_late_after_a_restart() -> None:
    """Lateness depends on the row alone: there is no stream time that a restart forgets."""
    log, store = published([tick("ada", 1000)]), MemoryStore()
    made = view(seen=pp.count().over(70, slide=20))
    first = drive(log, made, store=store)
    first.run()
    first.crash()
    publish(log, [tick("ada", 100), tick("ada", 995)])
    second = drive(log, made, store=store)
    second.run()
    assert counts(second) == (3, 2, 1, 0, 0)


def test_15_a_null_key_is_counted() -> None:
    log = published([tick("ada", 1000)])
    text = json.dumps(tick("ada", 1001)).encode()
    for key in (None, b""):
        log.append("ticks", key, text, -1, partition=0)
    driver = drive(log)
    driver.run()
    assert counts(driver) == (3, 1, 0, 2, 0)
    agrees(driver, view())


def test_17_a_batch_of_only_bad_records_moves_the_offset_and_changes_nothing() -> None:
    """Bad for the stream, or bad for the view: an expression fails on it."""
    made = view(total=pp.sum(pl.col("n").cast(pl.Int8)).over(50))
    log = published([tick("ada", 1000, 100)], partitions=1)
    driver = drive(log, made, max_records=4)
    driver.run()
    before = driver.rows("ticked")
    bad: list[dict[str, Any] | bytes] = [
        b"[",
        b"{}",
        tick("ada", 1001, 1000),
        tick("ada", 1002, -129),
    ]
    publish(log, bad * 3)
    driver.run()
    assert driver.rows("ticked") == before
    (marker,) = driver.markers("ticked")
    assert (marker.next_offset, marker.dead_lettered, marker.applied) == (13, 12, 1)
    agrees(driver, made, [None, 1010])


def test_18_fields_that_come_and_go_in_the_middle_of_a_batch() -> None:
    events: list[dict[str, Any] | bytes] = [
        tick("ada", 1000, 5), {"user": "ada", "at": 1001}, tick("ada", 1002, 7, colour="red"),
        {"at": 1003, "colour": [1, {"deep": None}], "user": "ada", "n": None},
        {"user": "ada", "at": 1004, "n": "7"}, {"user": "ada", "at": 1005, "n": 1.0},
    ]  # fmt: skip
    driver = drive(published(events))
    driver.run()
    assert counts(driver) == (6, 5, 0, 1, 0)
    agrees(driver, view(), [None, 1010])


@pytest.mark.parametrize("max_records", [1, 5, 1000])
def test_19_gaps_in_offsets_are_no_records_and_nothing_waits_for_them(max_records: int) -> None:
    log = published(stream_of(60), skip=3)
    driver = drive(log, max_records=max_records)
    driver.run()
    assert counts(driver)[0] == 60
    assert not any(driver.plane.lag().values())
    agrees(driver, view())


def test_20_a_hot_key_gets_the_answer_it_would_get_alone() -> None:
    draw, others = random.Random(3), stream_of(60)
    hot = [tick("ada", 1000 + i // 3, draw.randint(-5, 5)) for i in range(600)]
    mixed = [e for e in others if e["user"] != "ada"]
    for event in hot:
        mixed.insert(draw.randint(len(mixed) // 2, len(mixed)), event)
    mixed.sort(key=lambda e: e["at"])
    both = drive(published(mixed), max_records=50, cache_bytes=1)
    both.run()
    alone = drive(published([e for e in mixed if e["user"] == "ada"]))
    alone.run()
    assert answers(both, 2000)[0] == answers(alone, 2000)[0]
    agrees(both, view(), [None, 2000])


def test_21_a_full_store_holds_everything_back_and_loses_nothing() -> None:
    log = published(stream_of(300))
    driver = drive(log, max_records=20)
    for _ in range(3):
        driver.plane.step()
    before = driver.digest("ticked")
    committed = dict(log.committed)
    driver.store.refuse = StoreFullError("OOM command not allowed")
    for _ in range(50):
        driver.plane.step()
        driver.clock.advance(500)
    driver.store.refuse = None
    assert driver.digest("ticked") == before
    assert log.committed == committed
    assert driver.names.dead_letters not in driver.publisher.sent
    for _ in range(5):
        driver.clock.advance(6000)
        driver.run()
    assert counts(driver)[0] == 300
    agrees(driver, view())


def test_22_the_last_rows_of_a_backfill_are_those_of_the_stream() -> None:
    events = stream_of(200)
    backfill = drive(published(events), max_records=1 << 20)
    backfill.run()
    log = MemoryLog()
    log.create("ticks", PARTITIONS)
    live = drive(log, max_records=1 << 20)
    for event in events:  # each is read before the next one is there
        publish(log, [event])
        live.plane.step()
    live.run()
    assert live.digest("ticked") == backfill.digest("ticked")
    assert live.plane.lag() == {TopicPartition("ticks", p): 0 for p in range(PARTITIONS)}


@pytest.mark.parametrize(("slide", "total"), [(None, 0.2), (20, 0.3)])
def test_24_an_old_large_value_takes_nothing_from_the_window_after_it(
    slide: int | None, total: float
) -> None:
    """A sum by subtracting one cumulative sum from another would give 0.0."""
    made = view(total=pp.sum("price").over(60, slide=slide))
    events = [tick("ada", 110, price=1e17)]
    events += [tick("ada", at, price=0.1) for at in (121, 141, 161)]
    driver = drive(published(events), made)
    driver.run()
    assert answers(driver, 181)[0]["total"] == pytest.approx(total, rel=1e-15)
    agrees(driver, made, [None, 170, 180, 181, 190])


@pytest.mark.parametrize("slide", [None, 20])
def test_24_a_nan_is_a_null_and_an_infinity_a_number(slide: int | None) -> None:
    """NaN and infinity come from expressions: JSON has neither."""
    bad = pl.col("price") / pl.col("n")
    kinds: dict[str, Any] = {
        "count": pp.count, "sum": pp.sum, "mean": pp.mean, "min": pp.min, "max": pp.max,
        "distinct": pp.distinct, "last": pp.last, "first": pp.first,
    }  # fmt: skip
    made = view(**{name: kind(bad).over(60, slide=slide) for name, kind in kinds.items()})
    events = [
        tick("ada", 110 + i, n, price=price)
        for i, (price, n) in enumerate([(0.0, 0), (3.0, 2), (0.0, 0), (-1.0, 4), (0.0, 0)])
    ]
    events += [tick("bob", 120, 0, price=0.0), tick("cyd", 120, 0, price=1.0)]
    driver = drive(published(events), made)
    driver.run()
    agrees(driver, made, [None, 125, 130])
    ada, bob, cyd = answers(driver, 125)[:3]
    assert (ada["count"], ada["min"], ada["max"], ada["last"]) == (2, -0.25, 1.5, -0.25)
    assert (bob["count"], bob["sum"], bob["mean"], bob["last"]) == (0, 0.0, None, None)
    assert (cyd["sum"], cyd["mean"], cyd["distinct"]) == (float("inf"), float("inf"), 1)


@pytest.mark.parametrize("slide", [None, 20])
def test_24_both_zeros_are_one_value(slide: int | None) -> None:
    made = view(kinds=pp.distinct("price").over(60, slide=slide), newest=pp.last("price"))
    events = [tick("ada", 110 + i, price=p) for i, p in enumerate((0.0, -0.0, 0.0, 1.0, -0.0))]
    trigger = pp.Trigger("moved", view=made, when=pp.changed("price"), features=["kinds"])
    driver = Driver([made], [trigger], log=published(events))
    driver.run()
    agrees(driver, made, [None, 120])
    assert answers(driver, 120)[0]["kinds"] == 2
    sent = driver.publisher.sent[driver.names.requests("moved")]
    rows = [r for _, _, value in sent for r in pa.ipc.open_stream(value).read_all().to_pylist()]
    assert [row["source_offset"] for row in rows] == [0, 3, 4]


@pytest.mark.parametrize("slide", [None, 20])
def test_24_a_value_counts_as_long_as_its_newest_event_does(slide: int | None) -> None:
    made = view(kinds=pp.distinct("n").over(60, slide=slide))
    events = [tick("ada", at, n) for at, n in ((105, 1), (106, 2), (155, 1), (150, 2), (130, 1))]
    driver = drive(published(events), made)
    driver.run()
    agrees(driver, made, range(155, 260, 5))
    assert answers(driver, 199)[0]["kinds"] == 2


def test_27_a_key_that_is_refreshed_lives_on_and_expiry_can_be_replayed() -> None:
    made = view(ttl=100, newest=pp.last("n"), seen=pp.count().over(50, slide=10))
    times = [1000, 1090, 1180, 1281, 1381, 1482]  # the gaps are 90, 90, 101, 100, 101
    events = [tick("ada", at, n) for n, at in enumerate(times)]
    store, log = MemoryStore(), published(events)
    driver = drive(log, made, store=store, max_records=1, cache_bytes=1)
    copies = []
    while driver.plane.step().batches:
        copies.append(store.snapshot())
        agrees_so_far = answers(driver, times[len(copies) - 1])[0]
        assert agrees_so_far["newest"] == len(copies) - 1
    want = driver.digest("ticked")
    for copy in copies:
        store.restore(copy)
        driver.clock.advance(5000)
        driver.run()
        driver.clock.advance(5000)
        driver.run()
        assert driver.digest("ticked") == want
    agrees(driver, made, [None, 1581, 1582, 1583])
