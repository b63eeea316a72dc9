"""Reads by name, on the store in memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest

import pipeline as pp
from pipeline.errors import DefinitionError, UnknownNameError
from pipeline.features.planjson import to_json
from pipeline.ingest.batch import TopicPartition
from pipeline.kernels.hash import partition_of
from pipeline.serve.client import FeatureClient
from pipeline.serve.query import Query
from pipeline.state.table import StateTable
from pipeline.store.keys import partition_tag, row_key
from pipeline.store.marker import Marker
from pipeline.store.memory import MemoryStore
from pipeline.store.partition import RowWrite
from pipeline.store.registry import ViewRecord

MINUTE = 60_000_000_000
START = 1_700_000_000 * 1_000_000_000 // MINUTE * MINUTE
PARTITIONS = 3
CONTRACT = {
    "title": "order",
    "type": "object",
    "properties": {
        "user": {"type": "integer"},
        "shop": {"type": "string"},
        "units": {"type": "integer"},
        "at": {"type": "string", "format": "date-time"},
    },
    "required": ["user", "shop", "units", "at"],
}


def view(name: str, entity: str, **features: Any) -> pp.FeatureView:
    contract = pp.Contract.load(CONTRACT)
    stream = pp.EventStream(f"orders_by_{entity}", contract=contract, key=entity, time="at")
    return pp.FeatureView(name, source=stream, entity=entity, ttl="2h", features=features)


SPEND = view(
    "spend",
    "user",
    orders=pp.count().over("1h", slide="1m"),
    units=pp.sum("units").over("1h", slide="1m"),
)
RECENT = view("recent", "user", orders=pp.count().over("5m", slide="1m"), last3=pp.last("units", 3))
SHOPS = view("shops", "shop", sold=pp.sum("units").over("1h", slide="1m"))


def fill(store: MemoryStore, view: pp.FeatureView, keys: list[bytes], units: list[int]) -> None:
    """Commit one event per key, a minute apart from START on, as the application would."""
    plan = view.plan
    topic = plan.source
    store.registry.register(
        ViewRecord(plan.view, "shop", topic, PARTITIONS, to_json(plan), plan.fingerprint)
    )
    data = np.array(bytearray(b"".join(keys)), dtype=np.uint8)
    bounds = np.cumsum([0, *map(len, keys)]).astype(np.int64)
    where = np.empty(len(keys), dtype=np.int32)
    partition_of(data, bounds, PARTITIONS, where)
    for number in range(PARTITIONS):
        chosen = np.flatnonzero(where == number)
        part = store.open_partition("shop", TopicPartition(topic, number))
        part.acquire(1)
        part.markers([plan.fingerprint])
        table = StateTable(plan)
        names = [keys[i] for i in chosen]
        lookup = table.lookup(
            np.array(bytearray(b"".join(names)), dtype=np.uint8),
            np.cumsum([0, *map(len, names)]).astype(np.int64),
        )
        table.load(lookup.slots[lookup.missing], [None] * len(lookup.missing))
        n = len(chosen)
        times = START + MINUTE * chosen.astype(np.int64)
        inputs = np.tile(np.array(units, dtype=np.int64)[chosen], (len(plan.inputs), 1))
        ones = np.ones((len(plan.inputs), n), dtype=np.uint8)
        masks = np.ones((len(plan.masks), n), dtype=np.uint8)
        table.apply(
            lookup.slots, chosen.astype(np.int64), times // 10**6, times,
            np.ones(n, dtype=np.uint8), inputs, ones, masks, None,
        )  # fmt: skip
        distinct = np.unique(lookup.slots)
        marker = Marker(plan.fingerprint, "", number, 100, -1, START // 10**6 + number)
        part.commit([RowWrite(plan.fingerprint, table.encode(distinct))], [marker])


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    fill(store, SPEND, [b"1", b"2", b"1", b"-3"], [10, 20, 30, 40])
    fill(store, RECENT, [b"1", b"2", b"1", b"-3"], [10, 20, 30, 40])
    fill(store, SHOPS, ["Ä".encode(), b"B"], [7, 8])
    return store


@pytest.fixture
def client(store: MemoryStore) -> FeatureClient:
    return FeatureClient(store, clock_ns=lambda: START + 4 * MINUTE)


def test_rows_come_in_the_order_of_the_keys(client: FeatureClient) -> None:
    table = client.prepare(["spend:units", "recent:last3", "spend:orders"]).read(
        {"user": [2, 99, 1, 2, -3]}
    )
    assert table["user"].to_pylist() == [2, 99, 1, 2, -3]
    assert table.column_names[:4] == ["user", "units", "last3", "orders"]
    assert table["units"].to_pylist() == [20, None, 40, 20, 40]
    assert table["last3"].to_pylist() == [[20], None, [30, 10], [20], [40]]
    present = ["present", "missing", "present", "present", "present"]
    assert table["spend__status"].to_pylist() == table["recent__status"].to_pylist() == present
    assert table["spend__source_offset"].to_pylist() == [1, None, 2, 1, 3]
    times = table["spend__event_time"]
    assert times.type == pa.timestamp("ns", "UTC")
    newest = [START + MINUTE, None, START + 2 * MINUTE, START + MINUTE, START + 3 * MINUTE]
    assert times.cast(pa.int64()).to_pylist() == newest
    ages = table["spend__age"].cast(pa.int64()).to_pylist()
    assert ages == [3 * MINUTE, None, 2 * MINUTE, 3 * MINUTE, MINUTE]
    assert set(table["spend__partition"].to_pylist()) <= set(range(PARTITIONS))


def test_ambiguous_names_carry_their_view(client: FeatureClient) -> None:
    query = client.prepare(["recent", "spend:orders", "spend:orders"])
    assert query.features == ["recent__orders", "last3", "spend__orders"]
    assert query.entities == {"user": "int64"}
    table = query.read({"user": [1]}, status="feature")
    assert table.column_names == [
        "user",
        *("recent__orders", "recent__orders__status", "last3", "last3__status"),
        *("spend__orders", "spend__orders__status"),
        *(f"recent__{name}" for name in ("status", "event_time", "age", "source_offset")),
        "recent__partition",
        *(f"spend__{name}" for name in ("status", "event_time", "age", "source_offset")),
        "spend__partition",
    ]


def test_time_of_the_read(client: FeatureClient) -> None:
    query = client.prepare(["recent:orders"])
    moment = START + 30 * MINUTE
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment // 1000)
    for later in (moment, at, np.int64(moment)):
        table = query.read({"user": [1]}, at=later)
        assert table["orders"].to_pylist() == [0]
        assert table["recent__age"].cast(pa.int64()).to_pylist() == [28 * MINUTE]
    own = query.read({"user": [1]}, at="event")
    assert own["orders"].to_pylist() == [2]
    assert own["recent__age"].cast(pa.int64()).to_pylist() == [0]
    expired = query.read({"user": [1]}, at=START + 200 * MINUTE)
    assert expired["recent__status"].to_pylist() == ["expired"]
    assert query.read({"user": [1]}, at=START)["recent__status"].to_pylist() == ["degraded"]
    for wrong in (datetime(2024, 1, 1), "yesterday", 1.5, True):
        with pytest.raises(TypeError, match="at:"):
            query.read({"user": [1]}, at=wrong)  # type: ignore[arg-type]


def test_stale_is_told_by_the_marker_of_the_keys_partition(client: FeatureClient) -> None:
    """Partition p was processed through START + p ms; the clock says START + 4 min."""
    query = client.prepare(["spend:units"])
    keys = list(range(50))
    for behind_ms in (0, 1, 2, 3):
        allowed = timedelta(minutes=4) - timedelta(milliseconds=behind_ms)
        table = query.read({"user": keys}, max_staleness=allowed)
        stale = [s == "stale" for s in table["spend__status"].to_pylist()]
        partitions: list[Any] = table["spend__partition"].to_pylist()
        assert stale == [p < behind_ms for p in partitions]
    earlier = query.read({"user": keys}, at=START, max_staleness=timedelta(0))
    assert "stale" not in earlier["spend__status"].to_pylist()
    assert "stale" not in query.read({"user": keys})["spend__status"].to_pylist()


def test_a_marker_from_times_to_come_says_nothing(
    client: FeatureClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partition p was processed through START + p ms; the clock says START - 1 min + 2 ms."""
    now = START // 1_000_000 - 60_000 + 2
    query = client.prepare(["spend:units"])
    monkeypatch.setattr(query, "_clock_ns", lambda: now * 1_000_000)
    table = query.read({"user": list(range(50))}, max_staleness=timedelta(days=1))
    stale = [s == "stale" for s in table["spend__status"].to_pylist()]
    partitions: list[Any] = table["spend__partition"].to_pylist()
    assert stale == [p > 2 for p in partitions]


