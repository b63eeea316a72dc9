"""Views that are not keyed as their topic is: whatever happens on the way, the rows are those of a
replay of the repartition topic's log, and what no order can change equals a plain account."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import pipeline as pp
from pipeline.app import commits
from pipeline.app.arrival import ROW_BITS
from pipeline.app.warm import warm_up
from pipeline.errors import DefinitionError
from pipeline.ingest.batch import TopicPartition
from pipeline.kernels.hash import partition_of
from pipeline.produce.messages import MESSAGE_BYTES
from pipeline.store.marker import POSITION, Marker
from pipeline.store.memory import MemoryStore
from pipeline.testing.driver import Clock, Driver
from pipeline.testing.log import MemoryLog

PAYMENT: dict[str, Any] = {
    "title": "payment",
    "type": "object",
    "properties": {
        "user": {"type": "integer"},
        "shop": {"type": ["string", "null"]},
        "cents": {"type": "number", "x-decimal": 2},
        "price": {"type": ["number", "null"]},
        "at": {"type": "string", "format": "date-time"},
    },
    "required": ["user", "shop", "cents", "at"],
}
REFUND: dict[str, Any] = {
    "title": "refund",
    "type": "object",
    "properties": {
        "shop": {"type": "string"},
        "order": {"type": "string"},
        "cents": {"type": "number", "x-decimal": 2},
        "why": {"type": "string"},
        "good": {"type": "boolean"},
        "booked": {"type": "integer", "x-unix-time": "ms"},
    },
    "required": ["shop", "order", "cents", "why", "good", "booked"],
}
PARTITIONS = 3
TOPIC = "test-payments-by-shop"
UNION = "test-payments.refunds-by-shop"


def payments(**options: Any) -> pp.EventStream:
    return pp.EventStream("payments", pp.Contract.load(PAYMENT), "user", "at", **options)


def refunds() -> pp.EventStream:
    return pp.EventStream("refunds", pp.Contract.load(REFUND), key="order", time="booked")


def shops(source: Any, name: str = "shops", **more: Any) -> pp.FeatureView:
    return pp.FeatureView(
        name,
        source=source,
        entity="shop",
        ttl="60d",
        where=pl.col("cents") != 13,
        features={
            "payments_30d": pp.count().over("30d", slide="6h"),
            "spent_30d": pp.sum("cents").over("30d", slide="6h"),
            "exact_9d": pp.sum("cents").over("9d"),
            "priced_3d": pp.sum("price").over("3d", slide="6h"),
            "dearest_30d": pp.max("price").over("30d", slide="6h"),
            "last_prices": pp.last("price", n=3),
            **more,
        },
    )


def events(n: int, seed: int) -> list[dict[str, Any]]:
    """Out of order by up to a month, with equal times, hot keys, nulls and keys of any script."""
    draw = random.Random(seed)
    minute, made = 0, []
    for _ in range(n):
        minute += draw.randint(0, 180)
        day, rest = divmod(max(0, minute - draw.choice([0, 0, 0, 30, 3000, 40000])), 1440)
        made.append(
            {
                "user": draw.choice([1, 1, draw.randint(1, 40)]),
                "shop": draw.choice(["a", "a", "b|", "ü\\", None, f"s{draw.randint(1, 9)}"]),
                "cents": draw.randint(-500, 10_000) / 100,
                "price": draw.choice([None, draw.uniform(-1, 1) * 10 ** draw.randint(-3, 6)]),
                "at": f"2024-{1 + day // 28 % 12:02d}-{1 + day % 28:02d}"
                f"T{rest // 60:02d}:{rest % 60:02d}:00Z",
            }
        )
    return made


def logged(n: int = 900, seed: int = 5) -> MemoryLog:
    log = MemoryLog()
    log.create("payments", PARTITIONS)
    for i, event in enumerate(events(n, seed)):
        publish(log, event, skip=int(i % 97 == 0))
    return log


def publish(log: MemoryLog, event: dict[str, Any], **options: Any) -> None:
    at_ms = int(datetime.fromisoformat(event["at"]).timestamp() * 1000)
    key = str(event["user"]).encode()
    log.append("payments", key, json.dumps(event).encode(), at_ms, **options)


def drive(log: MemoryLog, view: pp.FeatureView | None = None, **options: Any) -> Driver:
    view = view or shops(payments())
    triggers = [pp.Trigger("every", view=view), pp.Trigger("dear", view, pl.col("price") > 1000)]
    return Driver([view], triggers, log=log, **options)


def replayed(driver: Driver, view: pp.FeatureView | None = None, topic: str = TOPIC) -> Driver:
    """The repartition topic's log alone, read by a new worker with a new store."""
    log = MemoryLog()
    for name, partitions in driver.log.topics.items():
        log.create(name, len(partitions))
        if name == topic:
            log.topics[name] = [list(records) for records in partitions]
    again = drive(log, view, max_records=5)
    again.run()
    return again


