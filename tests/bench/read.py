"""Latency of a read of 100 entities x 50 features in 5 views (target P8).

    python -m tests.bench.read [--keys 100] [--rounds 400] [--url redis://...]

In turns with the same five MGETs sent raw and parsed to byte strings: the part that no client can
do without. Without ``--url`` a Redis of its own is started on a free port.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import redis

import pipeline as pp
from pipeline.embedded.redis import EmbeddedRedis
from pipeline.features.planjson import to_json
from pipeline.ingest.batch import TopicPartition
from pipeline.kernels.hash import partition_of
from pipeline.serve.client import FeatureClient
from pipeline.state.table import StateTable
from pipeline.store.keys import partition_tag, row_key
from pipeline.store.marker import Marker
from pipeline.store.partition import RowWrite
from pipeline.store.redis import RedisStore
from pipeline.store.registry import ViewRecord
from pipeline.store.wire import Replies, command

PARTITIONS = 12
ENTITIES = 5_000
EVENTS = 40
MINUTE = 60_000_000_000
NOW = 1_700_000_000 * 1_000_000_000
CONTRACT = {
    "title": "event",
    "type": "object",
    "properties": {
        "user": {"type": "integer"},
        "amount": {"type": "number"},
        "at": {"type": "string", "format": "date-time"},
    },
    "required": ["user", "amount", "at"],
}


def views() -> list[pp.FeatureView]:
    """Five views of ten features: count, sum, mean, min, max over two windows each."""
    stream = pp.EventStream("events", contract=pp.Contract.load(CONTRACT), key="user", time="at")
    made = []
    for i in range(5):
        features = {}
        for window, slide in ((f"{i + 5}m", "1m"), ("24h", "1h")):
            for name, aggregation in {
                "count": pp.count(),
                "sum": pp.sum("amount"),
                "mean": pp.mean("amount"),
                "min": pp.min("amount"),
                "max": pp.max("amount"),
            }.items():
                features[f"{name}_{window}"] = aggregation.over(window, slide=slide)
        made.append(
            pp.FeatureView(f"view{i}", source=stream, entity="user", ttl="7d", features=features)
        )
    return made


def fill(store: RedisStore, view: pp.FeatureView, entities: int = ENTITIES) -> int:
    """Write the rows of entities 0, 1, ...; their mean size in bytes."""
    plan = view.plan
    topic = view.sources[0].topic
    record = ViewRecord(view.name, "bench", topic, PARTITIONS, to_json(plan), plan.fingerprint)
    store.registry.register(record)
    names = [b"%d" % i for i in range(entities)]
    where = _partitions(names)
    chance = np.random.default_rng(plan.fingerprint % 2**32)
    total = 0
    for number in range(PARTITIONS):
        mine = [name for name, p in zip(names, where, strict=True) if p == number]
        table = StateTable(plan)
        keys = np.array(bytearray(b"".join(mine)), dtype=np.uint8)
        lookup = table.lookup(keys, np.cumsum([0, *map(len, mine)]).astype(np.int64))
        table.load(lookup.slots, [None] * len(mine))
        slots = np.tile(lookup.slots, EVENTS)
        n = len(slots)
        times = np.sort(NOW - chance.integers(0, 6 * 60 * MINUTE, n))
        amounts = chance.random((len(plan.inputs), n)).view(np.int64)
        table.apply(
            slots, np.arange(n, dtype=np.int64), times // 10**6, times, np.ones(n, dtype=np.uint8),
            amounts, np.ones((len(plan.inputs), n), dtype=np.uint8),
            np.ones((len(plan.masks), n), dtype=np.uint8), None,
        )  # fmt: skip
        rows = table.encode(lookup.slots)
        total += len(rows.rows)
        partition = store.open_partition("bench", TopicPartition(topic, number))
        partition.acquire(1)
        partition.markers([plan.fingerprint])
        through = NOW // 10**6
        partition.commit(
            [RowWrite(plan.fingerprint, rows)],
            [Marker(plan.fingerprint, "", number, n, -1, through)],
        )
        partition.close()
    return total // entities


def _partitions(names: list[bytes]) -> list[int]:
    keys = np.array(bytearray(b"".join(names)), dtype=np.uint8)
    out = np.empty(len(names), dtype=np.int32)
    partition_of(keys, np.cumsum([0, *map(len, names)]).astype(np.int64), PARTITIONS, out)
    return [int(p) for p in out]


def main() -> None:
    """Print the latencies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--url", help="a Redis to measure, which is written to")
    asked = parser.parse_args()
    with ExitStack() as stack:
        url = asked.url or stack.enter_context(EmbeddedRedis()).url
        store = RedisStore(url)
        stack.callback(store.close)
        made = views()
        sizes = [fill(store, view) for view in made]
        client = stack.enter_context(FeatureClient(url, clock_ns=lambda: NOW))
        query = client.prepare([view.name for view in made])
        link = store._open_link()
        stack.callback(link.close)
        replies = Replies(link)
        chance = np.random.default_rng(7)
        server = stack.enter_context(redis.Redis.from_url(url))

        def raw(keys: list[int], requests: dict[tuple[int, ...], memoryview]) -> None:
            link.send(requests[tuple(keys)])
            for _ in made:
                replies.read_bulks()

        batches = [chance.integers(0, ENTITIES, asked.keys).tolist() for _ in range(20)]
        requests = {tuple(batch): _raw_request(made, batch) for batch in batches}
        calls: dict[str, Callable[[list[int]], object]] = {
            "raw MGETs": lambda keys: raw(keys, requests),
            "read": lambda keys: query.read({"user": keys}),
            "read_matrix": lambda keys: query.read_matrix({"user": keys}),
        }
        took: dict[str, list[float]] = {name: [] for name in calls}
        for i in range(-20, asked.rounds):
            for name, call in calls.items():
                began = time.perf_counter()
                call(batches[i % 20])
                if i >= 0:
                    took[name].append((time.perf_counter() - began) * 1e3)
        before = server_cpu(server)
        for i in range(asked.rounds):
            query.read({"user": batches[i % 20]})
        spent = (server_cpu(server) - before) / asked.rounds * 1e3
        version = server.info()["redis_version"]
    print(
        f"Redis {version}, {os.cpu_count()} cores, {asked.keys} keys x {len(query.features)} "
        f"features in {len(made)} views; {sum(sizes)} bytes an entity"
    )
    for name, values in took.items():
        ranked = sorted(values)
        print(
            f"{name:12s} p50 {statistics.median(ranked):.3f} ms, "
            f"p99 {ranked[int(len(ranked) * 0.99)]:.3f} ms, fastest {ranked[0]:.3f} ms"
        )
    print(f"Redis CPU a request: {spent:.3f} ms")


def _raw_request(made: list[pp.FeatureView], batch: list[int]) -> memoryview:
    names = [b"%d" % i for i in batch]
    tags = [partition_tag("bench", TopicPartition("events", p)) for p in _partitions(names)]
    parts = []
    for view in made:
        keys = [
            row_key(tag, view.plan.fingerprint, name) for tag, name in zip(tags, names, strict=True)
        ]
        parts.append(command(b"MGET", *keys))
    return memoryview(b"".join(parts))


def server_cpu(server: redis.Redis) -> float:
    """Seconds of CPU that the server took so far."""
    cpu = server.info("cpu")
    return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])


if __name__ == "__main__":
    main()
