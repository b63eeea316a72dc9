"""One Kafka message as an Arrow IPC stream of rows, from anybody.

Reading takes nothing on trust. pyarrow reads a stream that lost its end, inflates a 32 KiB body
to 1 GiB, and follows string offsets out of the buffer. So the framing and the sizes that a message
claims are looked at first (:mod:`pipeline.ingest.arrowframe`), only columns that are asked for
are loaded, ``validate(full=True)`` runs before a value is touched, and a column becomes the type
that is wanted only where nothing has to be guessed.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.arrowframe import FAILURES, Limits, Malformed, inspect
from pipeline.ingest.batch import Reason
from pipeline.ingest.forms import uuid_texts

__all__ = ["UNIT", "Limits", "read_message", "write_message"]

Column: TypeAlias = Any  # a pyarrow Array of a type that only its bytes know
ArrowField: TypeAlias = Any  # a pyarrow Field

ROWS = b"rows"
UNIT = b"unit"  # field metadata: of integers that are wanted as timestamps, iso-utc, or uuid
_INTEGER_UNITS = ("s", "ms", "us", "ns")
_DEFAULTS = Limits()


class _Refused(Exception):  # noqa: N818  (never leaves the module)
    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason


def write_message(batch: pa.RecordBatch) -> bytes:
    """IPC stream bytes of one batch, uncompressed; ``rows`` joins the schema's metadata."""
    noted = {**(batch.schema.metadata or {}), ROWS: str(batch.num_rows).encode()}
    batch = batch.replace_schema_metadata(noted)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_message(
    buffer: Any, schema: pa.Schema | None, limits: Limits = _DEFAULTS, *, closed: bool = False
) -> pa.RecordBatch | Reason:
    """All rows of the stream in ``buffer``, as the columns of ``schema``; or why there are none.

    ``buffer`` is anything with the buffer protocol; ``schema`` None means every column as it is.
    The stream may have any number of record batches. It must end with the end marker, or say the
    number of its rows in the schema metadata ``rows``; where it says that, it must be so.

    Columns are found by name; others are refused (SCHEMA) if ``closed``, else never loaded. One
    that is missing is null, if it may be. Taken as they are, or without loss: any integer, as
    integer or decimal; any integer or float as float64; any decimal; strings, binary; dictionaries
    of those; timestamps of any unit with a time zone; naive ones where the wanted field's metadata
    ``unit`` is ``iso-utc``; integers as timestamps where it is s, ms, us or ns; uuids and 16 bytes
    as their 36 characters where it is ``uuid``. Everything else,
    and null where there must be none: SCHEMA. A value that does not fit: RANGE. Not such a
    stream, or cut off, or with compressed bodies that ``limits`` do not allow: DECODE. More
    rows or bytes than the limits: TOO_LARGE.

    Never raises for what the bytes are. Buffers of the result may be views of ``buffer``.
    """
    data = memoryview(buffer).cast("B")
    if len(data) == 0:
        return Reason.EMPTY
    try:
        frame = inspect(data, limits)
        return _read(data, frame.rows, frame.ended, schema, closed, limits)
    except _Refused as refused:
        return refused.reason
    except Malformed as malformed:
        return malformed.reason
    except FAILURES:
        return Reason.DECODE


def _read(
    data: memoryview, rows: int, ended: bool, schema: pa.Schema | None, closed: bool, limits: Limits
) -> pa.RecordBatch:
    # A copy where it is needed: column data has to lie at multiples of 8 bytes.
    aligned = np.frombuffer(data, dtype=np.uint8).ctypes.data % 8 == 0
    source = pa.py_buffer(data if aligned else data.tobytes())
    found = pa.ipc.read_schema(source)
    names = found.names  # not validated: may raise, as they may not be UTF-8
    noted = (found.metadata or {}).get(ROWS)
    if noted != str(rows).encode() if noted is not None else not ended:
        raise _Refused(Reason.DECODE)
    if schema is None:
        return _load(source, None, rows)
    wanted = set(schema.names)
    if any(names.count(name) > 1 for name in wanted) or (closed and set(names) - wanted):
        raise _Refused(Reason.SCHEMA)
    present = [i for i, name in enumerate(names) if name in wanted]
    batch = _load(source, present, rows) if present else None
    columns = [_column(batch, field, rows, limits) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _load(source: pa.Buffer, included: list[int] | None, rows: int) -> pa.RecordBatch:
    options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=included or [])
    with pa.ipc.open_stream(source, options=options) as reader:
        batches = list(reader)
        schema = reader.schema
    for batch in batches:
        batch.validate(full=True)
    if sum(batch.num_rows for batch in batches) != rows:
        raise _Refused(Reason.DECODE)
    if len(batches) == 1:
        return batches[0]
    table = pa.Table.from_batches(batches, schema).unify_dictionaries().combine_chunks()
    merged = table.to_batches() or [pa.RecordBatch.from_pylist([], schema=schema)]
    return merged[0]


