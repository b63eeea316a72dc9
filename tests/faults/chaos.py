"""The shop under a fault: load, safety while it lasts, liveness after it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import struct
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import confluent_kafka
import redis
from redis.exceptions import RedisError

from pipeline.embedded.kafka import KafkaNode
from pipeline.embedded.process import LOOPBACK
from pipeline.embedded.redis import EmbeddedRedis
from pipeline.errors import CorruptRowError, PipelineError
from pipeline.ingest.scan import scan
from pipeline.produce.publisher import Publisher
from pipeline.serve.client import FeatureClient
from pipeline.store.keys import marker_key, row_key
from pipeline.store.marker import Marker
from tests.faults.proxy import Proxy
from tests.integration import shop
from tests.integration.shop_process import PARTITIONS, Shop

__all__ = [
    "Chaos",
    "Cluster",
    "cpu_seconds",
    "eventually",
    "paused",
    "resident_mib",
    "state",
    "threads",
]

EVENTS = 40_000
CHUNK = 40
WATCH_S = 0.05
WATCHED_USERS = 20
ROW_OFFSET_AT = 32  # source offset in a row's header
SETTINGS = {
    "PIPELINE_APP__SESSION_TIMEOUT_MS": "3000",
    "PIPELINE_APP__MAX_RECORDS": "100",
    "PIPELINE_STORE__TIMEOUT_MS": "2000",
    "PIPELINE_BROKER__TIMEOUT_MS": "4000",
}


@dataclass
class Cluster:
    """A Kafka node with its files; ``proxied`` is its address through ``link``."""

    node: KafkaNode
    directory: Path
    link: Proxy
    proxied: str

    def heal(self) -> None:
        """No fault is left."""
        self.node.start()
        self.link.heal()


class Chaos:
    """A shop, its servers and links, and a watcher that looks for what must never be.

    ``seen`` takes what a test wants in the table.
    """

    def __init__(
        self,
        cluster: Cluster,
        store: EmbeddedRedis,
        link: Proxy,
        topic: str,
        directory: Path,
        seed: int,
    ) -> None:
        self.cluster, self.store, self.link = cluster, store, link
        self.random = random.Random(seed)
        self.seen: list[str] = []
        self.shop = Shop(
            cluster.node.brokers, f"{store.url}/0", topic, directory,
            worker_redis=f"redis://{LOOPBACK}:{link.port}/0",
        )  # fmt: skip
        self._events = map(shop.message, shop.events(EVENTS, seed))
        self._watcher = _Watcher(self.shop)

    def close(self) -> None:
        """End workers and watcher."""
        self._watcher.stop()
        self.shop.stop()

    def start(self, **settings: str) -> subprocess.Popen[bytes]:
        """A worker with short timeouts and small batches."""
        return self.shop.start(**{**SETTINGS, **settings})

    def publish(self, count: int) -> None:
        """``count`` more events."""
        self.shop.publish([next(self._events) for _ in range(count)])

    @contextlib.contextmanager
    def load(self, per_second: int = 1000) -> Iterator[None]:
        """Events all the time, tried again while the broker is away: some come twice."""
        done = threading.Event()
        thread = threading.Thread(target=self._publish_until, args=(done, per_second))
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def end(self, worker: subprocess.Popen[bytes]) -> None:
        """SIGTERM, and what is to come of it."""
        started = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(15) == 0, self.shop.last_words()
        assert time.monotonic() - started < 10

    def metrics(self, worker: subprocess.Popen[bytes]) -> dict[str, float]:
        """What a worker's metrics page says: a value by name and labels."""
        arguments = list(map(str, worker.args)) if isinstance(worker.args, list) else []
        port = arguments[arguments.index("--web-port") + 1]
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def progress(self, records: int) -> None:
        """Wait until so many more records are consumed than now."""
        self.shop.wait_until_consumed(self.shop.consumed() + records)

    def safe(self) -> None:
        """Safety, while no worker lives: rows are those of the log below the markers."""
        time.sleep(0.1)  # a transaction that was sent may still be carried out
        verdict = self.shop.compare(unfinished=True)
        wrong = verdict.mismatches + self._watcher.wrong
        assert not wrong, f"{wrong[:5]}\n{self.shop.last_words()}"

    def settle(self, *, gaps: bool = False) -> None:
        """Liveness: all lag drains once the faults are over; then everything is compared.

        ``gaps``: there were transactions, so that some offsets are no records.
        """
        if gaps:
            records = sum(1 for _ in scan(self.shop.properties, self.shop.topic))
            self.shop.wait_until_consumed(records)
        else:
            ends = self._ends()
            records = sum(ends.values())
            self.shop.wait_until_consumed(records)
            self.shop.wait(
                lambda: self._committed() == ends, lambda: f"{self._committed()} of {ends}"
            )
        verdict = self.shop.compare()
        wrong = verdict.mismatches + self._watcher.wrong
        assert not wrong, f"{wrong[:5]}\n{self.shop.last_words()}"
        assert verdict.records == records
        with FeatureClient(self.shop.redis_url) as client:  # readers find what is there
            read = client.prepare(["spending:last_shop"]).read({"user": [1]}, at="event")
        assert read.column("last_shop").null_count == 0
        self._watcher.may_go_back(False)
        self.seen.append(str(verdict))

    def roll_back(self) -> None:
        """From here on, until everything has settled, the store may be older than it was."""
        self._watcher.may_go_back(True)

    def stop_watching(self) -> None:
        """From here on what is in the store is the test's own doing."""
        self._watcher.stop()

    def wait_for(self, worker: subprocess.Popen[bytes], text: str, count: int = 1) -> None:
        """Wait until a worker's log says ``text``."""
        self.shop.wait(
            lambda: self.shop.log_of(worker).count(text) >= count, lambda: f"no {text!r} yet"
        )

    def ends(self, worker: subprocess.Popen[bytes], code: int, text: str) -> None:
        """Wait until a worker ends with ``code`` and says ``text``."""
        assert worker.wait(60) == code, self.shop.last_words()
        assert text in self.shop.log_of(worker), self.shop.last_words()
        self.seen.append(f"exit {code}: {text}")

    def _publish_until(self, done: threading.Event, per_second: int) -> None:
        with Publisher(self.shop.brokers, timeout_s=2) as publisher:
            chunk = [next(self._events) for _ in range(CHUNK)]
            while not done.wait(CHUNK / per_second):
                with contextlib.suppress(PipelineError):
                    keys, values = zip(*chunk, strict=True)
                    publisher.publish_many(self.shop.topic, values, keys)
                    publisher.flush()
                    chunk = [next(self._events) for _ in range(CHUNK)]

    def _ends(self) -> dict[int, int]:
        with self._consumer() as consumer:
            places = (confluent_kafka.TopicPartition(self.shop.topic, p) for p in range(PARTITIONS))
            return {p.partition: consumer.get_watermark_offsets(p, 10)[1] for p in places}

    def _committed(self) -> dict[int, int]:
        with self._consumer() as consumer:
            places = [confluent_kafka.TopicPartition(self.shop.topic, p) for p in range(PARTITIONS)]
            return {p.partition: max(p.offset, 0) for p in consumer.committed(places, timeout=10)}

    @contextlib.contextmanager
    def _consumer(self) -> Iterator[confluent_kafka.Consumer]:
        group = f"{self.shop.app}.features"
        consumer = confluent_kafka.Consumer({**self.shop.properties, "group.id": group})
        try:
            yield consumer
        finally:
            consumer.close()


