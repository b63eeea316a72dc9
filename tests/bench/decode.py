"""Decoding speed on one core: ``python -m tests.bench.decode [events]``.

Prints ns an event (best and median of 25) for JsonDecoder over behaviour events (7 fields, about
140 bytes), and over the same with spaces, with unknown fields, and with floats of 17 digits;
beside it polars.read_ndjson (one thread too) with the same schema on the same bytes, and a plain
copy of them.
The runs alternate. Decides nothing: a figure on a shared machine is no test. build/bench.json gets
them too.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

os.environ["POLARS_MAX_THREADS"] = "1"  # read when it is imported
import polars as pl

from pipeline.contracts.contract import Contract
from pipeline.ingest.batch import BinaryBatch
from pipeline.ingest.decode import JsonDecoder
from tests.bench.report import compared, record
from tests.reference.records import binary_batch

ROUNDS = 25
CONTRACT: Mapping[str, Any] = {
    "title": "behaviour",
    "type": "object",
    "properties": {
        "user_id": {"type": "integer"},
        "item_id": {"type": "integer"},
        "action": {"type": "string"},
        "price": {"type": "number", "x-decimal": 2},
        "quantity": {"type": "integer"},
        "event_time": {"type": "string", "format": "date-time"},
        "session": {"type": "string"},
    },
    "required": ["user_id", "item_id", "action", "price", "quantity", "event_time", "session"],
}
POLARS = {
    "user_id": pl.Int64(),
    "item_id": pl.Int64(),
    "action": pl.String(),
    "price": pl.Float64(),
    "quantity": pl.Int64(),
    "event_time": pl.String(),
    "session": pl.String(),
}


def event(r: random.Random) -> dict[str, Any]:
    """One behaviour event."""
    day, hour, second = r.randrange(1, 29), r.randrange(24), r.randrange(60)
    return {
        "user_id": r.randrange(100_000),
        "item_id": r.randrange(1_000_000),
        "action": r.choice(["view", "cart", "purchase"]),
        "price": round(r.random() * 100, 2),
        "quantity": r.randrange(1, 9),
        "event_time": f"2024-01-{day:02}T{hour:02}:53:{second:02}Z",
        "session": f"{r.getrandbits(64):016x}",
    }


def timed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def workloads(n: int) -> dict[str, tuple[JsonDecoder, BinaryBatch]]:
    """Decoder and batch by name."""
    events = [event(random.Random(i)) for i in range(n)]
    keys: list[bytes | None] = [str(e["user_id"]).encode() for e in events]
    floats = json.loads(json.dumps(CONTRACT))
    del floats["properties"]["price"]["x-decimal"]
    exact, real = Contract.load(CONTRACT), Contract.load(floats)

    def batch(items: list[dict[str, Any]], **style: Any) -> BinaryBatch:
        return binary_batch([json.dumps(e, **style).encode() for e in items], keys)

    compact: Any = {"separators": (",", ":")}
    unknown = [{**e, "device": {"os": "linux", "size": [1, 2]}, "note": "é" * 5} for e in events]
    long = [{**e, "price": e["price"] / 3} for e in events]
    exactly, really = (JsonDecoder(c, "user_id", "event_time", 1) for c in (exact, real))
    return {
        "compact": (exactly, batch(events, **compact)),
        "with spaces": (exactly, batch(events)),
        "with unknown fields": (exactly, batch(unknown, **compact)),
        "floats of 17 digits": (really, batch(long, **compact)),
    }


def main(n: int) -> None:
    """Print the table."""
    for name, (decoder, batch) in workloads(n).items():
        lines = b"\n".join(batch.value(i) or b"" for i in range(n))
        payload = batch.payload
        rejected = decoder.decode(batch).rejects().counts()
        runs: dict[str, Callable[[], object]] = {
            "decode": partial(decoder.decode, batch),
            "polars.read_ndjson": partial(pl.read_ndjson, lines, schema=POLARS),
            "copy": payload.copy,
        }
        times: dict[str, list[float]] = {key: [] for key in runs}
        for _ in range(ROUNDS):
            for key, run in runs.items():
                times[key].append(timed(run))
        print(f"{name}: {n} events, {len(payload) / n:.0f} bytes each, rejected {rejected}")
        for key, values in times.items():
            best, median = min(values) / n * 1e9, statistics.median(values) / n * 1e9
            print(f"  {key:20} {best:8.1f} ns best {median:8.1f} ns median {1e3 / best:8.2f} M/s")
        ours, peer = ([n / t for t in times[key]] for key in ("decode", "polars.read_ndjson"))
        record([compared("P4", f"JSON, {name}", ours, "polars.read_ndjson", peer, "events/s", 3)])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
