"""What an aggregation sees of an event: its column's value, and whether its condition is true."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import polars as pl

from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.features.aggregations import Aggregation
from pipeline.testing.oracle.records import Event

__all__ = ["ExpressionError", "Kind", "Rows", "Seen"]

KINDS = {
    FieldType.INT64: "int",
    FieldType.FLOAT64: "float",
    FieldType.DECIMAL: "decimal",
    FieldType.BOOL: "bool",
    FieldType.STRING: "string",
    FieldType.TIMESTAMP: "time",
    FieldType.UUID: "string",
    FieldType.BYTES: "bytes",
}
FRAMES: dict[str, Any] = {
    "int": pl.Int64(),
    "float": pl.Float64(),
    "decimal": pl.Float64(),
    "bool": pl.Boolean(),
    "string": pl.String(),
    "bytes": pl.Binary(),
    "time": pl.Datetime("ns", "UTC"),
}


class ExpressionError(ValueError):
    """Polars could not compute an expression on this event."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What values are: int, float, decimal, bool, string, time (ns), bytes; a decimal's digits."""

    name: str
    scale: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """One aggregation's view of one event; ``value`` is None for null and NaN."""

    passes: bool
    value: Any


class Rows:
    """Evaluates expressions on one event at a time, as frames of one row."""

    def __init__(self, contract: Contract) -> None:
        self._fields = {field.name: field for field in contract.fields}
        self._schema = {f.name: FRAMES[KINDS[f.type]] for f in contract.fields}
        # By identity: expressions have no other. Each is kept, or its number might be another's.
        self._kinds: dict[int, tuple[pl.Expr, Kind]] = {}

    def kind(self, column: str | pl.Expr) -> Kind:
        """Type of a column."""
        name = _plain(column)
        if name is None:
            return self._computed(cast(pl.Expr, column))
        field = self._fields[name]
        return Kind(KINDS[field.type], field.scale)

    def _computed(self, column: pl.Expr) -> Kind:
        """Type of an expression, found once."""
        if id(column) not in self._kinds:
            self._kinds[id(column)] = column, self._kind(column)
        return self._kinds[id(column)][1]

    def _kind(self, column: pl.Expr) -> Kind:
        dtype = pl.DataFrame(schema=self._schema).select(result=column)["result"].dtype
        if dtype.is_integer():
            return Kind("int")
        if dtype.is_float():
            return Kind("float")
        names = {pl.Boolean(): "bool", pl.String(): "string", pl.Binary(): "bytes"}
        return Kind(names.get(dtype, "time"))

    def seen(self, event: Event, aggregation: Aggregation) -> Seen:
        """The column and condition of ``aggregation``; raises :class:`ExpressionError`."""
        passes = self.true(event, aggregation.where)
        if aggregation.column is None:
            return Seen(passes, 1)
        return Seen(passes, self._value(event, aggregation.column))

    def true(self, event: Event, condition: pl.Expr | None) -> bool:
        """Whether a condition holds; null does not. No condition holds."""
        return condition is None or self._select(event, condition)[0] is True

    def _value(self, event: Event, column: str | pl.Expr) -> Any:
        name = _plain(column)
        if name is not None:
            value = event.fields[name]
        else:
            kind = self.kind(column)
            cast = {"int": pl.Int64, "float": pl.Float64, "bool": pl.Boolean}.get(kind.name)
            expression: Any = column if cast is None else column.cast(cast, strict=False)  # type: ignore[union-attr]
            value = self._select(event, expression)[0]
        return None if isinstance(value, float) and value != value else value

    def _select(self, event: Event, expression: pl.Expr) -> pl.Series:
        """The one value of an expression; times as ns."""
        try:
            result = self._frame(event, expression.meta.root_names()).select(result=expression)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise ExpressionError(str(error)) from error
        column = result["result"]
        return column.to_physical() if column.dtype.is_temporal() else column

    def _frame(self, event: Event, names: Iterable[str]) -> pl.DataFrame:
        columns = [_series(self._fields[name], event.fields[name]) for name in sorted(set(names))]
        return pl.DataFrame(columns) if columns else pl.DataFrame(height=1)


def _plain(column: str | pl.Expr) -> str | None:
    """The field's name, where the column is just a field."""
    if isinstance(column, str):
        return column
    return column.meta.root_names()[0] if column.meta.is_column() else None


def _series(field: Field, value: Any) -> pl.Series:
    kind = KINDS[field.type]
    if kind == "time":
        return pl.Series(field.name, [value], dtype=pl.Int64()).cast(FRAMES[kind])
    if kind == "decimal" and value is not None:
        value = float(int(value * 10**field.scale)) / float(10**field.scale)
    return pl.Series(field.name, [value], dtype=FRAMES[kind])
