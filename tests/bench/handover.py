"""A partition's hand-over: from assigned to the first commit, by how much state there is (P10).

    python -m tests.bench.handover [--entities 100000 1000000 10000000] [--rounds 5] [--quick]

A first worker left a row of every entity in Redis; another one is given all 12 partitions of the
topic. Its clock runs from the moment the group assigns them until the first batch, up to 20,000
events on top of these rows, is committed: leases, markers, fetching, reading rows. In the end every
row has to hold the events of both workers. Rows are put there by the store's own commits.

Quix Streams, at ``--peer-entities``, restores its changelog into a new directory; its clock stops
sooner, at the first event that is processed. Sizes for which memory is short are left out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import redis

from pipeline.app.build import build_plane
from pipeline.app.plane import DataPlane
from pipeline.config import Config
from pipeline.ingest.batch import TopicPartition
from pipeline.kernels.hash import partition_of
from pipeline.produce.topics import describe, ensure_topic
from pipeline.serve.client import FeatureClient
from pipeline.state.table import StateTable
from pipeline.store.marker import Marker
from pipeline.store.open import open_store
from pipeline.store.partition import RowWrite
from tests.bench.backfill import keys_of, nothing
from tests.bench.end_to_end import about, servers
from tests.bench.peers.systems import Peer, PeerError, Where, environment
from tests.bench.peers.workload import FIRST_USER, START_MS, Log, view
from tests.bench.report import Figure, compared, left_out, limited, publish

TOPIC, PARTITIONS, CHUNK, LIMIT_S = "handover", 12, 50_000, 1.0
FIRST = 20_000  # most events of a batch; a worker that leaves has up to five under way
PATIENCE_S = 60.0
ROW_BYTES = 600  # of memory an entity in Redis, at most
QUIX = Peer(
    "Quix changelog restore", "P10", 1.0, 0,
    lambda: [environment("env", "requirements.txt"), "-m", "tests.bench.peers.quix_handover"],
)  # fmt: skip


def fill(config: Config, app: str, entities: int) -> None:
    """Rows of users who came once, an hour before the log, as a first worker commits them."""
    plan = view(TOPIC).plan
    topic_id = describe(config.broker, TOPIC).topic_id
    store = open_store(config.store.url)
    users = np.arange(FIRST_USER, FIRST_USER + entities, dtype=np.int64)
    for number in range(PARTITIONS):
        partition = store.open_partition(app, TopicPartition(TOPIC, number))
        partition.acquire(-1)
        partition.markers([plan.fingerprint])
        for own in _chunks(users, number):
            table, n = StateTable(plan), len(own)
            slots = table.lookup(*keys_of(own)).slots
            table.load(slots, nothing(n))
            ms = np.full(n, START_MS - 3_600_000)
            applied = table.apply(
                slots, np.zeros(n, dtype=np.int64), ms, ms * 1_000_000, np.ones(n, dtype=np.uint8),
                np.full((len(plan.inputs), n), 100), np.ones((len(plan.inputs), n), dtype=np.uint8),
                np.empty((0, n), dtype=np.uint8),
            )  # fmt: skip
            marker = Marker(plan.fingerprint, topic_id, number, 0)
            partition.commit([RowWrite(plan.fingerprint, table.encode(applied.dirty))], [marker])
        partition.close()
    store.close()


def _chunks(users: Any, number: int) -> Iterator[Any]:
    for first in range(0, len(users), CHUNK * PARTITIONS):
        some = users[first : first + CHUNK * PARTITIONS]
        of = np.empty(len(some), dtype=np.int32)
        partition_of(*keys_of(some), PARTITIONS, of)
        yield some[of == number]


def hand_over(config: Config, app: str) -> float:
    """Seconds until a new worker has committed its first batch."""
    plane = build_plane(app, [view(TOPIC)], [], config)
    began: list[float] = []
    assigned = plane._assigned

    def clocked(sources: list[TopicPartition]) -> Any:
        began.append(time.perf_counter())
        return assigned(sources)

    with patch.object(plane, "_assigned", clocked):
        plane.start()
    while not plane.step().batches:
        if began and time.perf_counter() - began[0] > PATIENCE_S:
            raise RuntimeError(f"nothing was committed within {PATIENCE_S} s")
    took = time.perf_counter() - began[0]
    plane.close()
    return took


def finish(config: Config, app: str, log: Log) -> None:
    """Let a worker read to the end; every row must then hold one event more than the log has."""
    plane: DataPlane = build_plane(app, [view(TOPIC)], [], config)
    plane.start()
    while len(plane.assignment) < PARTITIONS or any(plane.lag().values()):
        plane.step()
    plane.close()
    users = pl.concat([block.select("user") for block in log.blocks()])["user"]
    counts = users.value_counts().sort("user")
    with FeatureClient(config.store.url, app, timeout_ms=60_000) as client:
        found = client.prepare(["activity:n_24h"]).read({"user": counts["user"]}, at="event")
    if found["n_24h"].to_pylist() != (counts["count"] + 1).to_list():
        raise ValueError(f"{app}: rows do not hold the events of both workers")


def measure(config: Config, entities: int, log: Log, rounds: int) -> list[float]:
    """Hand-overs with so many entities; the store is emptied first."""
    with redis.Redis.from_url(config.store.url) as store:
        store.flushall(asynchronous=True)  # ten million rows take longer than a client waits
        while store.info("memory")["lazyfree_pending_objects"]:
            time.sleep(0.1)
        app = f"handover-{entities}"
        began = time.perf_counter()
        fill(config, app, entities)
        used = store.info("memory")["used_memory"]
        print(
            f"{entities:,} entities put there in {time.perf_counter() - began:.0f} s, "
            f"{used / entities:.0f} bytes of Redis each"
        )
    hand_over(config, app)  # the group's first join, and kernels
    took = [hand_over(config, app) for _ in range(rounds)]
    finish(config, app, log)
    return took


def restore(brokers: str, redis_url: str, entities: int, rounds: int) -> list[float]:
    """Seconds that Quix Streams takes to go on with so many users."""
    config = Config.load(environ={}, flags={"broker.brokers": brokers})
    topic = f"restore-{entities}"
    ensure_topic(config.broker, topic, PARTITIONS)
    state = Log(topic, entities, users=entities, spread="each")
    state.produce(brokers)
    QUIX.run("restore", Where(brokers, redis_url, topic, entities))
    took = []
    for _ in range(rounds):
        Log(topic, 2_000, users=entities, spread="uniform").produce(brokers)
        took.append(QUIX.run("restore", Where(brokers, redis_url, topic, 2_000)).seconds)
    return took


def main() -> None:
    """Print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--entities", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--peer-entities", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a smoke run; nothing is recorded")
    asked = parser.parse_args()
    sizes, rounds, restored = asked.entities, asked.rounds, asked.peer_entities
    if asked.quick:
        sizes, rounds, restored = [20_000, 200_000], 2, 20_000
    found: list[Figure] = []
    with servers() as (brokers, redis_url, broker):
        flags = {"broker.brokers": brokers, "store.url": redis_url,
                 "app.session_timeout_ms": "6000", "app.max_records": str(FIRST)}  # fmt: skip
        config = Config.load(environ={}, flags=flags)
        log = Log(TOPIC, (rounds + 2) * 5 * FIRST, users=min(*sizes, restored), spread="uniform")
        ensure_topic(config.broker, TOPIC, PARTITIONS)
        log.produce(brokers)
        medians: dict[int, float] = {}
        for entities in sizes:
            what = f"assigned to first commit, {entities:,} entities"
            if available() < entities * ROW_BYTES:
                left_out("P10", what, f"it needs {entities * ROW_BYTES >> 20} MiB of memory")
                continue
            took = measure(config, entities, log, rounds)
            medians[entities] = statistics.median(took)
            found.append(limited("P10", what, took, LIMIT_S, "s"))
        if len(medians) > 1:
            (few, least), *_, (many, most) = medians.items()
            print(f"{most / least:.2f} times as long with {many // few} times the state")
        what = f"hand-over, {restored:,} entities"
        try:
            theirs = restore(brokers, redis_url, restored, rounds)
        except PeerError as failure:
            left_out("P10", what, failure)
        else:
            ours = measure(config, restored, log, rounds)
            found.append(compared("P10", what, ours, QUIX.name, theirs, "s", 1.0, at_most=True))
        publish(found, about(broker, redis_url), quick=asked.quick)


def available() -> int:
    """Bytes of memory that may still be used."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


if __name__ == "__main__":
    main()
