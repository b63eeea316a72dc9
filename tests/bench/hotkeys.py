"""What a hot key costs the store: bytes written per event, by the length of its row.

    python -m tests.bench.hotkeys

A row is written whole by each commit that changes it. Rows of three kinds of window are filled,
then events of one key come in commits of 1 to 10,000 events; printed are the row's bytes, the bytes
written an event, and what splitting the row's cold part off would write at best (a row that
holds only what one commit changes). Measured against a real Redis, for the time of a commit.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

import pipeline as pp
from pipeline.embedded.redis import EmbeddedRedis
from pipeline.ingest.batch import TopicPartition
from pipeline.state.table import StateTable
from pipeline.store.marker import Marker
from pipeline.store.open import open_store
from pipeline.store.partition import RowWrite

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
WINDOWS: dict[str, Any] = {
    "30 days by the hour (744 tiles)": pp.sum("n").over("30d", slide="1h"),
    "30 days, exact (4,096 events)": pp.sum("n").over("30d"),
    "30 days, exact (65,536 events)": pp.sum("n").over("30d", bound=65_536),
}
HOUR = 3_600_000_000_000
START = 1_700_000_000_000_000_000


def measure(name: str, feature: Any, per_commit: int, filled: int, url: str) -> None:
    """One line: a key that ``filled`` events came for, then 10 commits."""
    stream = pp.EventStream("events", pp.Contract.load(CONTRACT), key="key", time="at")
    plan = pp.FeatureView("hot", source=stream, entity="key", features={"f": feature}).plan
    table = StateTable(plan, max_bytes=1 << 30)
    partition = open_store(url).open_partition("bench", TopicPartition("events", 0))
    partition.acquire(-1)
    partition.markers([plan.fingerprint])
    slots = table.lookup(np.frombuffer(b"1", np.uint8), np.array([0, 1], dtype=np.int64)).slots
    table.load(slots, [None])
    step = max(29 * 24 * HOUR // filled, 1)
    offset = 0
    written, seconds = [], []
    for count in [filled] + [per_commit] * 10:
        offsets = np.arange(offset, offset + count, dtype=np.int64)
        offset += count
        inputs = offsets[None, :] * 7919 % 100_000
        applied = table.apply(
            np.repeat(slots, count), offsets, offsets, START + offsets * step,
            np.ones(count, dtype=np.uint8), inputs, np.ones((1, count), dtype=np.uint8),
            np.zeros((0, count), dtype=np.uint8),
        )  # fmt: skip
        begun = time.perf_counter()
        rows = table.encode(applied.dirty)
        marker = Marker(
            fingerprint=plan.fingerprint, topic_id="", partition=0, next_offset=offset,
            leader_epoch=-1, processed_through_ms=0, consumed=offset, applied=offset, duplicate=0,
            late=0, dead_lettered=0, filtered=0,
        )  # fmt: skip
        partition.commit([RowWrite(plan.fingerprint, rows)], [marker])
        seconds.append(time.perf_counter() - begun)
        written.append(len(rows.rows))
        table.settle(applied.dirty)
    partition.close()
    row = statistics.median(written[1:])
    fresh = max(row - written[0], per_commit * 10)
    print(
        f"{name:34} {per_commit:7,} {row:11,.0f} {row / per_commit:13,.1f} "
        f"{statistics.median(seconds[1:]) * 1e6 / per_commit:10,.1f} {fresh / per_commit:12,.1f}"
    )


def main() -> None:
    """A table."""
    print(
        f"{'window':34} {'events':>7} {'row bytes':>11} {'bytes/event':>13} {'us/event':>10} "
        f"{'split, least':>12}"
    )
    with EmbeddedRedis() as server:
        for name, feature in WINDOWS.items():
            for per_commit in (1, 10, 100, 1000, 10_000):
                measure(name, feature, per_commit, 60_000, server.url)


if __name__ == "__main__":
    main()
