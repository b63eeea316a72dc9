"""A field of an event, as a frozen value."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pyarrow as pa

from pipeline.errors import DefinitionError

__all__ = ["EPOCH_UNITS", "MAX_SCALE", "Field", "FieldType"]

FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
EPOCH_UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}  # ns of one unit
TEXT_UNITS = ("iso", "iso-utc")
MAX_SCALE = 18  # 10**18 is the largest power of ten in an int64


class FieldType(Enum):
    """Type of a column; how values are held: :class:`pipeline.ingest.batch.EventBatch`."""

    INT64 = "int64"
    FLOAT64 = "float64"
    BOOL = "bool"
    STRING = "string"
    TIMESTAMP = "timestamp"
    DECIMAL = "decimal"
    UUID = "uuid"
    BYTES = "bytes"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an event.

    ``nullable``  the column may hold null: the value may be an explicit null
    ``required``  the field must be present. A field that is not required is nullable, and an
                  explicit null means the same as absence (as in Protobuf's JSON mapping).
    ``scale``     digits after the point of a DECIMAL (0 to 18), else 0
    ``unit``      how a TIMESTAMP is written: ``iso`` (RFC 3339 text with Z or offset),
                  ``iso-utc`` (the same, and text without an offset is UTC), or the epoch integers
                  ``s``, ``ms``, ``us``, ``ns``; empty for other types

    Raises :class:`DefinitionError` with the field's name.
    """

    name: str
    type: FieldType
    nullable: bool = False
    scale: int = 0
    unit: str = ""
    required: bool = True

    def __post_init__(self) -> None:
        if not FIELD_NAME.fullmatch(self.name):
            raise DefinitionError(
                self.name or "<empty>",
                "a field name is a letter or _, then up to 127 of A-Z a-z 0-9 _ . -",
            )
        if not self.required and not self.nullable:
            raise DefinitionError(self.name, "a field that is not required must be nullable")
        if self.type is FieldType.DECIMAL:
            if not 0 <= self.scale <= MAX_SCALE:
                raise DefinitionError(self.name, f"scale {self.scale} is not within 0..{MAX_SCALE}")
        elif self.scale:
            raise DefinitionError(self.name, f"a {self.type.value} has no scale")
        units = (*TEXT_UNITS, *EPOCH_UNITS) if self.type is FieldType.TIMESTAMP else ("",)
        if self.unit not in units:
            raise DefinitionError(
                self.name,
                f"{self.unit!r} is no unit of a {self.type.value}: {', '.join(map(repr, units))}",
            )

    @property
    def arrow_type(self) -> Any:
        """Arrow type of the field's values."""
        if self.type is FieldType.TIMESTAMP:
            return pa.timestamp("ns", tz="UTC")
        if self.type is FieldType.DECIMAL:
            return pa.decimal128(19, self.scale)
        return {
            FieldType.INT64: pa.int64(),
            FieldType.FLOAT64: pa.float64(),
            FieldType.BOOL: pa.bool_(),
            FieldType.STRING: pa.string(),
            FieldType.UUID: pa.string(),
            FieldType.BYTES: pa.binary(),
        }[self.type]
