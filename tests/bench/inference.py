"""The inference worker: rows a second without servers, and the share that is on time (target P15).

    python -m tests.bench.inference [--rows 64] [--messages 2000] [--rounds 5] [--quick]

*Rows a second*: log, store and publisher in memory, the demo's model; prints where the time goes.
How that compares with model servers is said by ``tests.bench.serving``. *On time*: the worker's own
policy in simulated time, on a device of 2 ms and 2 us a row that is offered 1.4 times what it can
do within half of 20 ms, beside the most that any schedule can finish on time, knowing all arrivals
(a dynamic programme, itself checked against brute force). One seed a round. Why there is
no row of P16, which is about a GPU, is printed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import pipeline.demo
from pipeline.inference import simulate
from pipeline.inference.batcher import LeadBatcher
from pipeline.inference.delivery import InferenceSettings
from pipeline.inference.model import load_file
from pipeline.inference.request import RequestOrigin, encode_requests
from pipeline.inference.service import ServiceTime
from pipeline.inference.warm import warm_up
from pipeline.inference.worker import InferenceWorker
from pipeline.ingest.batch import BinaryBatch
from pipeline.store.memory import MemoryStore
from pipeline.testing.log import MemoryLane, MemoryLog, MemoryPublisher, binary_batch
from tests.bench.report import compared, left_out, publish
from tests.reference.batching import optimum

T0, ROW, SLO, ROWS = 2e6, 2e3, 20_000_000, 64  # ns, and rows of a request
LOAD, ARRIVALS, GOAL = 1.4, 1_200, 0.93


def throughput(rows: int, messages: int) -> None:
    """Print the rate of the worker by itself."""
    warm_up()
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


def on_time(seed: int) -> tuple[int, int]:
    """Requests that the policy finishes on time, and that the best schedule would."""
    best = (SLO / 2 - T0) / ROW  # rows
    rate = best / (T0 + ROW * best)
    arrivals = simulate.poisson(np.random.default_rng(seed), ARRIVALS, LOAD * rate / ROWS)
    policy: LeadBatcher[int] = LeadBatcher(ServiceTime(T0, ROW), slo_ns=SLO, max_batch=1 << 16)
    done = simulate.simulate(
        policy, arrivals, rows=ROWS, slo_ns=SLO, service=lambda n: T0 + ROW * n
    )
    return done.on_time, optimum(arrivals, SLO, T0, ROW * ROWS)


def main() -> None:
    """Print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=64, help="of a message")
    parser.add_argument("--messages", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a smoke run; nothing is recorded")
    asked = parser.parse_args()
    throughput(asked.rows, 200 if asked.quick else asked.messages)
    pairs = [on_time(seed) for seed in range(1 if asked.quick else asked.rounds)]
    ours, best = zip(*pairs, strict=True)
    if any(a > b for a, b in pairs):
        raise ValueError(f"more requests are on time than can be: {pairs}")
    why = "the worker runs models on the CPU only (pipeline.inference.onnx)"
    left_out("P16", "rows a second on a GPU, of the bandwidth to it", why)
    what = f"on time at load {LOAD}, requests of {ARRIVALS:,}"
    publish(
        [compared("P15", what, ours, "exact optimum", best, "requests", GOAL)], quick=asked.quick
    )


if __name__ == "__main__":
    main()
