"""The application of ``shop.py`` as processes on real servers, and the one check of what they did.

What a worker left in Redis and in its output topics is compared with a replay of the broker's
real log in memory, at another batch size: rows byte for byte, markers count for count, requests
and changed rows under the ids that readers drop repetitions by.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl
import pyarrow as pa
import redis
from redis.exceptions import RedisError

from pipeline.app.outputs import TopicNames
from pipeline.config import AppConfig, BrokerConfig
from pipeline.embedded.process import free_port
from pipeline.features.view import FeatureView
from pipeline.ingest.batch import TopicPartition
from pipeline.ingest.scan import ScannedRecord, scan
from pipeline.produce.publisher import Publisher
from pipeline.produce.topics import ensure_topic
from pipeline.store.keys import marker_key, partition_tag, row_key
from pipeline.store.marker import Marker
from pipeline.testing.driver import Driver
from pipeline.testing.log import LoggedRecord, MemoryLog
from tests.integration import shop

__all__ = ["Message", "Shop", "Verdict"]

Message: TypeAlias = "tuple[bytes | None, bytes | None]"

PARTITIONS = 6
PATIENCE_S = float(os.environ.get("PIPELINE_TEST_PATIENCE_S", "60"))  # more where many share a core
REPLAY_RECORDS = 333  # a batch size that no worker uses
MAIN = "import sys; from pipeline.cli import main; sys.exit(main())"
APPLICATION = Path(shop.__file__).resolve()
COUNTS = ("next_offset", "consumed", "applied", "duplicate", "late", "dead_lettered", "filtered")


@dataclass(frozen=True)
class Verdict:
    """What the workers left, beside what a replay of the log leaves."""

    records: int
    rows: int
    mismatches: list[str]

    def __str__(self) -> str:
        return "; ".join(self.mismatches[:5]) or f"{self.records} records, {self.rows} rows equal"


class Shop:
    """A topic, the processes that read it, and what they left in Redis.

    Workers reach the servers through ``worker_brokers`` and ``worker_redis`` where given (a
    proxy), the checks always directly.
    """

    def __init__(
        self,
        brokers: str,
        redis_url: str,
        topic: str,
        directory: Path,
        *,
        worker_brokers: str | None = None,
        worker_redis: str | None = None,
    ) -> None:
        self.brokers, self.redis_url, self.topic = brokers, redis_url, topic
        self.worker_brokers = worker_brokers or brokers
        self.worker_redis = worker_redis or redis_url
        # the end: what makes the name of a topic new, or tests would read one another's outputs
        self.app = topic.replace(".", "-")[-40:].lstrip("-")
        self.directory = directory
        self.properties = BrokerConfig(brokers=brokers).client_properties()
        self.workers: list[subprocess.Popen[bytes]] = []
        self.view, self.trigger = shop.definitions(topic)
        ensure_topic(brokers, topic, PARTITIONS)

    def publish(self, records: Iterable[Message]) -> None:
        """To the partition of each key; a record without one goes to partition 0."""
        with Publisher(self.brokers) as publisher:
            for key, value in records:
                partition = 0 if key is None else None
                publisher.publish(self.topic, value, key=key, partition=partition)

    def start(self, *options: str, **settings: str) -> subprocess.Popen[bytes]:
        """Another worker; ``settings`` are environment variables."""
        environment = {
            **os.environ,
            "SHOP_TOPIC": self.topic,
            "SHOP_APP": self.app,
            "SHOP_SEEN": str(self.directory / "seen"),
            "PIPELINE_APP__SESSION_TIMEOUT_MS": "3000",
            **settings,
        }
        arguments = ["run", f"{APPLICATION}:app", "-v", "--web-port", str(free_port()), *options]
        servers = ["--brokers", self.worker_brokers, "--store", self.worker_redis]
        with self._log(len(self.workers)).open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-c", MAIN, *arguments, *servers],
                cwd=self.directory, env=environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.workers.append(worker)
        return worker

    def command(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        """A ``pipeline`` command about the application, with its output."""
        servers = ["--brokers", self.brokers, "--store", self.redis_url]
        return subprocess.run(
            [sys.executable, "-c", MAIN, name, f"{APPLICATION}:app", *options, *servers],
            cwd=self.directory,
            env={**os.environ, "SHOP_TOPIC": self.topic, "SHOP_APP": self.app, "COLUMNS": "200"},
            capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip

    def markers(self) -> list[Marker]:
        """Markers in Redis."""
        with self.client() as store:
            found = [store.get(marker_key(t, self.view.plan.fingerprint)) for t in self.tags()]
        return [Marker.unpack(m) for m in found if isinstance(m, bytes)]

    def rows(self, fingerprint: int | None = None) -> dict[bytes, bytes]:
        """Rows in Redis by entity key, of the view or of another plan."""
        rows: dict[bytes, bytes] = {}
        with self.client() as store:
            for tag in self.tags():
                prefix = row_key(tag, fingerprint or self.view.plan.fingerprint, b"")
                keys = list(store.scan_iter(match=prefix + b"*", count=1000))
                for key, value in zip(keys, store.mget(keys) if keys else [], strict=True):
                    assert isinstance(value, bytes)
                    rows[key[len(prefix) :]] = value
        return rows

    def added_rows(self) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
        """Rows of the view that a later version has, in Redis and as a replay of it alone makes."""
        view = shop.added(self.view)
        log = MemoryLog()
        log.create(self.topic, PARTITIONS)
        for record in scan(self.properties, self.topic):
            log.records(TopicPartition(self.topic, record.partition)).append(
                LoggedRecord(record.offset, record.key, record.value, record.timestamp_ms)
            )
        replay = Driver([view], app=self.app, log=log, max_records=REPLAY_RECORDS)
        replay.run()
        return self.rows(view.plan.fingerprint), replay.rows(view.name)

    def client(self) -> Any:
        """For looking into the store; of a cluster, one that follows its slots."""
        scheme, _, nodes = self.redis_url.partition("://")
        if scheme == "redis-cluster":
            return redis.RedisCluster.from_url(f"redis://{nodes.partition(',')[0]}")
        return redis.Redis.from_url(self.redis_url)

    def tags(self) -> list[bytes]:
        """Of all partitions."""
        return [partition_tag(self.app, TopicPartition(self.topic, p)) for p in range(PARTITIONS)]

    def consumed(self) -> int:
        """Records that the markers account for; 0 while Redis does not answer."""
        try:
            return sum(m.consumed for m in self.markers())
        except RedisError:
            return 0

    def wait_until_consumed(self, records: int) -> None:
        """Wait; workers that all ended meanwhile are a failure with their last words."""
        self.wait(lambda: self.consumed() >= records, lambda: f"{self.consumed()} of {records}")

    def wait_until_quiet(self, seconds: float = 2.0) -> int:
        """Wait until no more records are consumed for so long; how many are."""
        while True:
            before = self.consumed()
            time.sleep(seconds)
            if before and self.consumed() == before:
                return before

    def wait(self, until: Callable[[], bool], doing: Callable[[], str]) -> None:
        """Wait until something is so, while at least one worker lives."""
        deadline = time.monotonic() + PATIENCE_S
        while not until():
            assert any(w.poll() is None for w in self.workers), (
                f"{doing()}: every worker ended; {self.last_words()}"
            )
            assert time.monotonic() < deadline, f"{doing()}; {self.last_words()}"
            time.sleep(0.05)

    def last_words(self) -> str:
        """The end of every worker's log."""
        logs = sorted(self.directory.glob("worker-*.log"))
        return "\n".join(f"{p.name}: {p.read_text(errors='replace')[-1500:]}" for p in logs)

    def log_of(self, worker: subprocess.Popen[bytes]) -> str:
        """What a worker has said so far."""
        return self._log(self.workers.index(worker)).read_text(errors="replace")

    def check(self, records: int) -> Verdict:
        """Fail unless :meth:`compare` finds everything equal and ``records`` accounted for."""
        verdict = self.compare()
        assert not verdict.mismatches, f"{verdict}\n{self.last_words()}"
        assert verdict.records == records, f"the log has {verdict.records} records, not {records}"
        return verdict

    def compare(self, *, unfinished: bool = False) -> Verdict:
        """Rows, markers and outputs against a replay at another batch size.

        ``unfinished``: of the log below the markers only, as it must be while no worker lives.
        Outputs may be ahead then, never behind.
        """
        markers = self.markers()
        ends = {m.partition: m.next_offset for m in markers}
        log, changes, requests = self._scan()
        replay, records = self._replay(log, ends if unfinished else None)
        rows, expected = self.rows(), replay.rows("spending")
        wrong = [
            f"row of {key!r} differs"
            for key in sorted(rows.keys() | expected.keys())
            if rows.get(key) != expected.get(key)
        ]
        wrong += _compare_markers(markers, replay.markers("spending"), records)
        wrong += self._compare_changes(replay, changes, unfinished)
        wrong += self._compare_requests(replay, requests, unfinished)
        return Verdict(records, len(rows), wrong)

    def exact(self, view: FeatureView) -> list[str]:
        """What differs in the rows and markers of a version from a replay of the whole log."""
        kept, self.view = self.view, view
        try:
            log = list(scan(self.properties, self.topic))
            replay, records = self._replay(log, None)
            rows, expected = self.rows(), replay.rows(view)
            wrong = [f"{len(rows)} rows, {len(expected)} expected"] if rows != expected else []
            return wrong + _compare_markers(self.markers(), replay.markers(view), records)
        finally:
            self.view = kept

    def stop(self) -> None:
        """Kill what still runs."""
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()

    def _log(self, number: int) -> Path:
        return self.directory / f"worker-{number}.log"

    def _scan(self) -> list[list[ScannedRecord]]:
        """All records of the topic, of the changed rows, of the requests."""
        names = TopicNames.of(self.app, AppConfig())
        topics = [self.topic, names.changes(self.view.name), names.requests(self.trigger.name)]
        with ThreadPoolExecutor(len(topics)) as pool:
            return list(pool.map(lambda topic: list(scan(self.properties, topic)), topics))

    def _replay(
        self, found: list[ScannedRecord], ends: Mapping[int, int] | None
    ) -> tuple[Driver, int]:
        log, records = MemoryLog(), 0
        log.create(self.topic, PARTITIONS)
        for record in found:
            if ends is None or record.offset < ends.get(record.partition, 0):
                records += 1
                log.records(TopicPartition(self.topic, record.partition)).append(
                    LoggedRecord(record.offset, record.key, record.value, record.timestamp_ms)
                )
        replay = Driver(
            [self.view], [self.trigger], app=self.app, log=log, max_records=REPLAY_RECORDS
        )
        replay.run()
        return replay, records

    def _compare_changes(
        self, replay: Driver, found: list[ScannedRecord], unfinished: bool
    ) -> list[str]:
        """A changed row that was sent twice is the same row; the last of each key is the row's."""
        sent, expected = _outputs(found, replay, replay.names.changes(self.view.name))
        if expected.is_empty():
            return []
        sent = sent.unique()
        if sent.select("source_partition", "source_offset", "user").is_duplicated().any():
            return ["a changed row was sent again with other features"]
        last = [
            t.sort("source_offset").group_by("user", maintain_order=True).last().sort("user")
            for t in (sent, expected)
        ]
        if unfinished or last[0].equals(last[1]):
            return []
        return [f"the last changed rows differ: {_first_difference(*last)}"]

    def _compare_requests(
        self, replay: Driver, found: list[ScannedRecord], unfinished: bool
    ) -> list[str]:
        """Repetitions dropped, the requests are those of the replay."""
        sent, expected = _outputs(found, replay, replay.names.requests(self.trigger.name))
        if expected.is_empty():
            return []
        keys = ["source_partition", "source_offset"]
        when = [name for name in expected.columns if name.startswith("requested_at")]
        sent, expected = (t.drop(when).unique().sort(keys) for t in (sent, expected))
        if unfinished:
            sent = sent.join(expected, on=keys, how="semi").sort(keys)
        return (
            []
            if sent.equals(expected)
            else [f"the requests differ: {_first_difference(sent, expected)}"]
        )


