"""Nanoseconds per event of lookup, apply and encode. Prints; decides nothing.

python tests/bench/state.py [a|b] [batches]
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pipeline.features.plan import (
    AccOp,
    Accumulator,
    CellType,
    Feature,
    FeatureOp,
    ListKind,
    ListState,
    Plan,
    Ring,
)
from pipeline.state.table import StateTable

MINUTE = 60 * 10**9
HOUR, DAY = 60 * MINUTE, 1440 * MINUTE
BATCH = 20_000


def behaviour_plan() -> Plan:
    """(a) count and sum over 5 minutes, 1 hour and 24 hours: 6, 13 and 25 tiles."""
    windows = ((5 * MINUTE, MINUTE), (HOUR, 5 * MINUTE), (DAY, HOUR))
    rings = tuple(Ring(slide, (window + slide) // slide) for window, slide in windows)
    accumulators: list[Accumulator] = []
    features: list[Feature] = []
    for r, (window, slide) in enumerate(windows):
        for op, kind, source in (
            (FeatureOp.COUNT, AccOp.COUNT, -1),
            (FeatureOp.SUM, AccOp.SUM_INT, 0),
        ):
            a = len(accumulators)
            accumulators.append(Accumulator(r, kind, source, -1))
            features.append(
                Feature(f"f{a}", op, window, slide, a, -1, a, 1, CellType.INT, 0, math.nan)
            )
    return _plan(rings, accumulators, (), features, (CellType.INT,))


def household_plan() -> Plan:
    """(b) 1 h x 25 tiles and 1 day x 31 tiles, 6 accumulators, 2 distinct lists, last 5."""
    rings = (Ring(HOUR, 25), Ring(DAY, 31))
    kinds = (AccOp.COUNT, AccOp.SUM_INT, AccOp.MAX_INT)
    accumulators = [
        Accumulator(r, kind, -1 if kind is AccOp.COUNT else 0, -1) for r in (0, 1) for kind in kinds
    ]
    lists = (
        ListState(ListKind.DISTINCT, 1, 1, -1, 4096, 0, CellType.INT),
        ListState(ListKind.DISTINCT, 1, 2, -1, 4096, 0, CellType.INT),
        ListState(ListKind.LAST, -1, 0, -1, 5, 0, CellType.INT),
    )
    features = [
        Feature("n", FeatureOp.COUNT, DAY, HOUR, 0, -1, 0, 1, CellType.INT, 0, math.nan),
        Feature("s", FeatureOp.SUM, 30 * DAY, DAY, 4, -1, 1, 1, CellType.INT, 0, math.nan),
        Feature("d", FeatureOp.DISTINCT, 30 * DAY, DAY, 0, -1, 2, 1, CellType.INT, 0, math.nan),
        Feature("e", FeatureOp.DISTINCT, 30 * DAY, DAY, 1, -1, 3, 1, CellType.INT, 0, math.nan),
        Feature("l", FeatureOp.LAST, 0, 0, 2, -1, 4, 5, CellType.INT, 0, math.nan),
    ]
    return _plan(rings, accumulators, lists, features, (CellType.INT,) * 3)


def _plan(
    rings: tuple[Ring, ...], accumulators: list[Accumulator], lists: tuple[ListState, ...],
    features: list[Feature], types: tuple[CellType, ...],
) -> Plan:  # fmt: skip
    return Plan(
        view="bench", entity="key", entity_type="int64", source="events", ttl_ns=0,
        inputs=tuple(f"x{i}" for i in range(len(types))), input_types=types,
        input_scales=(0,) * len(types), masks=(), filter=-1, rings=rings,
        accumulators=tuple(accumulators), lists=lists, features=tuple(features),
        fingerprint=0x1234,
    )  # fmt: skip


def packed(values: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Keys as ASCII decimals, back to back."""
    keys = [b"%d" % v for v in values]
    offsets = np.zeros(len(keys) + 1, dtype=np.int64)
    np.cumsum([len(k) for k in keys], out=offsets[1:])
    return np.frombuffer(b"".join(keys), dtype=np.uint8), offsets


def run(name: str, plan: Plan, draw: Callable[[int], npt.NDArray[np.int64]], step_ns: int,
        spread: tuple[int, ...], batches: int) -> None:  # fmt: skip
    """One warm-up batch in ten; prints medians over the later half of the batches."""
    rng = np.random.default_rng(7)
    table = StateTable(plan, max_bytes=2 << 30)
    times: dict[str, list[float]] = {
        s: [] for s in ("lookup", "load", "apply", "encode", "finalize")
    }
    dirty, size = [], []
    for batch in range(batches):
        offsets = np.arange(batch * BATCH, (batch + 1) * BATCH, dtype=np.int64)
        event_time = offsets * step_ns + rng.integers(0, 1000, BATCH) + 10**18
        keys, key_offsets = packed(draw(BATCH))
        inputs = np.stack([rng.integers(0, high, BATCH) for high in spread]).astype(np.int64)
        valid = np.ones(inputs.shape, dtype=np.uint8)
        masks = np.zeros((0, BATCH), dtype=np.uint8)
        select = np.ones(BATCH, dtype=np.uint8)
        marks = [time.perf_counter()]
        found = table.lookup(keys, key_offsets)
        marks.append(time.perf_counter())
        table.load(found.slots[found.missing], [None] * len(found.missing))
        marks.append(time.perf_counter())
        applied = table.apply(
            found.slots, offsets, offsets // 1000, event_time, select, inputs, valid, masks
        )
        marks.append(time.perf_counter())
        rows = table.encode(applied.dirty)
        marks.append(time.perf_counter())
        table.finalize(applied.dirty, "event")
        marks.append(time.perf_counter())
        table.settle(applied.dirty)
        table.evict()
        for stage, start, end in zip(times, marks, marks[1:], strict=False):
            times[stage].append((end - start) * 1e9 / BATCH)
        dirty.append(len(applied.dirty))
        size.append(len(rows.rows) / len(applied.dirty))
    half = batches // 2
    stages = {stage: statistics.median(values[half:]) for stage, values in times.items()}
    total = stages["lookup"] + stages["apply"] + stages["encode"]
    text = "  ".join(f"{stage} {value:.0f}" for stage, value in stages.items())
    print(f"({name}) ns/event: {text}; lookup+apply+encode {total:.0f}")
    print(
        f"    {table.rows} rows, {dirty[-1]} dirty a batch, {size[-1]:.0f} bytes a row encoded, "
        f"{table.nbytes / table.rows:.0f} in memory"
    )


def main() -> None:
    """Both workloads, or the one named."""
    chosen = sys.argv[1] if len(sys.argv) > 1 else "ab"
    batches = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    rng = np.random.default_rng(1)
    weight = 1 / np.arange(1, 100_001) ** 1.1
    ends = np.cumsum(weight / weight.sum())
    names = rng.permutation(100_000)
    if "a" in chosen:
        for step_ns in (10_000, 50_000_000):
            run(f"a, an event every {step_ns} ns", behaviour_plan(),
                lambda n: names[np.searchsorted(ends, rng.random(n))],
                step_ns, (1000,), batches)  # fmt: skip
    if "b" in chosen:
        run("b", household_plan(), lambda n: rng.integers(1, 2501, n), 5 * 10**9,
            (10_000, 500, 500), batches)  # fmt: skip


if __name__ == "__main__":
    main()
