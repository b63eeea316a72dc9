"""Redis is killed, rolled back, full, read-only or busy, evicts, or holds broken bytes."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from pipeline.embedded.redis import EmbeddedRedis
from pipeline.ingest.scan import scan
from pipeline.serve.client import FeatureClient
from pipeline.store.keys import lease_key, marker_key, quarantine_key, row_key
from tests.faults.chaos import Chaos

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


@pytest.fixture
def client(chaos: Chaos) -> redis.Redis:
    """For the test's own commands, not through the proxy."""
    return redis.Redis.from_url(chaos.shop.redis_url)


def restart(chaos: Chaos, away_s: float = 1.0) -> None:
    """SIGKILL Redis and start it again."""
    chaos.store.kill()
    time.sleep(away_s)
    chaos.store.start()


@pytest.mark.fault("F11", "SIGKILL Redis that keeps an append-only file", "nothing lost, exact")
@pytest.mark.parametrize("chaos", [True], indirect=True, ids=["aof"])
@pytest.mark.parametrize("fsync", ["everysec", pytest.param("always", marks=pytest.mark.slow)])
def test_kill_with_file(chaos: Chaos, client: redis.Redis, fsync: str) -> None:
    worker = chaos.start()
    client.config_set("appendfsync", fsync)
    with chaos.load():
        chaos.progress(300)
        restart(chaos)
        chaos.progress(300)
    chaos.settle()
    assert worker.poll() is None


@pytest.mark.fault("F11", "SIGKILL Redis that keeps nothing", "rebuilt from the log, exact")
def test_kill_without_file(chaos: Chaos) -> None:
    worker = chaos.start()
    with chaos.load():
        chaos.progress(500)
        chaos.roll_back()
        restart(chaos, 0)
        chaos.progress(300)
    chaos.settle()
    assert worker.poll() is None


@pytest.mark.fault("F12", "Redis comes back with an older copy", "exact after the replay")
@pytest.mark.slow
@pytest.mark.parametrize("when", ["away", "running"])
def test_rollback(chaos: Chaos, client: redis.Redis, when: str) -> None:
    worker = chaos.start()
    chaos.publish(400)
    chaos.shop.wait_until_consumed(400)
    client.save()
    chaos.publish(900)
    chaos.settle()
    if when == "away":
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(15) == 0
    chaos.roll_back()
    restart(chaos, 0)
    if when == "away":
        assert chaos.shop.consumed() == 400
        chaos.start()
    chaos.settle()
    assert when == "away" or worker.poll() is None


@pytest.mark.fault("F12", "Redis resynchronises with an older copy", "exact after the replay")
def test_resynchronisation(chaos: Chaos, client: redis.Redis, tmp_path: Path) -> None:
    """Every connection stays; only what is in the store goes back."""
    worker = chaos.start()
    chaos.publish(400)
    chaos.shop.wait_until_consumed(400)
    client.save()
    older = tmp_path / "older"
    older.mkdir()
    shutil.copy(f"{client.config_get('dir')['dir']}/dump.rdb", older)
    with EmbeddedRedis(directory=older) as source, chaos.load():
        chaos.progress(300)
        chaos.roll_back()
        client.replicaof("127.0.0.1", source.url.rsplit(":", 1)[1])
        chaos.shop.wait(
            lambda: client.info("replication").get("master_link_status") == "up",
            lambda: "not in step with the older copy yet",
        )
        client.replicaof("NO", "ONE")
    chaos.settle()
    assert worker.poll() is None


Fault = Callable[[redis.Redis], Callable[[], object]]


def out_of_memory(client: redis.Redis) -> Callable[[], object]:
    """Returns what ends it."""
    client.config_set("maxmemory", 1)
    return lambda: client.config_set("maxmemory", 0)


def read_only(client: redis.Redis) -> Callable[[], object]:
    client.replicaof("127.0.0.1", "1")
    return lambda: client.replicaof("NO", "ONE")


def no_replicas(client: redis.Redis) -> Callable[[], object]:
    client.config_set("min-replicas-to-write", 1)
    return lambda: client.config_set("min-replicas-to-write", 0)


def busy(client: redis.Redis) -> Callable[[], object]:
    client.config_set("lua-time-limit", 1)
    pool = ThreadPoolExecutor(1)
    pool.submit(client.eval, "while true do end", 0)

    def end() -> None:
        client.script_kill()
        pool.shutdown()

    return end


