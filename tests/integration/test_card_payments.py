"""Real card payments through real servers: twelve window features of other people, as a stream.

A customer's features are over ``(t - W, t]``, the payment itself included; those of a terminal over
``(t - 7d - W, t - 7d]``, since fraud is known a week later. Two payments of one customer in one
second may be taken in either order.

One topic, keyed by customer, is all that is published; the terminals' rows come through the
repartition topic that the application makes. What is compared is "as of each payment":

* a customer's features are what the trigger sent at that payment, right after it was applied;
* a terminal's are read from Redis at the payment's own time, ``read(keys, at=times)``, before the
  week of the payment is published: all that its windows hold is older than that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pytest
import redis

import pipeline as pp
from pipeline.config import BrokerConfig
from pipeline.embedded.process import free_port
from pipeline.ingest.batch import TopicPartition
from pipeline.ingest.scan import scan
from pipeline.kernels.hash import partition_of
from pipeline.produce.publisher import Publisher
from pipeline.produce.topics import ensure_topic, topic_config
from pipeline.store.keys import marker_key, partition_tag, row_prefix
from pipeline.store.marker import Marker
from pipeline.testing.driver import Driver
from pipeline.testing.log import LoggedRecord, MemoryLog
from tests.integration import cards

pytestmark = [pytest.mark.data, pytest.mark.timeout(600)]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
PARTITIONS = 4
DAY_NS = 86_400 * 10**9
PATIENCE_S = 120.0
MAIN = "import sys; from pipeline.cli import main; sys.exit(main())"
EXPECTED = {
    "customer": {
        **{f"payments_{d}d": f"CUSTOMER_ID_NB_TX_{d}DAY_WINDOW" for d in cards.DAYS},
        **{f"amount_{d}d": f"CUSTOMER_ID_AVG_AMOUNT_{d}DAY_WINDOW" for d in cards.DAYS},
    },
    "terminal": {
        **{f"payments_{d}d": f"TERMINAL_ID_NB_TX_{d}DAY_WINDOW" for d in cards.DAYS},
        **{f"fraud_{d}d": f"TERMINAL_ID_RISK_{d}DAY_WINDOW" for d in cards.DAYS},
    },
}


def keys_and_values(payments: pl.DataFrame) -> tuple[list[bytes | None], list[bytes | None]]:
    """Messages, as any producer writes them."""
    columns = (
        payments["CUSTOMER_ID"],
        payments["TERMINAL_ID"],
        payments["TX_AMOUNT"].round(2),  # a few are 85.64999999999999 and such
        payments["TX_FRAUD"],
        payments["TX_DATETIME"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    names = cards.CONTRACT["required"]
    return [b"%d" % key for key in payments["CUSTOMER_ID"]], [
        json.dumps(dict(zip(names, event, strict=True))).encode()
        for event in zip(*columns, strict=True)
    ]


def times_ns(payments: pl.DataFrame) -> I64:
    """When each payment was made."""
    return payments["TX_DATETIME"].dt.epoch("ns").to_numpy().astype(np.int64)


@dataclass
class Cards:
    """The application of ``cards.py`` as a process on real servers, and what it left there."""

    brokers: str
    redis_url: str
    topic: str
    directory: Path
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.app = self.topic.replace(".", "-")[:40]
        self.customer, self.terminal, self.trigger = cards.definitions(self.topic)
        self.repartition = self.terminal.stream.topic_in(self.app)
        self.properties = BrokerConfig(brokers=self.brokers).client_properties()
        ensure_topic(self.brokers, self.topic, PARTITIONS)

    def start(self, **settings: str) -> None:
        """Another worker; ``settings`` are environment variables."""
        names = {"CARDS_TOPIC": self.topic, "CARDS_APP": self.app}
        environment = {
            **os.environ,
            "PIPELINE_APP__SESSION_TIMEOUT_MS": "3000",
            **names,
            **settings,
        }
        arguments = ["run", f"{cards.__file__}:app", "--web-port", str(free_port())]
        servers = ["--brokers", self.brokers, "--store", self.redis_url]
        with (self.directory / f"worker-{len(self.workers)}.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-c", MAIN, *arguments, *servers],
                cwd=self.directory, env=environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.workers.append(worker)

    def stop(self) -> None:
        """Kill what runs."""
        for worker in self.workers:
            worker.kill()
            worker.wait()

    def publish(self, payments: pl.DataFrame) -> None:
        """In this order; Kafka's partitioner looks at the key."""
        keys, values = keys_and_values(payments)
        with Publisher(self.brokers) as publisher:
            publisher.publish_many(self.topic, values, keys)

    def wait(self, records: int) -> None:
        """Wait until both views have applied so many."""
        deadline = time.monotonic() + PATIENCE_S
        while min(self.applied(self.customer), self.applied(self.terminal)) < records:
            words = (self.directory / "worker-0.log").read_text(errors="replace")[-3000:]
            assert any(w.poll() is None for w in self.workers), f"every worker ended: {words}"
            assert time.monotonic() < deadline, f"{records} records were not applied: {words}"
            time.sleep(0.1)

    def applied(self, view: pp.FeatureView) -> int:
        """Records of a view so far."""
        return sum(m.applied for m in self.markers(view))

    def markers(self, view: pp.FeatureView) -> list[Marker]:
        """Markers of a view in Redis."""
        with redis.Redis.from_url(self.redis_url) as store:
            found = store.mget([marker_key(t, view.plan.fingerprint) for t in self.tags(view)])
        return [Marker.unpack(m) for m in found if isinstance(m, bytes)]

    def rows(self, view: pp.FeatureView) -> dict[bytes, bytes]:
        """Rows of a view in Redis, by entity key."""
        rows: dict[bytes, bytes] = {}
        with redis.Redis.from_url(self.redis_url) as store:
            for tag in self.tags(view):
                prefix = row_prefix(tag, view.plan.fingerprint)
                keys = list(store.scan_iter(match=prefix + b"*", count=10_000))
                for key, value in zip(keys, store.mget(keys) if keys else [], strict=True):
                    assert isinstance(value, bytes)
                    rows[key[len(prefix) :]] = value
        return rows

    def tags(self, view: pp.FeatureView) -> list[bytes]:
        """Of all partitions of what a view reads."""
        topic = view.stream.topic_in(self.app)
        return [partition_tag(self.app, TopicPartition(topic, p)) for p in range(PARTITIONS)]

    def requests(self) -> pl.DataFrame:
        """What the trigger sent, a row a payment, repetitions dropped."""
        found = scan(self.properties, f"{self.app}-{self.trigger.name}-requests")
        values = [record.value or b"" for record in found]
        tables = [pa.ipc.open_stream(v).read_all().replace_schema_metadata() for v in values]
        frame = pl.from_arrow(pa.concat_tables(tables))
        assert isinstance(frame, pl.DataFrame)
        return frame.unique(["source_partition", "source_offset"])

    def replay(self) -> Driver:
        """The repartition topic's log alone, read without a server in batches of three messages."""
        log = MemoryLog()
        for topic in (self.topic, self.repartition):
            log.create(topic, PARTITIONS)
        for record in scan(self.properties, self.repartition):
            log.records(TopicPartition(self.repartition, record.partition)).append(
                LoggedRecord(record.offset, record.key, record.value, record.timestamp_ms)
            )
        again = Driver([self.terminal], app=self.app, log=log, max_records=3, cache_bytes=1 << 28)
        again.run()
        return again


