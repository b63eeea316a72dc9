"""Frames to JSON events: columns are checked against the contract, then encoded as a whole.

Everything is refused by name before the first byte is sent, so a decoder that follows the same
contract rejects none of it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence

import polars as pl

from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.contracts.fields import EPOCH_UNITS
from pipeline.errors import DefinitionError
from pipeline.kernels.checks import MAX_KEY_BYTES
from pipeline.settings import suggest

__all__ = ["conform", "encode_json", "encode_keys"]

_OFFSET = r"(Z|[+-]\d{2}:\d{2})"
_INSTANT = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?"
_UUID = r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"
_EXACT_FLOAT = 2.0**53  # integers up to here are exact in float64
# Amounts that went through float sums are off by a few units in the last place (real data: 7e-12
# cents). So much is rounded away; more means that the contract's scale is wrong.
_DIGIT_NOISE = 1e-6  # of the last digit kept
_FLOAT_NOISE = 2.0**-50  # of the value


def conform(contract: Contract, frame: pl.DataFrame) -> pl.DataFrame:
    """``frame`` with every column as the contract's JSON needs it, in the contract's order.

    Integers widen, floats and decimals must have the contract's digits, times become text or
    epoch integers in the contract's unit. Columns that the contract does not name follow as
    they are, where it allows additional ones. Raises :class:`DefinitionError` naming the
    column, and the first row where single values are at fault.
    """
    _check_names(contract, frame.columns)
    columns: list[pl.Series] = []
    for field in contract.fields:
        if field.name in frame.columns:
            where = f"{contract.name}.{field.name}"
            column = _CONVERT[field.type](where, field, frame[field.name])
            if not field.nullable:
                _refuse_rows(where, column.is_null(), "is null and the contract allows no null")
            columns.append(column)
    known = set(contract.names)
    return pl.DataFrame([*columns, *(c for c in frame.get_columns() if c.name not in known)])


def encode_json(frame: pl.DataFrame) -> pl.Series:
    """One JSON object per row, as Binary[n]: UTF-8, no spaces, null as ``null``.

    Decimal columns come last: the encoder would write them as strings, so they are appended as
    the numbers they are.
    """
    decimals = [c for c, dtype in frame.schema.items() if dtype.base_type() is pl.Decimal]
    objects = [name for name in frame.columns if name not in decimals]
    if not decimals:
        return frame.select(_object(objects).cast(pl.Binary)).to_series()
    start = _object(objects).str.strip_suffix("}") if objects else pl.lit("{")
    members: list[pl.Expr] = []
    for name in decimals:
        comma = "," if members or objects else ""
        members += [
            pl.lit(f"{comma}{json.dumps(name)}:"),
            pl.col(name).cast(pl.String).fill_null("null"),
        ]
    return frame.select(pl.concat_str(start, *members, pl.lit("}")).cast(pl.Binary)).to_series()


def encode_keys(contract: Contract, frame: pl.DataFrame, key: Sequence[str]) -> pl.Series:
    """Message keys as Binary[n], made of the fields as :mod:`pipeline.ingest.entity` says.

    Raises :class:`DefinitionError` naming the column, and the first row that has no key, or one
    longer than a record may have.
    """
    parts = []
    for name in key:
        where = f"{contract.name}.{name}"
        if name not in frame.columns:
            raise DefinitionError(where, "is the key and the data has no such column")
        part = _key_part(where, contract.field(name), frame[name])
        _refuse_rows(where, part.is_null(), "has no value, and it is the key")
        if len(key) > 1 and contract.field(name).type is FieldType.BYTES:
            part = part.bin.encode("hex")
        elif len(key) > 1:
            part = part.cast(pl.String).str.replace_all(r"[\\|]", r"\${0}")
        parts.append(part.cast(pl.Binary))
    keys = parts[0]
    for part in parts[1:]:
        keys = keys + pl.Series([b"|"]) + part
    where = f"{contract.name}.{','.join(key)}"
    _refuse_rows(where, keys.bin.size() == 0, "has no value, and it is the key")
    _refuse_rows(where, keys.bin.size() > MAX_KEY_BYTES, "has a key of more than 64 KiB")
    return keys


def _key_part(where: str, field: Field, column: pl.Series) -> pl.Series:
    """The values of one field of the key: text, or Binary for bytes."""
    if field.type is FieldType.BYTES:
        return _binary(where, field, column)
    if field.type is FieldType.UUID:
        return _uuid(where, field, column)
    return column.cast(pl.String)


def _object(names: list[str]) -> pl.Expr:
    return pl.struct(names).struct.json_encode()


def _check_names(contract: Contract, names: list[str]) -> None:
    present = set(names)
    for field in contract.fields:
        if field.required and field.name not in present:
            raise DefinitionError(
                f"{contract.name}.{field.name}",
                f"the contract requires it and the data has no such column"
                f"{suggest(field.name, names)}",
            )
    if not contract.additional:
        for name in names:
            if name not in contract.names:
                raise DefinitionError(
                    f"{contract.name}.{name}",
                    f"the contract has no such field and allows no others"
                    f"{suggest(name, contract.names)}",
                )


def _refuse_rows(where: str, wrong: pl.Series, problem: str) -> None:
    """Raises if any row is wrong, naming the first and how many there are."""
    count = int(wrong.sum() or 0)
    if count:
        more = f" (and {count - 1} more)" if count > 1 else ""
        raise DefinitionError(where, f"row {wrong.arg_max()}{more} {problem}")


def _wrong_type(where: str, field: Field, column: pl.Series, hint: str = "") -> DefinitionError:
    return DefinitionError(
        where, f"the contract says {field.type.value}, the data is {column.dtype}{hint}"
    )


def _int64(where: str, field: Field, column: pl.Series) -> pl.Series:
    if column.dtype == pl.Null:
        return column
    if not column.dtype.is_integer():
        raise _wrong_type(where, field, column)
    if column.dtype in (pl.UInt64, pl.Int128, pl.UInt128):
        wide = column.cast(pl.Int64, strict=False).is_null() & column.is_not_null()
        _refuse_rows(where, wide, "does not fit 64 bits")
    return column


def _float64(where: str, field: Field, column: pl.Series) -> pl.Series:
    if column.dtype == pl.Null or column.dtype.is_integer():
        return column
    if not column.dtype.is_float():
        raise _wrong_type(where, field, column)
    _refuse_rows(where, ~column.is_finite(), "is NaN or infinite, which JSON cannot carry")
    return column


def _decimal(where: str, field: Field, column: pl.Series) -> pl.Series:
    if column.dtype == pl.Null or column.dtype.is_integer():
        return column
    digits = f"has more than the {field.scale} digits after the point that the contract keeps"
    if column.dtype.base_type() is pl.Decimal:
        kept = column.round(field.scale)
        _refuse_rows(where, kept != column, digits)
        return kept
    column = _float64(where, field, column).cast(pl.Float64)
    inexact = column.abs() * 10.0**field.scale > _EXACT_FLOAT
    _refuse_rows(where, inexact, "is too large to be exact as a float; give a decimal column")
    kept = column.round(field.scale)
    noise = (column.abs() * _FLOAT_NOISE).clip(lower_bound=_DIGIT_NOISE * 10.0**-field.scale)
    _refuse_rows(where, (column - kept).abs() > noise, digits)
    return kept


def _bool(where: str, field: Field, column: pl.Series) -> pl.Series:
    if column.dtype not in (pl.Boolean, pl.Null):
        raise _wrong_type(where, field, column)
    return column


def _string(where: str, field: Field, column: pl.Series) -> pl.Series:
    if column.dtype in (pl.String, pl.Null):
        return column
    if column.dtype.base_type() in (pl.Categorical, pl.Enum):
        return column.cast(pl.String)
    raise _wrong_type(where, field, column)


def _uuid(where: str, field: Field, column: pl.Series) -> pl.Series:
    """Text in lower case, of text, of ``uuid.UUID`` objects, or of 16 bytes."""
    if column.dtype == pl.Object:
        values = column.to_list()
        if not all(value is None or isinstance(value, uuid.UUID) for value in values):
            raise _wrong_type(where, field, column)
        return pl.Series(column.name, [None if v is None else str(v) for v in values], pl.String)
    if column.dtype == pl.Binary:
        _refuse_rows(where, column.bin.size() != 16, "is no uuid, which has 16 bytes")
        digits = column.bin.encode("hex")
        return digits.str.replace(r"^(.{8})(.{4})(.{4})(.{4})(.{12})$", "${1}-${2}-${3}-${4}-${5}")
    text = _string(where, field, column)
    if text.dtype == pl.Null:
        return text
    _refuse_rows(where, ~text.str.contains(_UUID), "is not a uuid")
    return text.str.to_lowercase()


def _binary(where: str, field: Field, column: pl.Series) -> pl.Series:
    if column.dtype == pl.String:
        raise _wrong_type(where, field, column, "; base64 text: .str.decode('base64')")
    if column.dtype not in (pl.Binary, pl.Null):
        raise _wrong_type(where, field, column)
    return column


def _base64(where: str, field: Field, column: pl.Series) -> pl.Series:
    column = _binary(where, field, column)
    return column if column.dtype == pl.Null else column.bin.encode("base64")


def _timestamp(where: str, field: Field, column: pl.Series) -> pl.Series:
    text = field.unit in {"iso", "iso-utc"}
    if column.dtype == pl.Null or (column.dtype.is_integer() and not text):
        return column
    if column.dtype == pl.String and text:
        pattern = _INSTANT + (f"{_OFFSET}?$" if field.unit == "iso-utc" else f"{_OFFSET}$")
        wrong = ~column.str.contains(pattern)
        _refuse_rows(where, wrong, "is not an RFC 3339 time such as 2017-01-01T08:30:00Z")
        return column
    if not isinstance(column.dtype, pl.Datetime):
        raise _wrong_type(where, field, column)
    if column.dtype.time_zone is None and field.unit != "iso-utc":
        hint = "; say which: column.dt.replace_time_zone('UTC'), or --timezone UTC"
        raise _wrong_type(where, field, column, f" without a time zone{hint}")
    if not text:
        return _epoch(where, field, column)
    zoned = column if column.dtype.time_zone is None else column.dt.convert_time_zone("UTC")
    return zoned.dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ")


def _epoch(where: str, field: Field, column: pl.Series) -> pl.Series:
    """Epoch integers in the contract's unit; a time finer than that is refused, not cut."""
    unit_ns = EPOCH_UNITS[field.unit]
    have_ns = EPOCH_UNITS[getattr(column.dtype, "time_unit", "ns")]
    count = column.to_physical()
    if have_ns >= unit_ns:
        return count * (have_ns // unit_ns)
    step = unit_ns // have_ns
    _refuse_rows(where, count % step != 0, f"is finer than the contract's unit {field.unit!r}")
    return count // step


_CONVERT: dict[FieldType, Callable[[str, Field, pl.Series], pl.Series]] = {
    FieldType.INT64: _int64,
    FieldType.FLOAT64: _float64,
    FieldType.DECIMAL: _decimal,
    FieldType.BOOL: _bool,
    FieldType.STRING: _string,
    FieldType.TIMESTAMP: _timestamp,
    FieldType.UUID: _uuid,
    FieldType.BYTES: _base64,
}
