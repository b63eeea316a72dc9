"""Narrow and wide tiles: the bytes of rows and their features are those of the twin either way."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pytest

from pipeline.features.plan import AccOp, Accumulator, CellType, Feature, FeatureOp, Plan, Ring
from pipeline.kernels import arena, rings, table
from pipeline.kernels.jit import JIT_ENABLED
from pipeline.state.table import StateTable
from tests.reference.cases import feed, pack_keys
from tests.reference.rows import encode_row
from tests.reference.state import Event, ReferenceState

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

LEAST, MOST = -(2**63), 2**63 - 1
EDGES = [
    edge + by
    for edge in (0, 2**31, -(2**31), 2**32, MOST - 2, LEAST + 2)
    for by in (-2, -1, 0, 1, 2)
]
OPS = (AccOp.COUNT, AccOp.SUM_INT, AccOp.MIN_INT, AccOp.SUM_FLOAT, AccOp.MAX_INT, AccOp.MIN_FLOAT)
REAL = {AccOp.SUM_FLOAT, AccOp.MIN_FLOAT}
SEEDS = range(40 if JIT_ENABLED else 4)


def plan_of(width: int, tiles: int, ops: tuple[AccOp, ...] = OPS) -> Plan:
    """An accumulator of each kind in one ring, and the least and greatest as features."""
    accumulators = [
        Accumulator(0, op, -1 if op is AccOp.COUNT else int(op in REAL), -1) for op in ops
    ]
    window, n = (tiles - 1) * width, len(ops)
    accumulators.append(Accumulator(0, AccOp.COUNT, 0, -1))  # of values that are not null
    features = [
        Feature(f"f{a}", op, window, width, a, n, i, 1, CellType.INT, 0, math.nan)
        for i, (op, kind) in enumerate(
            ((FeatureOp.MIN, AccOp.MIN_INT), (FeatureOp.MAX, AccOp.MAX_INT))
        )
        for a in [ops.index(kind)]
    ]
    return Plan(
        view="rings", entity="key", entity_type="string", source="events", ttl_ns=0,
        inputs=("n", "x"), input_types=(CellType.INT, CellType.FLOAT), input_scales=(0, 0),
        masks=(), filter=-1, rings=(Ring(width, tiles),), accumulators=tuple(accumulators),
        lists=(), features=tuple(features), fingerprint=7,
    )  # fmt: skip


def events_of(rng: random.Random, n: int, width: int, narrow: bool) -> list[Event]:
    """Events of three keys, mostly in order; numbers that need a word only if not ``narrow``."""
    made, time = [], rng.choice((0, 10**6)) * width
    for i in range(n):
        time += rng.choice((0, 1, width // 2 + 1, 3 * width))
        small = rng.choice((rng.randint(-1000, 1000), 2**31 - 2, 1 - 2**31 + 1))
        value = rng.randint(-9, 9) if narrow else rng.choice((small, small, rng.choice(EDGES)))
        given = (rng.choice((value, value, value, None)), rng.choice((rng.random(), None)))
        late = time - rng.choice((0, 0, 0, 2 * width))
        made.append(Event(b"k%d" % rng.randrange(3), i, i, max(late, 0), True, given, ()))
    return made


def wide(state: StateTable, key: bytes) -> bool:
    slot = int(state.lookup(*pack_keys([key])).slots[0])
    return bool(rings.is_wide(state._slots, slot, table.SECTION))


def kept(state: StateTable, events: list[Event], cuts: list[int]) -> dict[bytes, bytes]:
    stored: dict[bytes, bytes] = {}
    for start, end in pairwise([0, *sorted(cuts), len(events)]):
        if end > start:
            feed(state, events[start:end], stored)
    return stored


@pytest.mark.parametrize("seed", SEEDS)
def test_bytes_are_those_of_the_twin_whatever_the_numbers_need(seed: int) -> None:
    rng = random.Random(seed)
    width = rng.choice((1, 7, 1000))
    plan = plan_of(width, rng.choice((2, 9, 40)))
    events = events_of(rng, 300, width, narrow=seed % 4 == 0)
    twin = ReferenceState(plan)
    twin.apply(events)
    expected = {key: encode_row(plan, row) for key, row in twin.rows.items()}
    cuts = [rng.randrange(len(events)) for _ in range(5)]
    held = StateTable(plan)
    assert kept(held, events, cuts) == expected
    assert kept(StateTable(plan, max_bytes=1), events, cuts) == expected  # loaded each time
    if seed % 4 == 0:
        assert not any(wide(held, key) for key in expected)
    reloaded = StateTable(plan)
    names = sorted(expected)
    slots = reloaded.lookup(*pack_keys(names)).slots
    assert reloaded.load(slots, [expected[name] for name in names]) == []
    assert [reloaded.encode(slots).row(i) for i in range(len(names))] == [
        expected[name] for name in names
    ]
    here = held.lookup(*pack_keys(names)).slots
    one, two = held.finalize(here, "event"), reloaded.finalize(slots, "event")
    for name in ("cells", "valid", "status"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize("values", [(5,), (MOST,), (LEAST,), (MOST, LEAST), (None,), (None, 3)])
def test_least_and_greatest_of_values_like_that_of_nothing(values: tuple[int | None, ...]) -> None:
    state = StateTable(plan_of(10, 4))
    events = [Event(b"k", i, i, 11 + i, True, (v, None), ()) for i, v in enumerate(values)]
    feed(state, events, {})
    got = state.finalize(state.lookup(*pack_keys([b"k"])).slots, "event")
    known = [v for v in values if v is not None]
    want = [min(known), max(known)] if known else [0, 0]
    assert got.cells[0].tolist() == want
    assert got.valid[0].tolist() == [int(bool(known))] * 2


@pytest.mark.parametrize(
    ("value", "time", "needs"),
    [
        (2**31 - 2, 0, False), (2**31 - 1, 0, True), (2 - 2**31, 0, False), (1 - 2**31, 0, True),
        (1, 10 * 2**31 - 10, False), (1, 10 * 2**31, True), (MOST, 0, True), (LEAST, 0, True),
    ],
)  # fmt: skip
def test_a_section_is_wide_from_the_first_number_on_that_needs_it(
    value: int, time: int, needs: bool
) -> None:
    plan = plan_of(10, 4)
    state = StateTable(plan)
    stored: dict[bytes, bytes] = {}
    feed(state, [Event(b"k", 0, 0, 1, True, (1, 1.0), ())], stored)
    assert not wide(state, b"k")
    feed(state, [Event(b"k", 1, 1, time, True, (value, 1.0), ())], stored)
    assert wide(state, b"k") == needs
    again = StateTable(plan)
    again.load(again.lookup(*pack_keys([b"k"])).slots, [stored[b"k"]])
    assert wide(again, b"k") == needs


def test_a_narrow_tile_takes_half_the_memory() -> None:
    plan = plan_of(10, 100, (AccOp.COUNT, AccOp.MIN_INT, AccOp.MAX_INT))
    sizes = []
    for value in (1, 2**40):
        state = StateTable(plan)
        feed(state, [Event(b"k", i, i, 10 * i + 1, True, (value, None), ()) for i in range(90)], {})
        sizes.append(int(state._heads[arena.LIVE]))
    assert sizes[0] < 0.55 * sizes[1]


def test_free_memory_is_used_again_through_growth_shrinking_and_eviction() -> None:
    """Rows of all sizes come, grow, become wide and go: no more is held than rows at most used."""
    rng = random.Random(2)
    plan = plan_of(10, 200)
    state = StateTable(plan, max_bytes=400_000)
    used, held, offset = 0, [], 0
    for turn in range(200 if JIT_ENABLED else 12):
        events = []
        for key in rng.sample(range(400), 20):
            start, n = turn * 50, rng.choice((1, 3, 40))
            for i in range(n):
                value = rng.choice(EDGES) if rng.random() < 0.01 else i
                events.append(Event(b"%d" % key, offset, 0, start + 10 * i, True, (value, 1.0), ()))
                offset += 1
        feed(state, events, {})
        used = max(used, 8 * int(state._heads[arena.LIVE]))
        held.append(state._arena.nbytes)
    assert held[-1] <= 1.5 * used + 8 * 4 * state._need + 2**19
    if JIT_ENABLED:  # else there are too few turns to fill it and go on
        assert held[-1] <= max(held[: len(held) // 4]) * 1.3
