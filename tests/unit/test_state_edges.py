"""The exact place of every boundary, one nanosecond on each side."""

from __future__ import annotations

import math

import numpy as np
import pytest

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
from pipeline.kernels.arena import TOP
from pipeline.state.batch import Outcome, TriggerKind, TriggerTables
from pipeline.state.status import Status
from pipeline.state.table import StateTable
from tests.reference.cases import Columns, columns, feed, pack_keys
from tests.reference.rows import reseal
from tests.reference.sketches import passes
from tests.reference.state import Event

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

NAN = math.nan
DISTINCT = ListState(ListKind.DISTINCT, 0, 0, -1, 2, 0, CellType.INT)
LAST = ListState(ListKind.LAST, -1, 0, -1, 3, 100, CellType.INT)


def plan(ring: bool, *lists: ListState, ttl: int = 0) -> Plan:
    """Count over (floor(T, 10) - 30, T] if ``ring``, and features of the lists."""
    features = [Feature("n", FeatureOp.COUNT, 30, 10, 0, -1, 0, 1, CellType.INT, 0, NAN)]
    features = features if ring else []
    for i, state in enumerate(lists):
        op = FeatureOp.DISTINCT if state.kind is ListKind.DISTINCT else FeatureOp.LAST
        window, slide = (30, 10) if op is FeatureOp.DISTINCT else (0, 0)
        n = len(features)
        features.append(Feature(f"l{i}", op, window, slide, i, -1, n, 1, CellType.INT, 0, NAN))
    return Plan(
        view="edges", entity="key", entity_type="string", source="events", ttl_ns=ttl,
        inputs=("x",), input_types=(CellType.INT,), input_scales=(0,), masks=(), filter=-1,
        rings=(Ring(10, 4),) if ring else (),
        accumulators=(Accumulator(0, AccOp.COUNT, -1, -1),) if ring else (),
        lists=lists, features=tuple(features), fingerprint=7,
    )  # fmt: skip


def run(table: StateTable, *times: int, values: tuple[int, ...] = ()) -> list[Outcome]:
    values = values or (1,) * len(times)
    events = [
        Event(b"k", i, i, t, True, (v,), ())
        for i, (t, v) in enumerate(zip(times, values, strict=True))
    ]
    return [Outcome(int(o)) for o in feed(table, events, {}).outcome]


def read(table: StateTable, at: int) -> tuple[list[int | None], list[Status]]:
    slots = table.lookup(*pack_keys([b"k"])).slots
    got = table.finalize(slots, np.array([at], dtype=np.int64))
    cells = [int(c) if v else None for c, v in zip(got.cells[0], got.valid[0], strict=True)]
    return cells, [Status(int(s)) for s in got.status[0]]


@pytest.mark.parametrize(("time", "outcome"), [(60, Outcome.LATE), (61, Outcome.APPLIED)])
def test_a_ring_of_4_tiles_of_10_at_100_begins_after_60(time: int, outcome: Outcome) -> None:
    assert run(StateTable(plan(True)), 100, time)[1] is outcome


def test_lateness_is_positioned_by_the_newest_before_the_event_not_by_the_last() -> None:
    assert run(StateTable(plan(True)), 100, 70, 65, 61, 60) == [Outcome.APPLIED] * 4 + [
        Outcome.LATE
    ]


@pytest.mark.parametrize(("time", "outcome"), [(100, Outcome.LATE), (101, Outcome.APPLIED)])
def test_a_horizon_of_100_at_200_begins_after_100(time: int, outcome: Outcome) -> None:
    assert run(StateTable(plan(False, LAST)), 200, time)[1] is outcome


def test_late_for_the_ring_but_not_for_the_list_is_applied_to_the_list() -> None:
    table = StateTable(plan(True, LAST))
    assert run(table, 200, 101, values=(5, 6)) == [Outcome.APPLIED] * 2
    assert read(table, 200)[0] == [1, 5]


