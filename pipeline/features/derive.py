"""Computes what a plan's kernels need per event: input columns and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.features.expressions import FAILURES, deserialize
from pipeline.features.plan import CellType, Plan
from pipeline.features.strict import StrictSteps
from pipeline.ingest.batch import EventBatch, Reason
from pipeline.ingest.columns import to_polars

__all__ = ["Derivation", "Derived"]

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
_Out = tuple[I64, U8, U8]  # inputs, valid and masks to be filled
_OK = int(Reason.OK)
_NO_ROWS = np.empty(0, dtype=np.int64)
CASTS = {CellType.INT: pl.Int64, CellType.FLOAT: pl.Float64, CellType.BOOL: pl.Boolean}


@dataclass(frozen=True, slots=True)
class Derived:
    """Kernel inputs of ``n`` events.

    ``inputs``  int64[k, n]  64-bit patterns (float64 bits for float inputs)
    ``valid``   uint8[k, n]  1 where not null
    ``masks``   uint8[m, n]  1 where true (null is false); the plan's masks, then the extra ones
    ``failed``  int64[f]     rows on which an expression failed; to be rejected
    ``nulls``   int64[r]     rows with a null that an aggregation rejects
    ``long``    int64[l]     rows with a string that is too long
    """

    inputs: I64
    valid: U8
    masks: U8
    failed: I64
    nulls: I64
    long: I64


class Derivation:
    """The expressions of one plan (and of its triggers), deserialised once.

    Plain fields go to the kernels without a copy through polars; expressions
    are evaluated together, in one pass over the columns they read.
    """

    def __init__(self, plan: Plan, extra_masks: Sequence[str] = ()) -> None:
        self._plan = plan
        self._fields = [(i, name) for i, name in enumerate(plan.inputs) if not name.startswith("{")]
        self._masks = (*plan.masks, *extra_masks)
        self._expressions: list[pl.Expr] = []
        self._computed: list[tuple[int, CellType]] = []
        for i, (text, cell) in enumerate(zip(plan.inputs, plan.input_types, strict=True)):
            if text.startswith("{"):
                expression = deserialize(text)
                if cell in CASTS:
                    expression = expression.cast(CASTS[cell], strict=False)
                self._expressions.append(expression.alias(f"i{i}"))
                self._computed.append((i, cell))
        self._expressions += [deserialize(m).alias(f"m{i}") for i, m in enumerate(self._masks)]
        self._strict = StrictSteps([t for t in plan.inputs if t.startswith("{")] + [*self._masks])
        self._roots = sorted({r for e in self._expressions for r in e.meta.root_names()})
        self.fields = self._event_fields()

    def compute(self, events: EventBatch) -> Derived:
        """Inputs and masks of ``events``; rejected rows and tombstones hold undefined values."""
        n = len(events)
        inputs = np.empty((len(self._plan.inputs), n), dtype=np.int64)
        valid = np.empty((len(self._plan.inputs), n), dtype=np.uint8)
        masks = np.empty((len(self._masks), n), dtype=np.uint8)
        for i, name in self._fields:
            inputs[i] = events.columns[name].view(np.int64)
            valid[i] = events.valid[name]
        failed = _NO_ROWS
        if self._expressions:
            failed = self._evaluate(to_polars(events, self._roots), (inputs, valid, masks))
        nulls = long = _NO_ROWS
        if self._plan.reject >= 0 or self._plan.long >= 0:
            event = (events.reason == _OK) & (events.tombstones == 0)
            nulls, long = (
                np.flatnonzero((masks[mask] != 0) & event) if mask >= 0 else _NO_ROWS
                for mask in (self._plan.reject, self._plan.long)
            )
        if len(failed):
            masks[:, failed] = 0
            for i, _ in self._computed:
                valid[i, failed] = 0
            failed = failed[(events.reason[failed] == _OK) & (events.tombstones[failed] == 0)]
        return Derived(inputs, valid, masks, failed, nulls, long)

    def _event_fields(self) -> frozenset[str]:
        """Names of the event fields that are read, those that its look-ups read included."""
        read = frozenset([*self._roots, *(name for _, name in self._fields)])
        for lookup in self._plan.lookups:
            read = read - frozenset(lookup.columns) | Derivation(lookup.plan).fields
        return read

    def _evaluate(self, frame: pl.DataFrame, out: _Out) -> I64:
        """Fill ``out``; rows that fail, in order. Where they cannot be told by the strict steps of
        the expressions, those that are left are halved down to them."""
        n = len(frame)
        if self._fill(frame, slice(0, n), out):
            return _NO_ROWS
        strict = self._strict.failing(frame, self._succeeds)
        failed = np.flatnonzero(strict).tolist()
        self._halve(frame.filter(~strict), np.flatnonzero(~strict), out, failed)
        return np.array(sorted(failed), dtype=np.int64)

    def _halve(self, frame: pl.DataFrame, rows: I64, out: _Out, failed: list[int]) -> None:
        """Fill ``rows`` from ``frame``, and add those of them to ``failed`` that fail alone."""
        if not len(rows) or self._fill(frame, rows, out):
            return
        if len(rows) == 1:
            failed.append(int(rows[0]))
            return
        half = len(rows) // 2
        self._halve(frame[:half], rows[:half], out, failed)
        self._halve(frame[half:], rows[half:], out, failed)

    def _succeeds(self, frame: pl.DataFrame) -> bool:
        try:
            frame.select(self._expressions)
        except FAILURES:
            return False
        return True

    def _fill(self, frame: pl.DataFrame, rows: slice | I64, out: _Out) -> bool:
        """Fill ``rows`` from ``frame``; false where an expression fails."""
        inputs, valid, masks = out
        n = len(frame)
        try:
            result = frame.select(self._expressions)
        except FAILURES:
            return False
        for i, cell in self._computed:
            column = _broadcast(result[f"i{i}"], n)
            valid[i, rows] = column.is_not_null().to_numpy()
            inputs[i, rows] = _bits(column, cell)
        for i in range(len(self._masks)):
            masks[i, rows] = _broadcast(result[f"m{i}"], n).fill_null(False).to_numpy()
        return True


def _broadcast(column: pl.Series, n: int) -> pl.Series:
    """A constant expression gives one row for all."""
    return column if len(column) == n else column.new_from_index(0, n)


def _bits(column: pl.Series, cell: CellType) -> I64:
    if cell is CellType.FLOAT:
        return column.fill_null(0.0).to_numpy().astype(np.float64, copy=False).view(np.int64)
    if cell is CellType.BOOL:
        return column.fill_null(False).to_numpy().astype(np.int64)
    return column.to_physical().fill_null(0).to_numpy().astype(np.int64, copy=False)
