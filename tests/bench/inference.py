"""Rows a second of the inference worker: log, store and publisher in memory, the demo's model.

``python -m tests.bench.inference [ROWS A MESSAGE] [MESSAGES]``. Prints where the time goes.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

import pipeline.demo
from pipeline.inference.delivery import InferenceSettings
from pipeline.inference.model import load_file
from pipeline.inference.request import RequestOrigin, encode_requests
from pipeline.inference.worker import InferenceWorker
from pipeline.ingest.batch import BinaryBatch
from pipeline.store.memory import MemoryStore
from pipeline.testing.log import MemoryLane, MemoryLog, MemoryPublisher, binary_batch


def main(rows: int, messages: int) -> None:
    manifest, model = load_file(Path(pipeline.demo.__file__).with_name("next_week_spend.json"))
    rng = np.random.default_rng(1)
    log = MemoryLog()
    log.create("requests", 1)
    origin = RequestOrigin("household", 1, "demo", "purchases")
    features = rng.integers(0, 200, (rows, len(manifest.input_names))).astype(np.float64)
    keys = np.frombuffer(b"".join(b"%04d" % (i % 2_500) for i in range(rows)), dtype=np.uint8)
    start = time.perf_counter()
    for i in range(messages):
        value = encode_requests(
            origin,
            keys=keys,
            key_offsets=np.arange(rows + 1, dtype=np.int64) * 4,
            source_partition=0,
            source_offset=np.arange(i * rows, (i + 1) * rows, dtype=np.int64),
            trigger="new_basket",
            event_time=np.arange(rows, dtype=np.int64),
            requested_at_ms=time.time_ns() // 1_000_000,
            names=manifest.input_names,
            features=features,
        )
        log.append("requests", None, value, 0, 0)
    total = rows * messages
    print(f"encode_requests: {(time.perf_counter() - start) / total * 1e6:.2f} us a row")
    worker = InferenceWorker(
        app="bench",
        topic_ids={"requests": ""},
        manifest=manifest,
        model=model,
        lane=_Indexed(log),
        store=MemoryStore(),
        publisher=MemoryPublisher(),
        settings=InferenceSettings("predictions", "dead", slo_ms=600_000, max_wait_ms=1),
        clock_ns=time.time_ns,
        monotonic_ns=time.monotonic_ns,
    )
    worker.start()
    done, calls, busy_ns = 0, 0, 0
    start, cpu = time.perf_counter(), time.process_time()
    while done < total:
        step = worker.step()
        done += sum(step.rows.values())
        calls += len(step.runs)
        busy_ns += sum(took for _, took in step.runs)
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    worker.close()
    print(f"{done:,} rows in messages of {rows}: {done / took:,.0f} rows/s, "
          f"{cpu / done * 1e6:.2f} us of CPU a row, {done / calls:,.0f} rows a run, "
          f"device busy {busy_ns / 1e9 / took:.0%}")  # fmt: skip


class _Indexed(MemoryLane):
    """The log's offsets are dense, so a poll need not search it."""

    def poll(self, max_records: int, timeout_ms: int) -> list[BinaryBatch]:
        if self._due:
            self._rebalance()
        (source,) = self._positions
        if source in self._paused:
            return []
        at = self._positions[source]
        records = self._log.records(source)[at : at + max_records]
        self._positions[source] = at + len(records)
        return [binary_batch(source, records)] if records else []


if __name__ == "__main__":
    numbers = [int(a) for a in sys.argv[1:]]
    main(*(numbers or [64, 2_000]))
