"""JSON Schema subset: an object of scalar properties.

Supported, with our own annotations (they start with ``x-``, so other tools ignore them):

    {"title": "purchase",                      name of the contract
     "x-version": 2,                           its version, default 1
     "type": "object",
     "properties": {
       "a": {"type": "integer"},                               int64
       "b": {"type": "number"},                                float64
       "c": {"type": "number", "x-decimal": 2},                exact decimal, 2 fraction digits
       "d": {"type": "boolean"},                               bool
       "e": {"type": "string"},                                string
       "f": {"type": "string", "format": "date-time"},         timestamp, RFC 3339 text
       "g": {"type": "string", "format": "date-time",
             "x-timezone": "UTC"},                             the same; text without offset is UTC
       "h": {"type": "integer", "x-unix-time": "ms"},          timestamp, epoch s, ms, us or ns
       "i": {"type": "string", "format": "uuid"},              uuid, 8-4-4-4-12 hexadecimal digits
       "j": {"type": "string", "contentEncoding": "base64"},   bytes, padded base64 (RFC 4648)
       "k": {"type": ["integer", "null"]}},                    nullable
     "required": ["a", "b"],                   others may be absent (and are nullable)
     "additionalProperties": false}            default true: unknown fields are skipped

Text about a schema (title, description, examples, ...) is allowed everywhere. A keyword that
would restrict values further (enum, minimum, pattern, ...) is refused rather than ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.contracts.fields import EPOCH_UNITS, Field, FieldType
from pipeline.errors import DefinitionError

__all__ = ["parse"]

_TEXT = {"title", "description", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}
_TOP = _TEXT | {"$schema", "$id", "type", "properties", "required", "additionalProperties"}
_TOP |= {"x-version"}
_PROPERTY = _TEXT | {"type", "format", "x-decimal", "x-unix-time", "x-timezone"}
_PROPERTY |= {"contentEncoding"}
_TYPES = {
    "integer": FieldType.INT64,
    "number": FieldType.FLOAT64,
    "boolean": FieldType.BOOL,
    "string": FieldType.STRING,
}
_TEXT_FORMATS = {"email", "uri", "hostname", "ipv4", "ipv6"}  # plain strings to us


def parse(
    document: Mapping[str, Any], where: str = "contract"
) -> tuple[str, int, tuple[Field, ...], bool]:
    """Name, version, fields and ``additionalProperties`` of a JSON Schema document.

    Raises :class:`DefinitionError`; its field is ``<title>.<property>.<keyword>``.
    """
    name = document.get("title")
    if not isinstance(name, str) or not name:
        raise DefinitionError(f"{where}.title", "names the contract and must be a non-empty string")
    _known(document, _TOP, name)
    if document.get("type") != "object":
        raise DefinitionError(f"{name}.type", "must be 'object'")
    version = document.get("x-version", 1)
    if not isinstance(version, int) or isinstance(version, bool):
        raise DefinitionError(f"{name}.x-version", "must be an integer")
    properties = document.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        raise DefinitionError(f"{name}.properties", "must be an object with at least one property")
    additional = document.get("additionalProperties", True)
    if not isinstance(additional, bool):
        raise DefinitionError(f"{name}.additionalProperties", "only true and false are supported")
    required = _required(document.get("required", []), properties, name)
    fields = tuple(
        _field(str(key), value, f"{name}.{key}", key in required)
        for key, value in properties.items()
    )
    return name, version, fields, additional


def _required(value: object, properties: Mapping[str, Any], name: str) -> set[str]:
    where = f"{name}.required"
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise DefinitionError(where, "must be a list of property names")
    for key in value:
        if key not in properties:
            raise DefinitionError(where, f"{key!r} is not among the properties")
    if len(set(value)) != len(value):
        raise DefinitionError(where, "names a property twice")
    return set(value)


def _field(name: str, schema: object, where: str, required: bool) -> Field:
    if not isinstance(schema, Mapping):
        raise DefinitionError(where, "must be an object")
    _known(schema, _PROPERTY, where)
    json_type, null = _type(schema.get("type"), f"{where}.type")
    kind, scale, unit = _TYPES[json_type], 0, ""
    if "x-decimal" in schema:
        _only(json_type, "number", f"{where}.x-decimal")
        kind, scale = FieldType.DECIMAL, schema["x-decimal"]
        if not isinstance(scale, int) or isinstance(scale, bool):
            raise DefinitionError(f"{where}.x-decimal", "must be the number of digits, 0 to 18")
    if "x-unix-time" in schema:
        _only(json_type, "integer", f"{where}.x-unix-time")
        kind, unit = FieldType.TIMESTAMP, schema["x-unix-time"]
        if unit not in EPOCH_UNITS:
            raise DefinitionError(f"{where}.x-unix-time", f"{unit!r} is not one of s, ms, us, ns")
    if "format" in schema:
        _only(json_type, "string", f"{where}.format")
        if schema["format"] == "date-time":
            kind, unit = FieldType.TIMESTAMP, "iso"
        elif schema["format"] == "uuid":
            kind = FieldType.UUID
        elif schema["format"] not in _TEXT_FORMATS:
            raise DefinitionError(f"{where}.format", f"{schema['format']!r} is not supported")
    if "contentEncoding" in schema:
        _only(json_type, "string", f"{where}.contentEncoding")
        if schema["contentEncoding"] != "base64" or "format" in schema:
            raise DefinitionError(f"{where}.contentEncoding", "is 'base64', without a format")
        kind = FieldType.BYTES
    if "x-timezone" in schema:
        if unit != "iso" or schema["x-timezone"] != "UTC":
            raise DefinitionError(f"{where}.x-timezone", "is 'UTC', on a date-time only")
        unit = "iso-utc"
    try:
        return Field(name, kind, null or not required, scale, unit, required)
    except DefinitionError as error:
        raise DefinitionError(where, error.problem) from error


def _type(value: object, where: str) -> tuple[str, bool]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
        raise DefinitionError(where, "is missing or not a type name or list of type names")
    types = [item for item in names if item != "null"]
    if len(types) != 1 or len(names) > 2:
        raise DefinitionError(where, "must be one type, or one type and 'null'")
    if types[0] in {"object", "array"}:
        raise DefinitionError(where, f"{types[0]!r}: nested values are not supported")
    if types[0] not in _TYPES:
        raise DefinitionError(where, f"unknown type {types[0]!r}; known: {', '.join(_TYPES)}")
    return types[0], len(names) == 2


def _only(json_type: str, wanted: str, where: str) -> None:
    if json_type != wanted:
        raise DefinitionError(where, f"needs the type {wanted!r}, not {json_type!r}")


def _known(schema: Mapping[str, Any], keywords: set[str], where: str) -> None:
    for keyword in schema:
        if keyword not in keywords:
            raise DefinitionError(f"{where}.{keyword}", "this keyword is not supported")
