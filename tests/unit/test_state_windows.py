"""Features against their definition over the raw events: no tiles, no lists, no batches."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from pipeline.features.plan import (
    TILE_BOUND_KINDS,
    AccOp,
    Accumulator,
    CellType,
    Feature,
    FeatureOp,
    ListKind,
    ListState,
    Plan,
)
from pipeline.kernels.jit import JIT_ENABLED
from pipeline.state.batch import Outcome
from pipeline.state.status import Status
from pipeline.state.table import StateTable
from tests.reference.cases import RANKED, feed, make_events, make_plan, pack_keys
from tests.reference.state import Event, Number, bits_of

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

SEEDS = range(120) if JIT_ENABLED else range(30)
DEFINED = set(list(FeatureOp)[:7])  # the others: test_state_spread, test_state_decay


def inside(feature: Feature, time: int, at: int) -> bool:
    """Window (floor(T, slide) - window, T]; exact without a slide, moved back by a delay."""
    if not feature.window_ns:
        return True
    floor = at // feature.slide_ns * feature.slide_ns if feature.slide_ns else at
    end = floor - feature.delay_ns if feature.delay_ns else at
    return floor - feature.delay_ns - feature.window_ns < time <= end


def chosen(plan: Plan, events: list[Event], source: int, mask: int) -> list[Number]:
    values: list[Number] = []
    for event in events:
        value = 1 if source < 0 else event.inputs[source]
        if (mask < 0 or event.masks[mask]) and value is not None and not math.isnan(value):
            values.append(value)
    return values


def folded(accumulator: Accumulator, values: list[Number]) -> Number | None:
    """None where the sum of integers may have left int64 on its way."""
    if accumulator.op is AccOp.COUNT:
        return len(values)
    if accumulator.op is AccOp.SUM_INT:
        return sum(values) if sum(abs(v) for v in values) < 2**63 else None
    if accumulator.op is AccOp.SUM_FLOAT:
        return math.fsum(values) if all(abs(v) < 1e300 for v in values) else None
    if not values:
        return 0
    return min(values) if accumulator.op.name.startswith("MIN") else max(values)


def ranked(plan: Plan, feature: Feature, events: list[Event]) -> list[Number]:
    """The values that are most frequent, largest or smallest, or the one at the rank."""
    state = plan.lists[feature.a]
    values = [v + 0 for v in chosen(plan, events, state.input, state.mask)]  # -0.0 + 0 is 0.0
    if feature.op is FeatureOp.QUANTILE:
        rank = max(1, math.ceil(Fraction(str(feature.q)) * len(values)))
        found = [float(v) for v in sorted(values)[rank - 1 : rank]]
    elif feature.op in (FeatureOp.MAX_N, FeatureOp.MIN_N):
        found = sorted(values, reverse=feature.op is FeatureOp.MAX_N)[: feature.width]
    else:
        counted = sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0]))
        found = [v for v, _ in counted[: feature.width]]
    return [v if feature.scale == 0 else float(Fraction(v) / 10**feature.scale) for v in found]


def defined(plan: Plan, feature: Feature, events: list[Event], at: int) -> Number | None:
    """The value of a feature with one cell; None where this definition does not say."""
    seen = [e for e in events if inside(feature, e.time, at)]
    if feature.op is FeatureOp.DISTINCT:
        state = plan.lists[feature.a]
        return len(set(chosen(plan, seen, state.input, state.mask)))
    a = plan.accumulators[feature.a]
    x = folded(a, chosen(plan, seen, a.input, a.mask))
    if feature.b < 0:
        return x if x is None or feature.scale == 0 else float(Fraction(x) / 10**feature.scale)
    b = plan.accumulators[feature.b]
    y = folded(b, chosen(plan, seen, b.input, b.mask))
    if x is None or not y:
        return None
    if feature.op in (FeatureOp.MEAN, FeatureOp.RATIO):
        return float(Fraction(x) / Fraction(y) / 10**feature.scale)
    return x if feature.scale == 0 else float(Fraction(x) / 10**feature.scale)


def scale_of(plan: Plan, feature: Feature, events: list[Event]) -> float:
    """Bound of what a float sum went through: its rounding is relative to that."""
    a = plan.accumulators[feature.a]
    values = chosen(plan, events, a.input, a.mask)
    return len(values) * max(map(abs, values), default=0.0)


def check(plan: Plan, feature: Feature, events: list[Event], cell: int, expected: Number) -> None:
    aggregated = feature.op is not FeatureOp.DISTINCT
    got = float(np.int64(cell).view(np.float64))
    if aggregated and plan.accumulators[feature.a].op is AccOp.SUM_FLOAT:
        assert got == pytest.approx(
            expected, rel=1e-12, abs=1e-12 * scale_of(plan, feature, events)
        )
    elif isinstance(expected, float) and expected == 0:
        assert got == 0  # which zero is the twin's to say
    else:
        assert cell == bits_of(expected)


def running_gaps(events: list[Event]) -> list[int]:
    newest, gaps = events[0].time, []
    for event in events:
        gaps.append(event.time - newest)
        newest = max(newest, event.time)
    return gaps


def compare(seed: int) -> int:
    """Number of features of a random case that were found equal to their definition."""
    rng = random.Random(seed)
    plan = make_plan(rng)
    events = make_events(rng, 300 if JIT_ENABLED else 50, rng.choice((1, 4)), rng.choice((0, -777)))
    table = StateTable(plan)
    raw: dict[bytes, list[Event]] = {}
    deleted: dict[bytes, int] = {}
    for event, outcome in zip(events, feed(table, events, {}).outcome, strict=True):
        if event.delete and outcome == Outcome.APPLIED:
            raw[event.key] = []
            deleted[event.key] = max(event.time, deleted.get(event.key, event.time))
        elif event.key in deleted and event.time <= deleted[event.key]:
            assert outcome != Outcome.APPLIED
        elif outcome in (Outcome.APPLIED, Outcome.LATE):  # late: in no window from now on
            raw.setdefault(event.key, []).append(event)
    compared = 0
    for key, mine in raw.items():
        if not mine:
            continue
        if plan.ttl_ns and max(running_gaps(mine)) > plan.ttl_ns:
            continue  # emptied on the way; the twin covers it
        slots = table.lookup(*pack_keys([key])).slots
        newest = int(table.event_time(slots)[0])
        for at in (newest, newest + 1, newest + rng.randint(2, 400)):
            got = table.finalize(slots, np.array([at], dtype=np.int64))
            for i, feature in enumerate(plan.features):
                if got.status[0, i] != Status.PRESENT or feature.nulls >= 0:
                    continue
                if feature.op in RANKED.values():
                    kept = plan.lists[feature.a]
                    if kept.kind in TILE_BOUND_KINDS and kept.bound < feature.width:
                        continue  # no view makes such a plan
                    seen = [e for e in mine if inside(feature, e.time, at)]
                    values = ranked(plan, feature, seen)
                    compared += 1
                    cells = got.cells[0, feature.cell : feature.cell + len(values)]
                    assert [int(c) for c in cells] == [bits_of(v) for v in values]
                    rest = got.valid[0, feature.cell + len(values) : feature.cell + feature.width]
                    assert set(rest.tolist()) <= {int(not math.isnan(feature.default))}
                    continue
                if feature.op not in DEFINED:
                    continue
                expected = defined(plan, feature, mine, at)
                if expected is not None:
                    compared += 1
                    seen = [e for e in mine if inside(feature, e.time, at)]
                    check(plan, feature, seen, int(got.cells[0, feature.cell]), expected)
    return compared


def test_features_equal_their_definition_over_raw_events() -> None:
    compared = 0
    for seed in SEEDS:
        try:
            compared += compare(seed)
        except AssertionError as failure:
            raise AssertionError(f"seed {seed}") from failure
    assert compared > 10 * len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_last_is_the_newest_by_time_then_offset(seed: int) -> None:
    rng = random.Random(seed)
    values = [rng.randint(0, 9) for _ in range(30)]
    times = [rng.randint(0, 40) for _ in values]
    n, window, slide = rng.choice((1, 3, 40)), *rng.choice(((0, 0), (20, 5)))
    state = ListState(ListKind.LAST, -1, 0, -1, n, window + slide, CellType.INT)
    feature = Feature(
        "f", FeatureOp.LAST, window, slide, 0, -1, 0, n, CellType.INT, 0, math.nan
    )  # fmt: skip
    plan = dataclasses.replace(
        make_plan(random.Random(0)), rings=(), accumulators=(), lists=(state,), features=(feature,),
        ttl_ns=0, filter=-1, inputs=("x",), input_types=(CellType.INT,), masks=(),
    )  # fmt: skip
    events = [
        Event(b"k", i, 0, t, True, (v,), ())
        for i, (t, v) in enumerate(zip(times, values, strict=True))
    ]
    table = StateTable(plan)
    feed(table, events, {})
    at = max(times) + rng.randint(0, 9)
    got = table.finalize(np.zeros(1, dtype=np.int32), np.array([at], dtype=np.int64))
    after = at // slide * slide - window if window else -1
    newest = sorted((e.time, e.offset, e.inputs[0]) for e in events if e.time > after)[::-1][:n]
    assert got.cells[0][got.valid[0] == 1].tolist() == [value for _, _, value in newest]
