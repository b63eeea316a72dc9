"""The store on a real Redis Cluster whose slots move: refused by name, never half or unfenced."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
import redis

import pipeline as pp
from pipeline.errors import (
    ConfigurationError,
    FencedError,
    StoreUnavailableError,
    UnsafeStoreError,
)
from pipeline.ingest.batch import TopicPartition
from pipeline.state.batch import EncodedRows
from pipeline.store.keys import lease_key, marker_key, partition_tag, row_key
from pipeline.store.marker import Marker
from pipeline.store.memory import MemoryStore
from pipeline.store.open import open_store
from pipeline.store.partition import PartitionStore, RowRead, RowWrite, Store
from pipeline.store.redis import RedisStore
from pipeline.store.rediscluster import ClusterStore
from pipeline.store.redislink import RedisLink
from pipeline.store.registry import ViewRecord
from pipeline.store.slots import Node, key_slot
from pipeline.testing.driver import Clock, Driver
from tests.rediscluster import MASTERS, ClusterServers, Move

pytestmark = pytest.mark.redis

VIEW = 7
SOURCE = TopicPartition("views", 0)
TAG = partition_tag("shop", SOURCE)
SLOT = key_slot(TAG)


def columns(values: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int64)
    return np.array(bytearray(b"".join(values)), dtype=np.uint8), offsets


def rows(data: dict[bytes, bytes]) -> list[RowWrite]:
    return [RowWrite(VIEW, EncodedRows(*columns(list(data)), *columns(list(data.values()))))]


def marker(offset: int) -> Marker:
    return Marker(VIEW, "", 0, offset)


def opened(store: Store) -> PartitionStore:
    partition = store.open_partition("shop", SOURCE)
    partition.acquire(1)
    partition.markers([VIEW])
    return partition


def asked(*keys: bytes, partitions: list[int] | None = None) -> RowRead:
    where = np.array(partitions or [0] * len(keys), dtype=np.int32)
    return RowRead("shop", "views", VIEW, *columns(list(keys)), where, with_markers=True)


@pytest.fixture
def store(redis_cluster: ClusterServers) -> Iterator[ClusterStore]:
    found = open_store(redis_cluster.url, timeout_ms=3_000)
    assert isinstance(found, ClusterStore)
    yield found
    found.close()


@pytest.fixture
def move(redis_cluster: ClusterServers) -> Iterator[Move]:
    """The partition's slot, to the next node; the slot is whole again afterwards."""
    found = redis_cluster.move(SLOT, (redis_cluster.owner(SLOT) + 1) % MASTERS)
    yield found
    found.end()


# -- who serves what


def test_slots_are_those_of_the_server(redis_cluster: ClusterServers) -> None:
    draw = random.Random(1)
    keys = [bytes(draw.choices(b"{}ab\x00\xff:", k=draw.randrange(12))) for _ in range(300)]
    keys += [TAG, b"{}a", b"a{b}c{d}", b"{{a}}", b"pipeline:views", b"123456789"]
    with redis_cluster.node(0) as client:
        for key in keys:
            assert key_slot(key) == client.execute_command("CLUSTER KEYSLOT", key), key


def test_a_cluster_is_named_by_its_address(
    redis_cluster: ClusterServers, redis_url: str, store: ClusterStore
) -> None:
    store.verify()
    alone = RedisStore(f"redis://127.0.0.1:{redis_cluster.ports[0]}/0")
    with pytest.raises(UnsafeStoreError, match="redis-cluster://"):
        alone.verify()
    with pytest.raises(UnsafeStoreError, match="redis://"):
        open_store(redis_url.replace("redis://", "redis-cluster://").replace("/9", "")).verify()
    for wrong in ("redis-cluster://h:1,h:x", "redis-cluster://", "redis-cluster://h:1/3"):
        with pytest.raises(ConfigurationError):
            open_store(wrong)
    hidden = open_store("rediss-cluster://me:secret@a:1,b:2")
    assert hidden.address == "rediss-cluster://me:***@a:1,b:2"


