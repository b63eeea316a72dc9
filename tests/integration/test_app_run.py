"""``pipeline run`` as a process, on real servers: the bytes in Redis are those of a replay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from pipeline.config import BrokerConfig
from pipeline.embedded.process import free_port
from pipeline.ingest.batch import TopicPartition
from pipeline.ingest.scan import scan
from pipeline.produce.publisher import Publisher
from pipeline.produce.topics import ensure_topic
from pipeline.store.keys import marker_key, partition_tag, row_key
from pipeline.store.marker import Marker
from pipeline.testing.driver import Driver
from pipeline.testing.log import LoggedRecord, MemoryLog
from tests.integration import shop

PARTITIONS = 6
PATIENCE_S = 60.0
MAIN = "import sys; from pipeline.cli import main; sys.exit(main())"


class Shop:
    """A topic, the processes that read it, and what they left in Redis."""

    def __init__(self, brokers: str, redis_url: str, topic: str, directory: Path) -> None:
        self.brokers, self.redis_url, self.topic = brokers, redis_url, topic
        self.app = topic.replace(".", "-")[:40]
        self.directory = directory
        self.properties = BrokerConfig(brokers=brokers).client_properties()
        self.workers: list[subprocess.Popen[bytes]] = []
        self.view, self.trigger = shop.definitions(topic)
        ensure_topic(brokers, topic, PARTITIONS)

    def publish(self, records: list[tuple[bytes | None, bytes | None]]) -> None:
        """To the partition of each key; a record without one goes to partition 0."""
        with Publisher(self.brokers) as publisher:
            for key, value in records:
                partition = 0 if key is None else None
                publisher.publish(self.topic, value, key=key, partition=partition)

    def start(self, **settings: str) -> subprocess.Popen[bytes]:
        """Another worker."""
        environment = {
            **os.environ,
            "SHOP_TOPIC": self.topic,
            "SHOP_APP": self.app,
            "SHOP_SEEN": str(self.directory / "seen"),
            "PIPELINE_APP__SESSION_TIMEOUT_MS": "6000",
            **settings,
        }
        arguments = ["run", "tests/integration/shop.py:app", "--web-port", str(free_port())]
        servers = ["--brokers", self.brokers, "--store", self.redis_url]
        with (self.directory / f"worker-{len(self.workers)}.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-c", MAIN, *arguments, *servers],
                env=environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.workers.append(worker)
        return worker

    def markers(self) -> list[Marker]:
        """Markers in Redis."""
        with redis.Redis.from_url(self.redis_url) as store:
            found = [store.get(marker_key(tag, self.view.plan.fingerprint)) for tag in self.tags()]
        return [Marker.unpack(m) for m in found if isinstance(m, bytes)]

    def rows(self) -> dict[bytes, bytes]:
        """Rows in Redis by entity key."""
        rows: dict[bytes, bytes] = {}
        with redis.Redis.from_url(self.redis_url) as store:
            for tag in self.tags():
                prefix = row_key(tag, self.view.plan.fingerprint, b"")
                for key in store.scan_iter(match=prefix + b"*", count=1000):
                    value = store.get(key)
                    assert isinstance(value, bytes)
                    rows[key[len(prefix) :]] = value
        return rows

    def tags(self) -> list[bytes]:
        """Of all partitions."""
        return [partition_tag(self.app, TopicPartition(self.topic, p)) for p in range(PARTITIONS)]

    def consumed(self) -> int:
        """Records that the markers account for."""
        return sum(m.consumed for m in self.markers())

    def wait_until_consumed(self, records: int) -> None:
        """Wait; a worker that ends meanwhile is a failure with its last words."""
        deadline = time.monotonic() + PATIENCE_S
        while self.consumed() < records:
            assert any(w.poll() is None for w in self.workers), self.last_words()
            assert time.monotonic() < deadline, (
                f"{self.consumed()} of {records}; {self.last_words()}"
            )
            time.sleep(0.05)

    def last_words(self) -> str:
        """The end of every worker's log."""
        logs = sorted(self.directory.glob("worker-*.log"))
        return "\n".join(f"{p.name}: {p.read_text(errors='replace')[-1500:]}" for p in logs)

    def check(self, records: int) -> None:
        """Rows are those of a replay at another batch size; every record is accounted for."""
        log = MemoryLog()
        log.create(self.topic, PARTITIONS)
        for record in scan(self.properties, self.topic):
            log.records(TopicPartition(self.topic, record.partition)).append(
                LoggedRecord(record.offset, record.key, record.value, record.timestamp_ms)
            )
        replay = Driver([self.view], [self.trigger], app=self.app, log=log, max_records=333)
        replay.run()
        assert self.rows() == replay.rows("spending")
        found = {m.partition: m for m in self.markers()}
        expected = {m.partition: m for m in replay.markers("spending")}
        assert sum(m.consumed for m in found.values()) == records
        for partition, marker in expected.items():
            got = found[partition]
            assert got.next_offset == marker.next_offset
            for count in ("consumed", "applied", "duplicate", "late", "dead_lettered", "filtered"):
                assert getattr(got, count) == getattr(marker, count), (partition, count)

    def stop(self) -> None:
        """Kill what still runs."""
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()


