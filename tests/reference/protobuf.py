"""The obvious twin of :mod:`pipeline.kernels.protobuf`: a message into a dict by recursion, merged
as the specification says, then its fields one by one as the contract wants them."""

from __future__ import annotations

import struct
from typing import Any

from pipeline.contracts.contract import Contract, FieldType
from pipeline.contracts.fields import EPOCH_UNITS
from pipeline.contracts.protobuf import ProtoEntry, ProtoLayout, ProtoNode
from tests.reference.avro import ORDER

MAX_GROUPS = 100
WIRES = {
    "fixed32": 5, "sfixed32": 5, "float": 5, "fixed64": 1, "sfixed64": 1, "double": 1,
    "string": 2, "bytes": 2, "message": 2, "timestamp": 2,
}  # fmt: skip


class MalformedError(ValueError):
    """Not a message."""


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        if n > len(self.data) - self.at:
            raise MalformedError("cut off")
        self.at += n
        return self.data[self.at - n : self.at]

    def varint(self) -> int:
        bits = 0
        for k in range(10):
            byte = self.take(1)[0]
            bits |= (byte & 0x7F) << (7 * k)
            if byte < 0x80:
                return bits % 2**64
        raise MalformedError("too long")

    def tag(self) -> tuple[int, int]:
        bits = self.varint()
        if bits >= 2**32 or bits >> 3 == 0:
            raise MalformedError("tag")
        return bits >> 3, bits & 7

    def value(self, number: int, wire: int, depth: int = 1) -> Any:
        """The raw value: an int, or bytes; nothing of a group."""
        if wire == 0:
            return self.varint()
        if wire in {1, 5}:
            return int.from_bytes(self.take(8 if wire == 1 else 4), "little")
        if wire == 2:
            return self.take(self.varint())
        if wire != 3 or depth > MAX_GROUPS:
            raise MalformedError("wire type")
        while True:
            inner, wire = self.tag()
            if wire == 4:
                if inner != number:
                    raise MalformedError("group")
                return None
            self.value(inner, wire, depth + 1)


def decode(data: bytes, contract: Contract) -> tuple[str, dict[str, Any]]:
    """Reason in lower case, and for ``ok`` the columns as Python values (null: None)."""
    if not isinstance(contract.layout, ProtoLayout):
        raise TypeError(contract.name)
    nodes = contract.layout.nodes
    reasons: list[str] = []
    columns: dict[str, Any] = dict.fromkeys(contract.names)
    try:
        tree: dict[int, Any] = {}
        _merge(data, nodes[0], nodes, tree, contract, reasons)
        _columns(tree, nodes[0], nodes, contract, columns, reasons)
    except MalformedError:
        return "decode", {}
    return min([*reasons, "ok"], key=ORDER.index), columns


def _merge(
    data: bytes, node: ProtoNode, nodes: tuple[ProtoNode, ...], tree: dict[int, Any],
    contract: Contract, reasons: list[str],
) -> None:  # fmt: skip
    """Add the fields of a message to ``tree``: number -> value, or a tree of its own."""
    entries = {entry.number: entry for entry in node.entries}
    reader = Reader(data)
    while reader.at < len(data):
        number, wire = reader.tag()
        raw = reader.value(number, wire)
        entry = entries.get(number)
        if entry is None:
            continue
        if entry.kind != "skip" and wire != WIRES.get(entry.kind, 0):
            reasons.append("schema")
            continue
        if entry.oneof >= 0:
            for other in node.entries:
                if other.oneof == entry.oneof and other.number != number:
                    tree.pop(other.number, None)
        if entry.child >= 0:
            below = tree.setdefault(number, {})
            _merge(raw, nodes[entry.child], nodes, below, contract, reasons)
        elif entry.kind in {"seconds", "nanos"}:
            tree[number] = _signed(raw, 64 if entry.kind == "seconds" else 32)
        elif entry.kind != "skip":
            value, reason = _value(raw, entry, contract)
            tree[number] = value
            reasons.append(reason)


def _columns(
    tree: dict[int, Any], node: ProtoNode, nodes: tuple[ProtoNode, ...], contract: Contract,
    columns: dict[str, Any], reasons: list[str],
) -> None:  # fmt: skip
    for entry in node.entries:
        value = tree.get(entry.number)
        if entry.child >= 0:
            below = nodes[entry.child]
            if value is None:
                reasons.append("schema" if below.required else "ok")
            elif entry.kind == "timestamp":
                value, reason = _time(value)
                columns[contract.fields[entry.index].name] = value
                reasons.append(reason)
            else:
                _columns(value, below, nodes, contract, columns, reasons)
        elif entry.kind != "skip":
            field = contract.fields[entry.index]
            if value is None and entry.implicit:
                value = _zero(entry, field.type)
                if value is None and not field.nullable:
                    reasons.append("schema")
            columns[field.name] = value


def _zero(entry: ProtoEntry, kind: FieldType) -> Any:
    if entry.symbols:
        return next(name for number, name in entry.symbols if number == 0)
    zeros = {FieldType.FLOAT64: 0.0, FieldType.BOOL: False, FieldType.STRING: ""}
    zeros |= {FieldType.BYTES: b"", FieldType.UUID: None}
    return zeros.get(kind, 0)


def _time(tree: dict[int, Any]) -> tuple[int, str]:
    seconds, nanos = tree.get(1, 0), tree.get(2, 0)
    if not 0 <= nanos < 10**9:
        return 0, "schema"
    value = seconds * 10**9 + nanos
    return value, "ok" if -(2**63) <= value < 2**63 else "range"


def _signed(bits: int, width: int) -> int:
    bits &= 2**width - 1
    return bits - (bits >> (width - 1) << width)


def _value(raw: Any, entry: ProtoEntry, contract: Contract) -> tuple[Any, str]:
    """A scalar as its column has it, and a reason against it."""
    field, kind = contract.fields[entry.index], entry.kind
    if isinstance(raw, bytes):
        return _text(raw, field.type)
    if kind in {"float", "double"}:
        form, size = ("<f", 4) if kind == "float" else ("<d", 8)
        return struct.unpack(form, raw.to_bytes(size, "little"))[0], "ok"
    if kind == "bool":
        return raw != 0, "ok"
    if kind in {"sint32", "sint64"}:
        raw &= 2 ** int(kind[4:]) - 1
        value = (raw >> 1) ^ -(raw & 1)
    elif kind in {"uint32", "fixed32"}:
        value = raw & (2**32 - 1)
    elif kind in {"uint64", "fixed64"}:
        value = raw
    else:
        value = _signed(raw, 32 if kind in {"int32", "sfixed32", "enum"} else 64)
    if kind == "enum":
        names = [name for number, name in entry.symbols if number == value]
        return (names[0], "ok") if names else (None, "schema")
    value *= EPOCH_UNITS.get(field.unit, 1)
    return value, "ok" if -(2**63) <= value < 2**63 else "range"


def _text(raw: bytes, kind: FieldType) -> tuple[Any, str]:
    if kind is FieldType.BYTES:
        return raw, "ok"
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedError("text") from error
    if kind is FieldType.STRING:
        return text, "ok"
    groups = text.split("-")
    hexadecimal = all(c in "0123456789abcdefABCDEF" for group in groups for c in group)
    good = [len(group) for group in groups] == [8, 4, 4, 4, 12] and hexadecimal
    return text.lower(), "ok" if good else "schema"