def test_every_master_is_verified(redis_cluster: ClusterServers, store: ClusterStore) -> None:
    with redis_cluster.node(2) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(UnsafeStoreError, match=f"{redis_cluster.ports[2]}.*allkeys-lru"):
            store.verify()
        client.config_set("maxmemory-policy", "noeviction")
    store.verify()
    info = store.info()
    assert (info.role, info.policy, info.keys) == ("master", "noeviction", 0)


def test_names_lie_on_the_nodes_of_their_own_slots(
    redis_cluster: ClusterServers, store: ClusterStore
) -> None:
    places = set()
    for number in range(8):
        app = f"shop{number}"
        record = ViewRecord(f"v{number}", app, "views", 3, '{"a": 1}', number)
        assert store.registry.register(record) == number
        assert store.registry.resolve(f"v{number}") == record
        places.add(redis_cluster.owner(key_slot(b"pipeline:%s" % app.encode())))
    assert places == {0, 1, 2}
    assert len(store.registry.views()) == 8


def test_keys_are_found_and_removed_on_every_node(
    redis_cluster: ClusterServers, store: ClusterStore
) -> None:
    keys = [b"{shop:views:%d}:r:%016x:a" % (i, VIEW) for i in range(40)]
    with redis_cluster.client() as client:
        for key in [*keys, b"{shop:views:1}:lease"]:
            client.set(key, b"x")
    assert len({redis_cluster.owner(key_slot(key)) for key in keys}) == MASTERS
    pattern = b"{shop:views:*}:r:%016x:*" % VIEW
    assert {key for page in store.scan(pattern, 10) for key in page} == set(keys)
    assert store.drop([*keys, b"{shop:views:1}:r:none"]) == 40
    assert [key for page in store.scan(b"*", 10) for key in page] == [b"{shop:views:1}:lease"]


def test_no_node_names_the_address_and_hides_the_password() -> None:
    store = open_store("redis-cluster://me:secret@127.0.0.1:1,127.0.0.1:2", timeout_ms=200)
    for call in (
        lambda: store.open_partition("shop", SOURCE).acquire(1),
        store.verify,
        store.registry.views,
        lambda: store.fetch([asked(b"k")]),
    ):
        with pytest.raises(StoreUnavailableError, match=r"me:\*\*\*@127\.0\.0\.1:1") as error:
            call()
        assert "secret" not in str(error.value)


# -- the fence while a slot moves


def test_what_lies_at_the_source_is_written_there_and_what_is_new_is_refused(
    store: ClusterStore, move: Move
) -> None:
    partition = opened(store)
    partition.commit(rows({b"a": b"1", b"b": b"1"}), [marker(1)])
    move.begin()
    partition.commit(rows({b"a": b"2"}), [marker(2)])
    for data, code in (({b"new": b"3"}, "ASK"), ({b"a": b"3", b"new": b"3"}, "TRYAGAIN")):
        with pytest.raises(StoreUnavailableError, match=f"{code}.*slot is being moved"):
            partition.commit(rows(data), [marker(3)])
        assert partition.held
    assert partition.markers([VIEW]) == [marker(2)]
    with pytest.raises(StoreUnavailableError, match="TRYAGAIN"):
        partition.read(VIEW, *columns([b"a", b"new"]), np.arange(2, dtype=np.int64))
    move.end()