def as_of_each(payments: pl.DataFrame, running: Cards) -> dict[str, dict[str, F64]]:
    """Stream the payments week by week; features as of each, by entity and name, in their order."""
    running.start()
    times, names = times_ns(payments), list(EXPECTED["terminal"])
    week = (times - times[0] // DAY_NS * DAY_NS) // (7 * DAY_NS)
    terminals = payments["TERMINAL_ID"].to_numpy()
    read = np.zeros((len(payments), len(names)))
    with pp.FeatureClient(running.redis_url, app=running.app, timeout_ms=60_000) as client:
        for number in range(int(week[-1]) + 1):
            mine = np.flatnonzero(week == number)
            if number:  # before the first week there is no row, and no view in the registry
                read[mine] = read_at(client, terminals[mine], times[mine])
            running.publish(payments[mine.tolist()])
            running.wait(int(mine[-1]) + 1)
    return {
        "customer": sent_at_each(payments, running),
        "terminal": {name: read[:, i] for i, name in enumerate(names)},
    }


def read_at(client: pp.FeatureClient, terminals: I64, times: I64) -> F64:
    """Features of terminals, each at its time; 0 where a terminal was not seen before."""
    names = [f"terminal:{name}" for name in EXPECTED["terminal"]]
    table = client.prepare(names).read({"terminal": terminals}, at=times)
    assert set(table["terminal__status"].to_pylist()) <= {"present", "missing"}
    columns = [table[n.partition(":")[2]].to_numpy() for n in names]
    return np.nan_to_num(np.stack(columns, axis=1).astype(np.float64), nan=0.0)


def sent_at_each(payments: pl.DataFrame, running: Cards) -> dict[str, F64]:
    """What the trigger sent at each payment: found by its place in the log."""
    keys, _ = keys_and_values(payments)
    joined = np.frombuffer(b"".join(k or b"" for k in keys), dtype=np.uint8).copy()
    bounds = np.cumsum([0, *(len(k or b"") for k in keys)]).astype(np.int64)
    partition = np.empty(len(keys), dtype=np.int32)
    partition_of(joined, bounds, PARTITIONS, partition)
    places = pl.DataFrame({"source_partition": partition}).with_columns(
        source_offset=pl.int_range(pl.len(), dtype=pl.Int64).over("source_partition")
    )
    sent = running.requests()
    assert len(sent) == len(payments)
    found = places.join(
        sent, on=["source_partition", "source_offset"], how="left", maintain_order="left"
    )
    assert (found["event_time"].dt.epoch("ns").to_numpy() == times_ns(payments)).all()
    return {n: found[n].to_numpy().astype(np.float64) for n in EXPECTED["customer"]}


def in_memory(payments: pl.DataFrame) -> dict[str, F64]:
    """A customer's features as of each payment, by a worker without servers."""
    customer, _, trigger = cards.definitions("payments")
    run = Driver([customer], [trigger], max_records=50_000, cache_bytes=1 << 28)
    for key, value in zip(*keys_and_values(payments), strict=True):
        run.log.append("payments", key, value, -1)
    run.run()
    messages = run.publisher.sent[run.names.requests(trigger.name)]
    sent: Any = pa.concat_tables(pa.ipc.open_stream(m).read_all() for _, _, m in messages)
    assert sent["source_offset"].to_pylist() == list(range(len(payments)))
    return {n: sent[n].to_numpy().astype(np.float64) for n in EXPECTED["customer"]}


def differing(payments: pl.DataFrame, entity: str, got: dict[str, F64]) -> npt.NDArray[np.bool_]:
    """Per payment, whether a feature differs: counts exactly, quotients by more than rounding."""
    wrong = np.zeros(len(payments), dtype=np.bool_)
    for name, column in EXPECTED[entity].items():
        expected = payments[column].to_numpy()
        if name.startswith("payments"):
            wrong |= got[name] != expected
        else:
            wrong |= ~np.isclose(got[name], expected, rtol=1e-9, atol=1e-9)
    return wrong


def mismatches(payments: pl.DataFrame, got: dict[str, dict[str, F64]]) -> int:
    """Payments whose features differ from the published ones in any order of equal times."""
    wrong = differing(payments, "customer", got["customer"])
    tied = payments.select(pl.struct("CUSTOMER_ID", "TX_DATETIME").is_duplicated()).to_series()
    if tied.any():
        mine = pl.col("CUSTOMER_ID").is_in(payments.filter(tied)["CUSTOMER_ID"].unique().to_list())
        other = payments.with_row_index().filter(mine)
        other = other.sort("TX_DATETIME", -pl.col("index").cast(pl.Int64))
        again = differing(other, "customer", in_memory(other))
        at = other["index"].to_numpy()
        wrong[at] &= again | ~tied.to_numpy()[at]
    return int((wrong | differing(payments, "terminal", got["terminal"])).sum())


@pytest.fixture(scope="module")
def payments(data_dir: Path) -> pl.DataFrame:
    """The payments in time order, with their published features."""
    path = data_dir / "card_payments_45d.parquet"
    if not path.is_file():
        pytest.skip(f"no card payments: {path} is not there")
    return pl.read_parquet(path)


@pytest.fixture
def running(
    kafka_brokers: str, redis_url: str, topic: Callable[[str], str], tmp_path: Path
) -> Iterator[Cards]:
    """The application on a real Kafka and a real Redis."""
    found = Cards(kafka_brokers, redis_url, topic("payments"), tmp_path)
    yield found
    found.stop()


def test_features_of_all_payments_equal_the_published_ones(
    payments: pl.DataFrame, running: Cards
) -> None:
    assert len(payments) == 431_773
    assert mismatches(payments, as_of_each(payments, running)) == 0
    for view in (running.customer, running.terminal):
        markers = running.markers(view)
        assert len(markers) == PARTITIONS
        assert sum(m.consumed - m.duplicate for m in markers) == len(payments)
        assert sum(m.applied for m in markers) == len(payments)
    again = running.replay()
    assert running.rows(running.terminal) == again.rows("terminal")
    assert topic_config(running.brokers, running.repartition)["cleanup.policy"] == "delete"


def test_workers_that_are_killed_leave_the_rows_of_the_log(
    payments: pl.DataFrame, running: Cards
) -> None:
    """Between the acknowledged messages and the transaction, or anywhere else."""
    some = payments.head(24_000)
    small = {"PIPELINE_APP__MAX_RECORDS": "400"}
    running.start(**small, PIPELINE_CRASH_AT="sent:4")
    for number in range(4):
        running.publish(some[number * 6_000 : (number + 1) * 6_000])
        if number < 2:  # each dies by itself, the next takes over
            running.workers[-1].wait(PATIENCE_S)
            running.start(**small, PIPELINE_CRASH_AT="sent:5" if number == 0 else "")
    running.start(**small)
    running.wait(len(some))
    markers = running.markers(running.terminal)
    assert sum(m.duplicate for m in markers) > 0
    assert sum(m.applied for m in markers) == len(some)
    rows = running.rows(running.terminal)
    assert rows == running.replay().rows("terminal")
    assert len(rows) == some["TERMINAL_ID"].n_unique()


def test_a_wrong_window_is_noticed(payments: pl.DataFrame) -> None:
    """The comparison can fail: a payment left out changes what follows it."""
    some = payments.head(20_000)
    short = some.slice(1)
    assert differing(short, "customer", in_memory(short)).any()
