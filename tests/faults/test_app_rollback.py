"""Redis goes back in time, under the application and while it is away: every byte heals.

What follows a copy is read again from the log; partitions that nobody writes to notice within a
second, for leases and markers are compared all the time. In ``test_app_store.py`` a dump is
restored by a restart; ``test_plane_rollback.py`` has the short forms.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from pipeline.embedded.process import LOOPBACK
from pipeline.embedded.redis import EmbeddedRedis
from pipeline.ingest.batch import TopicPartition
from pipeline.store.keys import partition_tag
from pipeline.store.slots import key_slot
from tests.conftest import absent
from tests.faults.chaos import SETTINGS, Chaos, Cluster
from tests.faults.conftest import SEEN
from tests.faults.proxy import Proxy
from tests.integration import shop
from tests.integration.shop_process import PARTITIONS, Shop
from tests.rediscluster import MASTERS, ClusterServers

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.slow]


def end(chaos: Chaos, worker: subprocess.Popen[bytes]) -> None:
    """In order."""
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(15) == 0


def until_in_step(client: redis.Redis, what: Chaos) -> None:
    """Wait for a replica."""
    what.shop.wait(
        lambda: client.info("replication").get("master_link_status") == "up",
        lambda: "not in step with its primary yet",
    )


@pytest.mark.fault("F12", "an RDB copy is loaded over what is there", "exact after the replay")
@pytest.mark.parametrize("load", ["quiet", "busy"])
def test_copy_is_loaded_while_connections_stay(chaos: Chaos, load: str) -> None:
    """DEBUG RELOAD NOSAVE: no connection is lost; quiet: no partition commits rows afterwards."""
    client: Any = redis.Redis.from_url(chaos.shop.redis_url)
    worker = chaos.start()
    chaos.publish(400)
    chaos.shop.wait_until_consumed(400)
    client.save()
    chaos.publish(900)
    chaos.settle()
    chaos.roll_back()
    if load == "quiet":
        client.execute_command("DEBUG", "RELOAD", "NOSAVE")
    else:
        with chaos.load():
            chaos.progress(300)
            client.execute_command("DEBUG", "RELOAD", "NOSAVE")
    chaos.settle()
    assert worker.poll() is None
    for partition in range(PARTITIONS):
        source = f"{TopicPartition(chaos.shop.topic, partition)}: reading again"
        assert source in chaos.shop.log_of(worker), "a partition was not opened again"


@pytest.mark.fault("F12", "an append-only file is restored", "exact after the replay")
@pytest.mark.parametrize("chaos", [True], indirect=True, ids=["aof"])
@pytest.mark.parametrize("when", ["away", "running"])
def test_append_only_file_is_restored(chaos: Chaos, tmp_path: Path, when: str) -> None:
    """As it was at one instant, its last write cut in the middle."""
    client = redis.Redis.from_url(chaos.shop.redis_url)
    files = Path(str(client.config_get("dir")["dir"])) / "appendonlydir"
    worker = chaos.start()
    chaos.publish(400)
    chaos.shop.wait_until_consumed(400)
    client.config_set("aof-load-truncated", "yes")
    with chaos.load():
        chaos.progress(300)
        shutil.copytree(files, tmp_path / "copy")
        chaos.progress(600)
    chaos.settle()
    if when == "away":
        end(chaos, worker)
    chaos.roll_back()
    chaos.store.kill()
    shutil.rmtree(files)
    shutil.copytree(tmp_path / "copy", files)
    (written,) = files.glob("*.incr.aof")
    with written.open("r+b") as file:
        file.truncate(written.stat().st_size - 7)
    chaos.store.start()
    if when == "away":
        chaos.start()
    chaos.settle()
    assert when == "away" or worker.poll() is None


@pytest.mark.fault("F12", "failover to a replica that lags", "exact after the replay")
@pytest.mark.parametrize("when", ["away", "running"])
def test_failover_to_a_replica_that_lags(chaos: Chaos, tmp_path: Path, when: str) -> None:
    """Its link to the primary is cut, the primary dies, the replica is promoted."""
    data = tmp_path / "replica"
    data.mkdir()
    primary = int(chaos.store.url.rsplit(":", 1)[1])
    with (
        EmbeddedRedis(directory=data) as second,
        Proxy((LOOPBACK, primary)) as between,
        redis.Redis.from_url(second.url) as replica,
    ):
        worker = chaos.start()
        chaos.publish(400)
        chaos.shop.wait_until_consumed(400)
        replica.replicaof(LOOPBACK, between.port)
        until_in_step(replica, chaos)
        with chaos.load():
            chaos.progress(200)
            between.down.hold()  # what the primary acknowledges from here on is lost
            chaos.progress(500)
        if when == "away":
            chaos.settle()
            end(chaos, worker)
        chaos.stop_watching()
        chaos.store.kill()
        replica.replicaof("NO", "ONE")
        chaos.link.retarget((LOOPBACK, int(second.url.rsplit(":", 1)[1])))
        chaos.shop.redis_url = f"{second.url}/0"
        if when == "away":
            chaos.start()
        chaos.settle()
        assert when == "away" or worker.poll() is None
        chaos.shop.stop()


@pytest.fixture
def own_cluster(tmp_path: Path) -> ClusterServers:
    """Servers of a test's own, which it may break; not started yet."""
    if not ClusterServers.available():
        absent("Redis Cluster", "install redis-server")
    return ClusterServers(tmp_path / "redis-cluster")


@pytest.mark.fault("F12", "one node of a Redis Cluster is restored", "exact after the replay")
@pytest.mark.parametrize("when", ["away", "running"])
def test_one_node_of_a_cluster_is_restored(
    cluster: Cluster,
    own_cluster: ClusterServers,
    topic: Callable[[str], str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    seed: int,
    when: str,
) -> None:
    cluster.heal()
    events = map(shop.message, shop.events(4_000, seed))
    with own_cluster as servers:
        running = Shop(cluster.node.brokers, servers.url, topic("payments"), tmp_path)
        try:
            worker = running.start(**SETTINGS)
            running.publish([next(events) for _ in range(800)])
            running.wait_until_consumed(800)
            number = _most(servers, running)
            with servers.node(number) as node:
                node.save()
            dump = tmp_path / "redis-cluster" / f"node-{number}" / "dump.rdb"
            shutil.copy(dump, tmp_path / "copy.rdb")
            running.publish([next(events) for _ in range(1_200)])
            running.wait_until_consumed(2_000)
            if when == "away":
                worker.send_signal(signal.SIGTERM)
                assert worker.wait(15) == 0
            servers.servers[number].kill()
            shutil.copy(tmp_path / "copy.rdb", dump)
            time.sleep(1)
            servers.servers[number].start()
            servers.wait()
            assert running.consumed() < 2_000, "nothing went back"
            if when == "away":
                running.start(**SETTINGS)
            running.wait_until_consumed(2_000)
            running.publish([next(events) for _ in range(500)])
            running.wait_until_consumed(2_500)
            verdict = running.check(2_500)
            request.node.stash[SEEN] = [str(verdict)]
            assert when == "away" or worker.poll() is None
        finally:
            running.stop()


def _most(servers: ClusterServers, running: Shop) -> int:
    """The node that serves most partitions."""
    tags = [partition_tag(running.app, TopicPartition(running.topic, p)) for p in range(PARTITIONS)]
    owners = [servers.owner(key_slot(tag)) for tag in tags]
    return max(range(MASTERS), key=owners.count)
