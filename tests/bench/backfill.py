"""Events a second from Parquet, beside polars and DuckDB on the same features (target P14).

    python -m tests.bench.backfill [--events 2000000] [--rounds 5] [--quick]

Workload (a), written once as one Parquet file a partition of its topic, in offset order. Everybody
uses all cores, and begins with the files. Two jobs: *state*, the five features of each user as of
the user's newest event; *timeline*, the five features after each event, as a training set wants
them. Ours runs the kernels of the stream over Arrow columns, one partition a thread.

polars does *state* with ``group_by_dynamic``, which computes every window that slides past, and
with one plain ``group_by``, which is right only for the newest event; DuckDB with one GROUP BY, and
*timeline* with frames over windows. All have to agree first, in every value (a mean to nine
digits: the order of its sum is theirs), and ours with the stream to the last bit.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.parquet as pq

from pipeline.features.plan import CellType
from pipeline.ingest.entity import KeyPart, join_keys
from pipeline.kernels.hash import partition_of
from pipeline.serve.client import FeatureClient
from pipeline.state.batch import PackedRows
from pipeline.state.table import StateTable
from pipeline.state.watch import Watch
from pipeline.testing.driver import Driver
from tests.bench.peers.queries import duck_state, duck_timeline, polars_dynamic, polars_plain
from tests.bench.peers.workload import FEATURES, PROOF, Log, view
from tests.bench.report import Figure, compared, publish

PARTITIONS = 12
BATCH = 20_000
PLAN = view("backfill").plan
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Columns = dict[str, Any]
"""``user`` int64[n] and the five features, in any order of rows; ``time`` of a timeline."""


def keys_of(user: I64) -> tuple[U8, I64]:
    """Message keys of users."""
    none, ones = np.empty(0, dtype=np.uint8), np.ones(len(user), dtype=np.uint8)
    keys = join_keys([KeyPart("int64", user, none, user, user, ones)], ones)
    return keys.keys, keys.offsets


def nothing(n: int) -> PackedRows:
    """No stored row for any of ``n`` keys."""
    ends = np.zeros(n + 1, dtype=np.int64)
    return PackedRows(np.empty(0, dtype=np.uint8), ends, np.ones(n, dtype=np.uint8))


def write(log: Log, directory: Path) -> tuple[list[Path], str]:
    """The log as one file a partition: user, time in ms, price in cents, dwell; and their glob."""
    directory.mkdir()
    events = pl.concat([b.select("user", "time", "price", "dwell") for b in log.blocks()])
    # NumPy divides; polars multiplies by the inverse, which is another number
    events = events.with_columns(dwell=events["dwell"].to_numpy() / 1000)
    partition = np.empty(len(events), dtype=np.int32)
    partition_of(*keys_of(events["user"].to_numpy()), PARTITIONS, partition)
    files = [directory / f"{number:02}.parquet" for number in range(PARTITIONS)]
    for number, file in enumerate(files):
        events.filter(pl.Series(partition == number)).write_parquet(file)
    return files, str(directory / "*.parquet")


def replay(path: Path, timeline: bool) -> list[Columns]:
    """The features of one file by our kernels."""
    table, out, offset = StateTable(PLAN, max_bytes=8 << 30), [], 0
    watch = Watch.of(PLAN, range(len(PLAN.features))) if timeline else None
    users, slots = [], []
    for batch in pq.ParquetFile(path).iter_batches(BATCH):
        n = len(batch)
        user, ms, price, dwell = (c.to_numpy() for c in batch.columns)
        found = table.lookup(*keys_of(user))
        new = found.slots[found.missing]
        table.load(new, nothing(len(new)))
        users.append(user[found.missing])
        slots.append(new)
        columns = {"price": price, "dwell": dwell.view(np.int64)}
        applied = table.apply(
            found.slots, np.arange(offset, offset + n), ms, ms * 1_000_000,
            np.ones(n, dtype=np.uint8), np.stack([columns[name] for name in PLAN.inputs]),
            np.ones((len(PLAN.inputs), n), dtype=np.uint8), np.empty((0, n), dtype=np.uint8),
            None, watch,
        )  # fmt: skip
        offset += n
        if applied.watched is not None:
            out.append({"user": user, "time": ms, **named(applied.watched.cells)})
    if not timeline:
        cells = table.finalize(np.concatenate(slots), "event").cells
        out.append({"user": np.concatenate(users), **named(cells)})
    return out


def named(cells: I64) -> Columns:
    """Cells of rows as the features they are."""
    return {
        feature.name: cells[:, feature.cell]
        if feature.type is CellType.INT
        else cells[:, feature.cell].view(np.float64)
        for feature in PLAN.features
    }


def ours(files: list[Path], *, timeline: bool = False) -> pl.DataFrame:
    """The features of all files, a thread a core."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(partial(replay, timeline=timeline), files))
    return pl.concat([pl.DataFrame(part) for found in parts for part in found])


