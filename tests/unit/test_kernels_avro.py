"""The Avro reader: against fastavro for valid records, against its twin for any bytes."""

from __future__ import annotations

import io
import math
import struct
from typing import Any

import fastavro
import numpy as np
import pytest
from fastavro.read import SchemaResolutionError
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.contracts.avroschema import read_schema
from pipeline.contracts.contract import Contract, FieldType
from pipeline.errors import DefinitionError
from pipeline.ingest.avro import AvroDecoder
from pipeline.ingest.avroprogram import Programs
from pipeline.ingest.batch import EventBatch, Reason
from pipeline.ingest.envelope import Envelope
from pipeline.kernels import avro as kernel
from tests.reference import avro as reference
from tests.reference.records import binary_batch, row

INT64 = st.integers(-(2**63), 2**63 - 1) | st.integers(-200, 200)
INT32 = st.integers(-(2**31), 2**31 - 1) | st.integers(-200, 200)
REAL32 = st.floats(width=32)
UUIDS = st.uuids()
SYMBOLS = ["A", "B", "C"]

# (type, values): values as fastavro takes them for the type without its logical type
LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    ("long", INT64),
    ("int", INT32),
    ("double", st.floats()),
    ("float", REAL32),
    ("boolean", st.booleans()),
    ("string", st.text(max_size=12)),
    ("bytes", st.binary(max_size=12)),
    ({"type": "enum", "symbols": SYMBOLS}, st.sampled_from(SYMBOLS)),
    ({"type": "fixed", "size": 3}, st.binary(min_size=3, max_size=3)),
    ({"type": "string", "logicalType": "uuid"}, UUIDS.map(lambda u: str(u).upper())),
    ({"type": "fixed", "size": 16, "logicalType": "uuid"}, UUIDS.map(lambda u: u.bytes)),
    ({"type": "long", "logicalType": "timestamp-millis"}, INT64),
    ({"type": "long", "logicalType": "timestamp-micros"}, INT64),
    ({"type": "long", "logicalType": "timestamp-nanos"}, INT64),
    (
        {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 3},
        st.binary(max_size=10),
    ),
    (
        {"type": "fixed", "size": 9, "logicalType": "decimal", "precision": 12, "scale": 3},
        st.binary(min_size=9, max_size=9),
    ),
]
SKIPPED: list[tuple[Any, st.SearchStrategy[Any]]] = [
    ({"type": "array", "items": "long"}, st.lists(INT64, max_size=3)),
    ({"type": "array", "items": "null"}, st.lists(st.none(), max_size=3)),
    (
        {"type": "map", "values": {"type": "array", "items": ["null", "string"]}},
        st.dictionaries(st.text(max_size=3), st.lists(st.none() | st.text(max_size=3)), max_size=2),
    ),
    (["null", "long", "string"], st.none() | INT64 | st.text(max_size=4)),
    ("null", st.none()),
]
PROMOTIONS = {"int": ["long", "float", "double"], "long": ["float", "double"], "float": ["double"]}
PROMOTIONS |= {"string": ["bytes"], "bytes": ["string"]}


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """A writer's schema, a reader's, and records of the writer."""
    names = (f"t{k}" for k in range(1000))
    writers, readers, values = _fields(draw, names, 0)
    if not readers:
        readers = [{"name": "added", "type": "long", "default": 7}]
    writer = {"type": "record", "name": "r", "fields": writers}
    reader = {"type": "record", "name": "r", "fields": draw(st.permutations(readers))}
    records = draw(st.lists(st.fixed_dictionaries(values), min_size=1, max_size=3))
    return writer, reader, records


