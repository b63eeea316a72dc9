"""End to end: purchases in Kafka to features in Redis, beside bare consumption of the same topic.

    python -m tests.bench.stream [EVENTS] [ROUNDS]

One process, one thread, the embedded broker and Redis on the same machine, the demo's view and
trigger. Every round reads the topic bare, then runs the data plane over it with a store that was
emptied; ratios are of one round. The log is written before the clock starts.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import polars as pl
import redis

import pipeline as pp
from pipeline.app.build import build_plane, open_lane
from pipeline.config import Config
from pipeline.demo.dataset import TIME, events
from pipeline.demo.views import TOPIC, household, new_basket, purchases
from pipeline.embedded import EmbeddedServers
from pipeline.produce.topics import ensure_topic

PARTITIONS = 12


def consume(config: Config, number: int, total: int) -> tuple[float, float]:
    """Wall and CPU seconds of reading ``total`` events bare."""
    lane = open_lane(f"bare-{number}", config)
    lane.subscribe([TOPIC], on_assign=lambda s: dict.fromkeys(s, 0), on_revoke=lambda *_: None)
    seen = 0
    while not seen:
        seen = sum(map(len, lane.poll(20_000, 10)))
    taken = clocked(lambda: sum(map(len, lane.poll(20_000, 10))), total - seen)
    lane.close()
    return taken


def run(config: Config, number: int, total: int) -> tuple[float, float]:
    """Wall and CPU seconds of the data plane over ``total`` events."""
    view = household(purchases())
    plane = build_plane(f"bench-{number}", [view], [new_basket(view)], config)
    plane.start()
    while not plane.assignment:
        plane.step()
    taken = clocked(lambda: sum(len(b.events) for b in plane.step().batches), total)
    plane.close()
    return taken


def clocked(step: Callable[[], int], total: int) -> tuple[float, float]:
    """Wall and CPU seconds until the results of ``step`` come to ``total``."""
    wall, cpu, seen = time.perf_counter(), time.process_time(), 0
    while seen < total:
        seen += step()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Print a line a round, then medians."""
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with EmbeddedServers() as servers:
        ensure_topic(servers.brokers, TOPIC, PARTITIONS)
        log = events(total).with_columns(pl.col(TIME).dt.replace_time_zone("UTC"))
        with pp.EventProducer(purchases(), brokers=servers.brokers) as producer:
            producer.send(log)
        config = Config.load(
            environ={},
            flags={
                "broker.brokers": servers.brokers,
                "store.url": servers.redis_url,
                "app.session_timeout_ms": "2000",
            },
        )
        rates: list[tuple[float, float, float]] = []
        for number in range(rounds):
            bare, _ = consume(config, number, total)
            with redis.Redis.from_url(servers.redis_url) as store:
                store.flushdb()
            wall, cpu = run(config, number, total)
            rates.append((total / wall, cpu / total * 1e6, bare / wall))
            print(
                f"{total / bare:12,.0f} events/s bare  {total / wall:12,.0f} events/s to Redis  "
                f"{cpu / total * 1e6:5.2f} us of CPU an event  share {bare / wall:.2f}"
            )
    middle = [statistics.median(column) for column in zip(*rates, strict=True)]
    print(f"median: {middle[0]:,.0f} events/s, {middle[1]:.2f} us, share of bare {middle[2]:.2f}")


if __name__ == "__main__":
    main()