@pytest.mark.parametrize("first", ["lease", "marker", "row"])
def test_nothing_is_written_once_a_key_is_gone(
    store: ClusterStore, move: Move, redis_cluster: ClusterServers, first: str
) -> None:
    partition = opened(store)
    partition.commit(rows({b"a": b"1", b"b": b"1"}), [marker(1)])
    move.begin()
    gone = {
        "lease": lease_key(TAG),
        "marker": marker_key(TAG, VIEW),
        "row": row_key(TAG, VIEW, b"a"),
    }
    assert move.keys(1, lambda key: key == gone[first]) == 1
    with pytest.raises(StoreUnavailableError):
        partition.commit(rows({b"a": b"2", b"b": b"2"}), [marker(2)])
    with pytest.raises(StoreUnavailableError):
        opened(store).commit(rows({b"a": b"2", b"b": b"2"}), [marker(2)])
    move.end()
    with redis_cluster.client() as client:
        assert client.get(row_key(TAG, VIEW, b"a")) == b"1"
        assert client.get(row_key(TAG, VIEW, b"b")) == b"1"
    partition.acquire(1)
    assert partition.markers([VIEW]) == [marker(1)]
    partition.commit(rows({b"a": b"3"}), [marker(2)])


def test_a_slot_that_moved_is_named_and_found_at_the_next_take_over(
    store: ClusterStore, move: Move, redis_cluster: ClusterServers
) -> None:
    partition = opened(store)
    partition.commit(rows({b"a": b"1"}), [marker(1)])
    move.all()
    with pytest.raises(StoreUnavailableError, match="MOVED"):
        partition.commit(rows({b"a": b"2"}), [marker(2)])
    assert not partition.held
    with pytest.raises(StoreUnavailableError):  # nothing opens the connection again
        partition.commit(rows({b"a": b"2"}), [marker(2)])
    assert partition.acquire(1).epoch == 2
    assert partition.markers([VIEW]) == [marker(1)]
    partition.commit(rows({b"a": b"2"}), [marker(2)])
    with redis_cluster.node(move.target) as client:
        assert client.get(row_key(TAG, VIEW, b"a")) == b"2"


def test_a_slot_that_went_away_and_came_back_is_not_written_by_the_old_watch(
    store: ClusterStore, move: Move, redis_cluster: ClusterServers
) -> None:
    """Lease and marker are byte for byte what they were; only that keys were deleted tells."""
    partition = opened(store)
    partition.commit(rows({b"a": b"1"}), [marker(1)])
    before = {}
    with redis_cluster.client() as client:
        for key in (lease_key(TAG), marker_key(TAG, VIEW)):
            before[key] = client.get(key)
    move.all()
    heir = ClusterStore(redis_cluster.url)
    opened(heir).commit(rows({b"a": b"2"}), [marker(2)])
    heir.close()
    with redis_cluster.client() as client:
        for key, value in before.items():
            client.set(key, value)
    redis_cluster.move(SLOT, move.source).all()
    with pytest.raises((StoreUnavailableError, FencedError)):
        partition.commit(rows({b"a": b"3"}), [marker(2)])
    with redis_cluster.client() as client:
        assert client.get(row_key(TAG, VIEW, b"a")) == b"2"


# -- readers while a slot moves


def test_readers_find_every_row_at_every_step(
    store: ClusterStore, move: Move, redis_cluster: ClusterServers
) -> None:
    data = {b"k%d" % i: b"row %d" % i for i in range(40)}
    partition = opened(store)
    partition.commit(rows(data), [marker(1)])
    wanted = [*data.values(), None]

    def look() -> None:
        (got,) = store.fetch([asked(*data, b"none")])
        assert list(got.rows) == wanted
        assert got.markers == {0: marker(1)}

    look()
    move.begin()
    look()
    while move.keys(7):
        look()
    look()
    move.end()
    look()
    redis_cluster.move(SLOT, move.source).all()  # back: the reader's map is wrong again
    look()
    with redis_cluster.node(move.source) as client:
        client.client_kill_filter(_type="normal", skipme=True)
    look()  # a kept connection that was closed is replaced


