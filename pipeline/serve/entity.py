"""Entity keys as callers have them, to the bytes and partitions that the store knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.kernels.hash import partition_of

__all__ = ["EntityKeys", "encode_keys"]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Column: TypeAlias = "pa.Array[Any]"


@dataclass(frozen=True, slots=True)
class EntityKeys:
    """n keys: ``column`` as given (Arrow), and as the message keys they are in Kafka.

    ``keys`` uint8[..] with ``key_offsets`` int64[n+1].
    """

    column: Column
    keys: U8
    key_offsets: I64

    def __len__(self) -> int:
        return len(self.key_offsets) - 1

    def key(self, i: int) -> bytes:
        """Key ``i`` as bytes; for messages."""
        return self.keys[self.key_offsets[i] : self.key_offsets[i + 1]].tobytes()

    def partitions(self, count: int) -> I32:
        """Partition of each key among ``count``, int32[n]."""
        out = np.empty(len(self), dtype=np.int32)
        partition_of(self.keys, self.key_offsets, count, out)
        return out


def encode_keys(entity: str, entity_type: str, values: object) -> EntityKeys:
    """Keys from a list, NumPy, Arrow, polars or pandas column.

    int64 keys become ASCII decimals, strings UTF-8. TypeError, which names the entity, for values
    of another type (floats are not rounded, numbers are not spelled out), nulls, and more than one
    dimension.
    """
    column = _column(entity, values)
    if column.null_count:
        raise TypeError(f"{entity}: {column.null_count} of {len(column)} keys are null")
    if entity_type == "int64":
        if not (pa.types.is_integer(column.type) or not len(column)):
            raise TypeError(f"{entity}: keys are integers, got {column.type}")
        column = _cast(entity, column, pa.int64())
        return EntityKeys(column, *_bytes(column.cast(pa.string())))
    if not (_is_text(column.type) or not len(column)):
        raise TypeError(f"{entity}: keys are strings, got {column.type}")
    column = _cast(entity, column, pa.string())
    return EntityKeys(column, *_bytes(column))


def _column(entity: str, values: object) -> Column:
    if isinstance(values, str | bytes | int | float):
        raise TypeError(f"{entity}: a list or column of keys is wanted, got {values!r}")
    try:
        given = isinstance(values, pa.Array | pa.ChunkedArray)
        column: Any = values if given else pa.array(cast(Any, values))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as wrong:
        raise TypeError(f"{entity}: not a column of keys: {wrong}") from wrong
    return cast(Column, column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)


def _is_text(type_: pa.DataType) -> bool:
    value = type_.value_type if pa.types.is_dictionary(type_) else type_
    is_view = pa.types.is_string_view(value)
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value) or is_view)


def _cast(entity: str, column: Column, type_: pa.DataType) -> Column:
    if column.type == type_:
        return column
    try:
        return column.cast(type_)
    except pa.ArrowException as wrong:
        raise TypeError(f"{entity}: {wrong}") from wrong


def _bytes(column: Column) -> tuple[U8, I64]:
    _, bounds, data = column.buffers()
    n = len(column)
    if bounds is None or data is None or not n:
        return np.empty(0, dtype=np.uint8), np.zeros(n + 1, dtype=np.int64)
    offsets = np.frombuffer(memoryview(bounds), dtype=np.int32)[
        column.offset : column.offset + n + 1
    ]
    # A copy, since kernels are compiled for arrays that may be written.
    return np.array(np.frombuffer(memoryview(data), dtype=np.uint8)), offsets.astype(np.int64)
