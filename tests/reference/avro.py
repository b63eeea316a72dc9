"""The obvious twin of :mod:`pipeline.kernels.avro` and its programs: a recursion over the writer's
schema that reads Python values, and puts them where the contract wants them."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pipeline.contracts.avro import AvroLayout, AvroNode, constant, layout_of_names
from pipeline.contracts.avroschema import NO_DEFAULT, Schema
from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.contracts.fields import EPOCH_UNITS
from tests.reference import timestamps

UNITS = {"millis": 10**6, "micros": 10**3, "nanos": 1}
MAX_DEPTH = 100
ORDER = ["decode", "schema", "range", "ok"]
TEXTS = {FieldType.STRING, FieldType.UUID, FieldType.BYTES}


class MalformedError(ValueError):
    """Not a record of the writer's schema."""


class _WrongError(ValueError):
    """A value that the contract does not have there: the reason."""


@dataclass
class Datum:
    """A value and the writer's type that it is of (never a union)."""

    schema: Schema
    value: Any


class Source(io.BytesIO):
    def take(self, n: int) -> bytes:
        data = self.read(n) if n >= 0 else b""
        if n < 0 or len(data) != n:
            raise MalformedError("cut off")
        return data

    def long(self) -> int:
        bits = 0
        for k in range(10):
            byte = self.take(1)[0]
            bits |= (byte & 0x7F) << (7 * k)
            if byte < 0x80:
                if bits >= 2**64:
                    break
                return (bits >> 1) ^ -(bits & 1)
        raise MalformedError("too long")


def read(source: Source, schema: Schema, wanted: bool, depth: int = 0) -> Datum:
    """One value. What is not wanted is passed over by its size, where it has one."""
    if depth > MAX_DEPTH:
        raise MalformedError("depth")
    kind = schema.kind
    value: Any = None
    if kind == "union":
        branch = source.long()
        if not 0 <= branch < len(schema.branches):
            raise MalformedError("branch")
        return read(source, schema.branches[branch], wanted, depth + 1)
    if kind == "boolean":
        value = source.take(1)[0]
        if wanted and value > 1:
            raise MalformedError("boolean")
    elif kind in {"int", "long"}:
        value = source.long()
        if kind == "int" and wanted and not -(2**31) <= value < 2**31:
            raise MalformedError("int")
    elif kind in {"float", "double"}:
        form = "<f" if kind == "float" else "<d"
        value = struct.unpack(form, source.take(struct.calcsize(form)))[0]
    elif kind in {"bytes", "string"}:
        value = source.take(source.long())
    elif kind == "fixed":
        value = source.take(schema.size)
    elif kind == "enum":
        value = source.long()
        if wanted and not 0 <= value < len(schema.symbols):
            raise MalformedError("symbol")
    elif kind in {"array", "map"} and schema.items is not None:
        count = source.long()
        while count:
            if count < 0:
                source.take(source.long())
                count = 0
            if not _size(schema):
                count = 0
            for _ in range(count):
                if kind == "map":
                    source.take(source.long())
                read(source, schema.items, False, depth + 1)
            count = source.long()
    elif kind == "record":
        value = {f.name: read(source, f.schema, wanted, depth + 1) for f in schema.fields}
    return Datum(schema, value)


def _size(schema: Schema) -> bool:
    """Whether the items of an array or map have bytes."""
    items = schema.items
    if schema.kind == "map" or items is None:
        return True
    empty = items.kind == "null" or (items.kind == "fixed" and items.size == 0)
    return not empty and not (items.kind == "record" and not items.fields)


def decode(value: bytes, writer: Schema, contract: Contract) -> tuple[str, dict[str, Any]]:
    """Reason in lower case, and for ``ok`` the columns as Python values (null: None)."""
    layout = contract.layout
    nodes = layout_of_names(contract.names)
    nodes = layout.nodes if isinstance(layout, AvroLayout) else nodes
    source = Source(value)
    reasons: list[str] = []
    columns: dict[str, Any] = {}
    try:
        _wanted(source, writer, nodes, contract, columns, reasons, 0)
        if source.read(1):
            raise MalformedError("more")
    except MalformedError:
        return "decode", {}
    if not contract.additional and len(writer.fields) > len(nodes):
        reasons.append("schema")
    return min([*reasons, "ok"], key=ORDER.index), columns


