"""Compiles a feature view's definition into a :class:`~pipeline.features.plan.Plan`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence

import polars as pl

from pipeline.contracts.contract import Contract, FieldType
from pipeline.errors import DefinitionError
from pipeline.features.aggregations import Aggregation, Column
from pipeline.features.entity import entity_name, entity_type
from pipeline.features.expressions import output_type, serialize
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
    plan_fields,
)
from pipeline.features.stream import EventStream
from pipeline.features.windows import MAX_BOUND, Window, place

__all__ = ["ROW_FORMAT", "compile_plan"]

ROW_FORMAT = 1
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
MAX_ROW_WORDS = 1 << 21  # 16 MiB: what a worker sets aside, twice, per view and partition
FIELD_CELLS = {
    FieldType.INT64: CellType.INT,
    FieldType.FLOAT64: CellType.FLOAT,
    FieldType.DECIMAL: CellType.DECIMAL,
    FieldType.BOOL: CellType.BOOL,
    FieldType.STRING: CellType.HASH,
    FieldType.UUID: CellType.HASH,
    FieldType.BYTES: CellType.HASH,
    FieldType.TIMESTAMP: CellType.TIME,
}
WIDER_THAN_INT64 = {pl.UInt64(), pl.Int128(), pl.UInt128()}
SUMMABLE = {CellType.INT, CellType.FLOAT, CellType.DECIMAL, CellType.BOOL}


def check_name(where: str, name: str) -> None:
    """:class:`DefinitionError` unless ``name`` is lower-case letters, digits and underscores."""
    if not NAME.fullmatch(name):
        raise DefinitionError(
            where, f"{name!r} is no name: use a-z, 0-9 and _, a letter first, at most 63"
        )


def compile_plan(
    view: str,
    source: EventStream,
    entity: Sequence[str],
    ttl_ns: int,
    where: pl.Expr | None,
    features: Mapping[str, Aggregation],
) -> Plan:
    """The plan of a view; :class:`DefinitionError` names the feature and argument that is wrong."""
    check_name("FeatureView.name", view)
    if tuple(entity) != source.key_fields:
        raise DefinitionError(
            f"{view}.entity",
            f"{', '.join(entity)} is not the key of topic {source.topic!r} "
            f"({', '.join(source.key_fields)}); "
            "a view belongs to the key its topic is partitioned by",
        )
    if not features:
        raise DefinitionError(f"{view}.features", "a view needs at least one feature")
    if ttl_ns < 0:
        raise DefinitionError(f"{view}.ttl", "must be positive")
    return _Compiler(view, source, ttl_ns).compile(entity, where, features)


class _Compiler:
    """Collects the shared parts (inputs, masks, rings, accumulators, lists) of one view."""

    def __init__(self, view: str, source: EventStream, ttl_ns: int) -> None:
        self.view = view
        self.source = source
        self.contract: Contract = source.schema
        self.ttl_ns = ttl_ns
        self.inputs: list[tuple[str, CellType, int]] = []
        self.masks: list[str] = []
        self.rings: dict[int, int] = {}  # tile width -> tiles
        # tile width or -1 - list, op, input, mask
        self.accumulators: list[tuple[int, AccOp, int, int]] = []
        self.lists: list[tuple[ListKind, int, int, int, int, int, CellType]] = []

    def compile(
        self, entity: Sequence[str], where: pl.Expr | None, features: Mapping[str, Aggregation]
    ) -> Plan:
        selected = self._mask(where, f"{self.view}.where")
        drafts = [self._feature(name, aggregation) for name, aggregation in features.items()]
        self._ids()
        widths = list(self.rings)

        def section(key: int) -> int:
            return widths.index(key) if key > 0 else len(widths) - 1 - key

        order = sorted(
            range(len(self.accumulators)), key=lambda i: (section(self.accumulators[i][0]), i)
        )
        position = {old: new for new, old in enumerate(order)}
        cell = 0
        final: list[Feature] = []
        for draft in drafts:
            if draft.op in {FeatureOp.DISTINCT, FeatureOp.LAST}:
                placed = dataclasses.replace(draft, cell=cell)
            else:
                placed = dataclasses.replace(
                    draft,
                    cell=cell,
                    a=position[draft.a],
                    b=position[draft.b] if draft.b >= 0 else -1,
                )
            final.append(placed)
            cell += draft.width
        accumulators = [self.accumulators[i] for i in order]
        plan = Plan(
            view=self.view,
            entity=entity_name(entity),
            entity_type=entity_type(f"{self.view}.entity", self.contract, entity),
            source=self.source.topic,
            ttl_ns=self.ttl_ns,
            inputs=tuple(i[0] for i in self.inputs),
            input_types=tuple(i[1] for i in self.inputs),
            input_scales=tuple(i[2] for i in self.inputs),
            masks=tuple(self.masks),
            filter=selected,
            rings=tuple(Ring(width, tiles) for width, tiles in self.rings.items()),
            accumulators=tuple(Accumulator(section(w), op, i, m) for w, op, i, m in accumulators),
            lists=tuple(
                ListState(kind, widths.index(w) if w else -1, i, m, bound, horizon, type_)
                for kind, w, i, m, bound, horizon, type_ in self.lists
            ),
            features=tuple(final),
            fingerprint=0,
        )
        _check_size(plan)
        return dataclasses.replace(plan, fingerprint=_fingerprint(plan))

    def _feature(self, name: str, aggregation: Aggregation) -> Feature:
        where = f"{self.view}.{name}"
        check_name(f"{self.view}.features", name)
        if not isinstance(aggregation, Aggregation):
            raise DefinitionError(
                where, f"is a {type(aggregation).__name__}, not an aggregation such as pp.count()"
            )
        window = place(f"{self.view}.ttl", self.ttl_ns, where, aggregation)
        if window.width:
            self.rings[window.width] = max(self.rings.get(window.width, 0), window.tiles)
        draft = self._draft(where, aggregation, window)
        return dataclasses.replace(
            draft,
            name=name,
            window_ns=aggregation.window_ns,
            slide_ns=aggregation.slide_ns,
            default=math.nan if aggregation.default is None else float(aggregation.default),
            delay_ns=aggregation.delay_ns,
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
        mask = self._mask(aggregation.where, f"{where}.where")
        if op is FeatureOp.COUNT:
            source = -1 if aggregation.column is None else self._input(aggregation.column, where)
            return _feature(op, self._accumulate(where, window, AccOp.COUNT, source, mask), -1)
        if aggregation.column is None:
            raise DefinitionError(where, "name the column to aggregate")
        source = self._input(aggregation.column, where)
        _, type_, scale = self.inputs[source]
        if op is FeatureOp.DISTINCT:
            return _feature(op, self._distinct(where, aggregation, window, source, mask), -1)
        if op is FeatureOp.LAST:
            a = self._last(where, aggregation, window, source, mask)
            return _feature(op, a, -1, type_, scale, aggregation.n)
        a, b = self._numeric(where, op, window, source, mask)
        return _feature(op, a, b, type_, scale)

    def _distinct(
        self, where: str, aggregation: Aggregation, window: Window, source: int, mask: int
    ) -> int:
        if window.keep:
            return self._events(where, window, source, mask)
        return self._list(
            where, ListKind.DISTINCT, window.width, source, mask, aggregation.bound, 0
        )

    def _last(
        self, where: str, aggregation: Aggregation, window: Window, source: int, mask: int
    ) -> int:
        if self.inputs[source][1] is CellType.HASH:
            raise DefinitionError(
                where, "last() of a string is not supported; count it with distinct()"
            )
        if window.keep:
            return self._events(where, window, source, mask)
        reach = aggregation.window_ns
        horizon = reach + aggregation.slide_ns
        if not reach and self.ttl_ns:
            horizon = (
                self.ttl_ns + 1
            )  # the row is there up to and with newest + ttl: so is its value
        return self._list(where, ListKind.LAST, 0, source, mask, aggregation.n, horizon)

    def _numeric(
        self, where: str, op: FeatureOp, window: Window, source: int, mask: int
    ) -> tuple[int, int]:
        type_ = self.inputs[source][1]
        real = type_ is CellType.FLOAT
        if op in {FeatureOp.SUM, FeatureOp.MEAN} and type_ not in SUMMABLE:
            raise DefinitionError(where, f"cannot add values of type {type_.name.lower()}")
        if type_ is CellType.HASH:
            raise DefinitionError(where, "strings have no order here; use count, distinct or where")
        kind = {
            FeatureOp.SUM: AccOp.SUM_FLOAT if real else AccOp.SUM_INT,
            FeatureOp.MEAN: AccOp.SUM_FLOAT if real else AccOp.SUM_INT,
            FeatureOp.MIN: AccOp.MIN_FLOAT if real else AccOp.MIN_INT,
            FeatureOp.MAX: AccOp.MAX_FLOAT if real else AccOp.MAX_INT,
        }[op]
        a = self._accumulate(where, window, kind, source, mask)
        if op is FeatureOp.SUM:
            return a, -1
        return a, self._accumulate(where, window, AccOp.COUNT, source, mask)

    def _part(self, where: str, part: Aggregation, window: Window) -> int:
        if not isinstance(part, Aggregation) or part.op not in {FeatureOp.COUNT, FeatureOp.SUM}:
            raise DefinitionError(where, "a ratio is of counts and sums")
        if part.window_ns:
            raise DefinitionError(where, "give the window to the ratio, not to its parts")
        mask = self._mask(part.where, f"{where}.where")
        source = -1 if part.column is None else self._input(part.column, where)
        if part.op is FeatureOp.COUNT:
            return self._accumulate(where, window, AccOp.COUNT, source, mask)
        return self._numeric(where, FeatureOp.SUM, window, source, mask)[0]

    def _accumulator_type(self, index: int) -> CellType:
        return CellType.FLOAT if self.accumulators[index][1] is AccOp.SUM_FLOAT else CellType.INT

    def _scale_difference(self, a: int, b: int) -> int:
        """Decimal places by which the numerator is scaled more than the denominator."""

        def scale(index: int) -> int:
            _, op, source, _ = self.accumulators[index]
            return self.inputs[source][2] if op is AccOp.SUM_INT else 0

        return scale(a) - scale(b)

    def _input(self, column: Column, where: str) -> int:
        if isinstance(column, pl.Expr) and column.meta.is_column():
            column = column.meta.root_names()[0]
        if isinstance(column, str):
            field = next((f for f in self.contract.fields if f.name == column), None)
            if field is None:
                known = ", ".join(f.name for f in self.contract.fields)
                raise DefinitionError(
                    where, f"the contract has no field {column!r}; it has: {known}"
                )
            entry = (column, FIELD_CELLS[field.type], field.scale or 0)
        elif isinstance(column, pl.Expr):
            text = serialize(column, self.contract, where)
            entry = (text, _cell_type(output_type(column, self.contract, where), where), 0)
        else:
            raise DefinitionError(where, "a column is a field name or a polars expression")
        if entry not in self.inputs:
            self.inputs.append(entry)
        return self.inputs.index(entry)

    def _mask(self, expression: pl.Expr | None, where: str) -> int:
        if expression is None:
            return -1
        if not isinstance(expression, pl.Expr):
            raise DefinitionError(where, 'is not a polars expression such as pl.col("amount") > 0')
        text = serialize(expression, self.contract, where)
        result = output_type(expression, self.contract, where)
        if result != pl.Boolean():
            raise DefinitionError(where, f"must be true or false, but is {result}")
        if text not in self.masks:
            self.masks.append(text)
        return self.masks.index(text)

    def _accumulate(self, where: str, window: Window, op: AccOp, source: int, mask: int) -> int:
        key = -1 - self._events(where, window, source, mask) if window.keep else window.width
        entry = (key, op, source, mask)
        if entry not in self.accumulators:
            self.accumulators.append(entry)
        return self.accumulators.index(entry)

    def _events(self, where: str, window: Window, source: int, mask: int) -> int:
        """The events list of this input, mask and bound, which reaches as far as any window."""
        key = (ListKind.EVENTS, 0, source, mask, window.keep)
        for i, (*other, horizon, type_) in enumerate(self.lists):
            if tuple(other) == key:
                self.lists[i] = (*key, max(horizon, window.horizon), type_)
                return i
        return self._list(where, *key, window.horizon)

    def _ids(self) -> None:
        """The list of event ids, where the stream tells its events apart."""
        source = self.source
        if source.event_id is not None:
            where = f"EventStream({source.topic!r}).event_id"
            column = self._input(source.event_id, where)
            self._list(where, ListKind.IDS, 0, column, -1, source.dedup_bound, source.dedup_ns)

    def _list(
        self, where: str, kind: ListKind, width: int, source: int, mask: int, bound: int,
        horizon: int,
    ) -> int:  # fmt: skip
        if not 1 <= bound <= MAX_BOUND:
            argument = "n" if kind is ListKind.LAST else "bound"
            raise DefinitionError(f"{where}.{argument}", f"must be 1 to {MAX_BOUND}")
        type_ = self.inputs[source][1] if source >= 0 else CellType.INT
        entry = (kind, width, source, mask, bound, horizon, type_)
        if entry not in self.lists:
            self.lists.append(entry)
        return self.lists.index(entry)


def _feature(
    op: FeatureOp, a: int, b: int, type_: CellType = CellType.INT, scale: int = 0, width: int = 1
) -> Feature:
    return Feature("", op, 0, 0, a, b, 0, width, type_, scale, math.nan)


def _cell_type(dtype: pl.DataType, where: str) -> CellType:
    if dtype.is_integer() and dtype not in WIDER_THAN_INT64:
        return CellType.INT
    if dtype.is_float():
        return CellType.FLOAT
    if dtype == pl.Boolean():
        return CellType.BOOL
    if dtype == pl.Datetime("ns", "UTC"):
        return CellType.TIME
    raise DefinitionError(where, f"the expression gives {dtype}; cast it to Int64 or Float64")


def _check_size(plan: Plan) -> None:
    """:class:`DefinitionError` if the largest row would not be one that is read at every event."""
    words = sum(state.bound * 3 for state in plan.lists)
    for number, ring in enumerate(plan.rings):
        words += ring.tiles * (1 + sum(a.ring == number for a in plan.accumulators))
    if words > MAX_ROW_WORDS:
        raise DefinitionError(
            f"{plan.view}.features",
            f"a full row would take {words * 8 >> 20} MiB (at most {MAX_ROW_WORDS * 8 >> 20}): "
            "choose longer slides, smaller bounds, or several views",
        )


def _fingerprint(plan: Plan) -> int:
    """First 8 bytes of the SHA-256 of the plan and the row format: equal plans, equal rows."""
    value = plan_fields(plan)
    value["row_format"] = ROW_FORMAT
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