def refused(chaos: Chaos, faults: list[Fault]) -> None:
    """Nothing is written, skipped or dead-lettered meanwhile; then it goes on."""
    client = redis.Redis.from_url(chaos.shop.redis_url)
    worker = chaos.start()
    chaos.publish(300)
    chaos.settle()
    for fault in faults:
        with chaos.load(500):
            end = fault(client)
            time.sleep(0.5)
            held = chaos.shop.consumed()
            time.sleep(2)
            assert chaos.shop.consumed() == held, "it went on though the store refused"
            end()
        chaos.settle()
        assert worker.poll() is None
        chaos.seen.append(fault.__name__)
    assert not list(scan(chaos.shop.properties, f"{chaos.shop.app}-dead-letter"))


@pytest.mark.fault("F13", "Redis is out of memory", "back-pressure, then goes on; nothing skipped")
def test_out_of_memory(chaos: Chaos) -> None:
    refused(chaos, [out_of_memory])


@pytest.mark.slow  # its short form is in test_store_faults.py
@pytest.mark.fault("F15", "Redis is read-only, lacks replicas, or is busy", "as F13")
def test_refusals(chaos: Chaos) -> None:
    refused(chaos, [read_only, no_replicas, busy])


@pytest.mark.fault("F14", "Redis evicts", "refuses to start, exit 2")
def test_evicting_policy(chaos: Chaos, client: redis.Redis) -> None:
    client.config_set("maxmemory-policy", "allkeys-lru")
    chaos.ends(chaos.start(), 2, "noeviction")
    assert client.dbsize() == 0


def flip(client: redis.Redis, key: bytes) -> None:
    """One bit of the middle byte."""
    stored = client.get(key)
    assert isinstance(stored, bytes)
    value = bytearray(stored)
    value[len(value) // 2] ^= 4
    client.set(key, bytes(value))


@pytest.mark.slow
@pytest.mark.fault("F17", "a flipped bit in a marker or lease", "named stop; never decoded")
def test_flipped_bit(chaos: Chaos, client: redis.Redis) -> None:
    settled_and_stopped(chaos)
    chaos.publish(200)
    fingerprint, tags = chaos.shop.view.plan.fingerprint, chaos.shop.tags()
    for key, text in ((marker_key(tags[0], fingerprint), "marker"), (lease_key(tags[0]), "lease")):
        good = client.get(key)
        flip(client, key)
        bad = client.get(key)
        chaos.ends(chaos.start(), 1, text)
        assert client.get(key) == bad, "what is broken was written over"
        assert good is not None
        client.set(key, good)
    chaos.start()
    chaos.settle()


@pytest.mark.fault(
    "F17", "a flipped bit in a row", "quarantined and told; the rest goes on; mended from the log"
)
def test_flipped_row(chaos: Chaos, client: redis.Redis) -> None:
    settled_and_stopped(chaos)
    fingerprint, tags = chaos.shop.view.plan.fingerprint, chaos.shop.tags()
    (tag,) = (t for t in tags if client.exists(row_key(t, fingerprint, b"1")))
    row = row_key(tag, fingerprint, b"1")
    flip(client, row)
    bad = client.get(row)
    chaos.publish(200)
    worker = chaos.start()
    chaos.shop.wait_until_consumed(800)
    chaos.wait_for(worker, "the stored row of spending for key b'1' fails its checks")
    assert client.get(row) == bad, "what is broken was written over"
    assert client.get(quarantine_key(tag, fingerprint, b"1")) == bad
    with FeatureClient(chaos.shop.redis_url) as reader:
        users = [1, min(int(key) for key in chaos.shop.rows() if key != b"1")]
        read = reader.prepare(["spending:last_shop"]).read({"user": users}, at="event")
    assert read["spending__status"].to_pylist() == ["degraded", "present"]
    refused = sum(m.dead_lettered for m in chaos.shop.markers())
    assert refused > 0
    chaos.seen.append(f"{refused} records of the entity dead-lettered")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(15) == 0
    for key in list(client.scan_iter(match=b"{%s:*" % chaos.shop.app.encode(), count=1000)):
        client.delete(key)
    chaos.start()
    chaos.settle()


def settled_and_stopped(chaos: Chaos) -> None:
    """600 events are in the store, no worker lives, and nobody watches."""
    worker = chaos.start()
    chaos.publish(600)
    chaos.settle()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(15) == 0
    chaos.stop_watching()
