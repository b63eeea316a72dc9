"""The contract of an event: its fields, loaded from a schema file.

Three languages are read, each a subset that fits a flat row of columns: JSON Schema
(:mod:`pipeline.contracts.jsonschema`), Avro (:mod:`pipeline.contracts.avro`) and Protobuf
(:mod:`pipeline.contracts.protobuf`). Everything a file says is either understood, skipped as the
language's module says, or refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.contracts import avro, jsonschema, protobuf
from pipeline.contracts.avro import AvroLayout
from pipeline.contracts.fields import Field, FieldType
from pipeline.contracts.protobuf import ProtoLayout
from pipeline.errors import DefinitionError, UnknownNameError

__all__ = ["Contract", "Field", "FieldType"]

MAX_FIELDS = 4096


@dataclass(frozen=True, slots=True)
class Contract:
    """Name, version and fields of one kind of event.

    ``additional``  whether an event may have fields that the contract does not name
    ``layout``      where the columns are in binary records, if the schema's language says so

    Raises :class:`DefinitionError`, which names the field.
    """

    name: str
    version: int
    fields: tuple[Field, ...]
    additional: bool = True
    layout: AvroLayout | ProtoLayout | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.name:
            raise DefinitionError("contract.name", "must not be empty")
        if self.version < 1:
            raise DefinitionError(f"{self.name}.version", f"{self.version} is not 1 or more")
        if not 1 <= len(self.fields) <= MAX_FIELDS:
            raise DefinitionError(
                f"{self.name}.fields", f"{len(self.fields)} fields; 1 to {MAX_FIELDS} are possible"
            )
        seen: set[str] = set()
        for name in self.names:
            if name in seen:
                raise DefinitionError(f"{self.name}.{name}", "is defined twice")
            seen.add(name)

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any], message: str = "") -> Contract:
        """Read a contract from a file or a mapping.

        A ``.json`` file is JSON Schema, ``.avsc`` Avro; ``.proto`` is Protobuf and ``.desc`` a
        descriptor set of it (both need the extra ``protobuf``), where ``message`` names one of
        several. A mapping with ``"type": "record"`` is Avro, any other is JSON Schema.

        A file that cannot be read or parsed, and anything in it that is not supported, is a
        :class:`DefinitionError`.
        """
        where = "contract"
        if isinstance(source, Mapping):
            document: Any = source
        else:
            where = str(source)
            if Path(source).suffix in protobuf.SUFFIXES:
                return cls(*protobuf.load(Path(source), message))
            document = _read(Path(source))
        if not isinstance(document, Mapping):
            raise DefinitionError(where, "the top level of a schema must be an object")
        if document.get("type") == "record":
            return cls(*avro.parse(document))
        return cls(*jsonschema.parse(document, where))

    @property
    def language(self) -> str:
        """``json``, ``avro`` or ``protobuf``: what the contract was written in."""
        if isinstance(self.layout, ProtoLayout):
            return "protobuf"
        return "json" if self.layout is None else "avro"

    @property
    def arrow_schema(self) -> pa.Schema:
        """Fields as an Arrow schema, in the contract's order."""
        return pa.schema([pa.field(f.name, f.arrow_type, f.nullable) for f in self.fields])

    @property
    def names(self) -> tuple[str, ...]:
        """Field names in the contract's order."""
        return tuple(f.name for f in self.fields)

    def field(self, name: str) -> Field:
        """The field of that name; :class:`UnknownNameError` lists the ones there are."""
        for found in self.fields:
            if found.name == name:
                return found
        raise UnknownNameError(
            f"contract {self.name!r} has no field {name!r}; it has: {', '.join(self.names)}"
        )


def _read(path: Path) -> Any:
    if path.suffix not in {".json", ".avsc"}:
        raise DefinitionError(
            str(path),
            "a contract is a .json (JSON Schema), .avsc (Avro), .proto or .desc (Protobuf) file",
        )
    try:
        return json.loads(path.read_text("utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise DefinitionError(str(path), f"cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DefinitionError(str(path), f"is not JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise DefinitionError(key, "is defined twice in one object of the schema")
        found[key] = value
    return found