class _Watcher:
    """Reads markers and rows of one instant, all the time.

    ``wrong`` collects: a marker that breaks the accounting identity, a marker that went back
    though the store did not, a row that is ahead of its marker.
    """

    def __init__(self, watched: Shop) -> None:
        self.wrong: list[str] = []
        self._shop = watched
        self._newest: dict[bytes, int] = {}
        self._may_go_back = False
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the watch."""
        self._done.set()
        self._thread.join()

    def may_go_back(self, allowed: bool) -> None:
        """Whether the store itself may go back in time."""
        with self._lock:
            self._may_go_back = allowed

    def _watch(self) -> None:
        store = redis.Redis.from_url(self._shop.redis_url)
        while not self._done.wait(WATCH_S):
            with self._lock, contextlib.suppress(RedisError):
                for tag in self._shop.tags():
                    self._look(store, tag)
        store.close()

    def _look(self, store: redis.Redis, tag: bytes) -> None:
        fingerprint = self._shop.view.plan.fingerprint
        users = [row_key(tag, fingerprint, b"%d" % user) for user in range(1, WATCHED_USERS)]
        found = store.mget([marker_key(tag, fingerprint), *users])
        data, *rows = (value if isinstance(value, bytes) else None for value in found)
        next_offset = 0
        if data is not None:
            try:
                next_offset = Marker.unpack(data).next_offset
            except (CorruptRowError, PipelineError) as broken:
                self.wrong.append(f"identity: {broken}")
        if next_offset < self._newest.get(tag, 0) and not self._may_go_back:
            self.wrong.append(f"{tag!r}: marker went back to {next_offset}")
        self._newest[tag] = next_offset
        for row in filter(None, rows):
            (offset,) = struct.unpack_from("<q", row, ROW_OFFSET_AT)
            if offset >= next_offset:
                self.wrong.append(f"{tag!r}: a row includes {offset}, its marker is {next_offset}")


def state(worker: subprocess.Popen[bytes]) -> str:
    """One letter: R, S, T for stopped, Z for ended."""
    return Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0]


def cpu_seconds(worker: subprocess.Popen[bytes]) -> float:
    """Processor time used so far."""
    fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def threads(worker: subprocess.Popen[bytes]) -> int:
    """Threads of a process."""
    return len(list(Path(f"/proc/{worker.pid}/task").iterdir()))


def resident_mib(worker: subprocess.Popen[bytes]) -> float:
    """Resident memory."""
    return int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1]) * 4096 / (1 << 20)


@contextlib.contextmanager
def paused(pid: int) -> Iterator[None]:
    """SIGSTOP, then SIGCONT."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def eventually(so: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether it becomes so in time."""
    deadline = time.monotonic() + seconds
    while not so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