def _outputs(
    found: list[ScannedRecord], replay: Driver, topic: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What the workers sent, repetitions included, and what the replay sent."""
    expected = (value for _, _, value in replay.publisher.sent.get(topic, []))
    return _table(record.value for record in found), _table(expected)


def _first_difference(sent: pl.DataFrame, expected: pl.DataFrame) -> str:
    """Numbers of rows, and the first that only one side has."""
    odd = (t.join(u, on=t.columns, how="anti", nulls_equal=True).head(1).to_dicts()
           for t, u in ((sent, expected), (expected, sent)))  # fmt: skip
    return f"{len(sent)} sent, {len(expected)} expected; only sent, only expected: {list(odd)}"


def _table(messages: Iterable[bytes | None]) -> pl.DataFrame:
    tables = [pa.ipc.open_stream(m).read_all().replace_schema_metadata() for m in messages if m]
    if not tables:
        return pl.DataFrame()
    frame = pl.from_arrow(pa.concat_tables(tables))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _compare_markers(got: list[Marker], expected: list[Marker], records: int) -> list[str]:
    """``Marker`` itself refuses counts that break the accounting identity."""
    found = {m.partition: m for m in got}
    total = sum(m.consumed for m in got)
    wrong = [] if total == records else [f"{total} records consumed, {records} published"]
    for marker in expected:
        mine = found.get(marker.partition)
        wrong += [
            f"{name} of partition {marker.partition} differs"
            for name in COUNTS
            if getattr(mine, name, 0) != getattr(marker, name)
        ]
    return wrong