def peers(files: str) -> dict[str, tuple[str, Callable[[], pl.DataFrame]]]:
    """Everybody else's job, and how it is done."""
    return {
        "polars group_by_dynamic": ("state", partial(polars_dynamic, files)),
        "polars group_by": ("state", partial(polars_plain, files)),
        "DuckDB": ("state", partial(duck_state, files)),
        "DuckDB frames": ("timeline", partial(duck_timeline, files)),
    }


def agree(want: pl.DataFrame, got: pl.DataFrame, who: str, *, exact: bool = False) -> None:
    """ValueError unless all rows are equal; only a mean may differ, in its last digits."""
    order = [name for name in ("user", "time") if name in want.columns]
    want, got = want.sort(order), got.sort(order)
    for name in (*order, *FEATURES):
        a, b = want[name].to_numpy(), got[name].to_numpy()
        close = not exact and name.startswith("mean") and len(a) == len(b)
        if not (np.allclose(a, b, 1e-9, 0) if close else np.array_equal(a, b)):
            raise ValueError(f"{who}: {name} differs in {len(want)} or {len(got)} rows")


def streamed(log: Log) -> pl.DataFrame:
    """The features that the stream leaves of the same events, as JSON."""
    driver = Driver([view(log.topic)], partitions=PARTITIONS, max_records=BATCH)
    for user, value in log.records():
        driver.log.append(log.topic, user, value, -1)
    driver.run()
    users = sorted({int(u) for u, _ in log.records()})
    names = [f"activity:{name}" for name in FEATURES]
    with FeatureClient(driver.store) as client:
        found = client.prepare(names).read({"user": users}, at="event")
    return pl.DataFrame({"user": users, **{n: found[n].to_numpy() for n in FEATURES}})


def main() -> None:
    """Prove, measure, print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a smoke run; nothing is recorded")
    asked = parser.parse_args()
    events, rounds = (100_000, 1) if asked.quick else (asked.events, asked.rounds)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        prove(Path(directory) / "proof")
        found = measure(Path(directory) / "log", events, rounds)
    versions = {"polars": pl.__version__, "duckdb": duckdb.__version__}
    publish(found, versions, quick=asked.quick)


def prove(place: Path) -> None:
    """All are right about 28 hours of events, and ours equal to the stream to the last bit."""
    files, glob = write(PROOF, place)
    state, timeline = ours(files), ours(files, timeline=True)
    agree(streamed(PROOF), state, "the stream", exact=True)
    for name, (job, run) in peers(glob).items():
        agree(state if job == "state" else timeline, run(), name)


def measure(place: Path, events: int, rounds: int) -> list[Figure]:
    """Rates of everybody, in turns."""
    files, glob = write(Log("backfill", events), place)
    jobs: dict[str, Callable[[], pl.DataFrame]] = {
        "state": partial(ours, files),
        "timeline": partial(ours, files, timeline=True),
    }
    others = peers(glob)
    rates: dict[str, list[float]] = {name: [] for name in (*jobs, *others)}

    def clocked(name: str, run: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        began = time.perf_counter()
        result = run()
        rates[name].append(events / (time.perf_counter() - began))
        return result

    for _ in range(rounds):
        results = {name: clocked(name, run) for name, run in jobs.items()}
        for name, (job, run) in others.items():
            agree(results[job], clocked(name, run), name)
    return [
        compared("P14", f"backfill from Parquet, {job}", rates[job], name, rates[name], "events/s",
                 1.0)
        for name, (job, _) in others.items()
    ]  # fmt: skip


if __name__ == "__main__":
    main()
