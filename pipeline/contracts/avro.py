"""Avro subset: a record of scalar fields.

    long, int             int64
    double, float         float64
    boolean               bool
    string                string
    bytes                 bytes
    uuid (on string)      uuid
    timestamp-millis, -micros, -nanos (on long)    timestamp
    decimal (on bytes; precision at most 18)       exact decimal
    ["null", T] or [T, "null"]                     nullable; with ``"default": null`` not required

A default other than null, a nested or named type, or an unknown logical type is refused. The
version is the record's own attribute ``x-version`` (default 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.contracts.fields import MAX_SCALE, Field, FieldType
from pipeline.errors import DefinitionError

__all__ = ["parse"]

_PRIMITIVE = {
    "long": FieldType.INT64,
    "int": FieldType.INT64,
    "double": FieldType.FLOAT64,
    "float": FieldType.FLOAT64,
    "boolean": FieldType.BOOL,
    "string": FieldType.STRING,
    "bytes": FieldType.BYTES,
}
_TIME = {"timestamp-millis": "ms", "timestamp-micros": "us", "timestamp-nanos": "ns"}
_RECORD = {"type", "name", "namespace", "doc", "aliases", "fields", "x-version"}
_FIELD = {"name", "type", "doc", "default", "aliases", "order"}
_NO_DEFAULT = object()


def parse(document: Mapping[str, Any]) -> tuple[str, int, tuple[Field, ...], bool]:
    """Name, version, fields, and True (unknown fields are skipped), of an Avro record schema.

    Raises :class:`DefinitionError`; its field is ``<record>.<field>``.
    """
    name = document.get("name")
    if not isinstance(name, str) or not name:
        raise DefinitionError("contract.name", "the record must have a name")
    _known(document, _RECORD, name)
    version = document.get("x-version", 1)
    if not isinstance(version, int) or isinstance(version, bool):
        raise DefinitionError(f"{name}.x-version", "must be an integer")
    fields = document.get("fields")
    if not isinstance(fields, list) or not fields:
        raise DefinitionError(f"{name}.fields", "must be a list with at least one field")
    return name, version, tuple(_field(field, i, name) for i, field in enumerate(fields)), True


def _field(field: object, index: int, record: str) -> Field:
    if not isinstance(field, Mapping) or not isinstance(field.get("name"), str):
        raise DefinitionError(f"{record}.fields[{index}]", "must be an object with a name")
    name = field["name"]
    where = f"{record}.{name}"
    _known(field, _FIELD, where)
    default = field.get("default", _NO_DEFAULT)
    if default is not _NO_DEFAULT and default is not None:
        raise DefinitionError(f"{where}.default", "only null is supported as a default")
    declared, nullable = _without_null(field.get("type"), where)
    if default is None and not nullable:
        raise DefinitionError(f"{where}.default", "null is no value of the field's type")
    kind, scale, unit = _type(declared, where)
    try:
        return Field(name, kind, nullable, scale, unit, required=default is _NO_DEFAULT)
    except DefinitionError as error:
        raise DefinitionError(where, error.problem) from error


def _without_null(declared: object, where: str) -> tuple[object, bool]:
    if not isinstance(declared, list):
        return declared, False
    types = [item for item in declared if item != "null"]
    if len(types) != 1 or len(declared) != 2:
        raise DefinitionError(f"{where}.type", "a union must be of null and one other type")
    return types[0], True


def _type(declared: object, where: str) -> tuple[FieldType, int, str]:
    schema = declared if isinstance(declared, Mapping) else {"type": declared}
    base, logical = schema.get("type"), schema.get("logicalType")
    if logical is None:
        if base not in _PRIMITIVE:
            raise DefinitionError(
                f"{where}.type", f"{base!r} is not supported; known: {', '.join(_PRIMITIVE)}"
            )
        _known(schema, {"type"}, where)
        return _PRIMITIVE[str(base)], 0, ""
    if logical in _TIME and base == "long":
        _known(schema, {"type", "logicalType"}, where)
        return FieldType.TIMESTAMP, 0, _TIME[logical]
    if logical == "uuid" and base == "string":
        _known(schema, {"type", "logicalType"}, where)
        return FieldType.UUID, 0, ""
    if logical == "decimal" and base == "bytes":
        _known(schema, {"type", "logicalType", "precision", "scale"}, where)
        return FieldType.DECIMAL, _scale(schema, where), ""
    raise DefinitionError(f"{where}.type", f"logical type {logical!r} on {base!r} is not supported")


def _scale(schema: Mapping[str, Any], where: str) -> int:
    precision, scale = schema.get("precision"), schema.get("scale", 0)
    if not isinstance(precision, int) or not 1 <= precision <= MAX_SCALE:
        raise DefinitionError(f"{where}.precision", f"must be an integer, 1 to {MAX_SCALE}")
    if not isinstance(scale, int) or not 0 <= scale <= precision:
        raise DefinitionError(f"{where}.scale", f"must be an integer, 0 to {precision}")
    return scale


def _known(schema: Mapping[str, Any], attributes: set[str], where: str) -> None:
    for attribute in schema:
        if attribute not in attributes:
            raise DefinitionError(f"{where}.{attribute}", "this attribute is not supported")
