"""A compiled view: small integer tables that the kernels interpret.

Nothing is generated per view at run time. :class:`Plan` is a frozen value that
goes to JSON and back, so a reader needs no user code: it is registered in the
store under its fingerprint.

How windows become state
------------------------
*Tiles.* ``over(W, slide=S)`` read at ``T`` covers ``(floor(T, S) - W, T]``. A
ring of tile width ``g = gcd(W, S)`` keeps the last ``(W + S) / g`` tiles, where
tile ``k`` covers ``(k*g, (k+1)*g]``, so ``tile(t) = (t - 1) // g`` (floor
division). All windows of equal tile width share a ring as long as the longest
of them. A ring is positioned by the row's newest event time; an event older
than the ring is refused by it. Each tile holds one 8-byte cell per accumulator.

*Lists.* ``distinct`` keeps, per value, the newest tile in which it occurred
(that is all any window ending at T >= the newest event needs), sorted by value.
``last`` keeps the newest n values by (event time, offset). Both are bounded; what a
full list of events drops is remembered by its time, and a read that would need it says
``degraded``. ``quantile`` and ``top_k`` keep, per tile, how often each value occurred, ``max_n``
and ``min_n`` the same of the n largest or smallest values of the tile, which is exact. Full lists
of values become sketches (:mod:`pipeline.kernels.distinct`, :mod:`pipeline.kernels.counts`), and a
read that comes from one says ``estimated``. ``ids`` keeps the ids of recent events, by which
duplicates are known.

*Exact windows.* ``over(W)`` without a slide read at ``T`` covers ``(T - W, T]``. An ``events`` list
keeps (event time, offset, value) of each event as far back as the longest window that uses it, and
accumulators fold its entries at the read. ``delay=D`` moves a window to ``(T - D - W, T - D]``,
with a slide to ``(floor(T, S) - D - W, floor(T, S) - D]``.

*Decay.* A ``decayed`` list has one entry: a reference time and, as of it, the sum of all events of
the row, each halved once per half-life.

*Strings.* The first and last values of a string are those of its words of 8 bytes, each kept as an
integer is (:mod:`pipeline.features.texts`); ``long`` is a condition on which a string does not fit.

*Nulls.* ``propagate`` is a count of the events with a null, kept as the feature's own events are;
``reject`` is a condition on which a record is no event of the view.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.features.operators import (
    COUNT_KINDS,
    COUNT_OPS,
    GROUPED_OPS,
    LIST_OPS,
    TILE_BOUND_KINDS,
    WORD_OPS,
    AccOp,
    CellType,
    FeatureOp,
    ListKind,
)

__all__ = [
    "COUNT_KINDS",
    "COUNT_OPS",
    "GROUPED_OPS",
    "LIST_OPS",
    "TILE_BOUND_KINDS",
    "WORD_OPS",
    "AccOp",
    "Accumulator",
    "CellType",
    "Feature",
    "FeatureOp",
    "ListKind",
    "ListState",
    "Lookup",
    "Plan",
    "PlanTables",
    "Ring",
    "exact_q",
    "plan_fields",
]

I64 = npt.NDArray[np.int64]


FLOAT_CELLS = {AccOp.SUM_FLOAT, AccOp.MIN_FLOAT, AccOp.MAX_FLOAT}


@dataclass(frozen=True, slots=True)
class Ring:
    """Tiles of ``width_ns``; the newest ``tiles`` of them are kept."""

    width_ns: int
    tiles: int


@dataclass(frozen=True, slots=True)
class Accumulator:
    """One 8-byte cell in every tile of a ring. ``input``/``mask`` index the plan's, -1 is none.

    ``ring`` from ``len(rings)`` on stands for an EVENTS list, ``ring - len(rings)``: nothing is
    kept per tile then, and the entries of the list are folded at the read.
    """

    ring: int
    op: AccOp
    input: int
    mask: int


@dataclass(frozen=True, slots=True)
class ListState:
    """A bounded list. ``ring`` positions DISTINCT and those of counts; the others have -1 and
    ``horizon_ns``: an entry not later than newest event time - horizon is dropped (LAST with 0:
    never; of a DECAYED list it is the half-life). ``input`` is -1 for an EVENTS or DECAYED list
    that keeps no values; its ``type`` is then INT."""

    kind: ListKind
    ring: int
    input: int
    mask: int
    bound: int
    horizon_ns: int
    type: CellType


@dataclass(frozen=True, slots=True)
class Feature:
    """A named output. ``cell`` is its first of ``width`` output cells.

    ``type`` is the type of the input the cells carry; outputs of MEAN, RATIO, VAR, STD, DECAYED,
    EWMA and QUANTILE are float64 whatever it is. DECIMAL outputs are float64: the exact scaled
    integer over 10**scale, rounded once. ``default`` replaces null (NaN: none). ``nulls`` is the
    accumulator that counts the events which make the feature null (-1: none), ``ddof`` is of VAR
    and STD, ``q`` of QUANTILE. ``words`` are, of a string (TEXT, BINARY), what ``a`` is, for each
    of its words; the first is ``a``. Fields at their default are left out of JSON and fingerprint.
    """

    name: str
    op: FeatureOp
    window_ns: int  # 0: none (LAST without a window uses the view's ttl)
    slide_ns: int  # 0: exact
    a: int
    b: int
    cell: int
    width: int
    type: CellType
    scale: int
    default: float
    delay_ns: int = 0
    ddof: int = 0
    nulls: int = -1
    q: float = 0.0
    words: tuple[int, ...] = ()

    @property
    def cells(self) -> int:
        """Number of its cells: of strings there are ``width`` for each word, words together."""
        return self.width * max(1, len(self.words))

    @property
    def scalar(self) -> bool:
        """Whether it is one number."""
        return self.width == 1 and not self.words


@dataclass(frozen=True, slots=True)
class Lookup:
    """Features of another view that a view reads as columns of its events.

    ``columns`` are their names there, ``features`` their positions in that view's ``plan``. See
    :mod:`pipeline.features.lookups`.
    """

    plan: Plan
    columns: tuple[str, ...]
    features: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the kernels and a reader need to know of one view.

    ``inputs`` and ``masks`` are what must be computed per event: each input is a column of
    64-bit values with validity, each mask a column of 0/1. They are (name or expression
    JSON) strings, resolved by :mod:`pipeline.features.derive`.
    """

    view: str
    entity: str  # field that names it; several are joined by |
    entity_type: str  # int64, string, uuid or bytes; of several fields joined by |
    source: str  # topic
    ttl_ns: int  # 0: rows never expire
    inputs: tuple[str, ...]
    input_types: tuple[CellType, ...]
    input_scales: tuple[int, ...]
    masks: tuple[str, ...]
    filter: int  # index of the mask that records must pass, -1 for none
    rings: tuple[Ring, ...]
    accumulators: tuple[Accumulator, ...]  # sorted by ring
    lists: tuple[ListState, ...]
    features: tuple[Feature, ...]
    fingerprint: int  # uint64: hash of everything here and of the row format version
    reject: int = -1  # index of the mask that a record must not pass, -1 for none
    lookups: tuple[Lookup, ...] = ()
    long: int = -1  # index of the mask of strings that are too long, -1 for none

    @property
    def entities(self) -> dict[str, str]:
        """Fields of the entity in key order, with their types."""
        return dict(zip(self.entity.split("|"), self.entity_type.split("|"), strict=True))

    @property
    def cells(self) -> int:
        """Number of output cells of a row of features."""
        return sum(feature.cells for feature in self.features)

    @property
    def sections(self) -> int:
        """Number of variable-length parts of a row: rings, then lists."""
        return len(self.rings) + len(self.lists)

    def tables(self) -> PlanTables:
        """The plan as int64 tables for the kernels."""
        shown = [*self.features, *(w for f in self.features for w in _other_words(f))]
        acc0 = [sum(a.ring < r for a in self.accumulators) for r in range(len(self.rings) + 1)]
        halves, starts = _halves(self)
        return PlanTables(
            rings=_table(
                [
                    (r.width_ns, r.tiles, acc0[i], acc0[i + 1], halves[i])
                    for i, r in enumerate(self.rings)
                ],
                5,
            ),
            accumulators=_table(
                [
                    (a.ring, a.op, a.input, a.mask, half)
                    for a, half in zip(self.accumulators, starts, strict=True)
                ],
                5,
            ),
            lists=_table(
                [
                    (s.kind, s.ring, s.input, s.mask, s.bound, s.horizon_ns, s.type)
                    for s in self.lists
                ],
                7,
            ),
            features=_table([_feature_row(f) for f in shown], 12),
            defaults=np.array([f.default for f in shown], dtype=np.float64),
            ttl_ns=self.ttl_ns,
            filter=self.filter,
            fingerprint=np.uint64(self.fingerprint),
        )