def test_rows_of_many_partitions_come_from_all_nodes(store: ClusterStore) -> None:
    for number in range(12):
        partition = store.open_partition("shop", TopicPartition("views", number))
        partition.acquire(1)
        partition.markers([VIEW])
        partition.commit(rows({b"k": b"row %d" % number}), [Marker(VIEW, "", number, number)])
    places = [*range(12), 3, 99, 3]
    (got,) = store.fetch([asked(*[b"k"] * len(places), partitions=places)])
    assert list(got.rows) == [*(b"row %d" % n for n in range(12)), b"row 3", None, b"row 3"]
    assert got.markers == {**{n: Marker(VIEW, "", n, n) for n in range(12)}, 99: None}
    assert list(store.fetch([asked()])[0].rows) == []


def test_a_node_that_is_gone_is_named_and_the_others_go_on(
    redis_cluster: ClusterServers, store: ClusterStore
) -> None:
    where = {n: redis_cluster.owner(key_slot(partition_tag("shop", TopicPartition("views", n))))
             for n in range(12)}  # fmt: skip
    here = next(n for n in where if where[n] == 2)
    there = next(n for n in where if where[n] != 2)
    store.fetch([asked(b"k", b"k", partitions=[here, there])])
    redis_cluster.servers[2].kill()
    try:
        with pytest.raises(StoreUnavailableError):
            store.fetch([asked(b"k", partitions=[here])])
        assert list(store.fetch([asked(b"k", partitions=[there])])[0].rows) == [None]
        partition = store.open_partition("shop", TopicPartition("views", there))
        assert partition.acquire(1).epoch == 1
        with pytest.raises(StoreUnavailableError):
            store.open_partition("shop", TopicPartition("views", here)).acquire(1)
    finally:
        redis_cluster.servers[2].start()
        redis_cluster.wait()
    assert list(store.fetch([asked(b"k", partitions=[here])])[0].rows) == [None]


# -- an application while slots move

CONTRACT = pp.Contract.load(
    {
        "title": "visit",
        "type": "object",
        "properties": {
            "user": {"type": "string"},
            "page": {"type": "string"},
            "seconds": {"type": "integer"},
            "at": {"type": "integer", "x-unix-time": "ms"},
        },
        "required": ["user", "page", "seconds", "at"],
    }
)
STREAM = pp.EventStream("visits", contract=CONTRACT, key="user", time="at")
VISITS = pp.FeatureView(
    "visits", source=STREAM, entity="user", where=pl.col("page") != "p3",
    features={
        "visits": pp.count().over("1d", slide="1h"),
        "pages": pp.distinct("page").over("1d", slide="1h"),
        "seconds": pp.last("seconds", n=3),
    },
)  # fmt: skip
PARTITIONS = 6
START_MS = 1_700_000_000_000


