"""Obvious twin of the state kernels: dictionaries and lists of Python numbers, one event at a time.

Written from ``docs/row-layout.md`` and the docstrings of ``pipeline.features.plan``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from pipeline.features.plan import (
    AccOp,
    Accumulator,
    CellType,
    Feature,
    FeatureOp,
    ListKind,
    ListState,
    Plan,
)
from pipeline.state.batch import Outcome, TriggerKind
from pipeline.state.status import Status

__all__ = ["Event", "ReferenceState", "Row", "bits_of"]

POISON = -(2**63)
FLOATS = {AccOp.SUM_FLOAT, AccOp.MIN_FLOAT, AccOp.MAX_FLOAT}
START = {
    AccOp.COUNT: 0,
    AccOp.SUM_INT: 0,
    AccOp.SUM_FLOAT: 0.0,
    AccOp.MIN_INT: 2**63 - 1,
    AccOp.MAX_INT: -(2**63),
    AccOp.MIN_FLOAT: math.inf,
    AccOp.MAX_FLOAT: -math.inf,
}
Number = int | float
Cell = tuple[Number | None, Status]


@dataclass(frozen=True)
class Event:
    """One record; a null input is None."""

    key: bytes
    offset: int
    timestamp_ms: int
    time: int
    select: bool
    inputs: tuple[Number | None, ...]
    masks: tuple[bool, ...]
    delete: bool = False  # a tombstone: ``time`` is when the entity was deleted


@dataclass
class Row:
    """What is known of one key; without events (``live``) only that it was deleted at ``time``."""

    time: int
    known: int
    offset: int
    tiles: list[dict[int, list[Number]]]  # per ring: tile -> a value per accumulator
    values: list[dict[Number, int]]  # per list (DISTINCT): value -> newest tile
    # per list (LAST, EVENTS, IDS): (time, offset, value or 0), ascending
    last: list[list[tuple[int, int, Number]]]
    dropped: list[int | None]  # per list: newest dropped tile (DISTINCT) or time (EVENTS)
    deleted: int | None = None  # newest time it was deleted at
    live: bool = True
    events: list[Event] = field(default_factory=list)  # applied since the row was last emptied


def bits_of(value: Number) -> int:
    """The int64 that a cell of this value holds."""
    if isinstance(value, float):
        if math.isnan(value):
            return 0x7FF8000000000000
        return int.from_bytes(struct.pack("<d", value), "little", signed=True)
    return value


def tile_of(time: int, width: int) -> int:
    """Tile k covers (k * width, (k + 1) * width]."""
    return (time - 1) // width


def fold(op: AccOp, cell: Number, value: Number) -> Number:
    """A cell after one more value, or after the cell of a later tile."""
    if op in (AccOp.COUNT, AccOp.SUM_INT):
        total = cell + value
        overflow = POISON in (cell, value) or not -(2**63) < total < 2**63
        return POISON if overflow else total
    if op is AccOp.SUM_FLOAT:
        return float(cell) + float(value)
    if op in (AccOp.MIN_INT, AccOp.MAX_INT):
        return min(cell, value) if op is AccOp.MIN_INT else max(cell, value)
    rank = [(float(v), math.copysign(1, v)) for v in (cell, value)]
    if op is AccOp.MIN_FLOAT:
        return cell if rank[0] <= rank[1] else value
    return cell if rank[0] >= rank[1] else value


class ReferenceState:
    """The rows of a view and partition."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rows: dict[bytes, Row] = {}
        self.accumulators = [
            [a for a in plan.accumulators if a.ring == r] for r in range(len(plan.rings))
        ]

    # ---- apply

    def apply(
        self, events: Sequence[Event], triggers: Sequence[tuple[int, int]] = ()
    ) -> tuple[list[Outcome], list[bytes], list[tuple[int, int, list[Cell]]]]:
        """Outcomes, touched keys, and (event, trigger, features) of what fired."""
        outcomes: list[Outcome] = []
        dirty: list[bytes] = []
        fired = []
        for position, event in enumerate(events):
            firing = [
                t
                for t, (kind, i) in enumerate(triggers)
                if not event.delete and self._fires(event, kind, i)
            ]
            outcomes.append(self._apply(event))
            if outcomes[-1] is Outcome.APPLIED:
                if event.key not in dirty:
                    dirty.append(event.key)
                at = self.rows[event.key].time
                fired += [(position, t, self.finalize(event.key, at)) for t in firing]
        return outcomes, dirty, fired

    def _expired(self, row: Row, time: int) -> bool:
        return self.plan.ttl_ns > 0 and time > row.time + self.plan.ttl_ns

    def _first_held(self, ring: int, newest: int) -> int:
        r = self.plan.rings[ring]
        return tile_of(newest, r.width_ns) - r.tiles + 1

    def _joins(self, ring: int, row: Row | None, time: int) -> bool:
        if row is None or time > row.time:
            return True
        return tile_of(time, self.plan.rings[ring].width_ns) >= self._first_held(ring, row.time)

    def _joins_last(self, state: ListState, row: Row | None, time: int) -> bool:
        return row is None or state.horizon_ns == 0 or time > row.time - state.horizon_ns

    def _takes(self, event: Event, source: int, mask: int) -> bool:
        if mask >= 0 and not event.masks[mask]:
            return False
        if source < 0:
            return True
        value = event.inputs[source]
        return value is not None and not math.isnan(value)

    def _fires(self, event: Event, kind: int, argument: int) -> bool:
        if kind == TriggerKind.EVERY:
            return True
        if kind == TriggerKind.MASK:
            return event.masks[argument]
        state = self.plan.lists[argument]
        if not self._takes(event, state.input, state.mask):
            return False
        row = self.rows.get(event.key)
        if row is None or not row.live or self._expired(row, event.time):
            return True
        if not row.last[argument]:
            return True
        return row.last[argument][-1][2] != event.inputs[state.input]

    def _apply(self, event: Event) -> Outcome:
        plan = self.plan
        if not event.select:
            return Outcome.SKIPPED
        if not event.delete and plan.filter >= 0 and not event.masks[plan.filter]:
            return Outcome.FILTERED
        row = self.rows.get(event.key)
        known = event.timestamp_ms if row is None else max(row.known, event.timestamp_ms)
        deleted = None if row is None else row.deleted
        if event.delete:
            deleted = event.time if deleted is None else max(deleted, event.time)
            self.rows[event.key] = self._new_row(deleted, known, event.offset, deleted, live=False)
            return Outcome.APPLIED
        if row is not None and self._came_before(row, event):
            return Outcome.DUPLICATE
        if deleted is not None and event.time <= deleted:
            return Outcome.LATE
        if row is not None and (not row.live or self._expired(row, event.time)):
            row = None
        joins = [self._joins(r, row, event.time) for r in range(len(plan.rings))]
        joins_list = [
            joins[s.ring] if s.kind is ListKind.DISTINCT else self._joins_last(s, row, event.time)
            for s in plan.lists
        ]
        wanted = [
            j for j, s in zip(joins_list, plan.lists, strict=True) if s.kind is not ListKind.IDS
        ]
        if not any(joins) and not any(wanted):
            return Outcome.LATE
        if row is None:
            row = self._new_row(event.time, known, event.offset, deleted)
            self.rows[event.key] = row
        row.time, row.known, row.offset = max(row.time, event.time), known, event.offset
        row.events.append(event)
        for r in range(len(plan.rings)):
            if joins[r]:
                self._add_to_ring(row, r, event)
        for i, state in enumerate(plan.lists):
            if joins_list[i] and self._takes(event, state.input, state.mask):
                self._add_to_list(row, i, state, event)
        self._forget_old(row)
        return Outcome.APPLIED

    def _came_before(self, row: Row, event: Event) -> bool:
        for i, state in enumerate(self.plan.lists):
            if state.kind is ListKind.IDS and event.inputs[state.input] is not None:
                return any(e[2] == event.inputs[state.input] for e in row.last[i])
        return False

    def _new_row(
        self, time: int, known: int, offset: int, deleted: int | None, live: bool = True
    ) -> Row:
        n = len(self.plan.lists)
        return Row(
            time, known, offset, [{} for _ in self.plan.rings], [{} for _ in range(n)],
            [[] for _ in range(n)], [None] * n, deleted, live,
        )  # fmt: skip

    def _add_to_ring(self, row: Row, ring: int, event: Event) -> None:
        accumulators = self.accumulators[ring]
        if not any(self._takes(event, a.input, a.mask) for a in accumulators):
            return
        tile = tile_of(event.time, self.plan.rings[ring].width_ns)
        cells = row.tiles[ring].setdefault(tile, [START[a.op] for a in accumulators])
        for k, a in enumerate(accumulators):
            if self._takes(event, a.input, a.mask):
                value = 1 if a.op is AccOp.COUNT else event.inputs[a.input]
                assert value is not None
                cells[k] = fold(a.op, cells[k], value)

    def _add_to_list(self, row: Row, i: int, state: ListState, event: Event) -> None:
        value = 0 if state.input < 0 else event.inputs[state.input]
        assert value is not None
        if state.kind in (ListKind.EVENTS, ListKind.IDS):
            self._add_to_events(row, i, state, (event.time, event.offset, value))
            return
        if state.kind is ListKind.LAST:
            row.last[i] = sorted(
                [*row.last[i], (event.time, event.offset, value)], key=lambda e: e[:2]
            )[-state.bound :]
            return
        if value == 0:
            value = abs(value)
        first = self._first_held(state.ring, row.time)
        known = {v: k for v, k in row.values[i].items() if k >= first}
        tile = tile_of(event.time, self.plan.rings[state.ring].width_ns)
        known[value] = max(tile, known.get(value, tile))
        if len(known) > state.bound:
            oldest = min(known, key=lambda v: (known[v], bits_of(v)))
            dropped = row.dropped[i]
            row.dropped[i] = known[oldest] if dropped is None else max(dropped, known[oldest])
            del known[oldest]
        row.values[i] = known

    def _add_to_events(
        self, row: Row, i: int, state: ListState, entry: tuple[int, int, Number]
    ) -> None:
        kept = [e for e in row.last[i] if e[0] > row.time - state.horizon_ns]
        kept = sorted([*kept, entry], key=lambda e: e[:2])
        if len(kept) > state.bound:
            time = kept.pop(0)[0]
            dropped = row.dropped[i]
            row.dropped[i] = time if dropped is None else max(dropped, time)
        row.last[i] = kept

    def _forget_old(self, row: Row) -> None:
        for r in range(len(self.plan.rings)):
            first = self._first_held(r, row.time)
            row.tiles[r] = {k: cells for k, cells in row.tiles[r].items() if k >= first}
        for i, state in enumerate(self.plan.lists):
            if state.kind is ListKind.DISTINCT:
                first = self._first_held(state.ring, row.time)
                row.values[i] = {v: k for v, k in row.values[i].items() if k >= first}
                dropped = row.dropped[i]
                row.dropped[i] = dropped if dropped is not None and dropped >= first else None
            elif state.horizon_ns:
                row.last[i] = [e for e in row.last[i] if e[0] > row.time - state.horizon_ns]
                dropped = row.dropped[i]
                if dropped is not None and dropped <= row.time - state.horizon_ns:
                    row.dropped[i] = None

    # ---- finalize

    def finalize(self, key: bytes, at: int) -> list[Cell]:
        """(value, status) of every output cell."""
        row = self.rows.get(key)
        if row is None or not row.live:
            return [(None, Status.MISSING)] * self.plan.cells
        if self._expired(row, at):
            return [(None, Status.EXPIRED)] * self.plan.cells
        cells: list[Cell] = []
        for feature in self.plan.features:
            found = self._feature(row, feature, at)
            if at < row.time:
                found = [(value, Status.DEGRADED) for value, _ in found]
            cells += found
        return cells

    def _start(self, feature: Feature, at: int) -> int:
        return self._end(feature, at) - feature.window_ns

    def _end(self, feature: Feature, at: int) -> int:
        floor = at // feature.slide_ns * feature.slide_ns if feature.slide_ns else at
        return floor - feature.delay_ns

    def _between(self, row: Row, feature: Feature, i: int, at: int) -> list[Number]:
        start, end = self._start(feature, at), self._end(feature, at)
        return [value for time, _, value in row.last[i] if start < time <= end]

    def _missed(self, row: Row, i: int, start: int) -> Status:
        dropped = row.dropped[i]
        missed = i >= 0 and dropped is not None and dropped > start
        return Status.DEGRADED if missed else Status.PRESENT

    def _feature(self, row: Row, feature: Feature, at: int) -> list[Cell]:
        if feature.op is FeatureOp.LAST:
            return self._last(row, feature, at)
        start = self._start(feature, at)
        if feature.op is FeatureOp.DISTINCT:
            if self.plan.lists[feature.a].kind is ListKind.EVENTS:
                values = set(self._between(row, feature, feature.a, at))
                return [(len(values), self._missed(row, feature.a, start))]
            ring = self.plan.rings[self.plan.lists[feature.a].ring]
            tiles = row.values[feature.a].values()
            dropped = row.dropped[feature.a]
            missed = dropped is not None and dropped * ring.width_ns >= start
            count = sum(k * ring.width_ns >= start for k in tiles)
            return [(count, Status.DEGRADED if missed else Status.PRESENT)]
        a = self.plan.accumulators[feature.a]
        x = self._combined(row, feature, a, at)
        sections = [a.ring]
        broken = (a.op is AccOp.SUM_INT and x == POISON) or math.isnan(x)
        y: Number = 1
        if feature.b >= 0:
            b = self.plan.accumulators[feature.b]
            y = self._combined(row, feature, b, at)
            sections.append(b.ring)
            broken = broken or (b.op is AccOp.SUM_INT and y == POISON) or math.isnan(y)
        if broken:
            return [(None, Status.DEGRADED)]
        lists = [s - len(self.plan.rings) for s in sections if s >= len(self.plan.rings)]
        kept = max((self._missed(row, i, start) for i in lists), default=Status.PRESENT)
        if y == 0:
            return [(self._default(feature), kept)]
        value, status = self._value(feature, x, y)
        return [(value, max(status, kept))]

    def _combined(self, row: Row, feature: Feature, accumulator: Accumulator, at: int) -> Number:
        ring, start = accumulator.ring, self._start(feature, at)
        if ring >= len(self.plan.rings):
            total: Number = START[accumulator.op]
            for value in self._between(row, feature, ring - len(self.plan.rings), at):
                one = 1 if accumulator.op is AccOp.COUNT else value
                total = fold(accumulator.op, total, one)
            return total
        end = self._end(feature, at) if feature.delay_ns else math.inf
        column = self.accumulators[ring].index(accumulator)
        width = self.plan.rings[ring].width_ns
        cell: Number = START[accumulator.op]
        for tile in sorted(row.tiles[ring]):
            if tile * width >= start and (tile + 1) * width <= end:
                cell = fold(accumulator.op, cell, row.tiles[ring][tile][column])
        return cell

    def _value(self, feature: Feature, x: Number, y: Number) -> Cell:
        if feature.op in (FeatureOp.MEAN, FeatureOp.RATIO):
            if isinstance(x, int) and isinstance(y, int):
                return (float(Fraction(x, y) / Fraction(10) ** feature.scale), Status.PRESENT)
            quotient = float(x) / float(y)
            if math.isnan(quotient):
                return (None, Status.DEGRADED)
            assert feature.scale == 0
            return (quotient, Status.PRESENT)
        if feature.type is CellType.DECIMAL and feature.op is not FeatureOp.COUNT:
            return (float(Fraction(int(x), 10**feature.scale)), Status.PRESENT)
        return (x, Status.PRESENT)

    def _last(self, row: Row, feature: Feature, at: int) -> list[Cell]:
        horizon = self.plan.lists[feature.a].horizon_ns
        entries = [
            value for time, _, value in row.last[feature.a] if self._in(feature, time, at, horizon)
        ]
        status = Status.PRESENT
        if self.plan.lists[feature.a].kind is ListKind.EVENTS:
            entries = self._between(row, feature, feature.a, at)
            if len(entries) < feature.width:
                status = self._missed(row, feature.a, self._start(feature, at))
        cells: list[Cell] = []
        for k in range(feature.width):
            if k >= len(entries):
                cells.append((self._default(feature), status))
                continue
            value = entries[-1 - k]
            if feature.type is CellType.DECIMAL:
                value = float(Fraction(int(value), 10**feature.scale))
            cells.append((value, status))
        return cells

    def _in(self, feature: Feature, time: int, at: int, horizon: int) -> bool:
        if feature.window_ns:
            return time > self._start(feature, at)
        return horizon == 0 or time > at - horizon

    def _default(self, feature: Feature) -> Number | None:
        if math.isnan(feature.default):
            return None
        real = feature.op in (FeatureOp.MEAN, FeatureOp.RATIO)
        if real or feature.type in (CellType.FLOAT, CellType.DECIMAL):
            return feature.default
        return int(feature.default)