def test_several_entities_side_by_side(client: FeatureClient) -> None:
    query = client.prepare(["spend:units", "shops:sold"])
    table = query.read({"user": [1, 2], "shop": ["B", "Ä"]})
    assert table.select(["user", "shop", "units", "sold"]).to_pylist() == [
        {"user": 1, "shop": "B", "units": 40, "sold": 8},
        {"user": 2, "shop": "Ä", "units": 20, "sold": 7},
    ]
    with pytest.raises(TypeError, match="length"):
        query.read({"user": [1], "shop": ["B", "Ä"]})
    with pytest.raises(TypeError, match="shop: keys of this entity are missing"):
        query.read({"user": [1]})


def test_matrix(client: FeatureClient) -> None:
    query = client.prepare(["shops:sold", "recent:orders"])
    dtypes: tuple[Literal["float32", "float64"], ...] = ("float32", "float64")
    for dtype in dtypes:
        got = query.read_matrix({"user": [1, 99], "shop": ["B", "none"]}, dtype=dtype)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, [[8, 2], [np.nan, np.nan]])
    with pytest.raises(DefinitionError, match=r"recent:last3.*list"):
        client.prepare(["recent:last3"]).read_matrix({"user": [1]})


@pytest.mark.parametrize(
    "keys",
    [
        np.array([1, 2], dtype=np.uint16),
        pa.array([0, 1, 2]).slice(1),
        pa.chunked_array([[1], [2]]),
        pa.array([1, 2]).dictionary_encode().dictionary_decode(),
        (1, 2),
    ],
)
def test_columns_of_keys(client: FeatureClient, keys: object) -> None:
    assert client.prepare(["spend:units"]).read({"user": keys})["units"].to_pylist() == [40, 20]