def _column(batch: pa.RecordBatch | None, field: ArrowField, rows: int, limits: Limits) -> Column:
    if batch is None or field.name not in batch.schema.names:
        if not field.nullable:
            raise _Refused(Reason.SCHEMA)
        return pa.nulls(rows, field.type)
    column = batch.column(field.name)
    if column.null_count and not field.nullable:
        raise _Refused(Reason.SCHEMA)
    column = _expand(column, limits)
    try:
        return _cast(column, field)
    except pa.ArrowInvalid as error:
        raise _Refused(Reason.RANGE) from error


def _expand(column: Column, limits: Limits) -> Column:
    """Dictionaries and views as plain arrays, unless that is more than the limits allow."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        values = column.dictionary
        if pa.types.is_dictionary(values.type) or pa.types.is_nested(values.type):
            raise _Refused(Reason.SCHEMA)
        values = _expand(values, limits)
        if pa.types.is_large_string(values.type) or pa.types.is_string(values.type):
            sizes = pc.binary_length(values).take(column.indices)
            _bound(int(pc.sum(sizes).as_py() or 0), limits)
        elif not _is_scalar(values.type):
            raise _Refused(Reason.SCHEMA)
        return values.take(column.indices)
    if kind == pa.string_view():
        count = 4 * (column.offset + len(column))
        words = np.frombuffer(column.buffers()[1], dtype="<i4", count=count)
        sizes = words[4 * column.offset :: 4][: len(column)].astype(np.int64)
        _bound(int(sizes[column.is_valid().to_numpy(zero_copy_only=False)].sum()), limits)
        # pyarrow's own cast copies what a null row says it is long, wherever that ends.
        return pa.array(column.to_pylist(), pa.string())
    return column


def _bound(size: int, limits: Limits) -> None:
    if size > limits.max_bytes:
        raise _Refused(Reason.TOO_LARGE)


def _is_scalar(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_timestamp(kind)
        or types.is_boolean(kind)
    )


def _cast(column: Column, field: ArrowField) -> Column:
    """``column`` as the type of ``field``; ArrowInvalid where a value does not fit."""
    types, kind, wanted = pa.types, column.type, field.type
    if isinstance(kind, pa.UuidType):
        column, kind = column.storage, pa.binary(16)
    integral = types.is_integer(kind)
    if kind == wanted:
        return column
    if types.is_integer(wanted) and integral:
        return column.cast(wanted)
    if types.is_floating(wanted) and (integral or types.is_floating(kind)):
        return column.cast(wanted, safe=False)  # the nearest one, as in every other format
    if types.is_decimal(wanted) and (integral or types.is_decimal(kind)):
        if integral:
            column = column.cast(pa.decimal128(20))
        elif not 0 <= kind.scale <= kind.precision:
            raise _Refused(Reason.SCHEMA)  # pyarrow 26 looks 10**scale up without a bound: SIGSEGV
        # By way of a width that holds every intermediate result
        return column.cast(pa.decimal256(76, wanted.scale)).cast(wanted)
    if types.is_string(wanted) and (types.is_large_string(kind) or types.is_string(kind)):
        return column.cast(wanted)
    if types.is_binary(wanted) and (
        types.is_large_binary(kind) or types.is_fixed_size_binary(kind) or types.is_binary(kind)
    ):
        return column.cast(wanted)
    if kind == pa.binary(16) and (field.metadata or {}).get(UNIT) == b"uuid":
        return _uuids(column)
    if types.is_timestamp(wanted):
        return _timestamps(column, field)
    raise _Refused(Reason.SCHEMA)


def _uuids(column: Column) -> Column:
    """16 bytes each as text."""
    raw = np.frombuffer(column.buffers()[1], dtype=np.uint8).reshape(-1, 16)
    texts = uuid_texts(raw[column.offset : column.offset + len(column)])
    ends = np.arange(len(column) + 1, dtype=np.int32) * texts.shape[1]
    valid = None if not column.null_count else pc.is_valid(column)
    data = [pa.py_buffer(ends), pa.py_buffer(texts.tobytes())]
    whole = pa.Array.from_buffers(pa.string(), len(column), [None, *data])
    return whole if valid is None else pc.if_else(valid, whole, pa.scalar(None, pa.string()))


def _timestamps(column: Column, field: ArrowField) -> Column:
    kind, wanted = column.type, field.type
    unit = (field.metadata or {}).get(UNIT, b"").decode()
    if pa.types.is_integer(kind) and unit in _INTEGER_UNITS:
        return column.cast(pa.int64()).cast(pa.timestamp(unit, tz=wanted.tz)).cast(wanted)
    if not pa.types.is_timestamp(kind):
        raise _Refused(Reason.SCHEMA)
    if kind.tz is None and wanted.tz is not None and unit != "iso-utc":
        raise _Refused(Reason.SCHEMA)  # local time somewhere
    if kind.tz is not None and wanted.tz is None:
        raise _Refused(Reason.SCHEMA)
    # The count since the epoch is what it is in every time zone: nothing looks one up.
    count = column.cast(pa.int64())
    return count.cast(pa.timestamp(kind.unit, tz=wanted.tz)).cast(wanted)