def _fields(draw: st.DrawFn, names: Any, depth: int) -> tuple[list[Any], list[Any], dict[str, Any]]:
    writers, readers, values = [], [], {}
    for k in range(draw(st.integers(1, 5))):
        name = f"f{k}"
        what = draw(st.sampled_from(["leaf", "leaf", "leaf", "skip", "record", "added"]))
        if what == "added":
            default = draw(st.sampled_from([("long", 5), ("string", "né"), ("double", 1.5)]))
            readers.append({"name": f"new{k}", "type": default[0], "default": default[1]})
            continue
        if what == "record" and depth < 2:
            below, wanted, inner = _fields(draw, names, depth + 1)
            title = next(names)
            kind: Any = {"type": "record", "name": title, "fields": below}
            other: Any = {"type": "record", "name": title, "fields": wanted} if wanted else None
            strategy: Any = st.fixed_dictionaries(inner)
        else:
            kind, strategy = draw(st.sampled_from(SKIPPED if what == "skip" else LEAVES))
            if isinstance(kind, dict) and kind["type"] in {"enum", "fixed"}:
                kind = {**kind, "name": next(names)}
            other = None if what == "skip" else _other(draw, kind)
        if what != "skip" and draw(st.booleans()):
            first = draw(st.booleans())
            kind = ["null", kind] if first else [kind, "null"]
            strategy = st.none() | strategy
            if other is not None and draw(st.integers(0, 5)):
                other = ["null", other]
        writers.append({"name": name, "type": kind})
        values[name] = strategy
        if other is not None and draw(st.integers(0, 7)):
            if draw(st.integers(0, 7)):
                readers.append({"name": name, "type": other})
            else:
                readers.append({"name": f"now_{name}", "aliases": [name], "type": other})
    return writers, readers, values


def _other(draw: st.DrawFn, kind: Any) -> Any:
    """What a reader may have for a writer's type."""
    if isinstance(kind, str):
        return draw(st.sampled_from([kind, kind, *PROMOTIONS.get(kind, [])]))
    if kind["type"] == "enum":
        fewer = {**kind, "symbols": ["A", "B"]}
        return draw(st.sampled_from([kind, fewer, {**fewer, "default": "B"}]))
    return kind


def plain(schema: Any) -> Any:
    """A schema without logical types: they change no byte, only what fastavro makes of them."""
    if isinstance(schema, list):
        return [plain(item) for item in schema]
    if isinstance(schema, dict):
        dropped = {"logicalType", "precision", "scale"}
        return {k: plain(v) for k, v in schema.items() if k not in dropped}
    return schema


def encode(writer: Any, record: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(plain(writer)), record)
    return out.getvalue()


def columns(contract: Contract, value: Any) -> dict[str, Any]:
    """What fastavro read as columns; OverflowError where one does not fit."""
    found: dict[str, Any] = {}
    for field in contract.fields:
        item = value
        for part in field.name.split("."):
            item = item[part] if item is not None else None
        if item is not None and field.type is FieldType.TIMESTAMP:
            item *= {"ms": 10**6, "us": 10**3, "ns": 1}[field.unit]
        elif item is not None and field.type is FieldType.DECIMAL:
            item = int.from_bytes(item, "big", signed=True)
        elif item is not None and field.type is FieldType.UUID:
            item = item.lower() if isinstance(item, str) else str(_uuid(item))
        elif item is not None and field.type is FieldType.FLOAT64:
            item = float(item)
        if isinstance(item, int) and not -(2**63) <= item < 2**63:
            raise OverflowError(field.name)
        found[field.name] = item
    return found


def _uuid(data: bytes) -> str:
    h = data.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