@pytest.fixture(params=["kafka", "embedded"])
def running(
    request: pytest.FixtureRequest, redis_url: str, topic: Callable[[str], str], tmp_path: Path
) -> Iterator[Shop]:
    """A shop on a real Kafka or on the embedded broker, with a real Redis."""
    if request.param == "kafka":
        brokers = request.getfixturevalue("kafka_brokers")
    else:
        brokers = request.getfixturevalue("embedded_servers").brokers
    found = Shop(brokers, redis_url, topic("payments"), tmp_path)
    yield found
    found.stop()


def test_the_bytes_in_redis_are_those_of_a_replay(running: Shop) -> None:
    events = [shop.message(e) for e in shop.events(8_000, seed=1)]
    bad = [(b"1", b"not json"), (None, events[0][1]), (b"7", b""), (b"7", None)]
    running.publish([*events[:4_000], *bad])
    worker = running.start()
    running.wait_until_consumed(4_004)
    running.publish(events[4_000:])
    running.wait_until_consumed(8_004)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0, running.last_words()
    running.check(8_004)
    seen = (running.directory / "seen").read_text().split()
    assert sum(map(int, seen)) > 400  # every user changed at least once, and the agent saw it
    letters = list(scan(running.properties, f"{running.app}-dead-letter"))
    assert len(letters) == len(bad)


def test_a_worker_that_is_killed_leaves_the_same_bytes(running: Shop) -> None:
    events = [shop.message(e) for e in shop.events(12_000, seed=2)]
    for start in range(0, 12_000, 3_000):
        worker = running.start(PIPELINE_APP__MAX_RECORDS="100")
        running.publish(events[start : start + 3_000])
        running.wait_until_consumed(start + 700)
        worker.kill()
        worker.wait()
    running.start()
    running.wait_until_consumed(12_000)
    running.check(12_000)


def test_two_workers_share_the_partitions_and_one_takes_over(running: Shop) -> None:
    events = [shop.message(e) for e in shop.events(9_000, seed=3)]
    first = running.start(PIPELINE_APP__MAX_RECORDS="200")
    running.publish(events[:3_000])
    running.wait_until_consumed(3_000)
    running.start(PIPELINE_APP__MAX_RECORDS="200")
    running.publish(events[3_000:6_000])
    running.wait_until_consumed(6_000)
    first.send_signal(signal.SIGTERM)
    running.publish(events[6_000:])
    running.wait_until_consumed(9_000)
    assert first.wait(20) == 0, running.last_words()
    running.check(9_000)
