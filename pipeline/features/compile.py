"""Compiles a feature view's definition into a :class:`~pipeline.features.plan.Plan`."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import polars as pl

from pipeline.contracts.contract import Contract
from pipeline.errors import DefinitionError
from pipeline.features.aggregations import Aggregation, Column
from pipeline.features.entity import entity_name, entity_type
from pipeline.features.inputs import Inputs
from pipeline.features.kept import Kept
from pipeline.features.nulls import any_of, null_conditions
from pipeline.features.plan import (
    LIST_OPS,
    TILE_BOUND_KINDS,
    AccOp,
    CellType,
    Feature,
    FeatureOp,
    ListKind,
    Lookup,
    Plan,
)
from pipeline.features.planjson import fingerprint_of
from pipeline.features.ranked import RANKED_OPS, ranked_list
from pipeline.features.repartition import Repartition
from pipeline.features.size import check_size
from pipeline.features.stream import EventStream
from pipeline.features.texts import DEFAULT_BYTES, words_needed
from pipeline.features.windows import FOREVER, Window, place
from pipeline.units import parse_duration

__all__ = ["compile_plan"]

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
SUMMABLE = {CellType.INT, CellType.FLOAT, CellType.DECIMAL, CellType.BOOL}


def check_name(where: str, name: str) -> None:
    """:class:`DefinitionError` unless ``name`` is lower-case letters, digits and underscores."""
    if not NAME.fullmatch(name):
        raise DefinitionError(
            where, f"{name!r} is no name: use a-z, 0-9 and _, a letter first, at most 63"
        )


def compile_plan(
    view: str,
    source: EventStream | Repartition,
    entity: Sequence[str],
    ttl_ns: int,
    where: pl.Expr | None,
    features: Mapping[str, Aggregation],
    columns: Contract,
    lookups: tuple[Lookup, ...] = (),
) -> Plan:
    """The plan of a view; :class:`DefinitionError` names the feature and argument that is wrong.

    ``columns`` are the fields of the stream and those that ``lookups`` add.
    """
    check_name("FeatureView.name", view)
    if not features:
        raise DefinitionError(f"{view}.features", "a view needs at least one feature")
    if ttl_ns < 0:
        raise DefinitionError(f"{view}.ttl", "must be positive")
    plan = _Compiler(view, source, ttl_ns, columns).compile(entity, where, features)
    plan = dataclasses.replace(plan, lookups=lookups)
    return dataclasses.replace(plan, fingerprint=fingerprint_of(plan))


class _Compiler:
    """Collects the shared parts (inputs, masks, rings, accumulators, lists) of one view."""

    def __init__(
        self, view: str, source: EventStream | Repartition, ttl_ns: int, columns: Contract
    ) -> None:
        self.view = view
        self.source = source
        self.ttl_ns = ttl_ns
        self.inputs = Inputs(columns)
        self.rejects: list[pl.Expr] = []
        self.long: list[pl.Expr] = []
        self.kept = Kept(self.inputs)

    def compile(
        self, entity: Sequence[str], where: pl.Expr | None, features: Mapping[str, Aggregation]
    ) -> Plan:
        """The plan, but for look-ups and fingerprint."""
        selected = self.inputs.mask(where, f"{self.view}.where")
        drafts = [self._feature(name, aggregation) for name, aggregation in features.items()]
        reject = self.inputs.mask(any_of(self.rejects), f"{self.view}.nulls")
        long = self.inputs.mask(any_of(self.long), f"{self.view}.max_bytes")
        self._ids()
        position = self.kept.order()
        cell = 0
        final: list[Feature] = []
        for draft in drafts:
            a, b, nulls = (position.get(i, -1) for i in (draft.a, draft.b, draft.nulls))
            words = tuple(position.get(i, -1) for i in draft.words)
            if draft.op in LIST_OPS:
                a, words = draft.a, draft.words
            final.append(dataclasses.replace(draft, cell=cell, a=a, b=b, nulls=nulls, words=words))
            cell += draft.cells
        rings, accumulators, lists = self.kept.states()
        plan = Plan(
            view=self.view,
            entity=entity_name(entity),
            entity_type=entity_type(f"{self.view}.entity", self.source.schema, entity),
            source=self.source.topic,
            ttl_ns=self.ttl_ns,
            inputs=tuple(i[0] for i in self.inputs.columns),
            input_types=tuple(i[1] for i in self.inputs.columns),
            input_scales=tuple(i[2] for i in self.inputs.columns),
            masks=tuple(self.inputs.masks),
            filter=selected,
            rings=rings,
            accumulators=accumulators,
            lists=lists,
            features=tuple(final),
            fingerprint=0,
            reject=reject,
            long=long,
        )
        check_size(plan)
        return plan

    def _feature(self, name: str, aggregation: Aggregation) -> Feature:
        where = f"{self.view}.{name}"
        check_name(f"{self.view}.features", name)
        if not isinstance(aggregation, Aggregation):
            raise DefinitionError(
                where, f"is a {type(aggregation).__name__}, not an aggregation such as pp.count()"
            )
        window = place(f"{self.view}.ttl", self.ttl_ns, where, aggregation)
        self.kept.tiles(window)
        draft = self._draft(where, aggregation, window)
        return dataclasses.replace(
            draft,
            name=name,
            window_ns=aggregation.window_ns,
            slide_ns=aggregation.slide_ns,
            default=math.nan if aggregation.default is None else float(aggregation.default),
            delay_ns=aggregation.delay_ns,
            nulls=self._nulls(where, aggregation, window),
        )

    def _draft(self, where: str, aggregation: Aggregation, window: Window) -> Feature:
        """The feature, but for its name, window and default."""
        op = aggregation.op
        if op is FeatureOp.RATIO:
            a, b = (
                self._part(f"{where}.{part}", p, window)
                for part, p in zip(("numerator", "denominator"), aggregation.parts, strict=True)
            )
            return _feature(op, a, b, self._accumulator_type(a), self._scale_difference(a, b))
        mask = self.inputs.mask(aggregation.where, f"{where}.where")
        column = aggregation.column
        if column is not None and op in {FeatureOp.FIRST, FeatureOp.LAST, FeatureOp.TOP_K}:
            text = self.inputs.text(column, where)
            if text is not None:
                return self._text(where, aggregation, window, column, text, mask)
        if aggregation.max_bytes is not None:
            raise DefinitionError(f"{where}.max_bytes", "is of strings, and the column is none")
        source = -1 if column is None else self.inputs.column(column, where)
        if op is FeatureOp.COUNT:
            return _feature(op, self.kept.accumulate(where, window, AccOp.COUNT, source, mask), -1)
        if op in {FeatureOp.DECAYED, FeatureOp.EWMA}:
            return self._decayed(where, aggregation, source, mask)
        if column is None:
            raise DefinitionError(where, "name the column to aggregate")
        _, type_, scale = self.inputs.columns[source]
        if op is FeatureOp.DISTINCT:
            return _feature(op, self._distinct(where, aggregation, window, source, mask), -1)
        if op is FeatureOp.LAST:
            a = self._last(where, aggregation, window, source, mask)
            return _feature(op, a, -1, type_, scale, aggregation.n)
        if op in RANKED_OPS:
            a = self._ranked(where, aggregation, window, source, mask)
            made = _feature(op, a, -1, type_, scale, aggregation.n)
            return dataclasses.replace(made, q=float(aggregation.q) + 0.0)
        if op in {FeatureOp.VAR, FeatureOp.STD}:
            made = _feature(op, self._variance(where, window, source, mask), -1, type_, scale)
            return dataclasses.replace(made, ddof=_ddof(where, aggregation.ddof))
        if op is FeatureOp.FIRST:
            return _feature(op, self._first(where, window, source, mask), -1, type_, scale)
        a, b = self._numeric(where, op, window, source, mask)
        return _feature(op, a, b, type_, scale)

    def _text(
        self, where: str, aggregation: Aggregation, window: Window, column: Column,
        type_: CellType, mask: int,
    ) -> Feature:  # fmt: skip
        """First, last or most frequent strings: by their words, each kept as a number is."""
        n = words_needed(where, aggregation.max_bytes)
        if aggregation.op is FeatureOp.TOP_K and (aggregation.max_bytes is None or n > 1):
            argument = where if aggregation.max_bytes is None else f"{where}.max_bytes"
            raise DefinitionError(
                argument, "top_k() of a string is of 7 bytes at most: max_bytes=7"
            )
        most = DEFAULT_BYTES if aggregation.max_bytes is None else aggregation.max_bytes
        self.long.append(self.inputs.longer(column, most, aggregation.where))
        words = []
        for source in self.inputs.words(column, n, where):
            if aggregation.op is FeatureOp.FIRST:
                words.append(self._first(where, window, source, mask))
            elif aggregation.op is FeatureOp.TOP_K:
                words.append(self._ranked(where, aggregation, window, source, mask))
            else:
                words.append(self._last(where, aggregation, window, source, mask))
        made = _feature(aggregation.op, words[0], -1, type_, 0, aggregation.n)
        return dataclasses.replace(made, words=tuple(words))

    def _distinct(
        self, where: str, aggregation: Aggregation, window: Window, source: int, mask: int
    ) -> int:
        if window.keep:
            return self.kept.events(where, window, source, mask)
        return self.kept.list(
            where, ListKind.DISTINCT, window.width, source, mask, aggregation.bound, 0
        )

    def _last(
        self, where: str, aggregation: Aggregation, window: Window, source: int, mask: int
    ) -> int:
        if window.keep:
            return self.kept.events(where, window, source, mask)
        horizon = self._last_horizon(aggregation)
        return self.kept.list(where, ListKind.LAST, 0, source, mask, aggregation.n, horizon)

    def _ranked(
        self, where: str, aggregation: Aggregation, window: Window, source: int, mask: int
    ) -> int:
        kind = ranked_list(where, aggregation, self.inputs.columns[source][1])
        if window.keep:
            return self.kept.events(where, window, source, mask)
        if kind in TILE_BOUND_KINDS:
            return self.kept.extremes(kind, window, source, mask, aggregation.n)
        return self.kept.list(where, kind, window.width, source, mask, aggregation.bound, 0)

    def _last_horizon(self, aggregation: Aggregation) -> int:
        """How far back the last values reach; 0 for ever."""
        if aggregation.window_ns:
            return aggregation.window_ns + aggregation.slide_ns
        # The row is there up to and with newest + ttl: so is its value.
        return self.ttl_ns + 1 if self.ttl_ns else 0

    def _first(self, where: str, window: Window, source: int, mask: int) -> int:
        real = self.inputs.columns[source][1] is CellType.FLOAT
        group = AccOp.FIRST_AT, AccOp.FIRST_FLOAT if real else AccOp.FIRST_INT
        return self.kept.group(where, window, group, source, mask)

    def _variance(self, where: str, window: Window, source: int, mask: int) -> int:
        self._summable(where, source)
        real = self.inputs.columns[source][1] is CellType.FLOAT
        count = AccOp.VAR_FLOAT if real else AccOp.VAR_INT
        group = count, AccOp.VAR_MEAN, AccOp.VAR_LOW, AccOp.VAR_M2
        return self.kept.group(where, window, group, source, mask)

    def _decayed(self, where: str, aggregation: Aggregation, source: int, mask: int) -> Feature:
        if source >= 0:
            self._summable(where, source)
        try:
            half_life = parse_duration(aggregation.half_life or 0)
        except ValueError as error:
            raise DefinitionError(f"{where}.half_life", str(error)) from error
        if half_life <= 0:
            raise DefinitionError(f"{where}.half_life", "must be longer than 0")
        a = self.kept.list(where, ListKind.DECAYED, 0, source, mask, 1, half_life)
        _, type_, scale = self.inputs.columns[source] if source >= 0 else ("", CellType.FLOAT, 0)
        return _feature(aggregation.op, a, -1, type_, scale)

    def _nulls(self, where: str, aggregation: Aggregation, window: Window) -> int:
        """The accumulator that counts the events which make the feature null, or -1."""
        propagate, reject = null_conditions(self.inputs, where, aggregation)
        if reject is not None:
            self.rejects.append(reject)
        if propagate is None:
            return -1
        if not window.width and not aggregation.delay_ns:
            # Up to the newest event, whether there was one says the time of the newest of them.
            reach = aggregation.window_ns  # of a window that is not kept in tiles
            if aggregation.op is FeatureOp.LAST:
                reach = self._last_horizon(aggregation)
            window = Window(keep=1, horizon=reach or FOREVER)
        mask = self.inputs.mask(propagate, f"{where}.nulls")
        return self.kept.accumulate(where, window, AccOp.COUNT, -1, mask)

    def _summable(self, where: str, source: int) -> None:
        type_ = self.inputs.columns[source][1]
        if type_ not in SUMMABLE:
            raise DefinitionError(where, f"cannot add values of type {type_.name.lower()}")

    def _numeric(
        self, where: str, op: FeatureOp, window: Window, source: int, mask: int
    ) -> tuple[int, int]:
        type_ = self.inputs.columns[source][1]
        real = type_ is CellType.FLOAT
        if op in {FeatureOp.SUM, FeatureOp.MEAN}:
            self._summable(where, source)
        if type_ is CellType.HASH:
            raise DefinitionError(where, "strings have no order here; use count, distinct or where")
        kind = {
            FeatureOp.SUM: AccOp.SUM_FLOAT if real else AccOp.SUM_INT,
            FeatureOp.MEAN: AccOp.SUM_FLOAT if real else AccOp.SUM_INT,
            FeatureOp.MIN: AccOp.MIN_FLOAT if real else AccOp.MIN_INT,
            FeatureOp.MAX: AccOp.MAX_FLOAT if real else AccOp.MAX_INT,
        }[op]
        a = self.kept.accumulate(where, window, kind, source, mask)
        if op is FeatureOp.SUM:
            return a, -1
        return a, self.kept.accumulate(where, window, AccOp.COUNT, source, mask)

    def _part(self, where: str, part: Aggregation, window: Window) -> int:
        if not isinstance(part, Aggregation) or part.op not in {FeatureOp.COUNT, FeatureOp.SUM}:
            raise DefinitionError(where, "a ratio is of counts and sums")
        if part.window_ns:
            raise DefinitionError(where, "give the window to the ratio, not to its parts")
        mask = self.inputs.mask(part.where, f"{where}.where")
        source = -1 if part.column is None else self.inputs.column(part.column, where)
        if part.op is FeatureOp.COUNT:
            return self.kept.accumulate(where, window, AccOp.COUNT, source, mask)
        return self._numeric(where, FeatureOp.SUM, window, source, mask)[0]

    def _accumulator_type(self, index: int) -> CellType:
        return (
            CellType.FLOAT if self.kept.accumulators[index][1] is AccOp.SUM_FLOAT else CellType.INT
        )

    def _scale_difference(self, a: int, b: int) -> int:
        """Decimal places by which the numerator is scaled more than the denominator."""

        def scale(index: int) -> int:
            _, op, source, _ = self.kept.accumulators[index]
            return self.inputs.columns[source][2] if op is AccOp.SUM_INT else 0

        return scale(a) - scale(b)

    def _ids(self) -> None:
        """The list of event ids, where the stream tells its events apart."""
        source = self.source
        if source.event_id is not None:
            where = f"EventStream({source.topic!r}).event_id"
            column = self.inputs.column(source.event_id, where)
            self.kept.list(where, ListKind.IDS, 0, column, -1, source.dedup_bound, source.dedup_ns)


def _feature(
    op: FeatureOp, a: int, b: int, type_: CellType = CellType.INT, scale: int = 0, width: int = 1
) -> Feature:
    return Feature("", op, 0, 0, a, b, 0, width, type_, scale, math.nan)


def _ddof(where: str, ddof: int) -> int:
    if not isinstance(ddof, int) or isinstance(ddof, bool) or not 0 <= ddof < 2**31:
        raise DefinitionError(f"{where}.ddof", "must be a whole number from 0")
    return ddof
