"""Rows a second of the fenced commit, against a raw MSET prepared beforehand (target P7).

    python -m tests.bench.commit [--rows 20000] [--bytes 128] [--rounds 9] [--url redis://...]

Both send over a socket of the same kind to the same server, in turns; the raw one has no encoding,
no transaction and no fence. Without ``--url`` a Redis of its own is started on a free port.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from contextlib import ExitStack

import numpy as np
import redis

from pipeline.embedded.redis import EmbeddedRedis
from pipeline.ingest.batch import TopicPartition
from pipeline.state.batch import EncodedRows
from pipeline.store.keys import partition_tag, row_key
from pipeline.store.marker import Marker
from pipeline.store.partition import RowWrite
from pipeline.store.redis import RedisStore
from pipeline.store.wire import Replies, command
from tests.bench.report import compared, record

SOURCE = TopicPartition("views", 0)
VIEW = 0xFEDCBA9876543210


def prepared_rows(count: int, size: int) -> EncodedRows:
    """``count`` rows of ``size`` random bytes, keys as decimal numbers."""
    names = [b"%d" % (1_000_000 + i) for i in range(count)]
    return EncodedRows(
        keys=np.array(bytearray(b"".join(names)), dtype=np.uint8),
        key_offsets=np.cumsum([0, *map(len, names)]).astype(np.int64),
        rows=np.random.default_rng(1).integers(0, 256, count * size).astype(np.uint8),
        row_offsets=np.arange(count + 1, dtype=np.int64) * size,
    )


def main() -> None:
    """Print the rates of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeat", type=int, default=20, help="commits a round")
    parser.add_argument("--url", help="a Redis to measure, which is written to")
    asked = parser.parse_args()
    with ExitStack() as stack:
        url = asked.url or stack.enter_context(EmbeddedRedis()).url
        store = RedisStore(url)
        stack.callback(store.close)
        partition = store.open_partition("bench", SOURCE)
        partition.acquire(1)
        partition.markers([VIEW])
        stack.callback(partition.close)
        rows = prepared_rows(asked.rows, asked.bytes)
        tag = partition_tag("bench", SOURCE)
        pairs = [
            part
            for i in range(len(rows))
            for part in (row_key(tag, VIEW, rows.key(i)), rows.row(i))
        ]
        raw = memoryview(command(b"MSET", *pairs))
        link = store._open_link()
        stack.callback(link.close)
        replies = Replies(link)

        def mset() -> None:
            link.send(raw)
            if replies.read() != b"OK":
                raise RuntimeError("MSET failed")

        write = RowWrite(VIEW, rows)

        def commit() -> None:
            partition.commit([write], [Marker(VIEW, "", 0, 1)])

        rates: dict[str, list[float]] = {"mset": [], "commit": []}
        cpu: dict[str, list[float]] = {"mset": [], "commit": []}
        for call in (mset, commit):
            call()
        for _ in range(asked.rounds):
            for name, call in (("mset", mset), ("commit", commit)):
                began, used = time.perf_counter(), time.process_time()
                for _ in range(asked.repeat):
                    call()
                done = asked.rows * asked.repeat
                rates[name].append(done / (time.perf_counter() - began))
                cpu[name].append((time.process_time() - used) / done * 1e9)
        version = redis.Redis.from_url(url).info()["redis_version"]
    print(f"Redis {version}, {os.cpu_count()} cores, {asked.rows} rows of {asked.bytes} bytes")
    for name, values in rates.items():
        print(
            f"{name:7s} {statistics.median(values) / 1e6:.2f} M rows/s "
            f"(from {min(values) / 1e6:.2f} to {max(values) / 1e6:.2f}), "
            f"client CPU {statistics.median(cpu[name]):.0f} ns/row"
        )
    ratios = [c / m for c, m in zip(rates["commit"], rates["mset"], strict=True)]
    print(f"commit / mset, median of pairs: {statistics.median(ratios):.2f}")
    what = f"rows of {asked.bytes} bytes, fenced, against raw MSET"
    figure = compared("P7", what, rates["commit"], "raw MSET", rates["mset"], "rows/s", 0.8)
    record([figure], {"redis": version})


if __name__ == "__main__":
    main()
