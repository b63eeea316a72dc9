"""Events that come twice under one id: counted once, kept apart per entity, bounded."""

from __future__ import annotations

import json
import random
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import pipeline as pp
from pipeline.errors import DefinitionError
from pipeline.features.plan import ListKind
from pipeline.features.planjson import from_json, to_json
from pipeline.store.memory import MemoryStore
from pipeline.testing.driver import Clock, Driver
from pipeline.testing.log import MemoryLog

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

CONTRACT = pp.Contract.load(
    {
        "title": "order",
        "type": "object",
        "properties": {
            "shop": {"type": "string"},
            "id": {"type": ["string", "null"]},
            "number": {"type": ["integer", "null"]},
            "at": {"type": "integer", "x-unix-time": "ms"},
        },
        "required": ["shop", "at"],
    }
)
START = 1_700_000_000_000
MINUTE, HOUR = 60_000, 3_600_000


def stream(**options: Any) -> pp.EventStream:
    options = {"event_id": "id", **options}
    return pp.EventStream("orders", contract=CONTRACT, key="shop", time="at", **options)


def view(source: pp.EventStream, **options: Any) -> pp.FeatureView:
    features = options.pop("features", {"n": pp.count().over("2h", slide="1h")})
    return pp.FeatureView("orders", source=source, entity="shop", features=features, **options)


class Orders:
    """A log of orders, and a driver over it."""

    def __init__(self, source: pp.EventStream | None = None, **options: Any) -> None:
        self.log = MemoryLog()
        self.log.create("orders", 1)
        self.view = view(source or stream(), **options.pop("view", {}))
        self.options = {"clock": Clock(START + 10**9), **options}
        self.store = MemoryStore()

    def add(self, at: int, event_id: Any = None, shop: str = "s", **fields: Any) -> None:
        event = {"shop": shop, "at": at, "id": event_id, **fields}
        self.log.append("orders", shop.encode(), json.dumps(event).encode(), START + 10**8)

    def run(self, **options: Any) -> Driver:
        options = {**self.options, "store": self.store, **options}
        driver = Driver([self.view], log=self.log, **options)
        driver.run()
        return driver

    def outcomes(self, **options: Any) -> tuple[int, int, int]:
        """Applied, duplicate and late records."""
        (marker,) = self.run(**options).markers("orders")
        assert marker.consumed == len(self.log.topics["orders"][0])
        return marker.applied, marker.duplicate, marker.late


@pytest.mark.parametrize("max_records", [1, 2, 1000])
def test_an_id_counts_once_in_each_entity(max_records: int) -> None:
    orders = Orders(max_records=max_records)
    for shop in ("s", "t", "s"):
        for event_id in ("a", "b", "a"):
            orders.add(START, event_id, shop)
    assert orders.outcomes() == (4, 5, 0)
    driver = orders.run()
    read = (
        pp.FeatureClient(driver.store).prepare(["orders:n"]).read({"shop": ["s", "t"]}, at="event")
    )
    assert read["n"].to_pylist() == [2, 2]


def test_events_without_an_id_never_are_duplicates() -> None:
    orders = Orders()
    orders.add(START)
    orders.add(START)
    assert orders.outcomes() == (2, 0, 0)


def test_integers_are_ids_too() -> None:
    orders = Orders(stream(event_id="number"))
    for number in (7, -7, 7, None, None, 0, 0, -(2**63), -(2**63)):
        orders.add(START, number=number)
    assert orders.outcomes() == (6, 3, 0)


def test_an_id_is_forgotten_when_the_newest_event_is_dedup_later() -> None:
    for gap, duplicates in ((HOUR - 1, 1), (HOUR, 0)):
        orders = Orders(stream(dedup="1h"))
        orders.add(START, "a")
        orders.add(START + gap, "b")
        orders.add(START, "a")
        assert orders.outcomes() == (3 - duplicates, duplicates, 0), gap


def test_a_duplicate_changes_nothing_even_where_it_looks_newer() -> None:
    orders = Orders(view={"ttl": "3h"})
    orders.add(START, "a")
    before = orders.run().rows("orders")
    orders.add(START + 30 * MINUTE, "a")
    orders.add(START + 5 * HOUR, "a")  # were it new, the row would have expired
    driver = orders.run()
    assert driver.rows("orders") == before
    assert orders.outcomes() == (1, 2, 0)


def test_beyond_the_bound_the_oldest_ids_go() -> None:
    orders = Orders(stream(dedup_bound=2))
    for i, event_id in enumerate("abc"):
        orders.add(START + i, event_id)
    orders.add(START, "a")  # no longer known; the oldest again, so it is not kept now either
    orders.add(START, "a")
    orders.add(START + 1, "b")
    orders.add(START + 2, "c")
    assert orders.outcomes() == (5, 2, 0)