def plan_fields(plan: Plan) -> dict[str, Any]:
    """The plan as nested dictionaries and tuples, without what was added later and is not used.

    So a definition keeps its text and its fingerprint when the plan learns something new: fields
    with a default are left out where they hold it.
    """
    fields = dataclasses.asdict(plan)
    _drop_defaults(Plan, fields)
    for feature in fields["features"]:
        _drop_defaults(Feature, feature)
    for lookup, held in zip(fields.get("lookups", ()), plan.lookups, strict=True):
        lookup["plan"] = plan_fields(held.plan)
    return fields


def _drop_defaults(kind: Any, fields: dict[str, Any]) -> None:
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING and fields[field.name] == field.default:
            del fields[field.name]


@dataclass(frozen=True, slots=True)
class PlanTables:
    """A :class:`Plan` as arrays; the column order is that of the constants in ``kernels.tiles``.

    ``rings``         int64[r, 5]  width_ns, tiles, first accumulator, end accumulator, halves of
                      words that a tile takes if its numbers are small (0: never)
    ``accumulators``  int64[a, 5]  ring, op, input, mask, first half of its cell in such a tile
    ``lists``         int64[l, 7]  kind, ring, input, mask, bound, horizon_ns, type
    ``features``      int64[f + w, 12] of the plan's f features, then of the w words of strings
                      after each one's first: op, window_ns, slide_ns, a, b (of a QUANTILE:
                      q * 10**18), cell, width, type, scale, delay_ns, ddof, nulls
    ``defaults``      float64[f + w]
    """

    rings: I64
    accumulators: I64
    lists: I64
    features: I64
    defaults: npt.NDArray[np.float64]
    ttl_ns: int
    filter: int
    fingerprint: np.uint64


