"""Protobuf contracts (proto3): a message whose scalar values become columns.

    int32, int64, uint32, uint64, sint*, *fixed*   int64
    double, float         float64
    bool                  bool
    string, enum          string (the symbol's name)
    bytes                 bytes
    google.protobuf.Timestamp    timestamp
    a message             its fields, named ``outer.inner``
    an integer with [(pipeline.decimal) = 2]       exact decimal, counted in hundredths
    an integer with [(pipeline.unix_time) = "ms"]  timestamp; s, ms, us or ns
    a string with [(pipeline.uuid) = true]         uuid
    repeated, map, a message within itself         no column: such values are skipped

A plain scalar that is not on the wire has its default, as proto3 has it. ``optional``, a member of
a oneof, and everything in a message that may be absent is null then. A Timestamp without
``optional`` must be there; so must a message with [(pipeline.required) = true]. The options
are in ``pipeline/options.proto``; (pipeline.version) of the message is its version, default 1.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.contracts.fields import EPOCH_UNITS, Field, FieldType
from pipeline.errors import DefinitionError, MissingExtraError

__all__ = ["SUFFIXES", "ProtoEntry", "ProtoLayout", "ProtoNode", "compile_proto", "load"]

SUFFIXES = {".proto", ".desc"}
TIMESTAMP = "google.protobuf.Timestamp"
_INCLUDE = Path(__file__).parent / "include"
_COMPILE_S = 60
_VERSION, _DECIMAL, _UNIX_TIME, _UUID, _REQUIRED = 52000, 52001, 52002, 52003, 52004

# google.protobuf.FieldDescriptorProto.Type, by its number
_KINDS = {
    1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 6: "fixed64", 7: "fixed32",
    8: "bool", 9: "string", 11: "message", 12: "bytes", 13: "uint32", 14: "enum", 15: "sfixed32",
    16: "sfixed64", 17: "sint32", 18: "sint64",
}  # fmt: skip
_INTEGERS = {kind for kind in _KINDS.values() if "int" in kind or "fixed" in kind}
_REPEATED = 3
_PLAIN = {
    "double": FieldType.FLOAT64,
    "float": FieldType.FLOAT64,
    "bool": FieldType.BOOL,
    "string": FieldType.STRING,
    "enum": FieldType.STRING,
    "bytes": FieldType.BYTES,
    **dict.fromkeys(_INTEGERS, FieldType.INT64),
}


@dataclass(frozen=True, slots=True)
class ProtoEntry:
    """A field of a message: a column, a message of its own, or neither (then it is skipped).

    ``number``   on the wire; ``kind`` its type in the .proto file, or ``skip`` or ``timestamp``
    ``index``    of the column among the contract's fields; -1 for a message
    ``child``    of a message: its number among the layout's nodes, else -1
    ``implicit`` absent means the default, not null
    ``oneof``    which one it is a member of, -1 for none
    ``symbols``  (number, name) of an enum
    """

    number: int
    kind: str
    index: int = -1
    child: int = -1
    implicit: bool = False
    oneof: int = -1
    symbols: tuple[tuple[int, str], ...] = ()


@dataclass(slots=True)
class ProtoNode:
    """A message on the way to columns. What is below it is contiguous: columns, nodes and oneofs.

    ``column`` of a Timestamp, else -1; ``required``: must be there if what is around it is.
    """

    parent: int
    required: bool
    column: int = -1
    entries: list[ProtoEntry] = field(default_factory=list)
    fields: tuple[int, int] = (0, 0)
    nodes: tuple[int, int] = (0, 0)
    oneofs: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class ProtoLayout:
    """Where the columns of a Protobuf contract are in its messages.

    ``path``  which message of its file: indexes, outermost first (Confluent's wire format)
    """

    nodes: tuple[ProtoNode, ...]
    path: tuple[int, ...]


Loaded = tuple[str, int, tuple[Field, ...], bool, ProtoLayout]


def load(path: Path, message: str = "") -> Loaded:
    """Name, version, fields, True (unknown fields are skipped) and layout of a message.

    ``message`` is its name, with or without the package; it may be left out where a ``.proto`` file
    has one at its top level. Raises :class:`DefinitionError`, which names the field as
    ``<message>.<field>``; :class:`MissingExtraError` without the extra ``protobuf``.
    """
    try:
        descriptors = importlib.import_module("google.protobuf.descriptor_pb2")
    except ImportError as error:
        raise MissingExtraError("protobuf", "protobuf") from error
    data = compile_proto(path) if path.suffix == ".proto" else _bytes(path)
    try:
        files = descriptors.FileDescriptorSet.FromString(data).file
    except Exception as error:
        if type(error).__name__ != "DecodeError":
            raise
        raise DefinitionError(str(path), "is no descriptor set") from error
    return _Loader(path, files).load(message)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DefinitionError(str(path), f"cannot be read: {error.strerror}") from error


def compile_proto(path: Path) -> bytes:
    """The descriptor set of a .proto file and what it imports. Its own text comes last."""
    _bytes(path)
    if importlib.util.find_spec("grpc_tools") is None:
        raise MissingExtraError("grpcio-tools", "protobuf")
    bundled = Path(str(importlib.import_module("grpc_tools").__file__)).parent / "_proto"
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "set.desc"
        folders = [f"-I{folder}" for folder in (path.resolve().parent, _INCLUDE, bundled)]
        command = [sys.executable, "-m", "grpc_tools.protoc", *folders, "--include_imports"]
        done = subprocess.run(
            [*command, f"--descriptor_set_out={out}", str(path.resolve())],
            capture_output=True, text=True, check=False, timeout=_COMPILE_S,
        )  # fmt: skip
        if done.returncode:
            raise DefinitionError(str(path), f"is refused by protoc: {done.stderr.strip()}")
        return out.read_bytes()


class _Loader:
    """Walks over descriptors of one set."""

    def __init__(self, path: Path, files: Any) -> None:
        self._where = str(path)
        self._files = files
        self._messages: dict[str, tuple[Any, tuple[int, ...], Any]] = {}
        self._enums: dict[str, Any] = {}
        self.fields: list[Field] = []
        self.nodes: list[ProtoNode] = []
        self.oneofs = 0
        for file in files:
            prefix = f"{file.package}." if file.package else ""
            for enum in file.enum_type:
                self._enums[f"{prefix}{enum.name}"] = enum
            for number, message in enumerate(file.message_type):
                self._collect(message, prefix, (number,), file)

    def _collect(self, message: Any, prefix: str, path: tuple[int, ...], file: Any) -> None:
        name = f"{prefix}{message.name}"
        self._messages[name] = message, path, file
        for enum in message.enum_type:
            self._enums[f"{name}.{enum.name}"] = enum
        for number, inner in enumerate(message.nested_type):
            self._collect(inner, f"{name}.", (*path, number), file)

    def load(self, wanted: str) -> Loaded:
        name = self._named(wanted)
        message, path, file = self._messages[name]
        if file.syntax != "proto3":
            raise DefinitionError(f"{self._where}.syntax", 'only syntax = "proto3" is supported')
        short = message.name
        version = _options(message).get(_VERSION, 1)
        self.message(message, short, "", _Outer(-1, False), (name,))
        return short, int(version), tuple(self.fields), True, ProtoLayout(tuple(self.nodes), path)

    def _named(self, wanted: str) -> str:
        if not self._files:
            raise DefinitionError(self._where, "is an empty descriptor set")
        last = self._files[-1]
        top = [f"{last.package}.{m.name}" if last.package else m.name for m in last.message_type]
        if not wanted and len(top) == 1:
            return str(top[0])
        found = [n for n in self._messages if n == wanted or n.endswith(f".{wanted}")]
        if len(found) != 1:
            raise DefinitionError(
                f"{self._where}.message", f"name one message of: {', '.join(top)}; not {wanted!r}"
            )
        return found[0]

    def message(
        self, message: Any, where: str, prefix: str, outer: _Outer, within: tuple[str, ...]
    ) -> int:
        """Add a message's columns and nodes; its number among the nodes."""
        node = ProtoNode(outer.parent, outer.required)
        number = len(self.nodes)
        self.nodes.append(node)
        begin = len(self.fields), number, self.oneofs
        groups: dict[int, int] = {}
        for item in message.field:
            if item.HasField("oneof_index") and not item.proto3_optional:
                groups.setdefault(item.oneof_index, self.oneofs + len(groups))
        self.oneofs += len(groups)
        for item in message.field:
            oneof = -1
            if item.HasField("oneof_index") and not item.proto3_optional:
                oneof = groups[item.oneof_index]
            entry = self._entry(item, f"{where}.{item.name}", prefix, number, outer, oneof, within)
            node.entries.append(entry)
        node.fields = begin[0], len(self.fields)
        node.nodes = begin[1], len(self.nodes)
        node.oneofs = begin[2], self.oneofs
        return number

    def _entry(
        self, item: Any, where: str, prefix: str, parent: int, outer: _Outer, oneof: int,
        within: tuple[str, ...],
    ) -> ProtoEntry:  # fmt: skip
        kind, target = _KINDS.get(item.type), item.type_name.lstrip(".")
        if kind is None:
            raise DefinitionError(where, "a group is not supported")
        if item.label == _REPEATED or target in within:
            return ProtoEntry(item.number, "skip", oneof=oneof)
        options = _options(item)
        present = item.proto3_optional or oneof >= 0
        required = bool(options.get(_REQUIRED, kind == "message" and target == TIMESTAMP))
        if oneof >= 0 or item.proto3_optional:
            required = bool(options.get(_REQUIRED, False))
        if required and kind != "message":
            raise DefinitionError(where, "(pipeline.required) is for messages")
        if kind == "message" and target != TIMESTAMP:
            message = self._messages[target][0]
            below = _Outer(parent, required, outer.nullable or not required)
            path = f"{prefix}{item.name}."
            child = self.message(message, where, path, below, (*within, target))
            return ProtoEntry(item.number, kind, child=child, oneof=oneof)
        nullable = outer.nullable or (not required if kind == "message" else present)
        kind_of, scale, unit = _type(kind, options, where)
        try:
            column = Field(f"{prefix}{item.name}", kind_of, nullable, scale, unit, not nullable)
        except DefinitionError as error:
            raise DefinitionError(where, error.problem) from error
        index = len(self.fields)
        self.fields.append(column)
        if kind == "message":
            return self._timestamp(item.number, parent, required, index, oneof)
        symbols: tuple[tuple[int, str], ...] = ()
        if kind == "enum":
            symbols = tuple((int(v.number), str(v.name)) for v in self._enums[target].value)
        return ProtoEntry(item.number, kind, index, -1, not present, oneof, symbols)

    def _timestamp(
        self, number: int, parent: int, required: bool, index: int, oneof: int
    ) -> ProtoEntry:
        seconds, nanos = ProtoEntry(1, "seconds", index), ProtoEntry(2, "nanos", index)
        child = len(self.nodes)
        none = (index, index + 1), (child, child + 1), (self.oneofs, self.oneofs)
        self.nodes.append(ProtoNode(parent, required, index, [seconds, nanos], *none))
        return ProtoEntry(number, "timestamp", index, child, oneof=oneof)


@dataclass(frozen=True, slots=True)
class _Outer:
    """The message around fields: whether it must be there, and whether it may be absent."""

    parent: int
    required: bool
    nullable: bool = False


def _type(kind: str, options: dict[int, Any], where: str) -> tuple[FieldType, int, str]:
    for number, allowed in ((_DECIMAL, _INTEGERS), (_UNIX_TIME, _INTEGERS), (_UUID, {"string"})):
        if number in options and kind not in allowed:
            raise DefinitionError(where, f"a pipeline option is not for {kind}")
    if kind == "message":
        return FieldType.TIMESTAMP, 0, "iso"
    if _UNIX_TIME in options:
        unit = options[_UNIX_TIME].decode("utf-8", "replace")
        if unit not in EPOCH_UNITS:
            raise DefinitionError(
                where, f"(pipeline.unix_time) {unit!r} is not one of s, ms, us, ns"
            )
        return FieldType.TIMESTAMP, 0, unit
    if _DECIMAL in options:
        return FieldType.DECIMAL, int(options[_DECIMAL]), ""
    if options.get(_UUID):
        return FieldType.UUID, 0, ""
    return _PLAIN[kind], 0, ""


def _options(descriptor: Any) -> dict[int, Any]:
    """Our options of a field or message, by number: protobuf itself does not know them."""
    unknown = importlib.import_module("google.protobuf.unknown_fields")
    return {item.field_number: item.data for item in unknown.UnknownFieldSet(descriptor.options)}