def _wanted(
    source: Source,
    writer: Schema,
    nodes: tuple[AvroNode, ...],
    contract: Contract,
    columns: dict[str, Any],
    reasons: list[str],
    depth: int,
) -> None:
    """Read a record; its columns and the reasons against it are collected."""
    names = [f.name for f in writer.fields]
    taken: dict[str, AvroNode] = {}
    for node in nodes:
        for name in node.names:
            if name in names and name not in taken:
                taken[name] = node
                break
        else:
            _missing(node, node.default, contract, columns, reasons)
    for field in writer.fields:
        if field.name in taken:
            _place(source, field.schema, taken[field.name], contract, columns, reasons, depth)
        else:
            read(source, field.schema, False, depth + 1)


def _place(
    source: Source,
    schema: Schema,
    node: AvroNode,
    contract: Contract,
    columns: dict[str, Any],
    reasons: list[str],
    depth: int,
) -> None:
    if schema.kind == "union":
        branch = source.long()
        if not 0 <= branch < len(schema.branches):
            raise MalformedError("branch")
        _place(source, schema.branches[branch], node, contract, columns, reasons, depth)
    elif schema.kind == "null":
        if not node.nullable:  # in a record that may be null, its columns are nullable all the same
            reasons.append("schema")
        for leaf in node.leaves():
            columns[contract.fields[leaf].name] = None
            if not contract.fields[leaf].nullable:
                reasons.append("schema")
    elif node.index < 0:
        if schema.kind == "record":
            _wanted(source, schema, node.children, contract, columns, reasons, depth + 1)
        else:
            reasons.append("schema")
            read(source, schema, False, depth + 1)
    else:
        field = contract.fields[node.index]
        fits = _fits(schema, field, node)
        datum = read(source, schema, fits, depth + 1)
        try:
            if not fits:
                raise _WrongError("schema")
            columns[field.name] = _column(datum, field, node)
        except _WrongError as wrong:
            reasons.append(str(wrong))


def _fits(schema: Schema, field: Field, node: AvroNode) -> bool:
    """Whether values of a writer's type can be values of the column."""
    kind, logical, type_ = schema.kind, schema.logical, field.type
    if type_ is FieldType.DECIMAL:
        return logical == "decimal"
    if logical == "decimal":
        return False
    if type_ is FieldType.TIMESTAMP:
        if kind == "string":
            return field.unit.startswith("iso")
        if kind not in {"int", "long"}:
            return False
        if logical.startswith("local-timestamp"):
            return field.unit == "iso-utc"
        return logical.startswith("timestamp") or (not logical and field.unit in EPOCH_UNITS)
    if logical == "uuid" and kind == "fixed" and type_ is FieldType.UUID:
        return True
    accepted = {
        FieldType.INT64: {"int", "long"},
        FieldType.FLOAT64: {"float", "double"} | (set() if logical else {"int", "long"}),
        FieldType.BOOL: {"boolean"},
        FieldType.STRING: {"enum"} | (set() if node.symbols else {"string", "bytes"}),
        FieldType.BYTES: {"bytes", "string", "fixed"},
        FieldType.UUID: {"string"},
    }
    return kind in accepted[type_]