def test_a_late_event_leaves_no_id_and_a_duplicate_is_not_late() -> None:
    orders = Orders(stream(dedup="10h"))
    orders.add(START, "a")
    orders.add(START + 9 * HOUR, "b")
    orders.add(START, "c")  # late
    orders.add(START + 9 * HOUR, "c")
    orders.add(START, "a")  # late by its time, but known
    assert orders.outcomes() == (3, 1, 1)


def test_ids_alone_do_not_make_an_event_count() -> None:
    orders = Orders(stream(dedup="90d"))
    orders.add(START + 9 * HOUR, "a")
    orders.add(START, "b")
    assert orders.outcomes() == (1, 0, 1)


def test_a_deletion_forgets_the_ids_and_filtered_events_leave_none() -> None:
    orders = Orders(view={"where": pl.col("number").fill_null(1) > 0})
    orders.add(START, "a", number=0)  # filtered
    orders.add(START, "a")
    orders.log.append("orders", b"s", None, START)
    orders.add(START + 1, "a")
    orders.add(START + 2, "a", number=0)
    assert orders.outcomes() == (3, 0, 0)


def test_a_duplicate_fires_no_trigger() -> None:
    orders = Orders(view={"features": {"n": pp.count().over("2h", slide="1h")}})
    each = pp.Trigger("each", view=orders.view, features=["n"])
    for event_id in ("a", "a", "b"):
        orders.add(START, event_id)
    driver = Driver([orders.view], [each], log=orders.log, clock=Clock(START))
    driver.run()
    sent = driver.publisher.sent[driver.names.requests("each")]
    assert sum(pa.ipc.open_stream(value).read_all().num_rows for _, _, value in sent) == 2


@pytest.mark.parametrize("seed", range(5))
def test_any_batches_and_crashes_give_the_definition(seed: int) -> None:
    rng = random.Random(seed)
    orders = Orders(stream(dedup="30m", dedup_bound=5))
    for i in range(300):
        at = START + i * MINUTE - rng.choice((0, 0, 0, 10, 29, 30, 31, 45)) * MINUTE
        orders.add(at, rng.choice((None, *"abcdefgh")), rng.choice("st"))
    whole = orders.run(store=MemoryStore(), max_records=10_000)
    (marker,) = whole.markers("orders")
    assert marker.duplicate == defined(orders.log), seed
    for batch in (1, 13):
        store = MemoryStore()
        for _ in range(3):
            driver = Driver(
                [orders.view], log=orders.log, store=store, max_records=batch, cache_bytes=1
            )
            for _ in range(rng.randrange(60)):
                driver.plane.step()
            driver.crash()
        assert orders.run(store=store, max_records=batch).digest("orders") == whole.digest("orders")


def defined(log: MemoryLog) -> int:
    """Duplicates of a 30 minute memory of 5 ids per shop; nothing is late in 2 hours of tiles."""
    kept: dict[str, list[tuple[int, int, str]]] = {}
    newest: dict[str, int] = {}
    duplicates = 0
    for record in log.topics["orders"][0]:
        assert record.value is not None
        event = json.loads(record.value)
        shop = event["shop"]
        ids = kept.setdefault(shop, [])
        if event["id"] is not None and any(e[2] == event["id"] for e in ids):
            duplicates += 1
            continue
        newest[shop] = max(newest.get(shop, 0), event["at"])
        if event["id"] is not None:
            ids.append((event["at"], record.offset, event["id"]))
        young = sorted(e for e in ids if e[0] > newest[shop] - 30 * MINUTE)
        kept[shop] = young[-5:]
    return duplicates


def test_the_plan_has_the_list_and_survives_json() -> None:
    plan = view(stream(event_id="number", dedup="2h", dedup_bound=9)).plan
    (ids,) = plan.lists
    assert (ids.kind, ids.bound, ids.horizon_ns) == (ListKind.IDS, 9, 2 * HOUR * 10**6)
    assert plan.inputs[ids.input] == "number"
    assert from_json(to_json(plan)) == plan
    plain = view(stream(event_id=None)).plan
    assert not plain.lists
    assert plain.fingerprint != plan.fingerprint


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"event_id": "nope"}, "event_id: .*no field 'nope'"),
        ({"event_id": "at"}, "event_id: .*'at' is timestamp"),
        ({"dedup": "0s"}, "dedup: "),
        ({"dedup": "soon"}, "dedup: "),
        ({"dedup_bound": 0}, "dedup_bound: must be 1 to 65536"),
        ({"dedup_bound": 65_537}, "dedup_bound: must be 1 to 65536"),
    ],
)
def test_wrong_definitions_name_the_argument(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(DefinitionError, match=rf"EventStream\('orders'\)\.{problem}"):
        stream(**options)
