"""What a view reads of an event: typed input columns, conditions, and what counts as null."""

from __future__ import annotations

import polars as pl

from pipeline.contracts.contract import Contract, FieldType
from pipeline.errors import DefinitionError
from pipeline.features.aggregations import Column
from pipeline.features.expressions import canonical, output_type, serialize
from pipeline.features.plan import CellType
from pipeline.features.texts import word_column

__all__ = ["Inputs"]

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
TEXTS = {
    FieldType.STRING: CellType.TEXT,
    FieldType.UUID: CellType.TEXT,
    FieldType.BYTES: CellType.BINARY,
}
WIDER_THAN_INT64 = {pl.UInt64(), pl.Int128(), pl.UInt128()}


class Inputs:
    """Collects the inputs and masks of one view, each once, in the order of their first use.

    ``columns`` are (field name or expression JSON, type, decimal places), ``masks`` expression
    JSON: those of :class:`~pipeline.features.plan.Plan`.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self.columns: list[tuple[str, CellType, int]] = []
        self.masks: list[str] = []

    def column(self, column: Column, where: str) -> int:
        """Index of a field or expression; :class:`DefinitionError` if it is neither."""
        column = _name(column) or column
        if isinstance(column, str):
            field = next((f for f in self._contract.fields if f.name == column), None)
            if field is None:
                known = ", ".join(f.name for f in self._contract.fields)
                raise DefinitionError(
                    where, f"the contract has no field {column!r}; it has: {known}"
                )
            entry = (column, FIELD_CELLS[field.type], field.scale or 0)
        elif isinstance(column, pl.Expr):
            text = serialize(column, self._contract, where)
            entry = (text, _cell_type(output_type(column, self._contract, where), where), 0)
        else:
            raise DefinitionError(where, "a column is a field name or a polars expression")
        if entry not in self.columns:
            self.columns.append(entry)
        return self.columns.index(entry)

    def text(self, column: Column, where: str) -> CellType | None:
        """Type of a feature of a column of strings or bytes; None for any other column."""
        name = _name(column)
        if name is not None:
            field = next((f for f in self._contract.fields if f.name == name), None)
            return None if field is None else TEXTS.get(field.type)
        if not isinstance(column, pl.Expr):
            return None
        serialize(column, self._contract, where)
        dtype = output_type(column, self._contract, where)
        return {pl.String(): CellType.TEXT, pl.Binary(): CellType.BINARY}.get(dtype)

    def words(self, column: Column, count: int, where: str) -> list[int]:
        """Indexes of the first ``count`` words of a column of strings or bytes."""
        text = _expression(column)
        indexes = []
        for word in range(count):
            entry = (canonical(word_column(text, word), where), CellType.INT, 0)
            if entry not in self.columns:
                self.columns.append(entry)
            indexes.append(self.columns.index(entry))
        return indexes

    def longer(self, column: Column, most: int, condition: pl.Expr | None) -> pl.Expr:
        """Whether a string or bytes are longer than ``most``, where ``condition`` is true."""
        longer = _expression(column).cast(pl.Binary).bin.size() > most
        return longer if condition is None else condition & longer

    def mask(self, expression: pl.Expr | None, where: str) -> int:
        """Index of a condition, -1 for None."""
        if expression is None:
            return -1
        if not isinstance(expression, pl.Expr):
            raise DefinitionError(where, 'is not a polars expression such as pl.col("amount") > 0')
        text = serialize(expression, self._contract, where)
        result = output_type(expression, self._contract, where)
        if result != pl.Boolean():
            raise DefinitionError(where, f"must be true or false, but is {result}")
        if text not in self.masks:
            self.masks.append(text)
        return self.masks.index(text)

    def null(self, column: Column, condition: pl.Expr | None, where: str) -> pl.Expr:
        """Whether ``column`` is null, or NaN, in an event for which ``condition`` is true."""
        expression = _expression(column)
        null = expression.is_null()
        text = self.text(column, where)
        if text is None and self.columns[self.column(column, where)][1] is CellType.FLOAT:
            null = null | expression.is_nan()
        return null if condition is None else condition & null  # three-valued: unknown is not true


def _name(column: Column) -> str | None:
    """The field's name, where a column is just a field."""
    if isinstance(column, pl.Expr) and column.meta.is_column():
        return column.meta.root_names()[0]
    return column if isinstance(column, str) else None


def _expression(column: Column) -> pl.Expr:
    return pl.col(column) if isinstance(column, str) else column


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
