"""Decoded events as Arrow or polars columns, for expressions and archives.

Values stay where they are wherever Arrow can refer to them: integers, floats, timestamps and the
bytes of strings are not copied.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from pipeline.contracts.contract import FieldType
from pipeline.errors import UnknownNameError
from pipeline.ingest.batch import EventBatch
from pipeline.kernels.views import string_views

__all__ = ["to_arrow", "to_polars"]

_FLAT: dict[FieldType, Any] = {
    FieldType.INT64: pa.int64(),
    FieldType.TIMESTAMP: pa.timestamp("ns", tz="UTC"),
}
_VIEWS: dict[FieldType, Any] = {
    FieldType.STRING: pa.string_view(),
    FieldType.UUID: pa.string_view(),
    FieldType.BYTES: pa.binary_view(),
}
_MAX_VIEW = 2**31 - 1  # a string view refers to its buffer by an int32


def to_arrow(events: EventBatch, names: Iterable[str]) -> pa.RecordBatch:
    """The named columns of all ``n`` records, in the order of ``names``.

    INT64 int64, FLOAT64 float64, BOOL bool, TIMESTAMP timestamp(ns, UTC), STRING and UUID
    string_view, BYTES binary_view;
    DECIMAL **float64** (the scaled integer over 10**scale: what expressions see; the exact integer
    is in ``events.columns``). Null where the field is null and on every rejected row. Refers to the
    buffers of ``events``. Raises :class:`UnknownNameError` for a name that is no field.
    """
    wanted = list(names)
    rejected = events.reason != 0
    arrays = [_array(events, name, rejected if rejected.any() else None) for name in wanted]
    if not wanted:
        nothing: Any = pa.Array.from_buffers(pa.struct([]), len(events), [None])
        return pa.RecordBatch.from_struct_array(nothing)
    return pa.RecordBatch.from_arrays(arrays, names=wanted)


def to_polars(events: EventBatch, names: Iterable[str]) -> pl.DataFrame:
    """As :func:`to_arrow`, as a frame: Int64, Float64, Boolean, Datetime(ns, UTC), String,
    Binary."""
    wanted = list(names)
    if not wanted:
        return pl.DataFrame(height=len(events))
    frame = pl.from_arrow(to_arrow(events, wanted))
    if not isinstance(frame, pl.DataFrame):
        raise TypeError(f"polars made a {type(frame).__name__} of a record batch")
    return frame


def _array(events: EventBatch, name: str, rejected: npt.NDArray[np.bool_] | None) -> Any:
    field = events.fields.get(name)
    if field is None:
        raise UnknownNameError(
            f"there is no field {name!r} among the events of {events.source}; "
            f"there are: {', '.join(events.fields)}"
        )
    n, column = len(events), events.columns[name]
    bits = _validity(events.valid[name], rejected)
    if field.type in _VIEWS:
        return _strings(events, name, bits, _VIEWS[field.type])
    if field.type is FieldType.DECIMAL:
        column = column / float(10**field.scale)
    elif field.type is FieldType.BOOL:
        packed = np.packbits(column.astype(np.bool_), bitorder="little")
        return pa.Array.from_buffers(pa.bool_(), n, [bits, _buffer(packed)])
    kind = _FLAT.get(field.type, pa.float64())
    return pa.Array.from_buffers(kind, n, [bits, _buffer(np.ascontiguousarray(column))])


def _buffer(array: Any) -> Any:
    """The memory of an array as an Arrow buffer, which keeps the array alive."""
    return pa.py_buffer(array)


def _validity(valid: npt.NDArray[np.uint8], rejected: npt.NDArray[np.bool_] | None) -> Any:
    """Arrow's validity bitmap; None where nothing is null."""
    present = valid == 1 if rejected is None else (valid == 1) & ~rejected
    if present.all():
        return None
    return _buffer(np.packbits(present, bitorder="little"))


def _strings(events: EventBatch, name: str, bits: Any, kind: Any) -> Any:
    text, start, length = events.strings[name]
    if len(text) > _MAX_VIEW:
        raise ValueError(f"{len(text)} bytes in a batch; strings can refer to 2 GiB at most")
    frozen = text.view()
    frozen.flags.writeable = False
    views = np.empty(2 * len(events), dtype=np.uint64)
    string_views(frozen, start, length, events.reason, views)
    buffers = [bits, _buffer(views), _buffer(text)]
    return pa.Array.from_buffers(kind, len(events), buffers)
