"""Obvious twin of the state kernels: dictionaries and lists of Python numbers, one event at a time.

Written from ``docs/row-layout.md`` and the docstrings of ``pipeline.features.plan``.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from pipeline.features.plan import (
    GROUPED_OPS,
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
from tests.reference import decay, moments
from tests.reference.grouped import (
    LENGTH,
    add_to_group,
    decayed_cell,
    first_cell,
    variance_cell,
)
from tests.reference.sketches import (
    Tally,
    bucket,
    estimate,
    fit_counts,
    fit_distinct,
    fit_extreme,
    fit_frequent,
    level_of,
    most_common,
    nearest_rank,
    passes,
    representative,
)

__all__ = ["Event", "ReferenceState", "Row", "bits_of"]

POISON = -(2**63)
MOMENTS = {AccOp.VAR_MEAN, AccOp.VAR_LOW, AccOp.VAR_M2}
FLOATS = {AccOp.SUM_FLOAT, AccOp.MIN_FLOAT, AccOp.MAX_FLOAT, AccOp.FIRST_FLOAT, *MOMENTS}
START = {
    AccOp.COUNT: 0,
    AccOp.SUM_INT: 0,
    AccOp.SUM_FLOAT: 0.0,
    AccOp.MIN_INT: 2**63 - 1,
    AccOp.MAX_INT: -(2**63),
    AccOp.MIN_FLOAT: math.inf,
    AccOp.MAX_FLOAT: -math.inf,
    **dict.fromkeys((AccOp.VAR_INT, AccOp.VAR_FLOAT, AccOp.FIRST_AT, AccOp.FIRST_INT), 0),
    **dict.fromkeys((AccOp.FIRST_FLOAT, *MOMENTS), 0.0),
}
RANKED = {FeatureOp.TOP_K, FeatureOp.QUANTILE, FeatureOp.MAX_N, FeatureOp.MIN_N}
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
    steps: dict[int, list[int]] = field(default_factory=dict)  # per DISTINCT list that samples
    counts: dict[int, dict[int, Tally]] = field(default_factory=dict)  # per COUNTS, FREQUENT list
    decayed: dict[int, decay.Decayed] = field(default_factory=dict)  # by list
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
        if row is None or state.kind is ListKind.DECAYED:
            return True
        return state.horizon_ns == 0 or time > row.time - state.horizon_ns

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
            joins[s.ring] if s.ring >= 0 else self._joins_last(s, row, event.time)
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
        width = self.plan.rings[ring].width_ns
        tile = tile_of(event.time, width)
        cells = row.tiles[ring].setdefault(tile, [START[a.op] for a in accumulators])
        for k, a in enumerate(accumulators):
            if self._takes(event, a.input, a.mask) and a.op in LENGTH:
                group, value = slice(k, k + LENGTH[a.op]), event.inputs[a.input]
                assert value is not None
                cells[group] = add_to_group(a.op, cells[group], value, event.time - tile * width)
            elif self._takes(event, a.input, a.mask) and a.op not in GROUPED_OPS:
                value = 1 if a.op is AccOp.COUNT else event.inputs[a.input]
                assert value is not None
                cells[k] = fold(a.op, cells[k], value)

    def _add_to_list(self, row: Row, i: int, state: ListState, event: Event) -> None:
        value = 0 if state.input < 0 else event.inputs[state.input]
        assert value is not None
        if state.kind in (ListKind.EVENTS, ListKind.IDS):
            self._add_to_events(row, i, state, (event.time, event.offset, value))
            return
        if state.kind is ListKind.DECAYED:
            before = row.decayed.get(i)
            row.decayed[i] = decay.add(before, event.time, value, state.horizon_ns)
            return
        if state.kind is ListKind.LAST:
            row.last[i] = sorted(
                [*row.last[i], (event.time, event.offset, value)], key=lambda e: e[:2]
            )[-state.bound :]
            return
        if value == 0:
            value = abs(value)
        tile = tile_of(event.time, self.plan.rings[state.ring].width_ns)
        self._forget_tiles(row, i, state)
        if state.kind is not ListKind.DISTINCT:
            self._add_to_counts(row, i, state, tile, value)
            return
        known, steps = row.values[i], row.steps.setdefault(i, [])
        if value not in known and not passes(value, level_of(steps, tile)):
            return
        known[value] = max(tile, known.get(value, tile))
        if len(known) > state.bound:
            row.dropped[i] = None
        newest = tile_of(row.time, self.plan.rings[state.ring].width_ns)
        fit_distinct(known, steps, newest, state.bound)

    def _add_to_counts(self, row: Row, i: int, state: ListState, tile: int, value: Number) -> None:
        tiles = row.counts.setdefault(i, {})
        tally = tiles.setdefault(tile, Tally())
        if state.kind is ListKind.COUNTS and tally.note:
            value = bucket(value, tally.note)
        tally.counts[value] = tally.counts.get(value, 0) + 1
        if state.kind in (ListKind.LARGEST, ListKind.SMALLEST):
            fit_extreme(tally, state.bound, largest=state.kind is ListKind.LARGEST)
            return
        if state.kind is ListKind.FREQUENT:
            fit_frequent(tiles, state.bound)
            return
        for dropped in fit_counts(tiles, state.bound):
            row.dropped[i] = max(dropped, row.dropped[i] or dropped)

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
            if state.ring >= 0:
                self._forget_tiles(row, i, state)
            elif state.horizon_ns and state.kind is not ListKind.DECAYED:
                row.last[i] = [e for e in row.last[i] if e[0] > row.time - state.horizon_ns]
                dropped = row.dropped[i]
                if dropped is not None and dropped <= row.time - state.horizon_ns:
                    row.dropped[i] = None

    def _forget_tiles(self, row: Row, i: int, state: ListState) -> None:
        first = self._first_held(state.ring, row.time)
        row.values[i] = {v: k for v, k in row.values[i].items() if k >= first}
        row.steps[i] = [step for step in row.steps.get(i, []) if step >= first]
        row.counts[i] = {k: tally for k, tally in row.counts.get(i, {}).items() if k >= first}
        dropped = row.dropped[i]
        row.dropped[i] = dropped if dropped is not None and dropped >= first else None

    # ---- finalize

    def finalize(self, key: bytes, at: int) -> list[Cell]:
        """(value, status) of every output cell."""
        row = self.rows.get(key)
        if row is None or not row.live:
            return [(None, Status.MISSING)] * self.plan.cells
        if self._expired(row, at):
            return [(None, Status.EXPIRED)] * self.plan.cells
        cells: list[Cell] = []
        for whole in self.plan.features:
            for a in whole.words or (whole.a,):  # of a string each word is found as a number is
                cells += self._found(row, replace(whole, a=a), at)
        return cells

    def _found(self, row: Row, feature: Feature, at: int) -> list[Cell]:
        found = self._feature(row, feature, at)
        if feature.nulls >= 0:
            found = self._spoilt(row, feature, at, found)
        if at < row.time:
            found = [(value, Status.DEGRADED) for value, _ in found]
        return found

    def _spoilt(self, row: Row, feature: Feature, at: int, found: list[Cell]) -> list[Cell]:
        """What was found, or null if an event of the window says so."""
        used = self.plan.accumulators[feature.nulls]
        i = used.ring - len(self.plan.rings)
        start = self._start(feature, at)
        if not feature.window_ns:
            horizon = self.plan.lists[feature.a].horizon_ns
            start = at - horizon if feature.op is FeatureOp.LAST and horizon else -(2**63)
        if i < 0:
            seen = self._combined(row, feature, used, at) != 0
        else:
            to_newest = feature.slide_ns and not feature.delay_ns
            end = math.inf if to_newest else self._end(feature, at)
            seen = any(start < time <= end for time, _, _ in row.last[i])
        if seen:
            return [(None, Status.PRESENT)] * len(found)
        return [(value, max(status, self._missed(row, i, start))) for value, status in found]

    def _start(self, feature: Feature, at: int) -> int:
        return self._end(feature, at) - feature.window_ns

    def _end(self, feature: Feature, at: int) -> int:
        floor = at // feature.slide_ns * feature.slide_ns if feature.slide_ns else at
        return floor - feature.delay_ns

    def _between(self, row: Row, feature: Feature, i: int, at: int) -> list[Number]:
        start, end = self._start(feature, at), self._end(feature, at)
        return [value for time, _, value in row.last[i] if start < time <= end]

    def _missed(self, row: Row, i: int, start: int) -> Status:
        dropped = row.dropped[i] if i >= 0 else None
        missed = dropped is not None and dropped > start
        return Status.DEGRADED if missed else Status.PRESENT

    def _feature(self, row: Row, feature: Feature, at: int) -> list[Cell]:
        if feature.op is FeatureOp.LAST:
            return self._last(row, feature, at)
        if feature.op in RANKED:
            return self._ranked(row, feature, at)
        if feature.op in (FeatureOp.DECAYED, FeatureOp.EWMA):
            state, late = self.plan.lists[feature.a], max(at, row.time)
            found = row.decayed.get(feature.a)
            return [decayed_cell(feature, found, state.horizon_ns, state.input < 0, late)]
        start = self._start(feature, at)
        if feature.op in (FeatureOp.VAR, FeatureOp.STD, FeatureOp.FIRST):
            return [self._grouped(row, feature, self.plan.accumulators[feature.a], at)]
        if feature.op is FeatureOp.DISTINCT:
            if self.plan.lists[feature.a].kind is ListKind.EVENTS:
                values = set(self._between(row, feature, feature.a, at))
                return [(len(values), self._missed(row, feature.a, start))]
            ring = self.plan.rings[self.plan.lists[feature.a].ring]
            first = -(-start // ring.width_ns)
            steps, dropped = row.steps.get(feature.a, []), row.dropped[feature.a]
            status = Status.ESTIMATED if level_of(steps, first) else Status.PRESENT
            if dropped is not None and dropped >= first:
                status = Status.DEGRADED
            return [(estimate(row.values[feature.a], steps, first), status)]
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

    def _ranked(self, row: Row, feature: Feature, at: int) -> list[Cell]:
        i, state = feature.a, self.plan.lists[feature.a]
        if state.kind is ListKind.EVENTS:
            values = self._between(row, feature, i, at)
            tallies = [Tally(0, dict(Counter(abs(v) if v == 0 else v for v in values)))]
            status = self._missed(row, i, self._start(feature, at))
        else:
            width = self.plan.rings[state.ring].width_ns
            first = -(-self._start(feature, at) // width)
            stop = self._end(feature, at) // width if feature.delay_ns else math.inf
            tallies = [t for k, t in row.counts.get(i, {}).items() if first <= k < stop]
            status = Status.ESTIMATED if any(t.note for t in tallies) else Status.PRESENT
            dropped = row.dropped[i]
            if dropped is not None and dropped >= first:
                status = Status.DEGRADED
        if feature.op is not FeatureOp.QUANTILE:
            found: list[Number | None] = [*self._chosen(feature, tallies)]
            found = [self._shown(feature, v) if v is not None else None for v in found]
            found += [self._default(feature)] * (feature.width - len(found))
            return [(value, status) for value in found]
        return [(self._at_rank(feature, tallies), status)]

    def _chosen(self, feature: Feature, tallies: Sequence[Tally]) -> list[Number]:
        if feature.op is FeatureOp.TOP_K:
            return most_common((t.counts for t in tallies), feature.width)
        values = [v for t in tallies for v, count in t.counts.items() for _ in range(count)]
        return sorted(values, reverse=feature.op is FeatureOp.MAX_N)[: feature.width]

    def _at_rank(self, feature: Feature, tallies: Sequence[Tally]) -> Number | None:
        if not any(t.note for t in tallies):
            pairs = [pair for t in tallies for pair in t.counts.items()]
            value = nearest_rank(pairs, feature.q)
            if value is None:
                return self._default(feature)
            return float(self._shown(feature, value))
        reals = [
            (representative(int(v), t.note) if t.note else float(v), count)
            for t in tallies
            for v, count in t.counts.items()
        ]
        estimated = nearest_rank(reals, feature.q)
        assert isinstance(estimated, float)
        for _ in range(feature.scale):
            estimated /= 10
        return estimated

    def _shown(self, feature: Feature, value: Number) -> Number:
        if feature.type is CellType.DECIMAL:
            return float(Fraction(int(value), 10**feature.scale))
        return value

    def _grouped(self, row: Row, feature: Feature, a: Accumulator, at: int) -> Cell:
        i = a.ring - len(self.plan.rings)
        missed = self._missed(row, i, self._start(feature, at))
        if i >= 0:
            values = self._between(row, feature, i, at)
            total: moments.Moments = (0, 0.0, 0.0, 0.0)
            for value in values if a.op is not AccOp.FIRST_AT else ():
                total = moments.add(total, value)
            groups: list[list[Number]] = [list(total)]
        else:
            k = self.accumulators[a.ring].index(a)
            groups = [cells[k : k + LENGTH[a.op]] for cells in self._tiles(row, feature, a, at)]
            values = [group[1] for group in groups if group[0]]
        if feature.op is FeatureOp.FIRST:
            return first_cell(feature, values, missed)
        return variance_cell(feature, [(int(n), x, y, z) for n, x, y, z in groups], missed)

    def _tiles(self, row: Row, feature: Feature, a: Accumulator, at: int) -> list[list[Number]]:
        """The tiles of the feature's window, ascending."""
        start = self._start(feature, at)
        end = self._end(feature, at) if feature.delay_ns else math.inf
        width, tiles = self.plan.rings[a.ring].width_ns, row.tiles[a.ring]
        return [tiles[k] for k in sorted(tiles) if k * width >= start and (k + 1) * width <= end]

    def _combined(self, row: Row, feature: Feature, accumulator: Accumulator, at: int) -> Number:
        ring = accumulator.ring
        if ring >= len(self.plan.rings):
            total: Number = START[accumulator.op]
            for value in self._between(row, feature, ring - len(self.plan.rings), at):
                one = 1 if accumulator.op is AccOp.COUNT else value
                total = fold(accumulator.op, total, one)
            return total
        column = self.accumulators[ring].index(accumulator)
        cell: Number = START[accumulator.op]
        for cells in self._tiles(row, feature, accumulator, at):
            cell = fold(accumulator.op, cell, cells[column])
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
        real = feature.op in (FeatureOp.MEAN, FeatureOp.RATIO, FeatureOp.QUANTILE)
        if real or feature.type in (CellType.FLOAT, CellType.DECIMAL):
            return feature.default
        return int(feature.default)
