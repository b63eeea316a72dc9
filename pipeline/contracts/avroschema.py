"""An Avro schema as a tree: names resolved, logical types checked, defaults kept.

Readers' and writers' schemas are both read here. Source: Apache Avro 1.12 specification.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import DefinitionError

__all__ = ["NO_DEFAULT", "Schema", "SchemaField", "read_schema"]

PRIMITIVES = {"null", "boolean", "int", "long", "float", "double", "bytes", "string"}
NO_DEFAULT: Any = object()

MAX_DEPTH = 64
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_LOGICAL = {
    "timestamp-millis": ("long",), "timestamp-micros": ("long",), "timestamp-nanos": ("long",),
    "local-timestamp-millis": ("long",), "local-timestamp-micros": ("long",),
    "local-timestamp-nanos": ("long",), "date": ("int",), "time-millis": ("int",),
    "time-micros": ("long",), "decimal": ("bytes", "fixed"), "uuid": ("string", "fixed"),
}  # fmt: skip


@dataclass(slots=True)
class SchemaField:
    """One field of a record; ``aliases`` are other names that writers may have for it."""

    name: str
    schema: Schema
    aliases: tuple[str, ...]
    default: Any
    document: Mapping[str, Any]


@dataclass(slots=True, eq=False)
class Schema:
    """A type. ``kind`` is a primitive's name, record, enum, fixed, array, map or union.

    ``fields`` of a record, ``symbols`` of an enum with its ``default`` or "", ``size`` of a fixed,
    ``items`` of an array or map, ``branches`` of a union. ``logical`` is a logical type that holds
    for the kind; the specification has others ignored. A record may contain itself.
    """

    kind: str
    name: str = ""
    logical: str = ""
    precision: int = 0
    scale: int = 0
    size: int = 0
    default: str = ""
    symbols: tuple[str, ...] = ()
    fields: list[SchemaField] = field(default_factory=list)
    branches: list[Schema] = field(default_factory=list)
    items: Schema | None = None
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)


def read_schema(document: Any, where: str, named: dict[str, Schema] | None = None) -> Schema:
    """The schema that a JSON document is; ``named`` are types known already, and is added to.

    Raises :class:`DefinitionError`; its field is below ``where``.
    """
    return _Reader({} if named is None else named).read(document, where, "", 0)


class _Reader:
    def __init__(self, named: dict[str, Schema]) -> None:
        self._named = named

    def read(self, document: Any, where: str, space: str, depth: int) -> Schema:
        if depth > MAX_DEPTH:
            raise DefinitionError(where, f"is nested more than {MAX_DEPTH} levels deep")
        if isinstance(document, str):
            return self._reference(document, where, space)
        if isinstance(document, list):
            return self._union(document, where, space, depth)
        if not isinstance(document, Mapping):
            raise DefinitionError(where, f"{document!r} is no Avro type")
        kind = document.get("type")
        if kind in {"record", "error", "enum", "fixed"}:
            return self._definition(str(kind), document, where, space, depth)
        if kind in {"array", "map"}:
            part = "items" if kind == "array" else "values"
            if part not in document:
                raise DefinitionError(f"{where}.{part}", "is missing")
            items = self.read(document[part], f"{where}.{part}", space, depth + 1)
            return Schema(str(kind), items=items, document=document)
        if isinstance(kind, str) and kind in PRIMITIVES:
            return _logical(Schema(kind, document=document), document)
        if isinstance(kind, (Mapping, list)) or kind in self._named:
            return self.read(kind, where, space, depth + 1)
        raise DefinitionError(where, f"{kind!r} is no Avro type")

    def _reference(self, name: str, where: str, space: str) -> Schema:
        if name in PRIMITIVES:
            return Schema(name)
        for full in (name,) if "." in name or not space else (f"{space}.{name}", name):
            if full in self._named:
                return self._named[full]
        raise DefinitionError(where, f"{name!r} is no Avro type, and none is defined so before")

    def _union(self, document: list[Any], where: str, space: str, depth: int) -> Schema:
        union = Schema("union")
        for number, branch in enumerate(document):
            if isinstance(branch, list):
                raise DefinitionError(f"{where}[{number}]", "a union directly in a union")
            union.branches.append(self.read(branch, f"{where}[{number}]", space, depth + 1))
        if not union.branches:
            raise DefinitionError(where, "a union of no types")
        return union

    def _definition(
        self, kind: str, document: Mapping[str, Any], where: str, space: str, depth: int
    ) -> Schema:
        name, space = _full_name(document, where, space)
        if name in self._named or name in PRIMITIVES:
            raise DefinitionError(where, f"{name!r} is defined twice")
        schema = Schema("record" if kind == "error" else kind, name=name, document=document)
        self._named[name] = schema
        if kind == "enum":
            return _enum(schema, document, where)
        if kind == "fixed":
            size = document.get("size")
            if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**31:
                raise DefinitionError(f"{where}.size", "must be the number of bytes")
            schema.size = size
            return _logical(schema, document)
        fields = document.get("fields")
        if not isinstance(fields, list):
            raise DefinitionError(f"{where}.fields", "must be a list")
        seen: set[str] = set()
        for number, item in enumerate(fields):
            if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
                raise DefinitionError(f"{where}.fields[{number}]", "must be an object with a name")
            at = f"{where}.{item['name']}"
            if item["name"] in seen:
                raise DefinitionError(at, "is defined twice")
            seen.add(item["name"])
            aliases = item.get("aliases", [])
            if not isinstance(aliases, list) or not all(isinstance(a, str) for a in aliases):
                raise DefinitionError(f"{at}.aliases", "must be a list of names")
            inner = self.read(item.get("type"), f"{at}.type", space, depth + 1)
            default = item.get("default", NO_DEFAULT)
            schema.fields.append(SchemaField(item["name"], inner, tuple(aliases), default, item))
        return schema


def _full_name(document: Mapping[str, Any], where: str, space: str) -> tuple[str, str]:
    name, declared = document.get("name"), document.get("namespace", space)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DefinitionError(f"{where}.name", f"{name!r} is no name of a type")
    if not isinstance(declared, str):
        raise DefinitionError(f"{where}.namespace", "must be a text")
    if "." in name:
        return name, name.rpartition(".")[0]
    return (f"{declared}.{name}" if declared else name), declared


def _enum(schema: Schema, document: Mapping[str, Any], where: str) -> Schema:
    symbols, default = document.get("symbols"), document.get("default", "")
    if not isinstance(symbols, list) or not all(isinstance(s, str) for s in symbols):
        raise DefinitionError(f"{where}.symbols", "must be a list of names")
    if len(set(symbols)) != len(symbols):
        raise DefinitionError(f"{where}.symbols", "names a symbol twice")
    if "default" in document and default not in symbols:
        raise DefinitionError(f"{where}.default", f"{default!r} is none of the symbols")
    schema.symbols, schema.default = tuple(symbols), default
    return schema


def _logical(schema: Schema, document: Mapping[str, Any]) -> Schema:
    """Set the logical type where it is a valid one; else it is as if there were none."""
    logical = document.get("logicalType")
    if not isinstance(logical, str) or schema.kind not in _LOGICAL.get(logical, ()):
        return schema
    if logical == "uuid" and schema.kind == "fixed" and schema.size != 16:
        return schema
    if logical == "decimal":
        precision, scale = document.get("precision"), document.get("scale", 0)
        if not isinstance(precision, int) or not isinstance(scale, int):
            return schema
        if not 0 <= scale <= precision:
            return schema
        schema.precision, schema.scale = precision, scale
    schema.logical = logical
    return schema