def counts(marker: Marker) -> tuple[int, ...]:
    return (marker.next_offset, marker.consumed, marker.applied, marker.duplicate, marker.late,
            marker.dead_lettered, marker.filtered)  # fmt: skip


def is_a_replay(driver: Driver, records: int, view: pp.FeatureView | None = None) -> None:
    """Rows, markers and requests are those of the log; every record is accounted for."""
    again = replayed(driver, view)
    assert len(driver.rows("shops")) > 10
    assert driver.rows("shops") == again.rows("shops")
    assert [(*counts(m), m.positions) for m in driver.markers("shops")] == [
        (*counts(m), m.positions) for m in again.markers("shops")
    ]
    routed = driver.route_markers("payments")
    assert sum(m.consumed for m in routed) == records
    assert sum(m.applied for m in routed) == sum(
        m.consumed - m.duplicate for m in driver.markers("shops")
    )


def last_time(made: Sequence[dict[str, Any]]) -> datetime:
    return max(datetime.fromisoformat(event["at"]) for event in made)


def in_plain(made: Sequence[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """shop -> count, sum and maximum of the 30 days up to the last event, sum of the 9."""
    end = last_time(made)
    found: dict[str, list[tuple[float, Fraction, float | None]]] = {}
    for event in made:
        age = (end - datetime.fromisoformat(event["at"])).total_seconds() / 86_400
        if event["shop"] is not None and event["cents"] != 13:
            cents = Fraction(round(event["cents"] * 100), 100)
            found.setdefault(event["shop"], []).append((age, cents, event["price"]))
    return {
        shop: (
            sum(age < 30 for age, _, _ in rows),
            float(sum((c for age, c, _ in rows if age < 30), Fraction(0))),
            max((p for age, _, p in rows if age < 30 and p is not None), default=None),
            float(sum((c for age, c, _ in rows if age < 9), Fraction(0))),
        )
        for shop, rows in found.items()
    }


def equals_the_plain_account(driver: Driver, made: Sequence[dict[str, Any]]) -> None:
    expected = {
        shop: values for shop, values in in_plain(made).items() if values[0]
    }  # other rows may have expired
    assert len(expected) > 5
    client = pp.FeatureClient(driver.store)
    names = [f"shops:{n}" for n in ("payments_30d", "spent_30d", "dearest_30d", "exact_9d")]
    table = client.prepare(names).read({"shop": list(expected)}, at=last_time(made))
    got = zip(*(table[n.partition(":")[2]].to_pylist() for n in names), strict=True)
    assert dict(zip(expected, got, strict=True)) == expected
    assert set(table["shops__status"].to_pylist()) == {"present"}


@pytest.mark.parametrize("max_records", [1, 7, 100_000])
def test_rows_are_those_of_the_log_and_equal_a_plain_account(max_records: int) -> None:
    driver = drive(logged(), max_records=max_records)
    driver.run()
    is_a_replay(driver, 900)
    assert sum(m.duplicate for m in driver.markers("shops")) == 0
    assert len(driver.markers("shops")) == PARTITIONS
    nobody = sum(event["shop"] is None for event in events(900, 5))
    assert sum(m.filtered for m in driver.route_markers("payments")) == nobody > 50


def test_what_no_order_can_change_equals_a_plain_account() -> None:
    made = events(3_000, seed=9)
    log = MemoryLog()
    log.create("payments", PARTITIONS)
    for event in made:
        publish(log, event)
    driver = drive(log, max_records=50)
    driver.run()
    equals_the_plain_account(driver, made)


def test_workers_that_come_and_go_leave_the_rows_of_the_log() -> None:
    log, store, made = logged(), MemoryStore(), events(900, 5)
    drivers = [drive(log, store=store, max_records=37, share=(w, 2)) for w in range(2)]
    for turn in range(20):
        for driver in drivers:
            driver.plane.step()
        for w, driver in enumerate(drivers):
            driver.lane.rebalance(((w + turn) % 2, 2))
    for _ in range(3):
        for driver in drivers:
            driver.run()
    is_a_replay(drivers[0], 900)
    equals_the_plain_account(drivers[0], made)


class Killed(BaseException):
    """The worker is no more."""


@pytest.mark.parametrize("point", ["computed", "sent", "begun", "committed"])
def test_a_worker_that_is_killed_at_any_point_leaves_the_rows_of_the_log(
    point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, store, made = logged(), MemoryStore(), events(900, 5)
    steps = [0]

    def reach(name: str) -> None:
        steps[0] += name == point
        if name == point and steps[0] % 3 == 0:
            raise Killed

    monkeypatch.setattr(commits, "reach", reach)
    killed = 0
    while killed < 8:
        driver = drive(log, store=store, max_records=29)
        try:
            driver.run()
            break
        except Killed:
            killed += 1
    monkeypatch.setattr(commits, "reach", lambda name: None)
    last = drive(log, store=store)
    last.run()
    assert killed == 8
    is_a_replay(last, 900)
    equals_the_plain_account(last, made)
    duplicates = sum(m.duplicate for m in last.markers("shops"))
    assert (duplicates > 0) == (point in ("sent", "begun"))


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_messages_that_the_broker_took_half_are_sent_again_and_dropped(taken: int) -> None:
    driver = drive(logged(), max_records=60)
    driver.publisher.fail_after = taken
    for _ in range(6):
        driver.plane.step()
        driver.publisher.fail_next = True
        assert driver.plane.step().resets > 0
        driver.clock.advance(6_000)
    driver.run()
    is_a_replay(driver, 900)
    equals_the_plain_account(driver, events(900, 5))
    assert (sum(m.duplicate for m in driver.markers("shops")) > 0) == (taken > 0)


def test_what_a_zombie_sends_late_is_dropped() -> None:
    log, store = logged(), MemoryStore()
    zombie = drive(log, store=store, max_records=60)
    zombie.plane.step()
    heir = drive(log, store=store, max_records=200)
    heir.plane.step()
    before = sum(len(p) for p in log.topics[TOPIC])
    assert zombie.plane.step().resets > 0  # what it sent is in the log, older than the heir's
    assert sum(len(p) for p in log.topics[TOPIC]) > before
    heir.run()
    is_a_replay(heir, 900)
    equals_the_plain_account(heir, events(900, 5))
    assert sum(m.duplicate for m in heir.markers("shops")) > 0


@pytest.mark.parametrize("everything", [True, False])
def test_a_store_that_went_back_in_time_is_mended_from_the_logs(everything: bool) -> None:
    store = MemoryStore()
    driver = drive(logged(), store=store, max_records=60)
    for _ in range(5):
        driver.plane.step()
    copy = store.snapshot()
    for _ in range(12):
        driver.plane.step()
    store.restore({} if everything else copy)
    for _ in range(3):
        driver.clock.advance(6_000)
        driver.run()
    is_a_replay(driver, 900)
    equals_the_plain_account(driver, events(900, 5))
    assert sum(m.duplicate for m in driver.markers("shops")) > 0


@pytest.mark.parametrize("kept", [":payments:", f":{TOPIC}:"])
def test_the_two_sides_may_go_back_one_without_the_other(kept: str) -> None:
    """As on a cluster, whose nodes hold different partitions."""
    store = MemoryStore()
    driver = drive(logged(), store=store, max_records=60)
    for _ in range(5):
        driver.plane.step()
    copy = store.snapshot()
    for _ in range(12):
        driver.plane.step()
    now = store.snapshot()
    store.restore(copy | {k: v for k, v in now.items() if kept in k.decode()})
    for _ in range(3):
        driver.clock.advance(6_000)
        driver.run()
    is_a_replay(driver, 900)
    equals_the_plain_account(driver, events(900, 5))


def rows_of(driver: Driver, topic: str) -> list[dict[str, Any]]:
    """Rows of an output topic, in the order sent."""
    sent = driver.publisher.sent.get(topic, [])
    tables = [pa.ipc.open_stream(value).read_all() for _, _, value in sent]
    return [row for table in tables for row in table.to_pylist()]


def test_requests_and_changes_have_positions_of_their_own_that_ascend() -> None:
    driver = drive(logged(), max_records=80)
    driver.run()
    found = [driver, *(replayed(driver) for _ in range(2))]
    requests = []
    for each in found:
        rows = rows_of(each, each.names.requests("every"))
        positions = [(r["source_partition"], r["source_offset"]) for r in rows]
        assert (
            len(set(positions)) == len(positions) == sum(m.applied for m in each.markers("shops"))
        )
        for partition in range(PARTITIONS):
            mine = [offset for p, offset in positions if p == partition]
            assert mine == sorted(mine)
        for row in rows:
            del row["requested_at"]
        requests.append({(r["source_partition"], r["source_offset"]): r for r in rows})
    assert requests[0] == requests[1] == requests[2]
    changes = rows_of(driver, driver.names.changes("shops"))
    last = {row["shop"]: row["source_offset"] for row in changes}
    table = pp.FeatureClient(driver.store).prepare(["shops"]).read({"shop": list(last)}, at="event")
    assert table["shops__source_offset"].to_pylist() == list(last.values())


def test_a_row_is_found_in_the_partition_of_its_entity() -> None:
    driver = drive(logged())
    driver.run()
    record = driver.store.registry.resolve("shops")
    assert (record.topic, record.partitions) == (TOPIC, PARTITIONS)
    target = np.empty(1, dtype=np.int32)
    for key in driver.rows("shops"):
        data = np.frombuffer(key, dtype=np.uint8).copy()
        partition_of(data, np.array([0, len(key)]), PARTITIONS, target)
        assert any(
            name.startswith(b"{test:%s:%d}:r:" % (TOPIC.encode(), target[0])) and name.endswith(key)
            for name in driver.store.values
        )


# -- several streams


def refund_events(n: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [
        {
            "shop": draw.choice(["a", "b|", f"s{draw.randint(1, 9)}"]),
            "order": f"o{draw.randint(1, 999)}",
            "cents": -draw.randint(1, 5_000) / 100,
            "why": draw.choice(["broken", "late", ""]),
            "good": draw.random() < 0.5,
            "booked": 1_704_067_200_000 + draw.randint(0, 300) * 86_400_000 + i,
        }
        for i in range(n)
    ]


def of_both() -> pp.FeatureView:
    return shops(
        [payments(), refunds()],
        broken_30d=pp.count(where=pl.col("why") == "broken").over("30d", slide="6h"),
        whys_30d=pp.distinct("why").over("30d", slide="6h"),
        good_30d=pp.sum("good").over("30d", slide="6h"),
        users_30d=pp.count("user").over("30d", slide="6h"),
        booked=pp.last("booked"),
    )


@pytest.mark.parametrize("max_records", [11, 100_000])
def test_streams_are_taken_together_field_by_field(max_records: int) -> None:
    log, sold, back = logged(), events(900, 5), refund_events(400, 6)
    log.create("refunds", 2)
    for event in back:
        log.append("refunds", event["order"].encode(), json.dumps(event).encode(), event["booked"])
    view = of_both()
    driver = drive(log, view, max_records=max_records)
    driver.run()
    again = replayed(driver, of_both(), UNION)
    assert driver.rows("shops") == again.rows("shops") != {}
    end = max(last_time(sold), *(datetime.fromtimestamp(e["booked"] / 1000, UTC) for e in back))
    table = pp.FeatureClient(driver.store).prepare(["shops"]).read({"shop": ["a"]}, at=end)
    (row,) = table.to_pylist()

    def recent(at: datetime) -> bool:
        return (end - at).total_seconds() < 30 * 86_400

    mine = [e for e in sold if e["shop"] == "a" and e["cents"] != 13
            and recent(datetime.fromisoformat(e["at"]))]  # fmt: skip
    theirs = [e for e in back if e["shop"] == "a"
              and recent(datetime.fromtimestamp(e["booked"] / 1000, UTC))]  # fmt: skip
    assert row["payments_30d"] == len(mine) + len(theirs)
    assert row["users_30d"] == len(mine)
    assert row["broken_30d"] == sum(e["why"] == "broken" for e in theirs) > 0
    assert row["whys_30d"] == len({e["why"] for e in theirs})
    assert row["good_30d"] == sum(bool(e["good"]) for e in theirs)
    cents = sum(Fraction(round(e["cents"] * 100), 100) for e in mine + theirs)
    assert row["spent_30d"] == float(cents)
    (positions,) = [
        np.frombuffer(m.positions, dtype=POSITION)
        for m in driver.markers("shops")
        if row["shops__partition"] == m.partition
    ]
    assert set(positions["topic"].tolist()) == {0, 1}


# -- what lies in other partitions


def test_records_of_another_partition_are_dead_lettered_or_routed() -> None:
    made = [e | {"shop": "a"} for e in events(120, 2)]
    found = {}
    for misrouted in ("dead_letter", "route"):
        log = MemoryLog()
        log.create("payments", PARTITIONS)
        for i, event in enumerate(made):
            publish(log, event, partition=i % PARTITIONS)
        view = pp.FeatureView(
            "shops",
            source=payments(misrouted=misrouted),
            entity="user",
            features={"payments": pp.count().over("300d", slide="1d")},
        )
        driver = Driver([view], log=log)
        driver.run()
        found[misrouted] = sum(m.applied for m in driver.markers("shops"))
        letters = driver.publisher.sent.get(driver.names.dead_letters, [])
        reasons = {json.loads(value)["reason"] for _, _, value in letters}
        assert reasons == (set() if misrouted == "route" else {"misrouted"})
        if misrouted == "route":
            users = sorted({e["user"] for e in made})
            assert driver.store.registry.resolve("shops").topic == "test-payments-by-user"
            table = pp.FeatureClient(driver.store).prepare(["shops"]).read(users, at="event")
            assert table["payments"].to_numpy().sum() == len(made)
    assert found["route"] == len(made) > found["dead_letter"] > 0


def test_partitions_may_be_added_to_a_source_whose_records_lie_anywhere() -> None:
    view = pp.FeatureView(
        "shops", source=payments(misrouted="route"), entity="user",
        features={"payments": pp.count().over("300d", slide="1d")},
    )  # fmt: skip
    driver = Driver([view], partitions=2)
    made = events(60, 2)
    for event in made[:30]:
        publish(driver.log, event)
    driver.run()
    driver.log.topics["payments"].append([])
    for event in made[30:]:
        publish(driver.log, event)
    driver.lane.rebalance((0, 1))
    driver.run()
    assert sum(m.applied for m in driver.markers("shops")) == len(made)
    again = Driver([view], log=driver.log, store=driver.store)  # two partitions it is, as before
    assert again.store.registry.resolve("shops").partitions == 2


# -- what cannot be applied


def letters_of(driver: Driver, topic: str) -> list[dict[str, Any]]:
    return [json.loads(value) for _, _, value in driver.publisher.sent.get(topic, [])]


def test_letters_name_the_record_at_its_source() -> None:
    log = MemoryLog()
    log.create("payments", 2)
    at = [1_717_200_000_000, 1_717_200_000_001, 1_700_000_000_000]
    for i, time in enumerate(at):
        event = {"user": 7, "shop": "a", "cents": 1 + i, "price": None}
        text = datetime.fromtimestamp(time / 1000, UTC).isoformat()
        log.append("payments", b"7", json.dumps(event | {"at": text}).encode(), time, skip=10)
    log.append("payments", b"7", None, at[0])
    log.append("payments", b"7", json.dumps(event | {"at": text, "shop": ""}).encode(), at[0])
    view = pp.FeatureView(
        "shops", source=payments(), entity="shop",
        features={
            "n": pp.count().over("1d", slide="1h"),
            "odd": pp.sum(pl.col("cents").cast(pl.String).str.to_integer(strict=True)).over(
                "1d", slide="1h"
            ),
        },
    )  # fmt: skip
    driver = Driver([view], log=log)
    driver.run()
    letters = letters_of(driver, driver.names.dead_letters)
    (source,) = {p for p in (0, 1) if log.topics["payments"][p]}
    places = {(x["topic"], x["partition"]) for x in letters}
    assert places == {("payments", source)}
    assert sorted((x["reason"], x["view"], x["offset"]) for x in letters) == [
        ("expression", "shops", 10),
        ("expression", "shops", 21),
        ("expression", "shops", 32),
        ("no_key", "test-payments-by-shop", 34),
    ]
    (marker,) = (m for m in driver.route_markers("payments") if m.consumed)
    assert (marker.consumed, marker.applied, marker.dead_lettered, marker.filtered) == (
        5, 3, 1, 1,
    )  # fmt: skip
    assert {x["key"] for x in letters if x["reason"] == "expression"} == {"YQ=="}


def test_late_rows_name_the_record_at_its_source() -> None:
    log = MemoryLog()
    log.create("payments", 1)
    for cents, text in ((1, "2024-06-01T00:00:00Z"), (2, "2024-01-01T00:00:00Z")):
        event = {"user": 7, "shop": "a", "cents": cents, "price": None, "at": text}
        publish(log, event, skip=5)
    view = pp.FeatureView("shops", source=payments(), entity="shop",
                          features={"n": pp.count().over("1d", slide="1h")})  # fmt: skip
    driver = Driver([view], log=log)
    driver.run()
    (letter,) = letters_of(driver, driver.names.late)
    assert (letter["topic"], letter["partition"], letter["offset"]) == ("payments", 0, 11)
    ((key, _),) = {(key, view) for _, key, view in driver.publisher.sent[driver.names.late]}
    assert key == b"payments/0/11/shops"


def spoiled(value: bytes) -> dict[str, tuple[str, bytes | None]]:
    """Messages that are not what a worker writes: name -> (reason, value)."""
    batch = pa.ipc.open_stream(value).read_all().to_batches()[0]
    meta = dict(batch.schema.metadata)

    def message(changed: pa.RecordBatch, **noted: str) -> bytes:
        sink = pa.BufferOutputStream()
        rows = {b"rows": str(changed.num_rows).encode()}
        schema = changed.schema.with_metadata(
            meta | rows | {k.encode(): v.encode() for k, v in noted.items()}
        )
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_batch(changed.replace_schema_metadata(schema.metadata))
        return sink.getvalue().to_pybytes()

    def column(name: str, values: Any) -> pa.RecordBatch:
        return batch.set_column(batch.schema.names.index(name), name, pa.array(values))

    n = batch.num_rows
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return {
        "tombstone": ("tombstone", None),
        "empty": ("empty", b""),
        "noise": ("decode", bytes(range(256)) * 4),
        "cut short": ("decode", value[: len(value) // 2]),
        "compressed": ("decode", sink.getvalue().to_pybytes()),
        "format": ("schema", message(batch, format="2")),
        "sources": ("schema", message(batch, sources='["other"]')),
        "columns": ("schema", message(batch, columns="[" * 100_000)),
        "without a column": ("schema", message(batch.drop_columns(["__offset"]))),
        "another type": ("schema", message(column("__offset", [1.5] * n))),
        "null": ("schema", message(column("__offset", pa.array([None] * n, pa.int64())))),
        "source": ("range", message(column("__source", np.full(n, 1, np.int32)))),
        "partition": ("range", message(column("__partition", np.full(n, -1, np.int32)))),
        "offset": ("range", message(column("__offset", np.full(n, -1)))),
        "key": ("range", message(column("__key", pa.array([b""] * n, pa.binary())))),
    }


def test_a_message_that_no_worker_wrote_is_one_dead_letter_and_the_rest_is_applied() -> None:
    driver = drive(logged(200), max_records=50)
    driver.run()
    partition = 1
    good = driver.log.records(TopicPartition(TOPIC, partition))[0]
    assert good.value is not None
    bad = spoiled(good.value)
    before = driver.markers("shops")[partition]
    first = driver.log.records(TopicPartition(TOPIC, partition))[-1].offset + 1
    for _, value in bad.values():
        driver.log.append(TOPIC, None, value, 5, partition)
    driver.log.append(TOPIC, None, good.value, 5, partition)  # again: every row was seen
    stray = pa.ipc.open_stream(good.value).read_all().num_rows
    driver.log.append(TOPIC, None, good.value, 5, (partition + 1) % PARTITIONS)
    driver.run()
    letters = letters_of(driver, driver.names.dead_letters)
    whole = [x for x in letters if x["topic"] == TOPIC]
    assert [(x["reason"], x["partition"], x["offset"]) for x in whole] == [
        (reason, partition, first + i) for i, (reason, _) in enumerate(bad.values())
    ]
    assert {x["reason"] for x in letters if x["topic"] == "payments"} == {"misrouted"}
    assert sum(x["topic"] == "payments" for x in letters) == stray
    after = driver.markers("shops")[partition]
    assert after.dead_lettered == before.dead_lettered + len(bad)
    assert after.duplicate == before.duplicate + stray
    assert (after.applied, after.positions) == (before.applied, before.positions)
    again = replayed(driver)
    assert driver.rows("shops") == again.rows("shops")


def test_messages_of_other_arrow_writers_are_dead_letters(data_dir: Any) -> None:
    files = sorted((data_dir / "arrow_ipc_fuzz").rglob("*"))
    driver = drive(logged(50))
    values = [path.read_bytes() for path in files if path.is_file()]
    for value in values:
        driver.log.append(TOPIC, None, value, 5, 0)
    driver.run()
    assert driver.markers("shops")[0].dead_lettered == len(values) > 100


def test_a_message_stays_below_what_a_broker_takes() -> None:
    log = MemoryLog()
    log.create("payments", 1)
    for i in range(40):
        wide = {"user": 1, "shop": f"{i % 2}" * 30_000, "cents": i, "price": None}
        publish(log, wide | {"at": "2024-06-01T00:00:00Z"})
    huge = wide | {"shop": "x" * 70_000, "at": "2024-06-01T00:00:00Z"}
    publish(log, huge)
    driver = drive(log, max_records=1000)
    driver.run()
    sizes = [len(r.value or b"") for r in driver.log.records(TopicPartition(TOPIC, 0))]
    assert len(sizes) > 1
    assert max(sizes) < MESSAGE_BYTES
    (marker,) = driver.route_markers("payments")
    assert (marker.applied, marker.dead_lettered) == (40, 1)
    (letter,) = letters_of(driver, driver.names.dead_letters)
    assert (letter["reason"], letter["view"], letter["offset"]) == ("too_large", TOPIC, 40)


# -- views that come and go


def test_a_view_that_needs_more_gets_every_record_and_the_others_stay_as_they_are() -> None:
    log, store = logged(), MemoryStore()
    plain = shops(payments())
    first = Driver([plain], log=log, store=store, max_records=60)
    for _ in range(6):
        first.plane.step()
    users = shops(payments(), "users", users_30d=pp.distinct("user").over("30d", slide="6h"))
    second = Driver([plain, users], log=log, store=store, max_records=70)
    second.run()
    equals_the_plain_account(second, events(900, 5))
    for name, view in (("shops", plain), ("users", users)):
        alone = MemoryLog()
        alone.create("payments", PARTITIONS)
        alone.topics[TOPIC] = [list(records) for records in log.topics[TOPIC]]
        again = Driver([view], log=alone, max_records=9)
        again.run()
        assert second.rows(name) == again.rows(name)
        assert second.rows(name).keys() == second.rows("shops").keys()
    applied = sum(m.applied + m.late + m.filtered for m in second.markers("users"))
    assert applied == sum(m.applied for m in second.route_markers("payments"))


def test_a_view_that_needs_no_more_joins_from_the_log() -> None:
    log, store = logged(), MemoryStore()
    Driver([shops(payments())], log=log, store=store).run()
    messages = sum(len(p) for p in log.topics[TOPIC])
    second = Driver([shops(payments()), shops(payments(), "twins")], log=log, store=store)
    second.run()
    assert sum(len(p) for p in log.topics[TOPIC]) == messages
    assert second.rows("twins").keys() == second.rows("shops").keys()


def test_the_position_of_a_row_leads_to_it() -> None:
    """Rows of equal time are in the order of messages, then of rows in a message."""
    driver = drive(logged())
    driver.run()
    query = pp.FeatureClient(driver.store).prepare(["shops"])
    (row,) = query.read({"shop": ["a"]}, at="event").to_pylist()
    records = driver.log.records(TopicPartition(TOPIC, row["shops__partition"]))
    message, number = divmod(row["shops__source_offset"], 1 << ROW_BITS)
    (value,) = (record.value or b"" for record in records if record.offset == message)
    found = pa.ipc.open_stream(value).read_all().to_pylist()[number]
    assert found["__key"] == b"a"
    assert found["__event_time"] <= row["shops__event_time"]


def test_keys_and_fields_of_every_type_arrive_as_they_were() -> None:
    contract = pp.Contract.load(
        {
            "title": "call",
            "type": "object",
            "properties": {
                "caller": {"type": "integer"},
                "line": {"type": "string", "format": "uuid"},
                "raw": {"type": "string", "contentEncoding": "base64"},
                "note": {"type": ["string", "null"]},
                "fee": {"type": ["number", "null"], "x-decimal": 3},
                "rate": {"type": ["number", "null"]},
                "up": {"type": ["boolean", "null"]},
                "seen": {"type": "integer", "x-unix-time": "ns"},
                "at": {"type": "integer", "x-unix-time": "ms"},
            },
            "required": ["caller", "line", "raw", "note", "fee", "rate", "up", "seen", "at"],
        }
    )
    calls = pp.EventStream("calls", contract, key="caller", time="at")
    features = {
        "fees": pp.sum("fee").over("30d"),
        "rates": pp.last("rate", n=3),
        "ups": pp.last("up", n=3),
        "seen": pp.last("seen", n=3),
        "notes": pp.distinct("note").over("30d"),
        "raws": pp.distinct("raw").over("30d"),
        "long": pp.count(where=pl.col("note").str.len_chars() > 1).over("30d"),
    }
    by_caller = pp.FeatureView("direct", source=calls, entity="caller", features=features)
    by_both = pp.FeatureView("both", source=calls, entity=("raw", "caller"), features=features)
    by_line = pp.FeatureView("lines", source=calls, entity="line", features=features)
    driver = Driver([by_caller, by_both, by_line], partitions=3, max_records=7)
    draw = random.Random(3)
    for i in range(60):
        driver.pipe(
            "calls",
            {
                "caller": (caller := draw.randint(-2, 2)),
                "line": f"AAAAAAAA-0000-0000-0000-{caller + 5:012d}",
                "raw": ["", "AP8=", "fHxc"][caller % 3],
                "note": draw.choice([None, "", "ä", "zwei | drei"]),
                "fee": draw.choice([None, 0.001, -7.5]),
                "rate": draw.choice([None, -0.0, 1e300, 0.1]),
                "up": draw.choice([None, True, False]),
                "seen": 2**62 + i,
                "at": 1_700_000_000_000 + i * 1000,
            },
        )
    driver.run()
    client = pp.FeatureClient(driver.store)
    callers = sorted({-2, -1, 0, 1, 2})
    names = list(features)

    def read(view: str, keys: Any) -> list[list[Any]]:
        table = client.prepare([f"{view}:{n}" for n in names]).read(keys, at="event")
        assert set(table[f"{view}__status"].to_pylist()) == {"present"}
        return [table[n].to_pylist() for n in names]

    direct = read("direct", {"caller": callers})
    raws = [[b"", b"\0\xff", b"||\\"][c % 3] for c in callers]
    assert read("both", {"caller": callers, "raw": raws}) == direct
    lines = [f"aaaaaaaa-0000-0000-0000-{c + 5:012d}" for c in callers]
    assert read("lines", {"line": lines}) == direct
    assert all(len(column) == 5 for column in direct)


def test_a_view_is_as_fresh_as_the_slowest_of_its_sources() -> None:
    log, store, clock = logged(300), MemoryStore(), Clock(1_800_000_000_000)
    fast, slow = (drive(log, store=store, clock=clock, share=(w, 2)) for w in range(2))

    def through(driver: Driver) -> int:
        return min(m.processed_through_ms for m in driver.markers("shops"))

    for _ in range(4):
        fast.run()
        clock.advance(2_000)
    assert through(fast) <= 0  # a partition of the source was never read
    for _ in range(4):
        slow.run()
        fast.run()
        clock.advance(2_000)
    fresh = through(fast)
    assert clock.now_ms - 8_000 < fresh < clock.now_ms
    for _ in range(4):
        fast.run()
        clock.advance(2_000)
    assert through(fast) <= fresh + 2_000 < clock.now_ms - 4_000  # the other one stood still


def test_every_key_may_be_read_at_a_time_of_its_own() -> None:
    driver = drive(logged())
    driver.run()
    query = pp.FeatureClient(driver.store).prepare(["shops:payments_30d", "shops:exact_9d"])
    end = int(last_time(events(900, 5)).timestamp()) * 10**9
    days = np.arange(40, dtype=np.int64) * 86_400 * 10**9
    table = query.read({"shop": ["a"] * 40}, at=end + days)
    one_by_one = [query.read({"shop": ["a"]}, at=int(end + d)).to_pylist()[0] for d in days]
    assert table.to_pylist() == one_by_one
    assert len({row["exact_9d"] for row in one_by_one}) > 5
    shapes: list[Any] = [days[:3], days.astype(np.float64), days.reshape(2, 20)]
    for wrong in shapes:
        with pytest.raises(TypeError, match="one for each key"):
            query.read({"shop": ["a"] * 40}, at=wrong)


def test_the_way_of_a_repartitioned_view_can_be_compiled_ahead() -> None:
    log = logged(1)
    log.create("refunds", 2)
    warm_up(drive(log, of_both())._topics)


def test_events_are_told_apart_by_id_wherever_they_were_published() -> None:
    """The same event in two partitions of the source, as a producer without keys makes of it."""
    source = payments(misrouted="route", event_id="user", dedup="1d")
    view = pp.FeatureView(
        "shops", source=source, entity="shop", features={"n": pp.count().over("30d")}
    )
    log = MemoryLog()
    log.create("payments", 2)
    for number in (1, 2, 1, 1, 3, 2):
        event = {"user": number, "shop": "a", "cents": 5, "price": None}
        publish(log, event | {"at": "2024-06-01T00:00:00Z"}, partition=number % 2)
    with pytest.raises(DefinitionError, match="an id is"):
        payments(event_id="price")
    driver = Driver([view], log=log, max_records=2)
    driver.run()
    (row,) = pp.FeatureClient(driver.store).prepare(["shops"]).read(["a"], at="event").to_pylist()
    assert row["n"] == 3
    assert sum(m.duplicate for m in driver.markers("shops")) == 3
    with pytest.raises(DefinitionError, match="tell events apart in different ways"):
        shops([source, pp.EventStream("b", pp.Contract.load(PAYMENT), "user", "at")])
