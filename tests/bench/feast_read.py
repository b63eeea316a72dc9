"""Reads beside Feast's SDK: 100 entities x 50 features in 5 views, one Redis (target P8).

    python -m tests.bench.feast_read [--rounds 15] [--reads 20] [--entities 5000]

Feast is installed into ``build/bench-feast``. It is given the very values that a read of ours
returns, and both answers have to be equal before anything is timed. Then they take turns, a
round of ``--reads`` reads each: of ``last()`` values, which is what Feast stores, in five views and
in one, and of windows, where our rows hold the tiles that the values are made of at the read, and
Feast holds the values that somebody else has to keep up to date. Bytes are those of all keys by
``MEMORY USAGE``; CPU of Redis is what ``INFO`` says that a round took.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import redis

import pipeline as pp
from pipeline.embedded.redis import EmbeddedRedis
from pipeline.serve.client import FeatureClient
from pipeline.serve.query import Query
from pipeline.store.redis import RedisStore
from tests.bench.peers.systems import ROOT, PeerError, environment
from tests.bench.read import NOW, fill, server_cpu, views
from tests.bench.report import Figure, compared, record

KEYS = 100
CLIENT = "redis"  # Feast's other one, glide, took 1.2 times as long


def last_values(views: int, features: int) -> list[pp.FeatureView]:
    """``views`` of ``features`` each, which are the newest values of fields."""
    properties = {"user": {"type": "integer"}, "at": {"type": "string", "format": "date-time"}}
    fields = {f"field{i}": {"type": "number"} for i in range(features)}
    contract = pp.Contract.load(
        {
            "title": "profile",
            "type": "object",
            "properties": {**properties, **fields},
            "required": [*properties, *fields],
        }
    )
    stream = pp.EventStream("profiles", contract=contract, key="user", time="at")
    return [
        pp.FeatureView(
            f"profile{i}",
            source=stream,
            entity="user",
            features={f"last{i}_{field}": pp.last(field) for field in fields},
        )
        for i in range(views)
    ]


class Feast:
    """Feast's SDK in a process of its own, with all ``values`` in its online store."""

    def __init__(self, stack: ExitStack, url: str, values: pa.Table) -> None:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-feast-"))
        place = Path(directory) / "values.parquet"
        pq.write_table(values, place)
        program = environment("feast", "requirements-feast.txt")
        module, address = "tests.bench.peers.feast_job", url.removeprefix("redis://")
        process = subprocess.Popen(
            [program, "-m", module, address, directory, CLIENT, str(place)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        stack.enter_context(process)  # closes its input, at which it ends, and waits for it
        self._process = process
        self._answer()

    def read(self, batches: Sequence[list[int]]) -> tuple[list[float], dict[str, list[Any]]]:
        """Seconds of the read of each batch, and the values of the last."""
        if self._process.stdin is not None:  # it is a pipe
            self._process.stdin.write(json.dumps({"users": batches}) + "\n")
            self._process.stdin.flush()
        answer = self._answer()
        return answer["seconds"], answer["values"]

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise PeerError(f"Feast's job ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def columns(made: Sequence[pp.FeatureView], client: FeatureClient, users: list[int]) -> pa.Table:
    """What Feast is given: every feature as ``<view>__<feature>``, with ``user`` and ``at``."""
    found: dict[str, Any] = {
        "user": pa.array(users),
        "at": pa.array([NOW] * len(users), pa.timestamp("ns", "UTC")),
    }
    for view in made:
        query = client.prepare([view.name])
        table = query.read({"user": users})
        found |= {f"{view.name}__{name}": table[name] for name in query.features}
    return pa.table(found)


def check(query: Query, feast: Feast, values: pa.Table, batches: Sequence[list[int]]) -> None:
    """Raise PeerError unless both return the same for every batch."""
    for batch in batches:
        ours = query.read({"user": batch})
        _, theirs = feast.read([batch])
        rows = values.take(pc.index_in(pa.array(batch), values["user"].combine_chunks()))
        for name in values.column_names[2:]:
            short = name.partition("__")[2]
            mine = ours[short if short in ours.column_names else name].to_pylist()
            if not mine == theirs[name] == rows[name].to_pylist():
                raise PeerError(f"{name}: Feast returns other values")


def stored(server: redis.Redis) -> tuple[float, float, str]:
    """Bytes of all our keys, and of all of Feast's; and what ours are for."""
    ours, theirs, names, rows, keys = 0, 0, 0, 0, 0
    for key in server.scan_iter(count=10_000):
        size = server.memory_usage(key, samples=0) or 0
        if key.startswith((b"{", b"pipeline")):
            ours += size
            if b":r:" in key:
                names, rows, keys = names + len(key), rows + server.strlen(key), keys + 1
        else:
            theirs += size
    return (
        ours,
        theirs,
        (
            f"a row of ours: {rows / keys:.0f} bytes, its key {names / keys:.0f}, "
            f"and what Redis adds {(ours - rows - names) / keys:.0f}"
        ),
    )


def measure(
    made: list[pp.FeatureView], what: str, rounds: int, reads: int, entities: int
) -> list[Figure]:
    """Latency, CPU of Redis and bytes."""
    with ExitStack() as stack:
        url = stack.enter_context(EmbeddedRedis()).url
        store = RedisStore(url)
        stack.callback(store.close)
        for view in made:
            fill(store, view, entities)
        client = stack.enter_context(FeatureClient(url, clock_ns=lambda: NOW))
        values = columns(made, client, list(range(entities)))
        feast = Feast(stack, url, values)
        server = stack.enter_context(redis.Redis.from_url(url))
        chance = np.random.default_rng(7)
        batches = [chance.choice(entities, KEYS, replace=False).tolist() for _ in range(reads)]
        query = client.prepare([view.name for view in made])
        check(query, feast, values, batches)

        def ours() -> list[float]:
            took = []
            for batch in batches:
                began = time.perf_counter()
                query.read({"user": batch})
                took.append(time.perf_counter() - began)
            return took

        def turn(read: Callable[[], list[float]]) -> tuple[float, float]:
            before = server_cpu(server)
            took = read()
            return median(took) * 1e3, (server_cpu(server) - before) / reads * 1e3

        turns = [(turn(ours), turn(lambda: feast.read(batches)[0])) for _ in range(rounds)]
        size, their_size, parts = stored(server)
    print(f"{what}: {parts}")
    title = f"read {KEYS} x {what}"
    ms, cpu = zip(*(ours for ours, _ in turns), strict=True)
    their_ms, their_cpu = zip(*(theirs for _, theirs in turns), strict=True)
    each, their_each = [size / entities], [their_size / entities]

    def figure(name: str, a: Sequence[float], b: Sequence[float], unit: str, goal: float) -> Figure:
        return compared("P8", name, a, "Feast", b, unit, goal, at_most=True)

    return [
        figure(f"{title}, p50", ms, their_ms, "ms", 1 / 60),
        figure(f"{title}, CPU of Redis", cpu, their_cpu, "ms", 1 / 15),
        figure(f"{what}, bytes an entity", each, their_each, "bytes", 0.5),
    ]


def main() -> None:
    """Print and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--reads", type=int, default=20)
    parser.add_argument("--entities", type=int, default=5_000)
    asked = parser.parse_args()
    try:
        environment("feast", "requirements-feast.txt")
    except PeerError as failure:
        print(f"Feast: NOT TIMED, {failure}")
        return
    for made, what in (
        (last_values(5, 10), "50 last values in 5 views"),
        (last_values(1, 50), "50 last values in 1 view"),
        (views(), "50 windows in 5 views"),
    ):
        found = measure(made, what, asked.rounds, asked.reads, asked.entities)
        for figure in found:
            print(
                f"{figure.what}: ours {figure.ours:g}, Feast {figure.peer_value:g} {figure.unit}, "
                f"ratio {figure.ratio:g} ({figure.spread[0]:g} to {figure.spread[1]:g}), "
                f"goal {figure.goal:.3g}{'' if figure.met else ': NOT MET'}"
            )
        record(found)


if __name__ == "__main__":
    main()
