"""Memory of a worker: of each entity in its cache, and over many events (target P11).

    python -m tests.bench.soak [--events 20000000] [--quick]       (a soak: --events 100000000)

*An entity*: all memory that the state of users takes after 28 hours of events, resident in RAM,
beside the rows that the store keeps of them: of users who come each minute, and of 100,000 by
Zipf's law, most of whom come a few times a day.

*Over time*: ``pipeline run`` reads events as fast as they are produced, never more than a million
ahead of it, with 25 ms of event time between two: after a fifth of the run every window moves. Its
resident memory, librdkafka's queues included, is sampled at every hundredth of the run; what counts
is the median of the last quarter beside that of the second. The topic keeps 128 MiB a partition.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from confluent_kafka import Producer

from pipeline.config import Config
from pipeline.features.plan import Plan
from pipeline.produce.topics import ensure_topic
from pipeline.state.batch import EncodedRows
from pipeline.state.table import StateTable
from tests.bench._worker import Worker, cpu_seconds, processes, resident_bytes
from tests.bench.backfill import keys_of, nothing
from tests.bench.end_to_end import about, servers
from tests.bench.peers.workload import FIRST_USER, START_MS, Log, Spread, producing, view
from tests.bench.report import Figure, compared, limited, publish

TOPIC, PARTITIONS = "soak", 12
TOPIC_CONFIG = {"retention.bytes": str(128 << 20), "segment.bytes": str(16 << 20)}
CYCLE, STEP_MS, AHEAD, CHUNK = 500_000, 25, 1_000_000, 20_000
CACHED = 50_000  # entities in the cache at least
MOST = 2.0  # times the packed row
FLAT = 1.05


def entity(what: str, users: int, events: int, spread: Spread) -> Figure:
    """Bytes of an entity in the cache and in the store."""
    plan = view(TOPIC).plan
    # 28 hours: the 24 h of the longest window, and more
    steps = ((0, max(1, 28 * 3_600_000 // events)),)
    log = Log(TOPIC, events, steps, users, spread)
    rows = packed(plan, log)
    size = len(rows.rows) / len(rows)
    found = [rows.row(i) for i in range(len(rows))] * max(1, CACHED // len(rows))
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # where nothing was freed before
        held, used = fresh.submit(cached, found).result()
    print(
        f"{what}: {held:.0f} bytes each, {used:.0f} in use, of which a key has "
        f"{len(rows.keys) / len(rows):.0f}; packed {size:.0f}"
    )
    what = f"memory of {what}"
    return compared("P11", what, [held], "packed row", [size], "bytes", MOST, at_most=True)


def cached(rows: list[bytes]) -> tuple[float, float]:
    """Bytes that each row takes in a cache: in RAM, and as the cache counts them."""
    plan = view(TOPIC).plan
    small = StateTable(plan)
    small.load(small.lookup(*keys_of(np.arange(1))).slots, rows[:1])  # kernels
    table = StateTable(plan, max_bytes=8 << 30)
    before = resident_bytes(os.getpid())
    for first in range(0, len(rows), CHUNK):
        some = rows[first : first + CHUNK]
        table.load(table.lookup(*keys_of(FIRST_USER + first + np.arange(len(some)))).slots, some)
    return (resident_bytes(os.getpid()) - before) / table.rows, table.nbytes / table.rows


def packed(plan: Plan, log: Log) -> EncodedRows:
    """The rows of a log."""
    table, offset = StateTable(plan, max_bytes=8 << 30), 0
    for block in log.blocks():
        n, user = len(block), block["user"].to_numpy()
        found = table.lookup(*keys_of(user))
        new = found.slots[found.missing]
        table.load(new, nothing(len(new)))
        ns = block["time"].to_numpy() * 1_000_000
        columns = {
            "price": block["price"].to_numpy(),
            "dwell": (block["dwell"].to_numpy() / 1000).view(np.int64),
        }
        table.apply(
            found.slots, np.arange(offset, offset + n), ns // 1_000_000, ns,
            np.ones(n, dtype=np.uint8), np.stack([columns[name] for name in plan.inputs]),
            np.ones((len(plan.inputs), n), dtype=np.uint8), np.empty((0, n), dtype=np.uint8),
        )  # fmt: skip
        offset += n
    return table.encode(np.arange(table.rows, dtype=np.int32))


def values() -> Iterator[tuple[bytes, bytes]]:
    """Events without end: a short log again and again, in times that go on."""
    parts = []
    for key, value in Log(TOPIC, CYCLE).records():
        head, _, rest = value.partition(b'"time":')
        parts.append((key, head + b'"time":', rest[rest.index(b",") :]))
    at = START_MS
    while True:
        for key, head, tail in parts:
            yield key, head + b"%d" % at + tail
            at += STEP_MS


def soak(brokers: str, redis_url: str, events: int) -> list[tuple[int, int]]:
    """Events committed and resident bytes, a hundred times."""
    settings = {**producing(brokers), "compression.type": "lz4"}
    producer, stream = Producer(settings), values()
    samples: list[tuple[int, int]] = []
    with Worker(brokers, redis_url, TOPIC, TOPIC, PARTITIONS) as worker:
        pid, sent, began = worker.process.pid, 0, time.perf_counter()
        while (done := worker.consumed()) < events:
            if sent < events and sent - done < AHEAD:
                for key, value in (next(stream) for _ in range(min(CHUNK, events - sent))):
                    producer.produce(TOPIC, value, key)
                    sent += 1
                producer.poll(0)
            else:
                producer.flush(10)
                time.sleep(0.01)
            if done >= events * (len(samples) + 1) // 100:
                samples.append((done, resident_bytes(pid)))
        took = time.perf_counter() - began
        cpu = sum(map(cpu_seconds, processes(pid))) / events * 1e6
    print(f"{events:,} events at {events / took:,.0f} a second, {cpu:.2f} us of CPU an event")
    for done, resident in samples[:: max(1, len(samples) // 10)]:
        print(f"{done:14,} events {resident >> 20:7,} MiB")
    return samples


def flat(samples: list[tuple[int, int]]) -> Figure:
    """The last quarter beside the second."""
    last = samples[-1][0]

    def median(begin: float, end: float) -> float:
        found = [resident for done, resident in samples if begin * last <= done <= end * last]
        return statistics.median(found)

    grown = median(0.75, 1.0) / median(0.25, 0.5)
    times, sizes = np.array(samples[len(samples) // 4 :]).T
    slope = np.polyfit(times, sizes, 1)[0]
    print(f"slope after the first quarter: {slope:.4f} bytes an event")
    what = f"resident memory over {last / 1e6:,.0f} M events, last quarter / second"
    return limited("P11", what, [grown], FLAT, "times")


def main() -> None:
    """Print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--quick", action="store_true", help="a smoke run; nothing is recorded")
    asked = parser.parse_args()
    scale = 10 if asked.quick else 1
    figures = [
        entity("an entity with an event a minute", 1_000 // scale, 1_680_000 // scale, "each"),
        entity("an entity, by Zipf's law", 100_000 // scale, 2_000_000 // scale, "zipf"),
    ]
    with servers() as (brokers, redis_url, broker):
        described = about(broker, redis_url)
        config = Config.load(environ={}, flags={"broker.brokers": brokers})
        ensure_topic(config.broker, TOPIC, PARTITIONS, TOPIC_CONFIG)
        figures.append(flat(soak(brokers, redis_url, 500_000 if asked.quick else asked.events)))
    publish(figures, described, quick=asked.quick)


if __name__ == "__main__":
    main()