@pytest.mark.parametrize(("at", "count"), [(109, 2), (110, 1)])
def test_a_window_moves_with_the_slide(at: int, count: int) -> None:
    table = StateTable(plan(True))
    run(table, 80, 95)  # at 109 the window is (70, 109], at 110 it is (80, 110]
    assert read(table, at)[0] == [count]


@pytest.mark.parametrize(("gap", "count"), [(50, 2), (51, 1)])
def test_a_row_is_emptied_by_an_event_more_than_the_ttl_later(gap: int, count: int) -> None:
    state = ListState(ListKind.LAST, -1, 0, -1, 2, 0, CellType.INT)
    table = StateTable(plan(False, state, ttl=50))
    assert run(table, 100, 100 + gap) == [Outcome.APPLIED] * 2
    rows = table.encode(table.lookup(*pack_keys([b"k"])).slots)
    assert rows.row(0)[48] == count


@pytest.mark.parametrize(("at", "status"), [(150, Status.PRESENT), (151, Status.EXPIRED)])
def test_a_row_expires_after_its_ttl(at: int, status: Status) -> None:
    table = StateTable(plan(True, ttl=50))
    run(table, 100)
    assert read(table, at)[1] == [status]


@pytest.mark.parametrize(("at", "status"), [(99, Status.DEGRADED), (100, Status.PRESENT)])
def test_a_read_before_the_newest_event_is_degraded(at: int, status: Status) -> None:
    table = StateTable(plan(True))
    run(table, 100)
    assert read(table, at)[1] == [status]


def test_a_sampled_tile_makes_the_windows_that_hold_it_estimates() -> None:
    table = StateTable(plan(True, DISTINCT))
    run(table, 75, 85, 95, values=(1, 2, 3))
    kept = [value for value in (1, 2, 3) if passes(value, 1)]
    assert len(kept) == 2  # each stands for two
    assert read(table, 95) == ([3, 4], [Status.PRESENT, Status.ESTIMATED])
    run(table, 105, values=(kept[0],))
    assert read(table, 129)[1][1] is Status.ESTIMATED  # (90, 129] holds the tile of 95
    assert read(table, 130) == ([1, 1], [Status.PRESENT, Status.PRESENT])


def test_a_row_that_dropped_values_before_lists_sampled_is_still_read() -> None:
    """Flag 1: what version 0 wrote of a full list. It samples from the next value too many on."""
    table = StateTable(plan(True, DISTINCT))
    row = sealed(bytes([0, 2, 1, 38, 4, 0, 2, 0]))  # 2 and 4 in tile 19, one dropped from there
    assert accepted(table, row)
    slots = table.lookup(*pack_keys([b"k"])).slots
    assert table.encode(slots).row(0)[48:] == row[48:]
    assert read(table, 200) == ([0, 2], [Status.PRESENT, Status.DEGRADED])
    assert read(table, 230)[1] == [Status.PRESENT, Status.PRESENT]
    run(table, 201, values=(5,))
    assert read(table, 201)[1] == [Status.PRESENT, Status.ESTIMATED]


@pytest.mark.parametrize(("before", "fires"), [(100, 0), (99, 0), (300, 1)])
def test_changed_looks_at_the_list_as_it_was(before: int, fires: int) -> None:
    """An entry beyond the horizon of the newest event is not there any more."""
    always = ListState(ListKind.LAST, -1, 1, -1, 1, 0, CellType.INT)
    state = ListState(ListKind.LAST, -1, 0, -1, 2, 100, CellType.INT)
    base = plan(False, state, always)
    two = StateTable(
        Plan(**{
            **{f: getattr(base, f) for f in base.__slots__},
            "inputs": ("x", "y"), "input_types": (CellType.INT,) * 2, "input_scales": (0, 0),
        })
    )  # fmt: skip
    keys = pack_keys([b"k"] * 3)
    found = two.lookup(*keys)
    two.load(found.slots[:1], [None])
    events = [
        Event(b"k", 0, 0, 50, True, (5, 1), ()),
        Event(b"k", 1, 1, before, True, (None, 1), ()),
        Event(b"k", 2, 2, before + 1, True, (5, 1), ()),
    ]
    triggers = TriggerTables(np.array([[TriggerKind.CHANGED, 0, 0]], dtype=np.int64))
    applied = two.apply(found.slots, *_three(events), triggers)
    assert applied.fired.event.tolist() == [0, 2][: 1 + fires]


