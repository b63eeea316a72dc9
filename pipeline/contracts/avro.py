"""Avro contracts: a record whose scalar values become columns.

    long, int             int64
    double, float         float64
    boolean               bool
    string, enum          string
    bytes, fixed          bytes
    uuid (on string, or fixed of 16 bytes)         uuid
    timestamp-millis, -micros, -nanos (on long)    timestamp
    decimal (on bytes or fixed; precision at most 18)    exact decimal
    a record              its fields, named ``outer.inner``
    ["null", T] or [T, "null"]                     nullable; with ``"default": null`` not required
    array, map, a record within itself             no column: such values are skipped

A union of anything else, and another logical type, is refused. Defaults and aliases count when
binary Avro of another schema is read (:mod:`pipeline.ingest.avroprogram`). The version is the
record's own attribute ``x-version`` (default 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pipeline.contracts.avroschema import NO_DEFAULT, Schema, SchemaField, read_schema
from pipeline.contracts.fields import EPOCH_UNITS, MAX_SCALE, Field, FieldType
from pipeline.errors import DefinitionError

__all__ = ["AvroLayout", "AvroNode", "constant", "layout_of_names", "parse"]

_PLAIN = {
    "long": FieldType.INT64,
    "int": FieldType.INT64,
    "double": FieldType.FLOAT64,
    "float": FieldType.FLOAT64,
    "boolean": FieldType.BOOL,
    "string": FieldType.STRING,
    "enum": FieldType.STRING,
    "bytes": FieldType.BYTES,
    "fixed": FieldType.BYTES,
}
_TIME = {"timestamp-millis": "ms", "timestamp-micros": "us", "timestamp-nanos": "ns"}
_RECORD = {"type", "name", "namespace", "doc", "aliases", "fields"}
_TYPE = {
    "enum": {"type", "name", "namespace", "doc", "aliases", "symbols", "default"},
    "fixed": {"type", "name", "namespace", "doc", "aliases", "size", "logicalType"},
}
_FIELD = {"name", "type", "doc", "default", "aliases", "order"}


@dataclass(frozen=True, slots=True)
class AvroNode:
    """A field of the reader's schema, for schema resolution: a column, or a record of such.

    ``index``     of the column among the contract's fields; -1 for a record
    ``names``     the field's name, then its aliases
    ``default``   JSON value for writers without the field, or ``NO_DEFAULT``
    ``symbols``   of an enum, else empty; ``fallback`` its default symbol or ""
    ``nullable``  whether it may be null itself: a column of a record that may be null is nullable,
                  and yet may have to be there where the record is
    """

    names: tuple[str, ...]
    index: int
    children: tuple[AvroNode, ...] = ()
    default: Any = NO_DEFAULT
    symbols: tuple[str, ...] = ()
    fallback: str = ""
    nullable: bool = True

    def leaves(self) -> list[int]:
        """Indexes of the columns below, or of this one."""
        if self.index >= 0:
            return [self.index]
        return [leaf for child in self.children for leaf in child.leaves()]


@dataclass(frozen=True, slots=True)
class AvroLayout:
    """Where the columns of an Avro contract are in its records; ``schema`` is the reader's own."""

    nodes: tuple[AvroNode, ...]
    schema: Schema


def parse(
    document: Mapping[str, Any],
) -> tuple[str, int, tuple[Field, ...], bool, AvroLayout]:
    """Name, version, fields, True (unknown fields are skipped), layout of an Avro record schema.

    Raises :class:`DefinitionError`; its field is ``<record>.<field>``.
    """
    name = document.get("name")
    if not isinstance(name, str) or not name:
        raise DefinitionError("contract.name", "the record must have a name")
    version = document.get("x-version", 1)
    if not isinstance(version, int) or isinstance(version, bool):
        raise DefinitionError(f"{name}.x-version", "must be an integer")
    schema = read_schema(document, name)
    if not schema.fields:
        raise DefinitionError(f"{name}.fields", "must be a list with at least one field")
    flat = _Flat()
    _known(document, _RECORD | {"x-version"}, name)
    nodes = flat.record(schema, name, "", _Outer(False, True), [])
    return name, version, tuple(flat.fields), True, AvroLayout(nodes, schema)


def constant(field: Field, default: Any) -> int | float | bytes | None:
    """A default as the column holds it: a number, the bytes of a text, or None for null.

    Raises ValueError where it is no value of the field.
    """
    kind = field.type
    if default is None and field.nullable:
        return None
    if kind is FieldType.BOOL and isinstance(default, bool):
        return int(default)
    if isinstance(default, int | float) and not isinstance(default, bool):
        if kind is FieldType.FLOAT64:
            return float(default)
        unit = EPOCH_UNITS.get(field.unit, 1)
        whole = isinstance(default, int) and -(2**63) <= default * unit < 2**63
        if kind in {FieldType.INT64, FieldType.TIMESTAMP} and whole:
            return default * unit
    elif isinstance(default, str):
        if kind is FieldType.STRING:
            return default.encode()
        data = default.encode("latin-1")  # UnicodeEncodeError is a ValueError
        if kind is FieldType.BYTES:
            return data
        if kind is FieldType.DECIMAL and len(data) <= 8:
            return int.from_bytes(data, "big", signed=True)
        if kind is FieldType.UUID:
            return str(UUID(bytes=data) if len(data) == 16 else UUID(default)).encode()
    raise ValueError(f"{default!r} is no value of the field's type")


