"""Streams of every format through the data plane: the same rows as from JSON."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import pipeline as pp
from pipeline.app.partition import view_plans
from pipeline.app.topic import Topic
from pipeline.app.warm import warm_up
from pipeline.contracts.avroschema import read_schema
from pipeline.errors import DefinitionError
from pipeline.ingest.arrowipc import write_message
from pipeline.ingest.batch import TopicPartition
from pipeline.ingest.registry import REST_S
from pipeline.testing.driver import Driver
from pipeline.testing.log import MemoryLog
from tests.reference import avro
from tests.unit.test_app_plane import CONTRACT, PARTITIONS, events, logged, view
from tests.unit.test_ingest_registry import Registry

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

N = 400
AVRO: dict[str, Any] = {
    "type": "record",
    "name": "payment",
    "fields": [
        {"name": "user", "type": "long"},
        {"name": "shop", "type": "long"},
        {"name": "cents", "type": {
            "type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2,
        }},
        {"name": "price", "type": "double"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}  # fmt: skip
PROTO = """
syntax = "proto3";
import "pipeline/options.proto";
message payment {
  int64 user = 1;
  int64 shop = 2;
  sint64 cents = 3 [(pipeline.decimal) = 2];
  double price = 4;
  int64 at = 5 [(pipeline.unix_time) = "ms"];
}
"""


def numbers(event: dict[str, Any]) -> tuple[int, int, int, float, int]:
    at = datetime.fromisoformat(event["at"])
    return (
        event["user"], event["shop"], round(event["cents"] * 100), event["price"],
        int(at.timestamp() * 1000),
    )  # fmt: skip


def avro_record(event: dict[str, Any]) -> bytes:
    user, shop, cents, price, at = numbers(event)
    scaled = cents.to_bytes(4, "big", signed=True)
    return avro.write(read_schema(AVRO, "w"), [user, shop, scaled, price, at])


def run(log: MemoryLog, source: pp.EventStream, **options: Any) -> Driver:
    driver = Driver([view(source)], log=log, **options)
    driver.run()
    return driver


def log_of(values: list[bytes]) -> MemoryLog:
    log = MemoryLog()
    log.create("payments", PARTITIONS)
    for i, (event, value) in enumerate(zip(events(N, 7), values, strict=True)):
        log.append("payments", str(event["user"]).encode(), value, -1, skip=int(i % 97 == 0))
    return log


@pytest.fixture(scope="module")
def expected() -> dict[bytes, bytes]:
    source = pp.EventStream("payments", pp.Contract.load(CONTRACT), key="user", time="at")
    return run(logged(N), source).rows("spending")


def test_avro(expected: dict[bytes, bytes]) -> None:
    source = pp.EventStream("payments", pp.Contract.load(AVRO), key="user", time="at")
    assert source.format == "avro"
    driver = run(log_of([avro_record(e) for e in events(N, 7)]), source, max_records=37)
    assert driver.rows("spending") == expected


def test_protobuf(expected: dict[bytes, bytes], tmp_path: Path) -> None:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    path = tmp_path / "payment.proto"
    path.write_text(PROTO)
    source = pp.EventStream("payments", path, key="user", time="at")
    assert source.format == "protobuf"
    pool = descriptor_pool.DescriptorPool()
    from pipeline.contracts.protobuf import compile_proto

    for file in descriptor_pb2.FileDescriptorSet.FromString(compile_proto(path)).file:
        pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("payment"))
    names = ("user", "shop", "cents", "price", "at")
    values = [
        kind(**dict(zip(names, numbers(e), strict=True))).SerializeToString() for e in events(N, 7)
    ]
    assert run(log_of(values), source).rows("spending") == expected


def arrow_log(rows_each: int) -> MemoryLog:
    """Messages of up to so many rows; and one that is broken in every partition."""
    log = MemoryLog()
    log.create("payments", PARTITIONS)
    waiting: dict[int, list[dict[str, Any]]] = defaultdict(list)

    def send(partition: int) -> None:
        columns = zip(*map(numbers, waiting.pop(partition)), strict=True)
        user, shop, cents, price, at = (list(column) for column in columns)
        times: Any = pa.timestamp("ms", tz="UTC")
        batch = pa.record_batch(
            {
                "user": user, "shop": shop, "cents": [Decimal(c).scaleb(-2) for c in cents],
                "price": price, "at": pa.array(at, times),
            }
        )  # fmt: skip
        log.append("payments", None, write_message(batch), -1, partition=partition)

    for event in events(N, 7):
        place = logged_partition(str(event["user"]).encode())
        waiting[place].append(event)
        if len(waiting[place]) == rows_each:
            send(place)
    for partition in sorted(waiting):
        send(partition)
    for partition in range(PARTITIONS):
        log.append("payments", None, b"noise", -1, partition=partition)
    return log


def logged_partition(key: bytes) -> int:
    probe = MemoryLog()
    probe.create("payments", PARTITIONS)
    return probe.append("payments", key, b"", -1).partition


@pytest.mark.parametrize(("rows_each", "max_records"), [(1, 1000), (50, 1), (50, 3), (1000, 1000)])
def test_arrow(rows_each: int, max_records: int) -> None:
    def features(driver: Driver) -> Any:
        users = sorted({e["user"] for e in events(N, 7)})
        names = [
            f"spending:{name}" for name in ("payments_1d", "spent_3d", "priced_3d", "shops_3d")
        ]
        query = pp.FeatureClient(driver.store).prepare([*names, "spending:last_shop"])
        found = query.read({"user": users}, at="event")
        return found.drop_columns(["spending__source_offset"]).to_pylist()

    contract = pp.Contract.load(CONTRACT)
    plain = pp.EventStream("payments", contract, key="user", time="at")
    source = pp.EventStream("payments", contract, key="user", time="at", format="arrow")
    driver = run(arrow_log(rows_each), source, max_records=max_records)
    assert features(driver) == features(run(logged(N), plain))
    markers = driver.markers("spending")
    assert sum(m.consumed for m in markers) == N + PARTITIONS
    assert sum(m.dead_lettered for m in markers) == PARTITIONS
    for marker in markers:
        records = driver.log.records(TopicPartition("payments", marker.partition))
        assert marker.next_offset == records[-1].offset + 1
    letters = [json.loads(v) for _, _, v in driver.publisher.sent["test-dead-letter"]]
    assert all(letter["reason"] == "decode" and letter["size"] == 5 for letter in letters)
    again = Driver(list(driver._views.values()), log=driver.log, store=driver.store)
    again.run()
    assert again.rows("spending") == driver.rows("spending")
    assert [m.consumed for m in again.markers("spending")] == [m.consumed for m in markers]


def test_a_registry_that_is_away_pauses_the_partition(expected: dict[bytes, bytes]) -> None:
    registry = Registry()
    registry.add(1, AVRO)
    registry.status = 503
    try:
        source = pp.EventStream(
            "payments", pp.Contract.load(CONTRACT), key="user", time="at", format="avro",
            registry={"url": registry.url, "timeout": 1},
        )  # fmt: skip
        header = b"\x00\x00\x00\x00\x01"
        log = log_of([header + avro_record(e) for e in events(N, 7)])
        driver = Driver([view(source)], log=log)
        for _ in range(4):
            step = driver.plane.step()
            assert not step.batches
            assert step.rejected == {}
        registry.status = 200
        registry.asked.clear()
        time.sleep(REST_S + 0.1)  # the registry is left alone so long
        for _ in range(200):
            driver.clock.advance(1000)
            driver.plane.step()
        assert driver.rows("spending") == expected
        assert "test-dead-letter" not in driver.publisher.sent
    finally:
        registry.close()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"format": "xml"}, "format"),
        ({"framing": "none"}, "framing"),
        ({"registry": "http://127.0.0.1:1"}, "registry"),
        ({"framing": "confluent"}, "framing"),
        ({"format": "avro"}, "contract"),
        ({"format": "avro", "framing": "confluent"}, "framing"),
        ({"format": "avro", "framing": "bare", "registry": "http://127.0.0.1:1"}, "framing"),
        ({"format": "protobuf"}, "contract"),
        ({"compressed": True}, "compressed"),
    ],
)
def test_what_does_not_agree_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(DefinitionError) as error:
        pp.EventStream("t", pp.Contract.load(CONTRACT), key="user", time="at", **options)
    assert error.value.field == f"EventStream('t').{named}"


def test_a_producer_writes_json_only() -> None:
    source = pp.EventStream("t", pp.Contract.load(AVRO), key="user", time="at")
    with pytest.raises(DefinitionError, match="json"):
        pp.EventProducer(source, brokers="127.0.0.1:1")


def test_an_avro_contract_may_still_be_of_json() -> None:
    source = pp.EventStream("t", pp.Contract.load(AVRO), key="user", time="at", format="json")
    assert (source.format, source.framing) == ("json", "bare")
    assert "secret" not in repr(
        pp.EventStream(
            "t", pp.Contract.load(AVRO), key="user", time="at",
            registry={"url": "http://127.0.0.1:1", "basic.auth.user.info": "me:secret"},
        )
    )  # fmt: skip


def test_every_format_is_compiled_before_the_first_record() -> None:
    contract = pp.Contract.load(AVRO)
    for options in ({"format": "arrow"}, {"registry": "http://127.0.0.1:1"}, {}):
        source = pp.EventStream("payments", contract, key="user", time="at", **options)  # type: ignore[arg-type]
        plan = view_plans([view(source)], [])
        warm_up([Topic(source, "", 3, tuple(plan))])
