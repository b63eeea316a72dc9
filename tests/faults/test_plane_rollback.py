"""A data plane on a real Redis that goes back in time: the short forms, without a Kafka.

The log is in memory, the worker is stepped by the test, everything else is as it runs; the same
with processes is in ``test_app_rollback.py``.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis

import pipeline as pp
from pipeline.embedded.process import LOOPBACK
from pipeline.embedded.redis import EmbeddedRedis
from pipeline.ingest.batch import TopicPartition
from pipeline.store.keys import marker_key, partition_tag, row_key
from pipeline.store.marker import Marker
from pipeline.store.memory import MemoryStore
from pipeline.store.open import open_store
from pipeline.store.partition import Store
from pipeline.store.slots import key_slot
from pipeline.testing.driver import Clock, Driver
from tests.conftest import absent, debuggable
from tests.faults.conftest import SEEN
from tests.faults.proxy import Proxy
from tests.rediscluster import MASTERS, ClusterServers

pytestmark = pytest.mark.redis

PARTITIONS = 4
START_MS = 1_700_000_000_000
CONTRACT = pp.Contract.load(
    {
        "title": "visit",
        "type": "object",
        "properties": {
            "user": {"type": "integer"},
            "page": {"type": "integer"},
            "at": {"type": "integer", "x-unix-time": "ms"},
        },
        "required": ["user", "page", "at"],
    }
)
STREAM = pp.EventStream("visits", contract=CONTRACT, key="user", time="at")
VISITS = pp.FeatureView(
    "visits", source=STREAM, entity="user", ttl="3d",
    features={
        "visits": pp.count().over("1d", slide="1h"),
        "pages": pp.distinct("page").over("1d", slide="1h"),
        "last_pages": pp.last("page", n=3),
    },
)  # fmt: skip
FINGERPRINT = VISITS.plan.fingerprint
TAGS = [partition_tag("test", TopicPartition("visits", p)) for p in range(PARTITIONS)]


class Worker:
    """A driver on a store, its events, and what a replay makes of them."""

    def __init__(self, url: str, seed: int, *, clock: Clock | None = None) -> None:
        print(f"seed {seed}")
        self.draw = random.Random(seed)
        self.clock = clock or Clock(START_MS)
        self.store: Store = open_store(url, timeout_ms=1_000)
        self.driver = self._start()
        self.published = 0

    def _start(self, **options: Any) -> Driver:
        options = {"cache_bytes": 3_000, **options}
        return Driver(
            [VISITS], partitions=PARTITIONS, max_records=40, clock=self.clock,
            store=cast(MemoryStore, self.store), **options,
        )  # fmt: skip

    def restart(self, url: str | None = None) -> None:
        """Killed, and started again, perhaps at another address."""
        if url is not None:
            self.store.close()
            self.store = open_store(url, timeout_ms=1_000)
        self.driver = self._start(log=self.driver.log)

    def publish(self, events: int) -> None:
        """To all partitions."""
        for _ in range(events):
            self.clock.advance(30_000)
            at = self.clock.ms() - self.draw.choice([0, 0, 3_600_000, 90_000_000])
            event = {"user": self.draw.randrange(80), "page": self.draw.randrange(9), "at": at}
            self.driver.pipe("visits", event, self.clock.ms())
            self.published += 1

    def steps(self, count: int) -> int:
        """Some steps; how many partitions were reset."""
        done = 0
        for _ in range(count):
            self.clock.advance(300)
            done += self.driver.plane.step().resets
        return done

    def drain(self) -> None:
        """Until all was read for some idle seconds, in which leases are compared."""
        deadline = time.monotonic() + 60
        quiet = 0
        while quiet < 12:
            resets, lag = self.steps(1), self.driver.plane.lag()
            at_rest = not resets and len(lag) == PARTITIONS and not any(lag.values())
            quiet = quiet + 1 if at_rest else 0
            assert time.monotonic() < deadline, lag

    def check(self, client: Any) -> str:
        """Rows and markers are those of a replay."""
        replay = Driver([VISITS], log=self.driver.log, max_records=33, clock=self.clock)
        replay.run()
        rows: dict[bytes, bytes] = {}
        for tag, expected in zip(TAGS, replay.markers("visits"), strict=True):
            found = Marker.unpack(client.get(marker_key(tag, FINGERPRINT)))
            assert (found.next_offset, found.consumed, found.applied, found.late) == (
                expected.next_offset, expected.consumed, expected.applied, expected.late
            )  # fmt: skip
            prefix = row_key(tag, FINGERPRINT, b"")
            for key in client.scan_iter(match=prefix + b"*", count=1000):
                rows[key[len(prefix) :]] = client.get(key)
        assert rows == replay.rows("visits")
        return f"{self.published} records, {len(rows)} rows equal"


def consumed(client: Any) -> int:
    """What the markers in the store say."""
    found = [client.get(marker_key(tag, FINGERPRINT)) for tag in TAGS]
    return sum(Marker.unpack(value).consumed for value in found if value)


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> list[str]:
    """What the table of faults shows."""
    told: list[str] = []
    request.node.stash[SEEN] = told
    return told


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[EmbeddedRedis]:
    data = tmp_path / "redis"
    data.mkdir()
    appendonly = getattr(request, "param", False)
    with EmbeddedRedis(directory=data, appendonly=appendonly, settings=debuggable()) as found:
        yield found


def healed(worker: Worker, client: Any, seen: list[str]) -> None:
    """All partitions, though nobody writes to them, then with new events."""
    worker.drain()
    assert consumed(client) == worker.published
    seen.append(worker.check(client))
    worker.publish(100)
    worker.drain()
    worker.check(client)


@pytest.mark.fault("F12", "an RDB copy: loaded, restarted; under or before a worker", "exact bytes")
@pytest.mark.parametrize("when", ["running", "away"])
@pytest.mark.parametrize("how", ["reload", "restart"])
def test_dump(server: EmbeddedRedis, seed: int, seen: list[str], how: str, when: str) -> None:
    client: Any = redis.Redis.from_url(server.url)
    worker = Worker(server.url, seed)
    worker.publish(300)
    worker.steps(4)
    client.save()  # in the middle of the log
    copied = consumed(client)
    worker.publish(400)
    worker.drain()
    assert worker.driver.plane.lag()
    if how == "reload":
        client.execute_command("DEBUG", "RELOAD", "NOSAVE")
    else:
        server.kill()
        if when == "running":
            assert worker.steps(5) >= PARTITIONS
        server.start()
    assert consumed(client) == copied < worker.published
    if when == "away":
        worker.restart()
    healed(worker, client, seen)


@pytest.mark.fault("F12", "an append-only file, cut short; under or before a worker", "exact bytes")
@pytest.mark.parametrize("server", [True], indirect=True, ids=["aof"])
@pytest.mark.parametrize("when", ["running", "away"])
def test_append_only_file(
    server: EmbeddedRedis, tmp_path: Path, seed: int, seen: list[str], when: str
) -> None:
    client: Any = redis.Redis.from_url(server.url)
    files = tmp_path / "redis" / "appendonlydir"
    worker = Worker(server.url, seed)
    worker.publish(300)
    worker.steps(4)
    shutil.copytree(files, tmp_path / "copy")
    worker.publish(400)
    worker.drain()
    server.kill()
    shutil.rmtree(files)
    shutil.copytree(tmp_path / "copy", files)
    (written,) = files.glob("*.incr.aof")
    with written.open("r+b") as file:
        file.truncate(written.stat().st_size - 7)  # in the middle of its last write
    if when == "running":
        worker.steps(2)
    server.start()
    assert 0 < consumed(client) < worker.published
    if when == "away":
        worker.restart()
    healed(worker, client, seen)


@pytest.mark.fault(
    "F12", "failover to a replica that lags; under or before a worker", "exact bytes"
)
@pytest.mark.parametrize("when", ["running", "away"])
def test_lagging_replica(
    server: EmbeddedRedis, tmp_path: Path, seed: int, seen: list[str], when: str
) -> None:
    """Its link is cut, the primary dies, the replica is promoted behind the same address."""
    port = int(server.url.rsplit(":", 1)[1])
    data = tmp_path / "replica"
    data.mkdir()
    with (
        EmbeddedRedis(directory=data) as second,
        Proxy((LOOPBACK, port)) as between,
        Proxy((LOOPBACK, port)) as front,
    ):
        replica: Any = redis.Redis.from_url(second.url)
        worker = Worker(f"redis://{LOOPBACK}:{front.port}", seed)
        worker.publish(300)
        worker.steps(4)
        replica.replicaof(LOOPBACK, between.port)
        wait(lambda: replica.info("replication").get("master_link_status") == "up")
        worker.publish(100)
        worker.steps(2)
        between.down.hold()
        worker.publish(300)
        worker.drain()
        server.kill()
        replica.replicaof("NO", "ONE")
        front.retarget((LOOPBACK, int(second.url.rsplit(":", 1)[1])))
        assert 0 < consumed(replica) < worker.published
        if when == "away":
            worker.restart()
        healed(worker, replica, seen)
        replica.close()


@pytest.mark.fault("F12", "one node of a cluster; under or before a worker", "exact bytes")
@pytest.mark.parametrize("when", ["running", "away"])
def test_one_node_of_a_cluster(tmp_path: Path, seed: int, seen: list[str], when: str) -> None:
    if not ClusterServers.available():
        absent("Redis Cluster", "install redis-server")
    with ClusterServers(tmp_path / "nodes") as cluster:
        owners = [cluster.owner(key_slot(tag)) for tag in TAGS]
        number = max(range(MASTERS), key=owners.count)
        worker = Worker(cluster.url, seed)
        worker.publish(300)
        worker.steps(4)
        with cluster.node(number) as node:
            node.save()
        dump = tmp_path / "nodes" / f"node-{number}" / "dump.rdb"
        shutil.copy(dump, tmp_path / "copy.rdb")
        worker.publish(400)
        worker.drain()
        cluster.servers[number].kill()
        shutil.copy(tmp_path / "copy.rdb", dump)
        if when == "running":
            assert worker.steps(5) > 0
        cluster.servers[number].start()
        cluster.wait()
        with cluster.client() as client:
            assert consumed(client) < worker.published
            if when == "away":
                worker.restart(cluster.url)
            healed(worker, client, seen)


@pytest.mark.fault(
    "F12", "a node is restored from before a slot of it moved away",
    "exact bytes; of a slot that moves just then: named, mended by deletion",
)  # fmt: skip
@pytest.mark.parametrize("moved", ["all", "half"])
@pytest.mark.parametrize("when", ["running", "away"])
def test_one_node_of_a_cluster_whose_slots_move(
    tmp_path: Path,
    seed: int,
    seen: list[str],
    caplog: pytest.LogCaptureFixture,
    when: str,
    moved: str,
) -> None:
    """The copy has keys of a slot that another node serves by now: they are none of its business.

    Where the other node has a part of the keys, rows of before the copy lie beside rows from after
    it, which are ahead of their marker: refused and named, until they are deleted.
    """
    if not ClusterServers.available():
        absent("Redis Cluster", "install redis-server")
    with ClusterServers(tmp_path / "nodes") as cluster:
        owners = [cluster.owner(key_slot(tag)) for tag in TAGS]
        number = max(range(MASTERS), key=owners.count)
        partition = owners.index(number)
        slot = key_slot(TAGS[partition])
        worker = Worker(cluster.url, seed)
        worker.publish(300)
        worker.steps(4)
        with cluster.node(number) as node:
            node.save()
        dump = tmp_path / "nodes" / f"node-{number}" / "dump.rdb"
        shutil.copy(dump, tmp_path / "copy.rdb")
        worker.publish(400)
        worker.drain()
        move = cluster.move(slot, (number + 1) % MASTERS)
        move.begin()
        assert move.keys(10) == 10
        if moved == "all":
            move.end()
        worker.steps(3)
        cluster.servers[number].kill()
        shutil.copy(tmp_path / "copy.rdb", dump)
        if when == "running":
            assert worker.steps(5) > 0
        cluster.servers[number].start()
        if moved == "all":
            cluster.wait()
        else:
            wait(lambda: cluster.alive(number))
            worker.steps(5)
            move.end()
            cluster.wait()
        with cluster.client() as client:
            assert consumed(client) < worker.published
            if when == "away":
                worker.restart(cluster.url)
            if moved == "half":
                worker.drain()
                assert "fails its checks" in caplog.text
                assert f"Delete all keys {TAGS[partition].decode()}*" in caplog.text
                for key in list(client.scan_iter(match=TAGS[partition] + b"*", count=1000)):
                    client.delete(key)
            healed(worker, client, seen)


@pytest.mark.fault("F12", "two owners after a rollback", "one writes, exact bytes")
def test_two_workers_that_both_own_all(server: EmbeddedRedis, seed: int, seen: list[str]) -> None:
    """A zombie that sleeps through the rollback finds its old lease in the store again."""
    client: Any = redis.Redis.from_url(server.url)
    zombie = Worker(server.url, seed)
    zombie.publish(200)
    zombie.steps(3)
    client.save()
    heir = Worker(server.url, seed + 1, clock=zombie.clock)
    heir.driver = heir._start(log=zombie.driver.log)
    heir.published = zombie.published
    heir.publish(200)
    heir.drain()
    client.execute_command("DEBUG", "RELOAD", "NOSAVE")
    for _ in range(30):
        if zombie.draw.random() < 0.3:
            zombie.steps(1)
        heir.steps(1)
    heir.drain()
    assert consumed(client) == heir.published
    seen.append(heir.check(client))


@pytest.mark.fault("I5", "commits are lost under way while the cache evicts", "exact bytes")
def test_commits_that_are_lost_while_rows_are_evicted(
    server: EmbeddedRedis, seed: int, seen: list[str]
) -> None:
    """The cache holds less than a batch touches; rows come and go between and within commits."""
    port = int(server.url.rsplit(":", 1)[1])
    with Proxy((LOOPBACK, port)) as front, redis.Redis.from_url(server.url) as client:
        worker = Worker(f"redis://{LOOPBACK}:{front.port}", seed)
        worker.driver = worker._start(log=worker.driver.log, cache_bytes=1)
        resets = 0
        for number in range(40):
            worker.publish(40)
            if number % 3 == 1:
                front.up.cut_after(worker.draw.choice([b"MSET\r\n", b"EXEC\r\n", b"WATCH\r\n"]))
            elif number % 3 == 2:
                front.down.cut_after_bytes(worker.draw.choice([1, 30, 200, 2_000]))
            resets += worker.steps(3)
            front.heal()
        assert resets > 10, "no commit was lost"
        healed(worker, client, seen)
        seen.append(f"{resets} resets")


def wait(until: Callable[[], bool]) -> None:
    """For a server."""
    deadline = time.monotonic() + 20
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)