def _column(datum: Datum, field: Field, node: AvroNode) -> Any:
    schema, value = datum.schema, datum.value
    if schema.kind == "enum":
        symbol = schema.symbols[value]
        if node.symbols and symbol not in node.symbols:
            symbol = node.fallback
        if not symbol:
            raise _WrongError("schema")
        return symbol
    if field.type is FieldType.FLOAT64:
        return float(value)
    if field.type is FieldType.BOOL:
        return bool(value)
    if field.type is FieldType.STRING:
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise MalformedError("text") from error
    if field.type is FieldType.BYTES:
        return value
    if field.type is FieldType.UUID:
        return _uuid(value, schema.kind)
    if field.type is FieldType.DECIMAL:
        unscaled = int.from_bytes(value, "big", signed=True)
        up, down = (
            10 ** max(field.scale - schema.scale, 0),
            10 ** max(schema.scale - field.scale, 0),
        )
        if unscaled % down:
            raise _WrongError("range")
        return _int64(unscaled * up // down, unscaled)
    if isinstance(value, bytes):
        ns, status = timestamps.timestamp(value, field.unit == "iso-utc")
        if status != "timed":
            raise _WrongError("range" if status == "out of range" else "schema")
        return ns
    factor = 1
    if field.type is FieldType.TIMESTAMP:
        named = schema.logical.rpartition("-")[2]
        factor = UNITS[named] if schema.logical else EPOCH_UNITS[field.unit]
    return _int64(value * factor, value)


def _int64(value: int, before: int) -> int:
    if not -(2**63) <= value < 2**63 or not -(2**63) <= before < 2**63:
        raise _WrongError("range")
    return value


def _uuid(value: bytes, kind: str) -> str:
    if kind == "fixed":
        return str(UUID(bytes=value))
    text = value.decode("latin-1")
    groups = text.split("-")
    hexadecimal = all(c in "0123456789abcdefABCDEF" for group in groups for c in group)
    if [len(group) for group in groups] != [8, 4, 4, 4, 12] or not hexadecimal:
        raise _WrongError("schema")
    return text.lower()


def _missing(
    node: AvroNode, default: Any, contract: Contract, columns: dict[str, Any], reasons: list[str]
) -> None:
    if node.index < 0 and default is not None:
        given = default if isinstance(default, dict) else {}
        for child in node.children:
            _missing(child, given.get(child.names[0], child.default), contract, columns, reasons)
        return
    for leaf in node.leaves():
        field = contract.fields[leaf]
        if default is NO_DEFAULT or default is None:
            columns[field.name] = None
            if not field.nullable or (default is NO_DEFAULT and field.required):
                reasons.append("schema")
        else:
            value = constant(field, default)
            if isinstance(value, bytes) and field.type is not FieldType.BYTES:
                columns[field.name] = value.decode()
            else:
                columns[field.name] = bool(value) if field.type is FieldType.BOOL else value


def write(schema: Schema, value: Any) -> bytes:
    """A value as Avro has it. Of a union, ``value`` is (branch, value); of a record, a list."""
    kind = schema.kind
    if kind == "null":
        return b""
    if kind == "boolean":
        return bytes([value])
    if kind in {"int", "long", "enum"}:
        return long(value)
    if kind in {"float", "double"}:
        return struct.pack("<f" if kind == "float" else "<d", value)
    if kind in {"bytes", "string"}:
        return long(len(value)) + bytes(value)
    if kind == "fixed":
        return bytes(value)
    if kind == "union":
        branch, inner = value
        return long(branch) + write(schema.branches[branch], inner)
    if kind == "record":
        return b"".join(write(f.schema, v) for f, v in zip(schema.fields, value, strict=True))
    items = [write_item(schema, item) for item in value]
    return (long(len(items)) + b"".join(items) if items else b"") + long(0)


def write_item(schema: Schema, item: Any) -> bytes:
    """An item of an array, or (key, value) of a map."""
    if schema.items is None:
        raise TypeError(schema.kind)
    if schema.kind == "map":
        return long(len(item[0])) + bytes(item[0]) + write(schema.items, item[1])
    return write(schema.items, item)


def long(value: int) -> bytes:
    """A zigzag varint."""
    bits, out = (value << 1) ^ (value >> 63), b""
    while bits > 0x7F:
        out += bytes([bits & 0x7F | 0x80])
        bits >>= 7
    return out + bytes([bits])