class Columns:
    """Scan values by one writer's schema, without keys and times."""

    def __init__(self, contract: Contract, writer: Any) -> None:
        self.contract = contract
        self.programs = Programs(contract)
        self.entry = self.programs.add(read_schema(writer, "w"))

    def read(self, values: list[bytes], header: int = 0) -> list[tuple[str, dict[str, Any]]]:
        n, programs, tables = len(values), self.programs, self.programs.tables
        batch = binary_batch(values, [b"k"] * n)
        out = np.zeros((len(self.contract.fields), n), dtype=np.int64)
        valid = np.ones(out.shape, dtype=np.uint8)
        start = np.zeros((len(programs.texts), n), dtype=np.int64)
        length = np.zeros_like(start)
        side = np.empty(n * programs.uuids * 36, dtype=np.uint8)
        reason = np.zeros(n, dtype=np.uint8)
        with np.errstate(over="ignore"):
            used = kernel.scan(
                batch.payload, batch.value_offsets, header, np.full(n, self.entry),
                tables.ops.reshape(-1), tables.jumps, tables.targets, programs.nullable,
                tables.symbols, len(tables.known), reason, out.reshape(-1),
                out.reshape(-1).view(np.float64), valid.reshape(-1), start.reshape(-1),
                length.reshape(-1), side, np.empty(kernel.STACK, dtype=np.int64),
            )  # fmt: skip
        text = np.concatenate([batch.payload, tables.known, side[:used]])
        events = EventBatch(
            batch,
            {
                f.name: c.view(np.float64) if f.type is FieldType.FLOAT64 else c
                for f, c in zip(self.contract.fields, out, strict=True)
            },
            dict(zip(self.contract.names, valid, strict=True)),
            {name: (text, start[k], length[k]) for k, name in enumerate(programs.texts)},
            out[0],
            reason,
            {f.name: f for f in self.contract.fields},
        )
        found = []
        for i in range(n):
            name = Reason(int(reason[i])).name.lower()
            found.append((name, row(events, i) if name == "ok" else {}))
        return found


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Equal, floats bit for bit (any NaN is NaN)."""
    return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return struct.pack("<d", a) == struct.pack("<d", b) or (math.isnan(a) and math.isnan(b))
    return type(a) is type(b) and bool(a == b)


@given(worlds())
def test_valid_records_are_what_fastavro_reads(
    world: tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]],
) -> None:
    writer, reader, records = world
    try:
        contract = Contract.load(reader)
    except DefinitionError:
        return  # a record of nothing but arrays has no columns
    values = [encode(writer, record) for record in records]
    for value, (reason, got) in zip(values, Columns(contract, writer).read(values), strict=True):
        try:
            raw = fastavro.schemaless_reader(io.BytesIO(value), plain(writer), plain(reader))
            want = columns(contract, raw)
            verdict = "ok"
        except SchemaResolutionError:
            verdict, want = "schema", {}
        except UnicodeDecodeError:
            verdict, want = "decode", {}
        except OverflowError:
            verdict, want = "range", {}
        assert reason == verdict
        assert same(got, want), (got, want)


@given(worlds(), st.data())
@settings(max_examples=200)
def test_any_bytes_are_read_as_the_twin_reads_them(
    world: tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]], data: st.DataObject
) -> None:
    writer, reader, records = world
    try:
        contract = Contract.load(reader)
    except DefinitionError:
        return
    values = [encode(writer, record) for record in records]
    broken = [_broken(data, value) for value in values]
    tree = read_schema(writer, "w")
    for value, (reason, got) in zip(broken, Columns(contract, writer).read(broken), strict=True):
        want_reason, want = reference.decode(value, tree, contract)
        assert reason == want_reason
        if reason == "ok":
            assert same(got, want), (got, want)


def _broken(data: st.DataObject, value: bytes) -> bytes:
    how = data.draw(st.sampled_from(["cut", "more", "flip", "noise", "splice"]))
    at = data.draw(st.integers(0, len(value)))
    if how == "cut":
        return value[:at]
    if how == "more":
        return value + data.draw(st.binary(min_size=1, max_size=3))
    if how == "flip":
        byte = data.draw(st.integers(0, 255))
        return value[:at] + bytes([byte]) + value[at + 1 :]
    if how == "noise":
        return data.draw(st.binary(max_size=40))
    return value[:at] + data.draw(st.binary(max_size=12)) + value[at:]


def one(field: Any, value: bytes, reader: Any = None) -> tuple[str, Any]:
    """Reason and value of a single field ``a``."""
    writer = {"type": "record", "name": "r", "fields": [{"name": "a", **field}]}
    contract = Contract.load({**writer, "fields": [{"name": "a", **(reader or field)}]})
    [(reason, found)] = Columns(contract, writer).read([value])
    return reason, found.get("a")


def test_varints_have_at_most_64_bits() -> None:
    assert one({"type": "long"}, b"\xff" * 9 + b"\x01") == ("ok", -(2**63))
    assert one({"type": "long"}, b"\xff" * 9 + b"\x02") == ("decode", None)
    assert one({"type": "long"}, b"\x80" * 10 + b"\x01") == ("decode", None)
    assert one({"type": "long"}, b"\x82\x80\x80\x00") == ("ok", 1)
    assert one({"type": "int"}, reference.long(2**31)) == ("decode", None)
    assert one({"type": "int"}, reference.long(-(2**31))) == ("ok", -(2**31))


def test_decimals_change_their_scale_without_loss() -> None:
    def decimal(scale: int) -> dict[str, Any]:
        return {
            "type": {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": scale}
        }

    for written, wanted, number, expected in [
        (2, 4, 150, ("ok", 15000)),
        (4, 2, 15000, ("ok", 150)),
        (4, 2, 15001, ("range", None)),
        (0, 18, 10, ("range", None)),
        (0, 18, -9, ("ok", -9 * 10**18)),
    ]:
        body = number.to_bytes(20, "big", signed=True)
        assert one(decimal(written), reference.long(20) + body, decimal(wanted)) == expected


def test_times_are_of_the_unit_that_the_writer_declares() -> None:
    def time(unit: str) -> dict[str, Any]:
        return {"type": {"type": "long", "logicalType": f"timestamp-{unit}"}}

    assert one(time("micros"), reference.long(7), time("millis")) == ("ok", 7000)
    assert one({"type": "long"}, reference.long(7), time("millis")) == ("ok", 7_000_000)
    local = {"type": {"type": "long", "logicalType": "local-timestamp-millis"}}
    body, wanted = reference.long(7), time("millis")
    writer = {"type": "record", "name": "r", "fields": [{"name": "a", **local}]}
    contract = Contract.load({**writer, "fields": [{"name": "a", **wanted}]})
    assert Columns(contract, writer).read([body])[0][0] == "schema"


def test_blocks_that_say_their_size_are_skipped_whole() -> None:
    writer = {
        "type": "record",
        "name": "r",
        "fields": [
            {"name": "s", "type": {"type": "array", "items": "string"}},
            {"name": "a", "type": "long"},
        ],
    }
    scan = Columns(Contract.load({**writer, "fields": writer["fields"]}), writer)
    sized = reference.long(-3) + reference.long(5) + b"hello" + reference.long(0)
    huge = reference.long(-1) + reference.long(2**62) + b"x"
    endless = reference.long(2**62)
    assert scan.read([sized + b"\x02", huge, endless]) == [
        ("ok", {"a": 1}), ("decode", {}), ("decode", {})
    ]  # fmt: skip


def test_many_nothings_take_no_time() -> None:
    empty = {"type": "record", "name": "nothing", "fields": [{"name": "n", "type": "null"}]}
    writer = {
        "type": "record",
        "name": "r",
        "fields": [
            {"name": "s", "type": {"type": "array", "items": empty}},
            {"name": "a", "type": "long"},
        ],
    }
    many = reference.long(2**62) * 3 + reference.long(0) + b"\x02"
    assert Columns(Contract.load(writer), writer).read([many]) == [("ok", {"a": 1})]


def test_records_within_themselves_are_skipped_to_a_depth() -> None:
    tree = {
        "type": "record",
        "name": "tree",
        "fields": [
            {"name": "v", "type": "long"},
            {"name": "next", "type": ["null", "tree"]},
        ],
    }
    writer = {
        "type": "record",
        "name": "r",
        "fields": [{"name": "t", "type": tree}, {"name": "a", "type": "long"}],
    }
    reader = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "long"}]}
    scan = Columns(Contract.load(reader), writer)
    for depth, reason in ((0, "ok"), (100, "ok"), (127, "ok"), (128, "decode"), (5000, "decode")):
        value = b"\x02\x02" * depth + b"\x02\x00" + b"\x0e"
        assert scan.read([value])[0][0] == reason, depth


@pytest.mark.parametrize(
    "schema",
    [
        "long",
        {"type": "record", "name": "a", "fields": [{"name": "a", "type": "a"}]},
        {
            "type": "record",
            "name": "r",
            "fields": [{"name": f"f{k}", "type": "long"} for k in range(70_000)],
        },
    ],
)
def test_schemas_that_no_record_can_have_are_refused(schema: Any) -> None:
    contract = Contract.load(
        {"type": "record", "name": "r", "fields": [{"name": "x", "type": "long", "default": 1}]}
    )
    programs = Programs(contract)
    before = programs.tables.ops.tolist()
    with pytest.raises(DefinitionError):
        programs.add(read_schema(schema, "w"))
    programs.add(read_schema({"type": "record", "name": "r", "fields": []}, "w"))
    assert len(programs.tables.ops) == len(before) + 1


def test_a_decoder_needs_a_schema() -> None:
    contract = Contract.load(
        {
            "title": "j",
            "type": "object",
            "properties": {"id": {"type": "integer"}, "t": {"type": "integer", "x-unix-time": "s"}},
            "required": ["id", "t"],
        }
    )
    with pytest.raises(DefinitionError, match="registry"):
        AvroDecoder(contract, Envelope(contract, "id", "t", 1))
