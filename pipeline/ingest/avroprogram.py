"""Writer schemas and a contract as the program that :mod:`pipeline.kernels.avro` runs.

Schema resolution happens here, once for each writer schema. Beyond the specification, values are
taken wherever nothing is lost or guessed: any integer as int64; timestamps and decimals by the
unit and scale that the *writer* declared; a plain long as a timestamp of the contract's unit. A
value that is not what the contract has there refuses the record, not the schema: another branch
of a union, or another record, may do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts.avro import AvroLayout, AvroNode, constant, layout_of_names
from pipeline.contracts.avroschema import NO_DEFAULT, Schema
from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.contracts.fields import EPOCH_UNITS
from pipeline.errors import DefinitionError
from pipeline.kernels import avro as kernel
from pipeline.kernels.hash import hash_keys

__all__ = ["TEXT_TYPES", "Programs"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

TEXT_TYPES = {FieldType.STRING, FieldType.UUID, FieldType.BYTES}

_MAX_OPS = 1 << 16
_MAX_SCALE = 18
_UNITS = {"millis": 1_000_000, "micros": 1_000, "nanos": 1}
_LEAF_OPS = {
    (FieldType.BOOL, "boolean"): kernel.BOOLEAN,
    (FieldType.FLOAT64, "double"): kernel.DOUBLE,
    (FieldType.FLOAT64, "float"): kernel.FLOAT,
    (FieldType.STRING, "string"): kernel.STRING,
    (FieldType.STRING, "bytes"): kernel.STRING,
    (FieldType.BYTES, "bytes"): kernel.BYTES,
    (FieldType.BYTES, "string"): kernel.BYTES,
    (FieldType.UUID, "string"): kernel.UUID_TEXT,
}


@dataclass(frozen=True, slots=True)
class ProgramTables:
    """``ops`` to ``symbols`` are arguments of :func:`pipeline.kernels.avro.scan`; ``known``
    uint8[..] is the known texts."""

    ops: I64
    jumps: I64
    targets: I64
    symbols: I64
    known: npt.NDArray[np.uint8]


class Programs:
    """The programs of one contract, one for each writer schema added so far.

    ``tables`` are others after each :meth:`add`, and hold everything that older ones did.
    ``texts`` are the fields of text in the order of their rows.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        layout = contract.layout
        names = layout_of_names(contract.names)
        self._nodes = layout.nodes if isinstance(layout, AvroLayout) else names
        self._ops: list[list[int]] = []
        self._jumps: list[int] = []
        self._targets: list[int] = []
        self._symbols: list[list[int]] = []
        self._known = b""
        self._calls: list[tuple[int, Schema]] = []
        self._routines: dict[int, int] = {}
        self._empty: dict[int, bool] = {}
        self._keep: list[Schema] = []
        self._entry = 0
        self.texts = tuple(f.name for f in contract.fields if f.type in TEXT_TYPES)
        self.nullable = np.array([f.nullable for f in contract.fields], dtype=np.uint8)
        self.uuids = sum(f.type is FieldType.UUID for f in contract.fields)
        self._freeze()

    def add(self, writer: Schema) -> int:
        """Compile a writer's schema: where its program begins.

        Raises :class:`DefinitionError` for a schema that no record can have, or that is too large.
        """
        if writer.kind != "record":
            raise DefinitionError("schema", f"is of {writer.kind}, not of a record")
        self._keep.append(writer)  # routines are found by its identity
        lengths = len(self._ops), len(self._jumps), len(self._targets), len(self._symbols)
        self._entry = entry = len(self._ops)
        try:
            self._record(writer, self._nodes, self._contract.additional)
            self._emit(kernel.END)
            while self._calls:
                self._routine(*self._calls.pop())
        except DefinitionError:
            tables: tuple[list[Any], ...] = (self._ops, self._jumps, self._targets, self._symbols)
            for table, length in zip(tables, lengths, strict=True):
                del table[length:]
            self._calls.clear()
            self._routines = {k: pc for k, pc in self._routines.items() if pc < entry}
            raise
        self._freeze()
        return entry

    def _freeze(self) -> None:
        self.tables = ProgramTables(
            _table(self._ops, kernel.COLUMNS),
            np.array(self._jumps or [0], dtype=np.int64),
            np.array(self._targets or [0], dtype=np.int64),
            _table(self._symbols, 3),
            np.frombuffer(self._known, dtype=np.uint8),
        )

    def _emit(self, op: int, field: int = -1, text: int = -1, arg: int = 0, more: int = 0) -> int:
        if len(self._ops) - self._entry >= _MAX_OPS:
            raise DefinitionError("schema", f"needs more than {_MAX_OPS} instructions")
        self._ops.append([op, field, text, arg, more])
        return len(self._ops) - 1

    def _record(self, writer: Schema, nodes: Sequence[AvroNode], additional: bool) -> None:
        names = {field.name for field in writer.fields}
        taken: dict[str, AvroNode] = {}
        missing = []
        for node in nodes:
            name = next((n for n in node.names if n in names and n not in taken), None)
            if name is None:
                missing.append(node)
            else:
                taken[name] = node
        for field in writer.fields:
            if field.name in taken:
                self._value(field.schema, taken[field.name])
            else:
                self._skip(field.schema)
        for node in missing:
            self._default(node, node.default)
        if not additional and names - taken.keys():
            self._emit(kernel.REFUSE)

    def _value(self, writer: Schema, node: AvroNode) -> None:
        if writer.kind == "union":
            self._branches(writer, lambda branch: self._value(branch, node))
        elif writer.kind == "null":
            if not node.nullable:
                self._emit(kernel.REFUSE)
            self._null(node)
        elif node.index < 0:
            if writer.kind == "record":
                self._record(writer, node.children, True)
            else:
                self._refuse(writer)
        else:
            self._leaf(writer, node)

    def _branches(self, writer: Schema, compile_branch: Callable[[Schema], None]) -> None:
        first = len(self._jumps)
        self._emit(kernel.UNION, arg=first, more=len(writer.branches))
        self._jumps.extend([0] * len(writer.branches))
        ends = []
        for number, branch in enumerate(writer.branches):
            self._jumps[first + number] = len(self._ops)
            compile_branch(branch)
            ends.append(self._emit(kernel.GOTO))
        for at in ends:
            self._ops[at][kernel.ARG] = len(self._ops)

    def _null(self, node: AvroNode) -> None:
        first = len(self._targets)
        self._targets.extend(node.leaves())
        self._emit(kernel.NULL, arg=first, more=len(self._targets))

    def _refuse(self, writer: Schema) -> None:
        self._emit(kernel.REFUSE)
        self._skip(writer)

    def _leaf(self, writer: Schema, node: AvroNode) -> None:
        index = node.index
        field = self._contract.fields[index]
        text = self.texts.index(field.name) if field.type in TEXT_TYPES else -1
        kind, logical = writer.kind, writer.logical
        if logical == "uuid" and kind == "fixed" and field.type is FieldType.UUID:
            self._emit(kernel.UUID_FIXED, index, text)
        elif logical == "decimal" or field.type is FieldType.DECIMAL:
            self._decimal(writer, field, index)
        elif kind in {"int", "long"}:
            self._integer(writer, field, index)
        elif kind == "enum" and field.type is FieldType.STRING:
            first = len(self._symbols)
            for symbol in writer.symbols:
                self._symbol(_accepted(symbol, node))
            self._emit(kernel.ENUM, index, text, first, len(writer.symbols))
        elif kind == "fixed" and field.type is FieldType.BYTES:
            self._emit(kernel.FIXED, index, text, writer.size)
        elif kind == "string" and field.unit in {"iso", "iso-utc"}:
            self._emit(kernel.TIME_TEXT, index, -1, int(field.unit == "iso-utc"))
        elif (field.type, kind) in _LEAF_OPS and not node.symbols:
            self._emit(_LEAF_OPS[field.type, kind], index, text)
        else:
            self._refuse(writer)

    def _integer(self, writer: Schema, field: Field, index: int) -> None:
        short = int(writer.kind == "int")
        unit, factor = writer.logical.rpartition("-")[2], 1
        if field.type is FieldType.FLOAT64 and not writer.logical:
            self._emit(kernel.REAL_LONG, index, short)
            return
        if field.type is FieldType.TIMESTAMP:
            if writer.logical.startswith("timestamp") or (
                writer.logical.startswith("local-timestamp") and field.unit == "iso-utc"
            ):
                factor = _UNITS[unit]
            else:
                factor = 0 if writer.logical else EPOCH_UNITS.get(field.unit, 0)
        elif field.type is not FieldType.INT64:
            factor = 0
        if factor:
            self._emit(kernel.LONG, index, short, factor, (2**63 - 1) // factor)
        else:
            self._refuse(writer)

    def _decimal(self, writer: Schema, field: Field, index: int) -> None:
        change = field.scale - writer.scale
        if (
            writer.logical != "decimal"
            or field.type is not FieldType.DECIMAL
            or abs(change) > _MAX_SCALE
        ):
            self._refuse(writer)
            return
        scales = 10 ** max(change, 0), 10 ** max(-change, 0)
        if writer.kind == "fixed":
            self._emit(kernel.FIXED_DECIMAL, index, writer.size, *scales)
        else:
            self._emit(kernel.DECIMAL, index, -1, *scales)

    def _default(self, node: AvroNode, default: object) -> None:
        """What the reader has for a field that the writer's schema lacks."""
        if node.index < 0:
            if default is None:
                self._null(node)
                return
            given = default if isinstance(default, dict) else {}
            for child in node.children:
                self._default(child, given.get(child.names[0], child.default))
            return
        field = self._contract.fields[node.index]
        if default is NO_DEFAULT:
            if field.required:
                self._emit(kernel.REFUSE)
            self._null(node)
            return
        value = constant(field, default)
        if value is None:
            self._null(node)
        elif isinstance(value, bytes):
            row = self.texts.index(field.name)
            self._emit(kernel.KNOWN_TEXT, node.index, row, self._symbol(value))
        else:
            bits = np.array([value], np.float64).view(np.int64)[0].item()
            value = bits if isinstance(value, float) else value
            self._emit(kernel.CONSTANT, node.index, -1, value)

    def _symbol(self, text: bytes | None) -> int:
        """Row of a known text; None: one that the reader does not have."""
        if text is None:
            self._symbols.append([-1, 0, 0])
        else:
            digest = np.empty(1, dtype=np.uint64)
            ends = np.array([0, len(text)], dtype=np.int64)
            hash_keys(np.frombuffer(text, dtype=np.uint8), ends, digest)
            at = self._known.find(text)
            if at < 0:
                at = len(self._known)
                self._known += text
            self._symbols.append([at, len(text), digest.view(np.int64)[0].item()])
        return len(self._symbols) - 1

    def _skip(self, writer: Schema) -> None:
        kind = writer.kind
        if self._has_no_bytes(writer, ()):
            return
        if kind == "union":
            self._branches(writer, self._skip)
        elif kind == "record":
            self._calls.append((self._emit(kernel.CALL), writer))
        elif kind in {"array", "map"} and writer.items is not None:
            if kind == "array" and self._has_no_bytes(writer.items, ()):
                self._emit(kernel.NOTHINGS)
                return
            begin = self._emit(kernel.BLOCKS)
            if kind == "map":
                self._emit(kernel.SKIP_BYTES)
            self._skip(writer.items)
            self._emit(kernel.ITEM, arg=begin)
            self._ops[begin][kernel.ARG] = len(self._ops)
        elif kind in {"int", "long", "enum"}:
            self._emit(kernel.SKIP_LONG)
        elif kind in {"bytes", "string"}:
            self._emit(kernel.SKIP_BYTES)
        else:
            size = {"boolean": 1, "float": 4, "double": 8}.get(kind, writer.size)
            self._emit(kernel.SKIP, arg=size)

    def _routine(self, call: int, record: Schema) -> None:
        if id(record) not in self._routines:
            self._routines[id(record)] = len(self._ops)
            for field in record.fields:
                self._skip(field.schema)
            self._emit(kernel.RETURN)
        self._ops[call][kernel.ARG] = self._routines[id(record)]

    def _has_no_bytes(self, schema: Schema, within: tuple[Schema, ...]) -> bool:
        """Whether every value of a type takes no bytes at all.

        Such values are not read, so everything that a program repeats moves ahead in the record.
        """
        if schema.kind != "record":
            return schema.kind == "null" or (schema.kind == "fixed" and schema.size == 0)
        if schema in within:
            raise DefinitionError(schema.name, "is directly within itself")
        known = self._empty.get(id(schema))
        if known is None:
            parts = [self._has_no_bytes(f.schema, (*within, schema)) for f in schema.fields]
            known = self._empty[id(schema)] = all(parts)
        return known


def _accepted(symbol: str, node: AvroNode) -> bytes | None:
    """The reader's text for a writer's symbol: itself, the enum's default, or none."""
    if not node.symbols or symbol in node.symbols:
        return symbol.encode()
    return node.fallback.encode() if node.fallback else None


def _table(rows: list[list[int]], columns: int) -> I64:
    table = np.array(rows or [[-1] * columns], dtype=np.int64)
    return np.ascontiguousarray(table)
