"""Entity keys as callers have them, to the bytes and partitions that the store knows."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.ingest.batch import Reason
from pipeline.ingest.entity import KeyPart, join_keys
from pipeline.ingest.forms import lower_uuids, uuid_texts
from pipeline.kernels.hash import partition_of

__all__ = ["EntityKeys", "KeyColumn", "encode_keys", "key_column"]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Column: TypeAlias = "pa.Array[Any]"


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """One field of n keys: ``column`` for answers (Arrow; a uuid is text), ``part`` for the key."""

    column: Column
    part: KeyPart

    def __len__(self) -> int:
        return len(self.column)


@dataclass(frozen=True, slots=True)
class EntityKeys:
    """n keys as the message keys they are in Kafka: ``keys`` uint8[..], ``key_offsets`` int64[n+1].

    A key that cannot be one (of 0 bytes, or more than 64 KiB) has no bytes, and no row.
    """

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


def encode_keys(columns: Sequence[KeyColumn]) -> EntityKeys:
    """The keys made of one column a field, in the order of the view's entity."""
    found = join_keys([c.part for c in columns], np.ones(len(columns[0]), dtype=np.uint8))
    return EntityKeys(found.keys, found.offsets)


def key_column(entity: str, entity_type: str, values: object) -> KeyColumn:
    """Keys of one field from a list, NumPy, Arrow, polars or pandas column.

    int64 takes integers, string text, uuid text or ``uuid.UUID`` (16 bytes in Arrow), bytes
    ``bytes``. TypeError, which names the field, for values of another type (floats are not rounded,
    numbers are not spelled out), text that is no uuid, nulls, and more than one dimension.
    """
    column = _column(entity, values)
    if column.null_count:
        raise TypeError(f"{entity}: {column.null_count} of {len(column)} keys are null")
    if entity_type == "int64":
        _require(entity, column, "integers", pa.types.is_integer(column.type))
        column = _cast(entity, column, pa.int64())
        numbers: I64 = column.to_numpy()
        nothing = np.zeros(len(column), dtype=np.int64)
        return KeyColumn(column, _part("int64", numbers, np.empty(0, np.uint8), nothing, nothing))
    if entity_type == "bytes":
        _require(entity, column, "bytes", _is_bytes(column.type))
        return _texts("bytes", _cast(entity, column, pa.binary()))
    if entity_type == "uuid":
        return _uuids(entity, column)
    _require(entity, column, "strings", _is_text(column.type))
    return _texts("string", _cast(entity, column, pa.string()))


def _uuids(entity: str, column: Column) -> KeyColumn:
    raw: Any = column.storage if isinstance(column, pa.ExtensionArray) else column
    if pa.types.is_fixed_size_binary(raw.type) and raw.type.byte_width == 16:
        data = np.frombuffer(b"".join(raw.to_pylist()), dtype=np.uint8).reshape(-1, 16)
        return _texts("uuid", _strings(uuid_texts(data)))
    _require(entity, column, "uuids or their text", _is_text(column.type))
    given = _texts("uuid", _cast(entity, column, pa.string())).part
    reason = np.zeros(len(column), dtype=np.uint8)
    text = given.data, given.start, given.length
    data, _, _ = lower_uuids(text, given.valid, reason, np.empty(len(column), dtype=np.int64))
    if reason.any():
        wrong = int(np.flatnonzero(reason == Reason.SCHEMA)[0])
        raise TypeError(
            f"{entity}: {column[wrong].as_py()!r} is no uuid such as {uuid.UUID(int=0)}"
        )
    return _texts("uuid", _strings(data.reshape(-1, 36)))


def _strings(rows: U8) -> Column:
    """Text of equal lengths, uint8[n, length]."""
    bounds = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    buffers = [None, pa.py_buffer(bounds.data), pa.py_buffer(np.ascontiguousarray(rows).data)]
    return pa.Array.from_buffers(pa.string(), len(rows), cast(Any, buffers))


def _part(type_: str, values: I64, data: U8, start: I64, length: I64) -> KeyPart:
    return KeyPart(type_, values, data, start, length, np.ones(len(start), dtype=np.uint8))


def _texts(type_: str, column: Column) -> KeyColumn:
    _, bounds, data = column.buffers()
    n = len(column)
    if bounds is None or data is None or not n:
        nothing = np.zeros(n, dtype=np.int64)
        return KeyColumn(column, _part(type_, nothing, np.empty(0, np.uint8), nothing, nothing))
    offsets = np.frombuffer(memoryview(bounds), dtype=np.int32)[
        column.offset : column.offset + n + 1
    ].astype(np.int64)
    values = np.frombuffer(memoryview(data), dtype=np.uint8)
    start, length = offsets[:-1].copy(), np.diff(offsets)
    return KeyColumn(column, _part(type_, start, values, start, length))


def _column(entity: str, values: object) -> Column:
    if isinstance(values, str | bytes | int | float | uuid.UUID):
        raise TypeError(f"{entity}: a list or column of keys is wanted, got {values!r}")
    try:
        given = isinstance(values, pa.Array | pa.ChunkedArray)
        column: Any = values if given else pa.array(cast(Any, values))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as wrong:
        raise TypeError(f"{entity}: not a column of keys: {wrong}") from wrong
    return cast(Column, column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)


def _require(entity: str, column: Column, wanted: str, fits: bool) -> None:
    """TypeError unless the type fits; an empty column has none to speak of."""
    if not fits and len(column):
        raise TypeError(f"{entity}: keys are {wanted}, got {column.type}")


def _is_text(type_: pa.DataType) -> bool:
    value = type_.value_type if pa.types.is_dictionary(type_) else type_
    is_view = pa.types.is_string_view(value)
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value) or is_view)


def _is_bytes(type_: pa.DataType) -> bool:
    value = type_.value_type if pa.types.is_dictionary(type_) else type_
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view,
             pa.types.is_fixed_size_binary)  # fmt: skip
    return any(kind(value) for kind in kinds)


def _cast(entity: str, column: Column, type_: pa.DataType) -> Column:
    if column.type == type_:
        return column
    try:
        return column.cast(type_)
    except pa.ArrowException as wrong:
        raise TypeError(f"{entity}: {wrong}") from wrong
