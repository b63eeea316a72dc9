"""Quantiles, most frequent and distinct values: definitions, exact answers, bytes, definitions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline as pp
from pipeline.errors import DefinitionError
from pipeline.features.aggregations import Aggregation
from pipeline.features.plan import CellType, ListKind
from pipeline.features.planjson import from_json, to_json
from pipeline.kernels.jit import JIT_ENABLED
from pipeline.state.columns import feature_type
from pipeline.state.status import Status, worst
from pipeline.state.table import StateTable
from tests.reference.cases import feed, pack_keys
from tests.reference.payer import bits, event, plan, read, row_of, table_of
from tests.reference.rows import decode_row, encode_row, reseal
from tests.reference.sketches import passes
from tests.reference.state import bits_of

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

EXAMPLES = 60 if JIT_ENABLED else 15


# ---- definitions


def test_features_of_equal_column_and_bound_share_a_list() -> None:
    big = pl.col("units") > 3
    got = plan(
        a=pp.median("units").over(100, slide=10),
        b=pp.quantile("units", 0.9).over(300, slide=10, delay=20),
        c=pp.top_k("units", 3).over(100, slide=10),
        d=pp.top_k("units", 1).over(50, slide=10),
        e=pp.median("units", where=big).over(100, slide=10),
        f=pp.median("units", bound=99).over(100, slide=10),
        g=pp.median("units").over(70),
        h=pp.top_k("units", 2, bound=5).over(70),
        i=pp.top_k("at", 2).over(70, bound=6),
    )
    assert [(s.kind, s.ring, s.mask, s.bound, s.type) for s in got.lists] == [
        (ListKind.COUNTS, 0, -1, 4096, CellType.INT),
        (ListKind.FREQUENT, 0, -1, 4096, CellType.INT),
        (ListKind.COUNTS, 0, 0, 4096, CellType.INT),
        (ListKind.COUNTS, 0, -1, 99, CellType.INT),
        (ListKind.EVENTS, -1, -1, 4096, CellType.INT),
        (ListKind.EVENTS, -1, -1, 5, CellType.INT),
        (ListKind.EVENTS, -1, -1, 6, CellType.TIME),
    ]
    assert [f.q for f in got.features] == [0.5, 0.9, 0, 0, 0.5, 0.5, 0.5, 0, 0]
    assert [f.width for f in got.features] == [1, 1, 3, 1, 1, 1, 1, 2, 2]
    assert [str(feature_type(f)) for f in got.features[:4]] == [
        "double", "double", "list<item: int64>", "int64"
    ]  # fmt: skip
    assert from_json(to_json(got)) == got
    assert got.tables().features[1, 4] == 9 * 10**17


def test_only_a_quantile_has_a_q() -> None:
    assert '"q"' not in to_json(plan(a=pp.top_k("units", 3).over(9)))
    one, other = (plan(a=pp.quantile("units", q).over(9)) for q in (0.5, 0.25))
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == plan(a=pp.median("units").over(9)).fingerprint


@pytest.mark.parametrize(
    ("feature", "field", "part"),
    [
        (lambda: pp.quantile("units", 1.5).over(9), "v.a.q", "0 to 1"),
        (lambda: pp.quantile("units", -0.1).over(9, slide=3), "v.a.q", "0 to 1"),
        (lambda: pp.quantile("units", math.nan).over(9), "v.a.q", "0 to 1"),
        (lambda: pp.quantile("units", "half").over(9), "v.a.q", "0 to 1"),  # type: ignore[arg-type]
        (lambda: pp.quantile("units", True).over(9), "v.a.q", "0 to 1"),
        (lambda: pp.quantile("units", 1e-19).over(9), "v.a.q", "18 decimal places"),
        (lambda: pp.median("at").over(9), "v.a", "of numbers"),
        (lambda: pp.median("shop").over(9), "v.a", "of numbers"),
        (lambda: pp.median("units"), "v.a", "no window"),
        (lambda: pp.median("units", bound=0).over(9, slide=3), "v.a.bound", "1 to"),
        (lambda: pp.median("units", bound=0).over(9), "v.a.bound", "1 to"),
        (lambda: pp.median("units", bound=65_537).over(9, slide=3), "v.a.bound", "1 to"),
        (lambda: pp.median("units").over(9, slide=3, bound=5), "v.a.bound", "without a slide"),
        (lambda: pp.top_k("units", 0).over(9), "v.a.k", "1 to 4096"),
        (lambda: pp.top_k("units", 9, bound=8).over(9, slide=3), "v.a.k", "1 to 8"),
        (lambda: pp.top_k("units", 9).over(9, bound=8), "v.a.bound", "9, which is k"),
        (lambda: pp.top_k("units", 2.0).over(9), "v.a.k", "1 to"),  # type: ignore[arg-type]
        (lambda: pp.top_k("shop", 2).over(9), "v.a", "string"),
        (lambda: pp.top_k("units", 2).over(9, slide=3, delay=1), "v.a.delay", "multiple"),
        (lambda: pp.top_k("nope", 2).over(9), "v.a", "no field"),
    ],
)
def test_a_wrong_definition_names_its_argument(
    feature: Callable[[], Aggregation], field: str, part: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        plan(a=feature())
    assert caught.value.field == field
    assert part in caught.value.problem


def test_a_view_of_lists_that_are_too_long_is_refused() -> None:
    features = {
        f"f{i}": pp.quantile("units", 0.5, bound=60_000 + i).over("7d", slide="1m")
        for i in range(20)
    }
    with pytest.raises(DefinitionError, match="a full row would take"):
        plan(**features)


# ---- exact answers


VALUES: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], Any]]] = {
    "units": (st.integers(-5, 5) | st.integers(-(2**63), 2**63 - 1), int),
    "price": (st.sampled_from([0.0, -0.0, 1.5, -2.5, math.inf, -math.inf, 5e-324, 1e308]), float),
    "cents": (st.integers(-300, 300), lambda v: float(Fraction(v, 100))),
    "paid": (st.integers(0, 1), int),
}


@pytest.mark.parametrize("column", VALUES)
@pytest.mark.parametrize(
    "window",
    [{"slide": 5}, {"slide": 5, "delay": 15}, {"slide": 7}, {}, {"delay": 11}],
    ids=str,
)
def test_below_the_bound_answers_are_those_of_counter_sorted_and_set(
    column: str, window: dict[str, int]
) -> None:
    values, shown = VALUES[column]
    features = {
        "top": pp.top_k(column, 3),
        "low": pp.quantile(column, 0.0),
        "tenth": pp.quantile(column, 0.1),
        "middle": pp.median(column),
        "high": pp.quantile(column, 1),
    }
    made = plan(**{name: f.over(20, **window) for name, f in features.items()})
    steps = st.lists(st.tuples(st.sampled_from((0, 1, 3, 30, -4)), values | st.none()), max_size=30)

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(steps, st.integers(0, 40))
    def check(steps: list[tuple[int, Any]], ahead: int) -> None:
        now, events = 100, [event(100, 0, None)]
        for offset, (step, value) in enumerate(steps):
            now += max(step, 0)
            events.append(event(now + min(step, 0), offset + 1, value))
        at = now + ahead
        slide, delay = window.get("slide", 1), window.get("delay", 0)
        end = at // slide * slide - delay
        inside = [
            e.inputs[0] for e in events
            if e.inputs[0] is not None and end - 20 < e.time <= (end if delay else at)
        ]  # fmt: skip
        inside = [abs(v) if v == 0 else v for v in inside]
        common = sorted(Counter(inside).items(), key=lambda pair: (-pair[1], pair[0]))[:3]
        top = [shown(v) for v, _ in common]
        ranks = [max(1, math.ceil(Fraction(str(q)) * len(inside))) for q in (0.0, 0.1, 0.5, 1)]
        ranked = [float(shown(v)) for r in ranks for v in sorted(inside)[r - 1 : r]]
        cells, status = read(table_of(made, events), at)
        assert cells == bits(top, 3) + bits(ranked, 4)
        assert set(status) == {Status.PRESENT}

    check()


def test_a_time_can_be_the_most_frequent_and_nulls_are_not_values() -> None:
    made = plan(a=pp.top_k("at", 2).over(100, slide=10), b=pp.top_k("price", 2).over(100))
    events = [event(i, i, t, p) for i, (t, p) in enumerate(
        zip([5, 5, 7, None], [math.nan, 1.0, None, math.nan], strict=True))]  # fmt: skip
    assert read(table_of(made, events), 9)[0] == [5, 7, bits_of(1.0), None]
    assert str(feature_type(made.features[0])) == "list<item: timestamp[ns, tz=UTC]>"


@pytest.mark.parametrize("q", [0.07, 0.1, 0.14, 0.28, 0.29, 0.55, 0.56, 0.57, 0.58, 0.999])
def test_a_rank_is_of_the_q_that_was_written(q: float) -> None:
    """0.07 * 100 is 7, although it is more than 7 in float64."""
    made = plan(a=pp.quantile("units", q).over(2000), b=pp.quantile("units", q).over(2000, slide=9))
    for n in (7, 100, 1000):
        table = table_of(made, [event(i, i, i) for i in range(1, n + 1)])
        rank = float(math.ceil(Fraction(str(q)) * n))
        assert read(table, n)[0] == [bits_of(rank)] * 2


# ---- beyond the bound


def test_sketches_say_that_they_are() -> None:
    made = plan(
        t=pp.top_k("units", 1, bound=3).over(20, slide=10),
        q=pp.median("units", bound=3).over(20, slide=10),
        d=pp.distinct("units", bound=3).over(20, slide=10),
        e=pp.median("units", bound=3).over(20),
    )
    table = table_of(made, [event(5, i, v) for i, v in enumerate([1, 2, 3])])
    assert read(table, 5) == (
        [1, bits_of(2.0), 3, bits_of(2.0)],
        [Status.PRESENT] * 4,
    )
    feed(table, [event(6, 3, 4), event(6, 4, 4)], {})
    _, status = read(table, 6)
    assert status == [Status.ESTIMATED] * 3 + [Status.DEGRADED]
    feed(table, [event(15, 5, 7)], {})
    assert read(table, 29)[1][:3] == [Status.ESTIMATED] * 3
    cells, status = read(table, 30)
    assert (cells, status) == ([7, bits_of(7.0), 1, bits_of(7.0)], [Status.PRESENT] * 4)
    assert read(table, 14)[1] == [Status.DEGRADED] * 4


def test_tiles_that_cannot_be_told_apart_any_more_go_oldest_first() -> None:
    """A bound below the number of tiles: the last way out is to drop one, and to say so."""
    made = plan(q=pp.median("units", bound=2).over(50, slide=10))
    table = table_of(made, [event(t, t, t) for t in (5, 15, 25, 35)])
    assert decode_row(made, row_of(table)).dropped == [1]
    assert read(table, 35) == ([bits_of(25.0)], [Status.DEGRADED])
    assert read(table, 69)[1] == [Status.DEGRADED]  # (10, 69] holds the tile of 15
    assert read(table, 70) == ([bits_of(25.0)], [Status.PRESENT])


def test_the_worst_status_of_a_view_is_not_the_highest_number() -> None:
    order = [
        Status.PRESENT, Status.ESTIMATED, Status.MISSING, Status.EXPIRED, Status.STALE,
        Status.DEGRADED,
    ]  # fmt: skip
    assert set(order) == set(Status)
    for i, one in enumerate(order):
        for j, other in enumerate(order):
            rows = np.array([[one, other]], dtype=np.uint8)
            assert worst(rows, axis=1).tolist() == [order[max(i, j)]]


# ---- bytes


@pytest.mark.parametrize("burst", [10, 400])
def test_what_left_the_ring_leaves_no_trace(burst: int) -> None:
    """Every byte is as if the burst had never been, although it filled every list."""
    made = plan(
        t=pp.top_k("price", 2, bound=20).over(20, slide=10),
        q=pp.median("price", bound=20).over(20, slide=10),
        d=pp.distinct("price", bound=20).over(20, slide=10),
        n=pp.count().over(20, slide=10),
    )
    before = [event(i // 20, i, i * 1.5) for i in range(burst)]
    after = [event(500 + i, burst + i, i * 0.5) for i in range(9)]
    table = table_of(made, [*before, *after])
    assert row_of(table) == row_of(table_of(made, after))
    assert set(read(table, 508)[1]) == {Status.PRESENT}


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


LIMITS = [
    # (list, body, accepted) in a row of newest time 200: tiles 17 to 19 of 10 (slide 10, window 20)
    ("counts", [1, 0, 1, 38, 1, 0, 6, 2], True),  # 3 twice in tile 19
    ("counts", [0, 0, 0], True),
    ("counts", [0, 1, 36, 0], True),  # dropped in tile 18, and nothing since
    ("counts", [0, 1, 40, 0], False),  # dropped in the future
    ("counts", [0, 1, 32, 0], False),  # dropped where the ring does not reach
    ("counts", [0, 2, 36, 0], False),
    ("counts", [1, 0, 1, 40, 1, 0, 6, 2], False),  # a tile in the future
    ("counts", [1, 0, 1, 32, 1, 0, 6, 2], False),  # a tile before the ring
    ("counts", [2, 0, 2, 36, 1, 0, 6, 2, 1, 1, 0, 6, 2], True),
    ("counts", [2, 0, 2, 36, 1, 0, 6, 2, 0, 1, 0, 6, 2], False),  # the same tile twice
    ("counts", [2, 0, 1, 38, 2, 0, 6, 2, 1, 1], True),
    ("counts", [2, 0, 1, 38, 2, 0, 6, 2, 0, 1], False),  # the same value twice
    ("counts", [1, 0, 1, 38, 2, 0, 6, 2, 1, 1], False),  # more entries than it says
    ("counts", [2, 0, 1, 38, 1, 0, 6, 2], False),  # fewer
    ("counts", [4, 0, 1, 38, 4, 0, 6, 2, 1, 1, 1, 1, 1, 1], False),  # more than the bound
    ("counts", [1, 0, 1, 38, 1, 0, 6, 0], False),  # a value that did not occur
    ("counts", [0, 0, 1, 38, 0, 0], False),  # a tile without values
    ("counts", [1, 0, 1, 38, 1, 63, 2, 2], True),  # bucket 1 of the highest level
    ("counts", [1, 0, 1, 38, 1, 63, 4, 2], False),  # which has no bucket 2
    ("counts", [1, 0, 1, 38, 1, 64, 2, 2], False),  # no such level
    ("counts", [1, 0, 4, 38, 1, 0, 6, 2], False),  # more tiles than the ring
    ("counts", [1, 0, 1, 38, 1, 0, 6, 2, 0], False),
    ("counts", [1, 0, 1, 38, 1, 0, 6], False),
    ("frequent", [1, 0, 1, 38, 1, 0, 6, 2], True),
    ("frequent", [1, 0, 1, 38, 1, 70, 6, 2], True),  # an error of 70
    ("frequent", [0, 0, 1, 38, 0, 5], True),  # nothing left but an error
    ("frequent", [0, 0, 1, 38, 0, 0], False),
    ("frequent", [0, 1, 36, 0], False),  # this list drops no tile
    ("distinct", [1, 0, 6, 0], True),
    ("distinct", [1, 2, 38, 6, 0], True),  # 3 passes level 1
    ("distinct", [0, 3, 38, 1], True),  # level 1 up to tile 19, 2 up to 18
    ("distinct", [0, 3, 38, 3], False),  # a step before the ring
    ("distinct", [0, 2, 40], False),  # one in the future
    ("distinct", [0, 66, 38, *[0] * 64], False),  # more levels than bits
    ("distinct", [0, 65, 38, *[0] * 63], True),
    ("distinct", [1, 0, 6, 3], False),  # before the ring
]


@pytest.mark.parametrize(("kind", "body", "accepted"), LIMITS)
def test_a_list_that_no_writer_made_is_refused(kind: str, body: list[int], accepted: bool) -> None:
    feature = {
        "counts": pp.median("units", bound=3), "frequent": pp.top_k("units", 1, bound=3),
        "distinct": pp.distinct("units", bound=3),
    }[kind]  # fmt: skip
    made = plan(a=feature.over(20, slide=10))
    assert passes(3, 1)
    table = table_of(made, [event(200, 8, 1)])
    rest = bytes([0]) + b"".join(map(varint, body))  # a ring without cells
    row = row_of(table)[:48] + rest
    row = reseal(row[:4] + len(row).to_bytes(4, "little") + row[8:])
    table.clear()
    slots = table.lookup(*pack_keys([b"k"])).slots
    assert table.load(slots, [row]) == ([] if accepted else [0])
    if accepted:
        assert row_of(table) == row
        assert encode_row(made, decode_row(made, row)) == row
        feed(table, [event(201, 9, v) for v in range(5)], {b"k": row})


def test_a_value_that_does_not_pass_the_level_of_its_tile_is_refused() -> None:
    made = plan(a=pp.distinct("units", bound=3).over(20, slide=10))
    value = next(v for v in range(9) if not passes(v, 1))
    row = row_of(table_of(made, [event(200, 8, 1)]))[:48] + bytes([0, 1, 2, 38, 2 * value, 0])
    row = reseal(row[:4] + len(row).to_bytes(4, "little") + row[8:])
    table = StateTable(made)
    assert table.load(table.lookup(*pack_keys([b"k"])).slots, [row]) == [0]


@pytest.mark.parametrize("stored", [-1, 2**63 - 1, -(2**63)])
def test_a_float_that_is_stored_as_no_float_is_refused(stored: int) -> None:
    """-0.0 and NaN have no place among values."""
    zigzag = (stored << 1) ^ (stored >> 63)
    for feature in (pp.median("price", bound=3), pp.top_k("price", 1, bound=3)):
        made = plan(a=feature.over(20, slide=10))
        body = bytes([0, 1, 0, 1, 38, 1, 0]) + varint(zigzag) + b"\1"
        row = row_of(table_of(made, [event(200, 8, 1.0)]))[:48] + body
        row = reseal(row[:4] + len(row).to_bytes(4, "little") + row[8:])
        table = StateTable(made)
        assert table.load(table.lookup(*pack_keys([b"k"])).slots, [row]) == [0]