def layout_of_names(names: Iterable[str]) -> tuple[AvroNode, ...]:
    """Nodes of columns that another language defined: dots in a name lead into records."""
    tree: dict[str, Any] = {}
    for index, name in enumerate(names):
        *outer, last = name.split(".")
        level = tree
        for part in outer:
            level = level.setdefault(part, {})
        level[last] = index
    return _nodes(tree)


def _nodes(tree: Mapping[str, Any]) -> tuple[AvroNode, ...]:
    return tuple(
        AvroNode((name,), -1, _nodes(below))
        if isinstance(below, dict)
        else AvroNode((name,), below)
        for name, below in tree.items()
    )


@dataclass(frozen=True, slots=True)
class _Outer:
    """Whether the record around a field may be null, and whether it must be there."""

    nullable: bool
    required: bool


class _Flat:
    """The columns of a record, collected depth first."""

    def __init__(self) -> None:
        self.fields: list[Field] = []

    def record(
        self, schema: Schema, where: str, prefix: str, outer: _Outer, within: list[Schema]
    ) -> tuple[AvroNode, ...]:
        found = (
            self._field(field, f"{where}.{field.name}", prefix, outer, [*within, schema])
            for field in schema.fields
        )
        return tuple(node for node in found if node is not None)

    def _field(
        self, field: SchemaField, where: str, prefix: str, outer: _Outer, within: list[Schema]
    ) -> AvroNode | None:
        _known(field.document, _FIELD, where)
        schema, nullable = _without_null(field.schema, where)
        if schema.kind in {"array", "map"} or schema in within:
            return None
        if field.default is None and not nullable:
            raise DefinitionError(f"{where}.default", "null is no value of the field's type")
        names, path = (field.name, *field.aliases), f"{prefix}{field.name}"
        own, nullable = nullable, nullable or outer.nullable
        required = outer.required and field.default is not None
        if schema.kind == "record":
            _known(schema.document, _RECORD, where)
            below = self.record(schema, where, f"{path}.", _Outer(nullable, required), within)
            return AvroNode(names, -1, below, field.default, nullable=own)
        kind, scale, unit = _type(schema, where)
        try:
            column = Field(path, kind, nullable, scale, unit, required)
        except DefinitionError as error:
            raise DefinitionError(where, error.problem) from error
        if field.default is not NO_DEFAULT:
            _check_default(column, schema, field.default, where)
        self.fields.append(column)
        return AvroNode(
            names, len(self.fields) - 1, (), field.default, schema.symbols, schema.default, own
        )


def _check_default(column: Field, schema: Schema, default: Any, where: str) -> None:
    try:
        value = constant(column, default)
    except ValueError as error:
        raise DefinitionError(f"{where}.default", str(error)) from error
    if schema.symbols and value is not None and default not in schema.symbols:
        raise DefinitionError(f"{where}.default", f"{default!r} is none of the symbols")


def _without_null(schema: Schema, where: str) -> tuple[Schema, bool]:
    if schema.kind != "union":
        return schema, False
    types = [branch for branch in schema.branches if branch.kind != "null"]
    if len(types) != 1 or len(schema.branches) != 2:
        raise DefinitionError(f"{where}.type", "a union must be of null and one other type")
    return types[0], True


def _type(schema: Schema, where: str) -> tuple[FieldType, int, str]:
    """Field type, scale and unit of a scalar."""
    named = schema.document.get("logicalType")
    if named is not None and not schema.logical and named != "decimal":
        raise DefinitionError(
            f"{where}.type", f"logical type {named!r} on {schema.kind!r} is not supported"
        )
    if named == "decimal":
        _known(schema.document, _TYPE["fixed"] | {"precision", "scale"}, where)
        return FieldType.DECIMAL, _scale(schema.document, where), ""
    _known(schema.document, _TYPE.get(schema.kind, {"type", "logicalType"}), where)
    if schema.logical in _TIME:
        return FieldType.TIMESTAMP, 0, _TIME[schema.logical]
    if schema.logical == "uuid":
        return FieldType.UUID, 0, ""
    if schema.logical or schema.kind not in _PLAIN:
        known = ", ".join(_PLAIN)
        problem = schema.logical or schema.kind
        raise DefinitionError(f"{where}.type", f"{problem!r} is not supported; known: {known}")
    return _PLAIN[schema.kind], 0, ""


def _scale(document: Mapping[str, Any], where: str) -> int:
    precision, scale = document.get("precision"), document.get("scale", 0)
    if not isinstance(precision, int) or not 1 <= precision <= MAX_SCALE:
        raise DefinitionError(f"{where}.precision", f"must be an integer, 1 to {MAX_SCALE}")
    if not isinstance(scale, int) or not 0 <= scale <= precision:
        raise DefinitionError(f"{where}.scale", f"must be an integer, 0 to {precision}")
    return scale


def _known(document: Mapping[str, Any], attributes: set[str], where: str) -> None:
    for attribute in document:
        if attribute not in attributes:
            raise DefinitionError(f"{where}.{attribute}", "this attribute is not supported")