def test_an_application_whose_slots_move_writes_what_a_replay_writes(
    redis_cluster: ClusterServers, store: ClusterStore
) -> None:
    seed = 11
    print(f"seed {seed}")
    draw = random.Random(seed)
    clock = Clock(START_MS)
    mine = Driver(
        [VISITS], partitions=PARTITIONS, max_records=50, clock=clock, cache_bytes=1,
        store=cast(MemoryStore, store),
    )  # fmt: skip
    slots = [
        key_slot(partition_tag("test", TopicPartition("visits", p))) for p in range(PARTITIONS)
    ]
    published = 0

    def publish(n: int) -> None:
        nonlocal published
        for _ in range(n):
            event = {
                "user": f"u{draw.randrange(300)}",
                "page": f"p{draw.randrange(6)}",
                "seconds": published,
                "at": START_MS + published * 60_000 - draw.choice([0, 0, 7_200_000]),
            }
            mine.pipe("visits", event, START_MS + published * 60_000)
            published += 1

    def steps(n: int) -> int:
        done = 0
        for _ in range(n):
            clock.advance(200)
            done += mine.plane.step().resets
        return done

    resets = 0
    for _ in range(12):
        slot = draw.choice(slots)
        here = redis_cluster.owner(slot)
        move = redis_cluster.move(slot, draw.choice([n for n in range(MASTERS) if n != here]))
        publish(60)
        resets += steps(2)
        move.begin()
        for _ in range(4):
            move.keys(draw.randrange(1, 12))
            publish(20)
            resets += steps(2)
        move.end()
        publish(20)
        resets += steps(2)
    deadline = time.monotonic() + 60
    while len(lag := mine.plane.lag()) < PARTITIONS or any(lag.values()):
        assert time.monotonic() < deadline, lag
        resets += steps(1)
    mine.plane.close()
    assert resets > 5, "no slot was in anybody's way"
    replay = Driver([VISITS], log=mine.log, max_records=33, clock=clock)
    replay.run()
    fingerprint = VISITS.plan.fingerprint
    with redis_cluster.client() as client:
        got: dict[bytes, bytes] = {}
        for partition in range(PARTITIONS):
            tag = partition_tag("test", TopicPartition("visits", partition))
            prefix = row_key(tag, fingerprint, b"")
            for key in client.scan_iter(match=prefix + b"*", count=1000):
                got[key[len(prefix) :]] = client.get(key)
            stored = Marker.unpack(client.get(marker_key(tag, fingerprint)))
            expected = replay.markers("visits")[partition]
            assert (stored.next_offset, stored.applied, stored.filtered, stored.late) == (
                expected.next_offset, expected.applied, expected.filtered, expected.late
            )  # fmt: skip
    assert got == replay.rows("visits")
    assert len(got) > 250


def test_redis_py_is_not_asked_to_follow_anything_by_the_fence(store: ClusterStore) -> None:
    """The fence's link is a bare connection, as on a single server."""
    partition = opened(store)
    connection = cast(Any, partition)._link._connection
    connection.disconnect()
    with pytest.raises(redis.ConnectionError, match="not opened again"):
        connection.send_packed_command([b"PING\r\n"])


class Traced(ClusterStore):
    """Notes what goes to which node, and when an answer is awaited."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.trace: list[tuple[bytes | None, Node]] = []

    def _open_link(self, node: Node) -> RedisLink:
        link = super()._open_link(node)
        send, receive = link.send, link.receive

        def sent(data: memoryview) -> None:
            self.trace.append((bytes(data), node))
            send(data)

        def received(into: memoryview) -> int:
            self.trace.append((None, node))
            return receive(into)

        vars(link).update(send=sent, receive=received)
        return link

    def together(self, wanted: Callable[[bytes], bool]) -> list[set[Node]]:
        """Nodes of each run of these sends between which no answer was awaited."""
        runs: list[set[Node]] = [set()]
        for data, node in self.trace:
            if data is None:
                runs.append(set())
            elif wanted(data):
                runs[-1].add(node)
        return [run for run in runs if run]


def writes(data: bytes) -> bool:
    return b"MSET" in data


def reads(data: bytes) -> bool:
    return b"MGET" in data and b":r:" in data and not writes(data)


@pytest.mark.parametrize("what", [writes, reads])
def test_a_poll_goes_to_all_masters_before_an_answer_is_awaited(
    redis_cluster: ClusterServers, what: Callable[[bytes], bool]
) -> None:
    store = Traced(redis_cluster.url)
    driver = Driver(
        [VISITS], partitions=PARTITIONS, clock=Clock(START_MS), store=cast(MemoryStore, store),
        cache_bytes=1,
    )  # fmt: skip
    slots = [key_slot(partition_tag("test", TopicPartition("visits", p))) for p in range(6)]
    assert {redis_cluster.owner(slot) for slot in slots} == set(range(MASTERS))
    for _ in range(2):
        store.trace.clear()
        for i in range(300):
            at = START_MS + i
            event = {"user": f"u{i % 100}", "page": "p1", "seconds": 1, "at": at}
            driver.pipe("visits", event, at)
        driver.run()
        (nodes,) = store.together(what)  # two where an answer was awaited in between
        assert len(nodes) == MASTERS
    driver.plane.close()
    store.close()