@pytest.mark.parametrize(
    ("entity", "keys"),
    [
        ("user", [1.0]),
        ("user", ["1"]),
        ("user", [None]),
        ("user", 1),
        ("user", [2**64]),
        ("user", [True]),
        ("user", [1, "a"]),
        ("user", np.array([2**63], dtype=np.uint64)),
        ("shop", [1]),
        ("shop", "B"),
        ("shop", [b"B"]),
    ],
)
def test_wrong_keys_name_the_entity(client: FeatureClient, entity: str, keys: object) -> None:
    query = client.prepare(["spend:units" if entity == "user" else "shops:sold"])
    with pytest.raises(TypeError, match=f"{entity}: "):
        query.read({entity: keys})


def test_no_keys_give_no_rows(client: FeatureClient) -> None:
    query = client.prepare(["spend:units", "shops:sold"])
    table = query.read({"user": [], "shop": []}, max_staleness=timedelta(0))
    assert table.num_rows == 0
    assert query.read_matrix({"user": [], "shop": []}).shape == (0, 2)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["spent:units"], "no view 'spent'; did you mean 'spend'"),
        (["spend:unit"], "no feature of view 'spend' named 'unit'; did you mean 'units'"),
        (["zzz"], "known: recent, shops, spend"),
        ([], "view:feature"),
        ("spend:units", "view:feature"),
    ],
)
def test_unknown_names_list_what_is_like_them(
    client: FeatureClient, names: list[str], message: str
) -> None:
    with pytest.raises(UnknownNameError, match=message):
        client.prepare(names)


def test_only_the_views_of_one_application(store: MemoryStore) -> None:
    assert FeatureClient(store).views() == ["recent", "shops", "spend"]
    assert FeatureClient(store, app="bank").views() == []
    with pytest.raises(UnknownNameError):
        FeatureClient(store, app="bank").prepare(["spend:units"])


def test_a_corrupt_row_is_told_of_and_reads_degraded(
    store: MemoryStore, client: FeatureClient, caplog: pytest.LogCaptureFixture
) -> None:
    query = client.prepare(["spend:units"])
    partition = query.read({"user": [2]})["spend__partition"][0].as_py()
    tag = partition_tag("shop", TopicPartition(SPEND.plan.source, partition))
    key = row_key(tag, SPEND.plan.fingerprint, b"2")
    row = bytearray(store.values[key])
    row[-1] ^= 1
    store.values[key] = bytes(row)
    read = query.read({"user": [1, 2]})
    assert "spend for user b'2' fails its checks" in caplog.text
    assert read["units"].to_pylist() == [40, None]
    assert read["spend__status"].to_pylist() == ["present", "degraded"]
    assert read["spend__event_time"][1].as_py() is None
    assert read["spend__source_offset"].to_pylist()[1] is None
    assert np.isnan(query.read_matrix({"user": [2]})).all()


def test_query_follows_an_activated_version(store: MemoryStore) -> None:
    now = [0.0]
    query = Query(
        store, ["spend:units"], clock_ns=lambda: START + 4 * MINUTE, monotonic=lambda: now[0]
    )
    changed = view("spend", "user", units=pp.sum("units").over("90m", slide="1m"))
    fill(store, changed, [b"1"], [5])
    now[0] = 60.0
    assert query.read({"user": [1]})["units"].to_pylist() == [40]
    store.registry.activate("shop", "spend", changed.plan.fingerprint)
    assert query.read({"user": [1]})["units"].to_pylist() == [40]
    now[0] = 71.0
    assert query.read({"user": [1]})["units"].to_pylist() == [5]


def test_threads_share_a_query(client: FeatureClient) -> None:
    query = client.prepare(["spend:units", "recent:orders"])

    def work(number: int) -> None:
        for _ in range(50):
            table = query.read({"user": [number % 3, 1]})
            assert table["units"].to_pylist()[1] == 40

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_the_only_entity_need_not_be_named(client: FeatureClient) -> None:
    query = client.prepare(["recent:orders"])
    assert query.read([2, 1]).equals(query.read({"user": [2, 1]}))
    assert query.read_matrix(np.array([2, 1])).tolist() == [[1], [2]]
    with pytest.raises(TypeError, match=r"name their entity.*user.*shop"):
        client.prepare(["recent:orders", "shops:sold"]).read([1])
