"""Finalized cells as Arrow columns: the one place that knows which type a feature has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.features.plan import CellType, Feature, FeatureOp, Plan
from pipeline.features.texts import bytes_of

__all__ = ["FeatureColumns", "feature_columns", "feature_matrix", "feature_type"]

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Arrow = Any  # arrays and types of pyarrow, whose stubs do not know what a column holds
VALUE_TYPES: dict[CellType, Arrow] = {
    CellType.INT: pa.int64(),
    CellType.FLOAT: pa.float64(),
    CellType.DECIMAL: pa.float64(),
    CellType.TIME: pa.timestamp("ns", "UTC"),
    CellType.BOOL: pa.bool_(),
    CellType.TEXT: pa.string(),
    CellType.BINARY: pa.binary(),
}
FLOAT_OPS = {
    FeatureOp.MEAN,
    FeatureOp.RATIO,
    FeatureOp.VAR,
    FeatureOp.STD,
    FeatureOp.DECAYED,
    FeatureOp.EWMA,
    FeatureOp.QUANTILE,
}
INT_OPS = {FeatureOp.COUNT, FeatureOp.DISTINCT}


def feature_type(feature: Feature) -> Arrow:
    """Arrow type of a feature; a list of it where it has several cells, as ``last(n > 1)``."""
    if feature.op in FLOAT_OPS:
        return pa.float64()
    if feature.op in INT_OPS:
        return pa.int64()
    if feature.op is FeatureOp.SUM and feature.type is CellType.BOOL:
        return pa.int64()
    value = VALUE_TYPES[feature.type]
    return pa.list_(value) if feature.width > 1 else value


def feature_columns(plan: Plan, cells: I64, valid: U8, names: Sequence[str]) -> list[Arrow]:
    """Arrow arrays of the named features.

    ``cells`` int64[n, C] bit patterns, ``valid`` uint8[n, C]. A list holds its valid cells, the
    newest or most frequent first; it is null where the first cell is.
    """
    return FeatureColumns(plan, names).arrays(cells, valid)


class FeatureColumns:
    """What the columns of the named features are, looked up once for many batches."""

    def __init__(self, plan: Plan, names: Sequence[str]) -> None:
        by_name = {feature.name: feature for feature in plan.features}
        types = [feature_type(by_name[name]) for name in names]
        self._columns = [
            (feature, type_, feature.width == 1 and not feature.words and type_ != pa.bool_())
            for feature, type_ in zip((by_name[name] for name in names), types, strict=True)
        ]

    def arrays(self, cells: I64, valid: U8) -> list[Arrow]:
        """Arrow arrays of them, as :func:`feature_columns` gives."""
        scalars = _Scalars(cells, valid)
        return [
            scalars.column(feature.cell, type_) if scalar else _column(feature, cells, valid, type_)
            for feature, type_, scalar in self._columns
        ]


def feature_matrix(
    plan: Plan, cells: I64, valid: U8, names: Sequence[str], out: npt.NDArray[np.floating]
) -> None:
    """Write the named scalar features to ``out`` float[n, len(names)]; nulls become NaN."""
    by_name = {feature.name: feature for feature in plan.features}
    for i, name in enumerate(names):
        feature = by_name[name]
        column = cells[:, feature.cell]
        real = pa.types.is_floating(feature_type(feature))
        out[:, i] = np.ascontiguousarray(column).view(np.float64) if real else column
        out[valid[:, feature.cell] == 0, i] = np.nan


class _Scalars:
    """All cells turned once, so that a column of 64-bit values is a slice of two buffers.

    3 us a column of 100 values, where ``pa.array`` with a mask takes 14.
    """

    def __init__(self, cells: I64, valid: U8) -> None:
        self._rows = len(cells)
        self._data = pa.py_buffer(np.ascontiguousarray(cells.T).data)
        # Packing keeps the order of axes in memory; buffers want the rows of each cell together.
        packed = np.ascontiguousarray(np.packbits(valid.T != 0, axis=1, bitorder="little"))
        self._stride = packed.shape[1]
        self._valid = pa.py_buffer(packed.data)

    def column(self, cell: int, type_: Arrow) -> Arrow:
        """Cells number ``cell`` of all rows."""
        bits = self._valid.slice(cell * self._stride, self._stride)
        data = self._data.slice(cell * self._rows * 8, self._rows * 8)
        return pa.Array.from_buffers(type_, self._rows, [bits, data])


def _column(feature: Feature, cells: I64, valid: U8, type_: Arrow) -> Arrow:
    if feature.words:
        return _texts(feature, cells, valid, type_)
    span = slice(feature.cell, feature.cell + feature.width)
    if feature.width == 1:
        return _values(cells[:, feature.cell], valid[:, feature.cell] != 0, type_)
    present = valid[:, span] != 0
    values = _values(
        cells[:, span][present], np.ones(int(present.sum()), dtype=bool), type_.value_type
    )
    return _lists(values, present, type_)


def _lists(values: Arrow, present: npt.NDArray[np.bool_], type_: Arrow) -> Arrow:
    """Values of rows together, of which each has as many as are ``present``; null without any."""
    counts = present.sum(axis=1)
    ends: Arrow = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    empty: Arrow = pa.array(counts == 0)
    return pa.ListArray.from_arrays(ends, values, type=type_, mask=empty)


def _texts(feature: Feature, cells: I64, valid: U8, type_: Arrow) -> Arrow:
    """Strings from their words, which are null together."""
    n, width = len(cells), feature.width
    span = slice(feature.cell, feature.cell + feature.cells)
    words = cells[:, span].reshape(n, len(feature.words), width).swapaxes(1, 2)
    present = valid[:, feature.cell : feature.cell + width] != 0
    if width == 1:
        return bytes_of(words[:, 0], present[:, 0], type_)
    kept = words[present]
    return _lists(bytes_of(kept, np.ones(len(kept), dtype=bool), type_.value_type), present, type_)


def _values(cells: I64, present: npt.NDArray[np.bool_], type_: Arrow) -> Arrow:
    bits = np.ascontiguousarray(cells)
    mask = ~present
    if pa.types.is_floating(type_):
        return pa.array(bits.view(np.float64), type=type_, mask=mask)
    if pa.types.is_boolean(type_):
        return pa.array(bits != 0, type=type_, mask=mask)
    return pa.array(bits, type=pa.int64(), mask=mask).cast(type_)