def _three(events: list[Event]) -> Columns:
    return columns(events)._replace(masks=np.zeros((0, len(events)), np.uint8))


def test_a_ring_of_one_key_does_not_grow_for_ever() -> None:
    table = StateTable(plan(True, DISTINCT))
    run(table, *range(0, 400, 10), values=tuple(range(40)))
    size = table.nbytes
    run(table, *range(400, 4000, 10), values=tuple(range(360)))
    assert table.nbytes == size


def sealed(body: bytes, layout: int = 7, time: int = 200, offset: int = 9) -> bytes:
    """A row of plan(...) with a right header and checksum."""
    words = b"".join(
        v.to_bytes(8, "little", signed=True) for v in (layout, time, 0, offset, 0)
    )  # fmt: skip
    size = (8 + len(words) + len(body)).to_bytes(4, "little")
    return reseal(b"FR\x01\x00" + size + words + body)


def accepted(table: StateTable, row: bytes) -> bool:
    slots = table.lookup(*pack_keys([b"k"])).slots
    return table.load(slots, [row]) == []


def test_bodies_at_their_limits() -> None:
    ring, both = StateTable(plan(True)), StateTable(plan(True, DISTINCT))
    tile = 19  # of time 200; zigzag 38
    assert accepted(ring, sealed(bytes([1, 2 * tile, 3])))
    assert not accepted(ring, sealed(bytes([1, 2 * tile + 2, 3])))  # a tile in the future
    assert accepted(ring, sealed(bytes([1, 2 * (tile - 3), 3])))
    assert not accepted(ring, sealed(bytes([1, 2 * (tile - 4), 3])))  # fell out of the ring
    assert not accepted(ring, sealed(bytes([2, 2 * tile, 3, 0, 3])))  # the same tile twice
    assert not accepted(ring, sealed(bytes([1, 2 * tile, 3, 0])))  # one byte more
    many = b"\xa0\x9c\x01" + bytes(40_000)  # 20,000 tiles where the ring has 4
    assert not accepted(ring, sealed(many))
    assert ring._heads[TOP] <= len(ring._arena)  # refused before anything was allocated for it
    assert accepted(both, sealed(bytes([0, 2, 0, 10, 0, 1, 3])))
    assert not accepted(both, sealed(bytes([0, 2, 0, 10, 0, 0, 3])))  # the same value twice
    assert not accepted(both, sealed(bytes([0, 1, 0, 10, 4])))  # older than the ring
    assert not accepted(both, sealed(bytes([0, 3, 0, 10, 0, 1, 0, 1, 0])))  # beyond the bound
    assert not accepted(both, sealed(bytes([0, 0, 2])))  # no flag
    back = bytes([0, 2, 0, 20, 0]) + b"\xff" * 9 + b"\x01" + b"\x00"  # 10, then 9
    assert not accepted(both, sealed(back))


def test_last_bodies_at_their_limits() -> None:
    table = StateTable(plan(False, LAST))
    assert accepted(table, sealed(bytes([1, 0, 99, 0, 2])))
    assert not accepted(table, sealed(bytes([1, 0, 100, 0, 2])))  # beyond the horizon
    assert not accepted(table, sealed(bytes([1, 1, 0, 99, 0, 2])))  # a LAST list drops nothing
    assert accepted(table, sealed(bytes([2, 0, 5, 3, 2, 5, 2, 2])))
    assert not accepted(table, sealed(bytes([2, 0, 5, 3, 2, 5, 3, 2])))  # not ascending
    assert not accepted(table, sealed(bytes([2, 0, 5, 3, 2, 6, 2, 2])))
    assert not accepted(table, sealed(bytes([4, 0]) + bytes([5, 3, 2, 4, 3, 2, 3, 3, 2, 2, 3, 2])))
