"""A Protobuf contract as the integer tables that :mod:`pipeline.kernels.protobuf` interprets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.contracts.contract import Contract, FieldType
from pipeline.contracts.fields import EPOCH_UNITS
from pipeline.contracts.protobuf import ProtoEntry, ProtoLayout, ProtoNode
from pipeline.errors import DefinitionError
from pipeline.kernels import protobuf as kernel
from pipeline.kernels import protowire
from pipeline.kernels.hash import hash_keys

__all__ = ["ProtoTable"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

_TEXTS = {FieldType.STRING, FieldType.UUID, FieldType.BYTES}
_KINDS = {
    "int64": kernel.INT64, "int32": kernel.INT32, "uint32": kernel.UINT32,
    "uint64": kernel.UINT64, "sint32": kernel.SINT32, "sint64": kernel.SINT64,
    "bool": kernel.BOOL, "enum": kernel.ENUM, "fixed32": kernel.FIXED32,
    "sfixed32": kernel.SFIXED32, "float": kernel.FLOAT, "fixed64": kernel.FIXED64,
    "sfixed64": kernel.SFIXED64, "double": kernel.DOUBLE, "string": kernel.STRING,
    "bytes": kernel.BYTES, "message": kernel.MESSAGE, "timestamp": kernel.MESSAGE,
    "seconds": kernel.SECONDS, "nanos": kernel.NANOS, "skip": kernel.SKIP,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ProtoTable:
    """The arguments ``nodes`` to ``symbols`` of :func:`pipeline.kernels.protobuf.scan`.

    ``known`` uint8[..] is the known texts, ``texts`` the fields of text in the order of their rows,
    ``uuids`` and ``oneofs`` how many there are, ``path`` where the message is in its file;
    ``absent_uuids`` the columns of uuids that must be there.
    """

    nodes: I64
    direct: I64
    slots: I64
    entries: I64
    owner: I64
    rows: I64
    initial: I64
    symbols: I64
    known: U8
    texts: tuple[str, ...]
    uuids: int
    oneofs: int
    path: I64
    absent_uuids: tuple[int, ...]

    @classmethod
    def of(cls, contract: Contract) -> ProtoTable:
        """Compile a contract; raises :class:`DefinitionError` if it is not one of Protobuf."""
        if not isinstance(contract.layout, ProtoLayout):
            raise DefinitionError(contract.name, "Protobuf needs a .proto or .desc contract")
        build = _Build(contract)
        for number, node in enumerate(contract.layout.nodes):
            build.node(number, node)
        return cls(
            nodes=_array(build.nodes, kernel.NODE_COLUMNS),
            direct=np.array(build.direct, dtype=np.int64),
            slots=np.array(build.slots, dtype=np.int64),
            entries=np.array(build.entries or [-1], dtype=np.int64),
            owner=np.array(build.owner, dtype=np.int64),
            rows=np.array(
                [build.texts.index(n) if n in build.texts else -1 for n in contract.names],
                dtype=np.int64,
            ),
            initial=_array(build.initial, 4),
            symbols=_array(build.symbols, 4),
            known=np.frombuffer(build.known, dtype=np.uint8),
            texts=tuple(build.texts),
            uuids=len(build.uuids),
            oneofs=contract.layout.nodes[0].oneofs[1],
            path=np.array(contract.layout.path, dtype=np.int64),
            absent_uuids=tuple(
                k
                for k, f in enumerate(contract.fields)
                if f.type is FieldType.UUID and not f.nullable
            ),
        )


class _Build:
    def __init__(self, contract: Contract) -> None:
        self._fields = contract.fields
        self.nodes: list[list[int]] = []
        self.direct: list[int] = []
        self.slots: list[int] = []
        self.entries: list[int] = []
        self.owner = [0] * len(contract.fields)
        self.initial = [[0, 0, 0, 0] for _ in contract.fields]
        self.symbols: list[list[int]] = []
        self.known = b""
        self.texts = [f.name for f in contract.fields if f.type in _TEXTS]
        self.uuids = [f.name for f in contract.fields if f.type is FieldType.UUID]

    def node(self, number: int, node: ProtoNode) -> None:
        """Add a message: its entries, their hash table, what its columns begin as."""
        numbers: dict[int, int] = {}
        direct = [-1] * kernel.TAGS
        for entry in node.entries:
            numbers[entry.number] = len(self.entries)
            row = self._entry(entry, number)
            tag = row[kernel.NUMBER] << 3 | row[kernel.WIRE]
            if tag < 128 and row[kernel.KIND] != kernel.SKIP and row[kernel.GROUP] < 0:
                direct[tag] = len(self.entries)
            self.entries.extend(row)
        self.direct.extend(direct)
        size = 1 << (2 * len(numbers)).bit_length()
        begin, table = len(self.slots), [-1] * size
        for wire_number, at in numbers.items():
            slot = wire_number % size
            while table[slot] >= 0:
                slot = (slot + 1) % size
            table[slot] = at
        self.slots.extend(table)
        self.nodes.append(
            [begin, size - 1, *node.fields, node.nodes[1], *node.oneofs, node.parent,
             int(node.required), node.column]
        )  # fmt: skip

    def _entry(self, entry: ProtoEntry, number: int) -> list[int]:
        kind = _KINDS[entry.kind]
        row = [kind, -1, -1, 1, 2**63 - 1, entry.child, entry.oneof, entry.number, _wire(kind)]
        if entry.index < 0 or entry.kind in {"timestamp", "seconds", "nanos"}:
            if entry.index >= 0 and entry.kind != "timestamp":
                self.owner[entry.index] = number
            return row
        field = self._fields[entry.index]
        self.owner[entry.index] = number
        row[kernel.CELL] = entry.index
        if field.name in self.texts:
            row[kernel.TEXT] = self.texts.index(field.name)
        if field.type is FieldType.TIMESTAMP:
            row[kernel.ARG] = EPOCH_UNITS[field.unit]
            row[kernel.MORE] = (2**63 - 1) // row[kernel.ARG]
        if field.type is FieldType.UUID:
            row[kernel.KIND] = kernel.UUID
            row[kernel.ARG], row[kernel.MORE] = self.uuids.index(field.name), len(self.uuids)
        start, length, value = 0, 0, _hash(b"") if field.name in self.texts else 0
        if entry.symbols:
            first = dict(reversed(entry.symbols))  # of an alias, the name that is declared first
            row[kernel.ARG], row[kernel.MORE] = len(self.symbols), len(first)
            start, length, value = self._enum(first)
        present = entry.implicit and field.type is not FieldType.UUID
        self.initial[entry.index] = [value, int(present), start, length]
        return row

    def _enum(self, names: Mapping[int, str]) -> list[int]:
        """Add the symbols; start, length and hash of the one with number 0."""
        zero = [0, 0, 0]
        for number, name in sorted(names.items()):
            text = name.encode()
            at = self.known.find(text)
            if at < 0:
                at = len(self.known)
                self.known += text
            self.symbols.append([number, at, len(text), _hash(text)])
            if number == 0:
                zero = self.symbols[-1][1:]
        return zero


def _wire(kind: int) -> int:
    if kind in {kernel.FIXED32, kernel.SFIXED32, kernel.FLOAT}:
        return protowire.WORD32
    if kind in {kernel.FIXED64, kernel.SFIXED64, kernel.DOUBLE}:
        return protowire.WORD64
    if kind in {kernel.STRING, kernel.BYTES, kernel.UUID, kernel.MESSAGE}:
        return protowire.BYTES
    return protowire.VARINT


def _hash(text: bytes) -> int:
    digest = np.empty(1, dtype=np.uint64)
    ends = np.array([0, len(text)], dtype=np.int64)
    hash_keys(np.frombuffer(text, dtype=np.uint8), ends, digest)
    return int(digest.view(np.int64)[0])


def _array(rows: list[list[int]], columns: int) -> I64:
    return np.array(rows or [[-1] * columns], dtype=np.int64)
