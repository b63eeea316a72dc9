"""GB/s that window kernels read on all cores, beside a memory copy (target P6).

    python -m tests.bench.reduction [--rounds 7] [--quick]

A *reduction* here is what a read of a feature does: the finalize kernel folds the tiles of its
window into one value, a row after the other. Each row has 30 days by the hour, 721 tiles, which lie
in one buffer as their numbers and cells, four bytes each (least and greatest have a count beside
them); per thread there is more of them than caches hold. Bytes are those of the window's tiles,
each counted once. *Update* is the kernel of the stream, which scatters events into tiles by key: no
reduction, and held to nothing, but its rate over the Arrow columns that it reads is said. A copy
counts the bytes copied. One thread a core; kernels release the GIL.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

import pipeline as pp
from pipeline.kernels.tiles import RING_HALVES
from pipeline.state.table import StateTable
from tests.bench.backfill import keys_of, nothing
from tests.bench.report import compared, left_out, limited, publish

HOUR = 3_600_000_000_000
START = 1_700_000_000 // 3600 * HOUR
TILES = 721  # of 30 days that slide by the hour
CLAIM = 12.0
CONTRACT = {
    "title": "event",
    "type": "object",
    "properties": {
        "key": {"type": "integer"},
        "n": {"type": "integer"},
        "at": {"type": "integer", "x-unix-time": "ns"},
    },
    "required": ["key", "n", "at"],
}
OPS: dict[str, Callable[[], Any]] = {
    "sum": lambda: pp.sum("n"),
    "count": pp.count,
    "min": lambda: pp.min("n"),
    "max": lambda: pp.max("n"),
}
FOLDED: dict[str, Callable[[Any], Any]] = {
    "sum": np.sum,
    "count": len,
    "min": np.min,
    "max": np.max,
}


def events(table: StateTable, keys: Any, at: Any, values: Any) -> tuple[Any, ...]:
    """Arguments of apply for events of keys that are in the table."""
    n = len(keys)
    found = table.lookup(*keys_of(keys))
    table.load(found.slots[found.missing], nothing(len(found.missing)))
    wanted = len(table.plan.inputs)
    return (
        found.slots, np.arange(n), at // 1_000_000, at, np.ones(n, dtype=np.uint8),
        values[None, :][:wanted].copy(), np.ones((wanted, n), dtype=np.uint8),
        np.empty((0, n), dtype=np.uint8),
    )  # fmt: skip


def rows_of(op: str, rows: int) -> tuple[StateTable, Any, Any]:
    """A table of equal rows with full windows, their slots, and the feature of each."""
    stream = pp.EventStream("events", pp.Contract.load(CONTRACT), key="key", time="at")
    features = {op: OPS[op]().over("30d", slide="1h")}
    plan = pp.FeatureView("reduced", source=stream, entity="key", features=features).plan
    values = np.random.default_rng(1).integers(-(10**6), 10**6, TILES)
    first = StateTable(plan)
    at = START + np.arange(TILES) * HOUR + 1
    first.apply(*events(first, np.zeros(TILES, dtype=np.int64), at, values))
    row = first.encode(np.zeros(1, dtype=np.int32)).row(0)
    table = StateTable(plan, max_bytes=8 << 30)
    slots = table.lookup(*keys_of(np.arange(rows))).slots
    table.load(slots, [row] * rows)
    return table, slots, FOLDED[op](values)


def together(runs: Sequence[Callable[[], object]], pool: ThreadPoolExecutor) -> float:
    """Seconds until all have run, a thread each."""
    began = time.perf_counter()
    for done in [pool.submit(run) for run in runs]:
        done.result()
    return time.perf_counter() - began


def main() -> None:
    """Print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a smoke run; nothing is recorded")
    asked = parser.parse_args()
    rows, rounds = (200, 2) if asked.quick else (16_000, asked.rounds)
    threads = os.cpu_count() or 1
    figures = []
    with ThreadPoolExecutor(threads) as pool:
        for op in OPS:
            made = [rows_of(op, rows) for _ in range(threads)]
            halves = int(made[0][0].plan.tables().rings[0, RING_HALVES])  # of words, of a tile
            size = rows * threads * TILES * halves * 4
            sources = [np.ones(size // threads // 8, dtype=np.int64) for _ in range(threads)]
            targets = [np.empty_like(source) for source in sources]
            for table, slots, want in made:
                got = table.finalize(slots, "event").cells[:, 0]
                if not (got == want).all():
                    raise ValueError(f"{op}: {got[0]} instead of {want}")
            folds = [partial(table.finalize, slots, "event") for table, slots, _ in made]
            copies = [
                lambda a=a, b=b: np.copyto(b, a) for a, b in zip(sources, targets, strict=True)
            ]
            rates: dict[str, list[float]] = {"folds": [], "copies": []}
            together(copies, pool)
            for _ in range(rounds):
                rates["folds"].append(size / together(folds, pool) / 1e9)
                rates["copies"].append(size / together(copies, pool) / 1e9)
            what = f"{op} over 721 tiles a row, all cores"
            figures.append(
                compared("P6", what, rates["folds"], "memory copy", rates["copies"], "GB/s", 0.6)
            )
            if min(rates["copies"]) >= CLAIM:
                figures.append(limited("P6", what, rates["folds"], CLAIM, "GB/s", at_least=True))
            else:
                left_out("P6", f"{op}: {CLAIM:g} GB/s", f"copying does {max(rates['copies']):.1f}")
        print(f"update: {updates(pool, threads, rounds):.2f} GB/s of Arrow columns")
    publish(figures, quick=asked.quick)


def updates(pool: ThreadPoolExecutor, threads: int, rounds: int) -> float:
    """GB/s of columns that the kernel of the stream reads, 20,000 events of 2,500 keys a batch."""
    runs: list[Callable[[], object]] = []
    read = 0
    for _ in range(threads):
        table, _, _ = rows_of("sum", 1)
        keys = np.random.default_rng(2).integers(0, 2_500, 20_000)
        given = events(table, keys, START + np.arange(len(keys)) * 10**9, keys)
        read += sum(column.nbytes for column in given)
        runs.append(partial(table.apply, *given))
    together(runs, pool)
    return read * rounds / sum(together(runs, pool) for _ in range(rounds)) / 1e9


if __name__ == "__main__":
    main()