def exact_q(q: float) -> int:
    """The decimal number that ``q`` is written as, times 10**18.

    So 0.07 is 7/100, not the float64 nearest to it. ValueError where it has more decimal places.
    """
    scaled = Decimal(repr(float(q))).scaleb(18)
    if scaled != int(scaled):
        raise ValueError("has more than 18 decimal places")
    return int(scaled)


def _halves(plan: Plan) -> tuple[list[int], list[int]]:
    """Halves of words of a small tile of each ring, and before each accumulator's cell in one."""
    halves, starts = [1] * len(plan.rings), []
    for accumulator in plan.accumulators:
        ring = accumulator.ring
        if ring >= len(plan.rings):  # over a list of events
            starts.append(0)
            continue
        starts.append(halves[ring])
        halves[ring] += 2 if accumulator.op in FLOAT_CELLS else 1
    grouped = {a.ring for a in plan.accumulators if a.op > AccOp.MAX_FLOAT}
    return [0 if r in grouped else n for r, n in enumerate(halves)], starts


def _other_words(feature: Feature) -> list[Feature]:
    """The words of a string after the first, each as a feature of its own."""
    return [
        dataclasses.replace(feature, a=a, cell=feature.cell + word * feature.width)
        for word, a in enumerate(feature.words[1:], start=1)
    ]


def _feature_row(f: Feature) -> tuple[int, ...]:
    b = f.b if f.op is not FeatureOp.QUANTILE else exact_q(f.q)
    type_ = CellType.INT if f.words else f.type
    return (
        f.op, f.window_ns, f.slide_ns, f.a, b, f.cell, f.width, type_, f.scale, f.delay_ns,
        f.ddof, f.nulls,
    )  # fmt: skip


def _table(rows: list[tuple[int, ...]], width: int) -> I64:
    return np.array(rows, dtype=np.int64).reshape(len(rows), width)
