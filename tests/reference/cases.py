"""Random plans and events that look for trouble, and the way into a :class:`StateTable`."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

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
from pipeline.state.batch import Applied, EncodedRows, TriggerKind, TriggerTables
from pipeline.state.table import StateTable
from tests.reference.state import Event, Number, bits_of

__all__ = [
    "RANKED",
    "Columns",
    "columns",
    "feed",
    "make_events",
    "make_plan",
    "make_triggers",
    "pack_keys",
    "read_all",
]

INPUTS = (CellType.INT, CellType.FLOAT, CellType.DECIMAL, CellType.HASH, CellType.TIME)
SCALES = (0, 0, 2, 0, 0)
NAN = math.nan
GROUPED = (FeatureOp.VAR, FeatureOp.STD, FeatureOp.FIRST)
RANKED = {
    ListKind.COUNTS: FeatureOp.QUANTILE,
    ListKind.FREQUENT: FeatureOp.TOP_K,
    ListKind.LARGEST: FeatureOp.MAX_N,
    ListKind.SMALLEST: FeatureOp.MIN_N,
}
AGGREGATES = (*list(FeatureOp)[:6], *GROUPED)


def make_plan(rng: random.Random, *, ids: bool = True) -> Plan:
    """Rings of several widths, every operator, lists that overflow, perhaps ttl, filter, ids."""
    accumulators: list[Accumulator] = []
    features: list[Feature] = []
    rings: list[Ring] = []
    lists: list[ListState] = []
    for r in range(rng.randint(0 if rng.random() < 0.1 else 1, 3)):
        slide = rng.choice((1, 7, 10, 60))
        window = slide * rng.randint(1, 5) + (rng.randint(0, slide) if rng.random() < 0.5 else 0)
        width = math.gcd(window, slide)
        delay = rng.choice((0, 0, width * rng.randint(0, 9)))
        rings.append(Ring(width, (window + slide + delay) // width))
        _aggregates(rng, r, window, slide, delay, accumulators, features)
        for _ in range(rng.randint(0, 2)):
            source = rng.choice((0, 1, 3))
            bound = rng.choice((1, 2, 3, 8, 50))
            lists.append(
                ListState(ListKind.DISTINCT, r, source, _mask(rng), bound, 0, INPUTS[source])
            )
            features.append(_feature(FeatureOp.DISTINCT, window, slide, len(lists) - 1, -1, 0, 0))
        for _ in range(rng.choice((0, 1, 1, 2))):
            kind = rng.choice(
                (ListKind.COUNTS, ListKind.COUNTS, *list(RANKED)[1:], *list(RANKED)[1:])
            )
            source = rng.choice((0, 1, 2) if kind is ListKind.COUNTS else (0, 1, 2, 4))
            bound = rng.choice((1, 4, 8, 20, 300))
            lists.append(ListState(kind, r, source, _mask(rng), bound, 0, INPUTS[source]))
            features += [
                _ranked(rng, RANKED[kind], window, slide, delay, len(lists) - 1, source)
                for _ in range(rng.randint(1, 2))
            ]
    ttl = rng.choice((0, 0, 500, 2000))
    for _ in range(rng.randint(0 if rings else 1, 2)):
        _last(rng, ttl, lists, features)
    for _ in range(rng.randint(0, 2)):
        _exact(rng, len(rings), lists, accumulators, features)
    for _ in range(rng.choice((0, 0, 1, 2))):
        _decayed(rng, lists, features)
    _newest_null(rng, len(rings), lists, accumulators, features)
    if ids and rng.random() < 0.3:
        source, bound = rng.choice((0, 2, 3)), rng.choice((1, 2, 5, 300))
        horizon = rng.choice((1, 10, 60, 300))
        lists.append(ListState(ListKind.IDS, -1, source, -1, bound, horizon, INPUTS[source]))
    return Plan(
        view="fuzz", entity="key", entity_type="string", source="events", ttl_ns=ttl,
        inputs=tuple(f"x{i}" for i in range(len(INPUTS))), input_types=INPUTS, input_scales=SCALES,
        masks=("m0", "m1", "m2"), filter=rng.choice((-1, 2)), rings=tuple(rings),
        accumulators=tuple(accumulators), lists=tuple(lists), features=_placed(features),
        fingerprint=rng.getrandbits(64),
    )  # fmt: skip


def _mask(rng: random.Random) -> int:
    return rng.choice((-1, -1, 0, 1))


def _feature(
    op: FeatureOp, window: int, slide: int, a: int, b: int, source: int, scale: int,
    *, width: int = 1, default: float = NAN, delay: int = 0, ddof: int = 0,
) -> Feature:  # fmt: skip
    return Feature(
        "f", op, window, slide, a, b, 0, width, INPUTS[source], scale, default, delay, ddof
    )


def _group(op: FeatureOp, ring: int, source: int, mask: int, *, tiled: bool) -> list[Accumulator]:
    """The accumulators of a variance or first value."""
    real = INPUTS[source] is CellType.FLOAT
    ops = [AccOp.FIRST_AT, AccOp.FIRST_FLOAT if real else AccOp.FIRST_INT]
    if op is not FeatureOp.FIRST:
        ops = [AccOp.VAR_FLOAT if real else AccOp.VAR_INT, *list(AccOp)[9:12]]
    return [Accumulator(ring, kind, source, mask) for kind in (ops if tiled else ops[:1])]


def _decayed(rng: random.Random, lists: list[ListState], features: list[Feature]) -> None:
    source, half_life = rng.choice((-1, 0, 1, 2)), rng.choice((1, 7, 60, 10**6))
    type_ = CellType.INT if source < 0 else INPUTS[source]
    lists.append(ListState(ListKind.DECAYED, -1, source, _mask(rng), 1, half_life, type_))
    op = FeatureOp.DECAYED if source < 0 else rng.choice((FeatureOp.DECAYED, FeatureOp.EWMA))
    default = 3.0 if op is FeatureOp.EWMA and rng.random() < 0.5 else NAN
    scale = SCALES[source] if source >= 0 else 0
    features.append(_feature(op, 0, 0, len(lists) - 1, -1, source, scale, default=default))


def _newest_null(
    rng: random.Random, rings: int, lists: list[ListState],
    accumulators: list[Accumulator], features: list[Feature],
) -> None:  # fmt: skip
    """Some of the features become null by the newest event of a mask, some by tiles of it."""
    for i, feature in enumerate(features):
        if rng.random() < 0.7 or feature.delay_ns:
            continue
        reach = feature.window_ns + feature.slide_ns
        if not feature.window_ns:
            kept = lists[feature.a]
            reach = kept.horizon_ns if kept.kind is ListKind.LAST else 0
        accumulators.append(Accumulator(rings + len(lists), AccOp.COUNT, -1, rng.choice((0, 1))))
        lists.append(
            ListState(
                ListKind.EVENTS, -1, -1, accumulators[-1].mask, 1, reach or 2**63 - 1, CellType.INT
            )
        )
        features[i] = dataclasses.replace(feature, nulls=len(accumulators) - 1)


def _ranked(
    rng: random.Random, op: FeatureOp, window: int, slide: int, delay: int, a: int, source: int
) -> Feature:
    """A quantile, or the most frequent, largest or smallest values of list ``a``."""
    default = rng.choice((NAN, NAN, 7.0))
    quantile = op is FeatureOp.QUANTILE
    made = _feature(
        op, window, slide, a, -1, source, SCALES[source], default=default, delay=delay,
        width=1 if quantile else rng.choice((1, 3, 9)),
    )  # fmt: skip
    q = rng.choice((0.0, 0.07, 0.29, 1 / 3, 0.5, 0.9, 1.0))
    return replace(made, q=q) if quantile else made


def _aggregates(
    rng: random.Random, ring: int, window: int, slide: int, delay: int,
    accumulators: list[Accumulator], features: list[Feature],
) -> None:  # fmt: skip
    for _ in range(rng.randint(0, 4)):
        source, mask = rng.choice((0, 1, 2, 4)), _mask(rng)
        real = INPUTS[source] is CellType.FLOAT
        a = len(accumulators)
        op = rng.choice(AGGREGATES)
        default = rng.choice((NAN, NAN, 7.0))
        if op in GROUPED:
            accumulators += _group(op, ring, source, mask, tiled=True)
            ddof, scale = rng.choice((0, 1, 2)), SCALES[source]
            features.append(
                _feature(op, window, slide, a, -1, source, scale, delay=delay, ddof=ddof)
            )
            continue
        if op is FeatureOp.COUNT:
            accumulators.append(Accumulator(ring, AccOp.COUNT, rng.choice((-1, source)), mask))
            features.append(_feature(op, window, slide, a, -1, 0, 0, delay=delay))
            continue
        kind = {
            FeatureOp.MIN: AccOp.MIN_FLOAT if real else AccOp.MIN_INT,
            FeatureOp.MAX: AccOp.MAX_FLOAT if real else AccOp.MAX_INT,
        }.get(op, AccOp.SUM_FLOAT if real else AccOp.SUM_INT)
        accumulators.append(Accumulator(ring, kind, source, mask))
        b = -1 if op is FeatureOp.SUM else a + 1
        if b >= 0:
            accumulators.append(Accumulator(ring, AccOp.COUNT, source, mask))
        scale = SCALES[source]
        features.append(
            _feature(op, window, slide, a, b, source, scale, default=default, delay=delay)
        )


def _last(rng: random.Random, ttl: int, lists: list[ListState], features: list[Feature]) -> None:
    source, n = rng.choice((0, 1, 2, 4)), rng.choice((1, 2, 5))
    window, slide = rng.choice(((0, 0), (100, 30)))
    horizon = window + slide if window else ttl
    lists.append(ListState(ListKind.LAST, -1, source, _mask(rng), n, horizon, INPUTS[source]))
    features.append(
        _feature(
            FeatureOp.LAST,
            window,
            slide,
            len(lists) - 1,
            -1,
            source,
            SCALES[source],
            width=n,
            default=rng.choice((NAN, 3.0)),
        )
    )


def _exact(
    rng: random.Random, rings: int, lists: list[ListState],
    accumulators: list[Accumulator], features: list[Feature],
) -> None:  # fmt: skip
    """An events list, and windows over it that reach as far as its horizon or less far."""
    source, mask, bound = rng.choice((-1, 0, 1, 2, 3, 4)), _mask(rng), rng.choice((1, 2, 5, 300))
    horizon = rng.choice((1, 10, 60, 300))
    type_ = CellType.INT if source < 0 else INPUTS[source]
    section = rings + len(lists)
    lists.append(ListState(ListKind.EVENTS, -1, source, mask, bound, horizon, type_))
    ops = [FeatureOp.COUNT]
    if source >= 0:
        ops += [FeatureOp.DISTINCT]
    if source in (0, 1, 2, 4):
        ops += [*AGGREGATES[1:], FeatureOp.LAST, *list(RANKED.values())[1:]]
    if source in (0, 1, 2):
        ops += [FeatureOp.QUANTILE]
    for op in rng.choices(ops, k=rng.randint(1, 3)):
        delay = rng.choice((0, 0, rng.randint(0, horizon - 1)))
        window = rng.choice((horizon - delay, rng.randint(1, horizon - delay)))
        default, scale = rng.choice((NAN, 7.0)), SCALES[source] if source >= 0 else 0
        if op in RANKED.values():
            features.append(_ranked(rng, op, window, 0, delay, len(lists) - 1, source))
            continue
        if op in (FeatureOp.DISTINCT, FeatureOp.LAST):
            n = rng.choice((1, 3)) if op is FeatureOp.LAST else 1
            shown = (source, scale) if op is FeatureOp.LAST else (0, 0)
            made = _feature(
                op, window, 0, len(lists) - 1, -1, *shown, width=n, default=default, delay=delay
            )
            features.append(made)
            continue
        if op in GROUPED:
            accumulators += _group(op, section, source, mask, tiled=False)
            ddof, a = rng.choice((0, 1, 2)), len(accumulators) - 1
            features.append(_feature(op, window, 0, a, -1, source, scale, delay=delay, ddof=ddof))
            continue
        real = type_ is CellType.FLOAT
        kind = {
            FeatureOp.COUNT: AccOp.COUNT,
            FeatureOp.MIN: AccOp.MIN_FLOAT if real else AccOp.MIN_INT,
            FeatureOp.MAX: AccOp.MAX_FLOAT if real else AccOp.MAX_INT,
        }.get(op, AccOp.SUM_FLOAT if real else AccOp.SUM_INT)
        a, b = len(accumulators), -1
        accumulators.append(Accumulator(section, kind, source, mask))
        if op not in (FeatureOp.COUNT, FeatureOp.SUM):
            b = a + 1
            accumulators.append(Accumulator(section, AccOp.COUNT, source, mask))
        shown = (source, scale) if op is not FeatureOp.COUNT else (0, 0)
        features.append(_feature(op, window, 0, a, b, *shown, default=default, delay=delay))


def _placed(features: list[Feature]) -> tuple[Feature, ...]:
    placed, cell = [], 0
    for i, f in enumerate(features):
        placed.append(dataclasses.replace(f, name=f"f{i}", cell=cell))
        cell += f.width
    return tuple(placed)


def make_triggers(rng: random.Random, plan: Plan) -> list[tuple[int, int]]:
    """(kind, argument) of up to three triggers."""
    choices = [(int(TriggerKind.EVERY), -1), (int(TriggerKind.MASK), 1)]
    for i, state in enumerate(plan.lists):
        if state.kind is ListKind.LAST:
            choices.append((int(TriggerKind.CHANGED), i))
    return rng.choices(choices, k=rng.randint(0, 3))


def make_events(rng: random.Random, n: int, keys: int, base: int) -> list[Event]:
    """Mostly forward in time, with ties, tile edges, late ones, jumps, nulls and odd numbers."""
    events = []
    now, offset = base, rng.randint(0, 5)
    for _ in range(n):
        now += rng.choice((0, 0, 1, 3, 10)) if rng.random() < 0.99 else rng.choice((300, 3000))
        time = now - (rng.choice((1, 5, 60, 200, 1000)) if rng.random() < 0.2 else 0)
        if rng.random() < 0.3:
            time = time // 10 * 10 + rng.choice((-1, 0, 1))
        key = b"k%d" % min(rng.randrange(keys), rng.randrange(keys))
        events.append(
            Event(
                key,
                offset,
                rng.choice((-1, offset, offset - 3)),
                time,
                rng.random() < 0.97,
                _inputs(rng),
                tuple(rng.random() < 0.7 for _ in range(3)),
                rng.random() < 0.02,
            )
        )
        offset += 1 if rng.random() < 0.9 else rng.randint(2, 9)
    return events


def _inputs(rng: random.Random) -> tuple[Number | None, ...]:
    big = rng.random() < 0.03
    values: tuple[Number, ...] = (
        rng.choice((2**62, -(2**63), 2**63 - 1)) if big else rng.randint(-20, 20),
        rng.choice((NAN, math.inf, -math.inf, -0.0, 0.0, 1e17, 0.1, 5e-324, 1e308))
        if rng.random() < 0.2
        else rng.randint(-9, 9) / 4,
        rng.randint(-(10**6), 10**6),
        rng.choice((rng.getrandbits(64) - 2**63, 0, -1, 2**63 - 1)),
        rng.randint(-(10**3), 10**18),
    )
    return tuple(None if rng.random() < 0.1 else value for value in values)


class Columns(NamedTuple):
    """Events as ``apply`` takes them."""

    offsets: npt.NDArray[np.int64]
    timestamps_ms: npt.NDArray[np.int64]
    event_time: npt.NDArray[np.int64]
    select: npt.NDArray[np.uint8]
    inputs: npt.NDArray[np.int64]
    valid: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.uint8]


def columns(events: Sequence[Event]) -> Columns:
    """The columns of ``events``; offsets, times and masks as they are, inputs as bits."""
    inputs = [[0 if v is None else bits_of(v) for v in e.inputs] for e in events]
    valid = [[v is not None for v in e.inputs] for e in events]
    return Columns(
        np.array([e.offset for e in events], dtype=np.int64),
        np.array([e.timestamp_ms for e in events], dtype=np.int64),
        np.array([e.time for e in events], dtype=np.int64),
        np.array([2 if e.delete and e.select else e.select for e in events], dtype=np.uint8),
        np.ascontiguousarray(np.array(inputs, dtype=np.int64).T),
        np.ascontiguousarray(np.array(valid, dtype=np.uint8).T),
        np.ascontiguousarray(np.array([e.masks for e in events], dtype=np.uint8).T),
    )


def pack_keys(keys: Sequence[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Keys back to back and their offsets."""
    offsets = np.cumsum([0, *map(len, keys)]).astype(np.int64)
    return np.frombuffer(b"".join(keys), dtype=np.uint8), offsets


def feed(
    table: StateTable, events: Sequence[Event], stored: dict[bytes, bytes],
    triggers: Sequence[tuple[int, int]] = (),
) -> Applied:  # fmt: skip
    """One batch as the pipeline does it: look up, load, apply, encode, store, settle, evict."""
    found = table.lookup(*pack_keys([e.key for e in events]))
    rows = [stored.get(events[i].key) for i in found.missing]
    assert table.load(found.slots[found.missing], rows) == []
    tables = None
    if triggers:
        tables = TriggerTables(np.array([(*t, 0) for t in triggers], dtype=np.int64))
    applied = table.apply(found.slots, *columns(events), tables)
    rows_out = table.encode(applied.dirty)
    stored.update(read_all(rows_out))
    table.settle(applied.dirty)
    table.evict()
    return applied


def read_all(rows: EncodedRows) -> dict[bytes, bytes]:
    """Rows by key."""
    return {rows.key(i): rows.row(i) for i in range(len(rows))}
