"""Which rows may leave the table, which do, and what is left of them."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from pipeline.features import plan as plans
from pipeline.kernels import apply as applying
from pipeline.kernels import arena, feature, groups, lists, table, tiles
from pipeline.kernels.jit import JIT_ENABLED
from pipeline.state.batch import Outcome, TriggerKind
from pipeline.state.status import Status
from pipeline.state.table import StateTable
from tests.reference.cases import Columns, columns, feed, make_events, make_plan, pack_keys
from tests.reference.state import Event

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

PLAN = replace(make_plan(random.Random(3), ids=False), filter=-1, ttl_ns=0)


def event(key: bytes, i: int) -> Event:
    return Event(key, i, i, i, True, (1, 1.0, 1, 1, 1), (True, True, True))


def touch(state: StateTable, *keys: bytes) -> np.ndarray:
    """Look up, load as absent, and apply one event a key; returns the dirty slots."""
    events = [event(key, i) for i, key in enumerate(keys)]
    found = state.lookup(*pack_keys(keys))
    state.load(found.slots[found.missing], [None] * len(found.missing))
    return state.apply(found.slots, *columns(events)).dirty


def resident(state: StateTable, key: bytes) -> bool:
    return len(state.lookup(*pack_keys([key])).missing) == 0


def test_missing_are_first_occurrences_until_they_are_loaded() -> None:
    state = StateTable(PLAN)
    keys = pack_keys([b"a", b"b", b"a", b"", b"b", b"c"])
    assert state.lookup(*keys).missing.tolist() == [0, 1, 3, 5]
    found = state.lookup(*keys)
    assert found.missing.tolist() == [0, 1, 3, 5]
    assert found.slots.tolist() == [0, 1, 0, 2, 1, 3]
    state.load(found.slots[[0, 3]], [None, None])
    assert state.lookup(*keys).missing.tolist() == [1, 5]
    assert state.rows == 4


def test_a_row_stays_until_every_encoding_is_settled() -> None:
    state = StateTable(PLAN, max_bytes=0)
    first = touch(state, b"a")
    assert state.evict() == 0  # dirty
    state.encode(first)
    touch(state, b"a")  # changed again while the first is on its way
    state.settle(first)
    assert state.evict() == 0
    state.encode(first)
    state.encode(first)  # clean: this one is not awaited
    assert state.evict() == 0
    state.settle(first)
    assert state.evict() == 1
    assert not resident(state, b"a")


def test_two_encodings_in_flight_need_two_settlements() -> None:
    state = StateTable(PLAN, max_bytes=0)
    slots = touch(state, b"a")
    state.encode(slots)
    touch(state, b"a")
    state.encode(slots)
    state.settle(slots)
    assert state.evict() == 0
    state.settle(slots)
    state.settle(slots)  # one too many is harmless
    assert state.evict() == 1


def test_the_least_recently_used_goes_first() -> None:
    state = StateTable(PLAN)
    names = [b"key%d" % i for i in range(50)]
    for name in names:
        slots = touch(state, name)
        state.encode(slots)
        state.settle(slots)
    state.lookup(*pack_keys(names[:10]))
    state.max_bytes = state.nbytes - 1
    removed = state.evict()
    assert 5 <= removed < 20
    assert state.nbytes <= 0.9 * state.max_bytes
    assert [resident(state, n) for n in names[10 : 10 + removed]] == [False] * removed
    assert all(resident(state, n) for n in names[:10])
    assert state.evict() == 0 or state.nbytes <= state.max_bytes


def use(state: StateTable, *names: bytes) -> None:
    """One batch of events that change nothing."""
    found = state.lookup(*pack_keys(names))
    state.load(found.slots[found.missing], [None] * len(found.missing))


def test_rows_that_come_once_leave_before_rows_that_came_again() -> None:
    state = StateTable(PLAN)
    hot, once = [b"hot%d" % i for i in range(20)], [b"key%d" % i for i in range(20)]
    use(state, *hot)
    use(state, *hot)
    for name in once:
        use(state, name)
    state.max_bytes = state.nbytes - 1
    removed = state.evict()
    assert [resident(state, name) for name in once[:removed]] == [False] * removed
    assert all(resident(state, name) for name in hot)


@pytest.mark.parametrize(("batches", "stays"), [(6, True), (40, False)])
def test_what_was_hot_long_ago_leaves(batches: int, stays: bool) -> None:
    """The age of a row that came again counts an eighth."""
    state = StateTable(PLAN)
    use(state, b"hot")
    use(state, b"hot")
    for _ in range(batches):
        use(state, b"other")
    use(state, b"new")
    for _ in range(3):
        use(state, b"other")
    state.max_bytes = state.nbytes - 1
    assert state.evict() == 1
    assert resident(state, b"hot") == stays
    assert resident(state, b"new") != stays


@pytest.mark.parametrize("seed", range(20) if JIT_ENABLED else range(2))
def test_the_index_survives_many_removals(seed: int) -> None:
    rng = random.Random(seed)
    state, alive = StateTable(PLAN), {}
    state.max_bytes = 40_000
    for _ in range(60 if JIT_ENABLED else 10):
        names = [b"%d" % rng.randrange(3000) for _ in range(rng.randint(1, 60))]
        slots = state.lookup(*pack_keys(names))
        keys, offsets = state.keys(slots.slots)
        assert [keys[offsets[i] : offsets[i + 1]].tobytes() for i in range(len(names))] == names
        state.load(slots.slots[slots.missing], [None] * len(slots.missing))
        alive = {names[i]: s for i, s in enumerate(slots.slots.tolist())}
        assert len(set(alive.values())) == len(alive)
        state.evict()
        assert state.nbytes <= state.max_bytes


def test_memory_is_given_back_and_used_again() -> None:
    state = StateTable(PLAN, max_bytes=200_000)
    rng = random.Random(1)
    rounds = 40 if JIT_ENABLED else 3
    for i in range(rounds):
        feed(state, make_events(rng, 400, 10**6, i * 1000), {})
        assert state.nbytes <= state.max_bytes
    used = 8 * int(state._heads[arena.TOP]) + int(state._totals[table.KEY_BYTES])
    assert used < 4 * state.max_bytes + 2**21
    state.max_bytes = 0
    state.evict()
    assert (state.nbytes, state.rows, int(state._heads[arena.LIVE])) == (0, 0, 0)


@pytest.mark.parametrize("seed", range(10))
def test_compaction_changes_nothing_that_can_be_seen(seed: int) -> None:
    rng = random.Random(seed)
    plan = make_plan(rng)
    moved, kept = StateTable(plan), StateTable(plan)
    rows: list[dict[bytes, bytes]] = [{}, {}]
    events = make_events(rng, 300 if JIT_ENABLED else 60, 20, 0)
    for start in range(0, len(events), 50):
        feed(moved, events[start : start + 50], rows[0])
        feed(kept, events[start : start + 50], rows[1])
        moved.compact()
    assert rows[0] == rows[1]
    assert (moved.nbytes, moved.rows) == (kept.nbytes, kept.rows)


def test_columns_may_be_read_only_or_strided() -> None:
    """Kernels are compiled for one layout; everything else is copied to it."""
    state = StateTable(PLAN)
    keys, offsets = pack_keys([b"a", b"b"])
    keys.flags.writeable = False
    slots = state.lookup(keys, offsets).slots
    state.load(slots, [None, None])
    dense = columns([event(b"a", 0), event(b"b", 1)])
    wide = Columns._make(np.repeat(c, 2, axis=-1)[..., ::2] for c in dense)
    for column in wide:
        column.flags.writeable = False
    assert state.apply(slots[::1], *wide).outcome.tolist() == [Outcome.APPLIED] * 2


def test_clear_forgets_pinned_rows() -> None:
    state = StateTable(PLAN)
    touch(state, b"a")
    state.clear()
    assert state.rows == 0
    assert not resident(state, b"a")


def test_an_unloaded_slot_is_refused() -> None:
    state = StateTable(PLAN)
    found = state.lookup(*pack_keys([b"a"]))
    with pytest.raises(ValueError, match="not loaded"):
        state.apply(found.slots, *columns([event(b"a", 0)]))


def test_empty_batches() -> None:
    state = StateTable(PLAN)
    none = np.empty(0, dtype=np.int32)
    found = state.lookup(*pack_keys([]))
    assert len(found.slots) == len(found.missing) == 0
    assert state.load(none, []) == []
    assert len(state.encode(none)) == 0
    assert state.finalize(none, "event").cells.shape == (0, PLAN.cells)
    k, m = len(PLAN.inputs), len(PLAN.masks)
    empty = np.empty(0, dtype=np.int64)
    applied = state.apply(
        none, empty, empty, empty, np.empty(0, dtype=np.uint8), np.empty((k, 0), dtype=np.int64),
        np.empty((k, 0), dtype=np.uint8), np.empty((m, 0), dtype=np.uint8),
    )  # fmt: skip
    assert len(applied.outcome) == len(applied.dirty) == len(applied.fired) == 0


def test_a_key_without_events_is_missing_and_encodes_to_nothing() -> None:
    state = StateTable(PLAN)
    found = state.lookup(*pack_keys([b"a"]))
    state.load(found.slots, [None])
    assert set(state.finalize(found.slots, "event").status[0].tolist()) == {Status.MISSING}
    assert state.encode(found.slots).row(0) == b""


def test_kernels_and_plans_number_things_alike() -> None:
    for acc in plans.AccOp:
        assert getattr(groups if acc > plans.AccOp.MAX_FLOAT else tiles, acc.name) == acc
        assert tiles.is_float(acc) == (acc in plans.WORD_OPS)
        assert tiles.is_count(acc) == (acc in plans.COUNT_OPS)
    for kind in plans.ListKind:
        assert getattr(lists, kind.name) == kind
    for op in plans.FeatureOp:
        assert getattr(feature, f"OP_{op.name}") == op
    for status in Status:
        assert getattr(feature, f"S_{status.name}") == status
    for outcome in Outcome:
        assert getattr(applying, outcome.name) == outcome
    for trigger in TriggerKind:
        assert getattr(applying, trigger.name) == trigger
    assert (feature.INT, feature.FLOAT, feature.DECIMAL) == (0, 1, 2)
