"""The Protobuf reader: against google.protobuf for its messages, against its twin for any bytes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.contracts.protobuf import compile_proto
from pipeline.errors import DefinitionError
from pipeline.ingest.batch import Reason
from pipeline.ingest.envelope import Envelope
from pipeline.ingest.protobuf import ProtobufDecoder
from tests.reference import protobuf as reference
from tests.reference.avro import long
from tests.reference.records import binary_batch, row

MIXED = Path(__file__).parent / "protos" / "mixed.proto"
COLORS = [0, 1, 7, -3]


@pytest.fixture(scope="module")
def descriptors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The descriptor set of mixed.proto: compiled once."""
    path = tmp_path_factory.mktemp("protos") / "mixed.desc"
    path.write_bytes(compile_proto(MIXED))
    return path


@pytest.fixture(scope="module")
def contract(descriptors: Path) -> Contract:
    return Contract.load(descriptors, message="Mixed")


@pytest.fixture(scope="module")
def decoder(contract: Contract) -> ProtobufDecoder:
    with np.errstate(over="ignore"):
        return ProtobufDecoder(contract, Envelope(contract, "id", "at", 1, earliest_ns=-(2**63)))


@pytest.fixture(scope="module")
def mixed(descriptors: Path) -> Any:
    """The class of messages as protobuf makes it."""
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes()).file:
        pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tests.Mixed"))


def read(decoder: ProtobufDecoder, values: list[bytes]) -> list[tuple[str, dict[str, Any]]]:
    """Reason and columns of each; keys are no matter here."""
    with np.errstate(over="ignore"):
        events = decoder.decode(binary_batch(values, [b"k"] * len(values)))
    found = []
    for i in range(len(values)):
        reason = Reason(int(events.reason[i]))
        good = reason in {Reason.OK, Reason.KEY_MISMATCH}
        found.append(("ok" if good else reason.name.lower(), row(events, i) if good else {}))
    return found


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    def equal(x: Any, y: Any) -> bool:
        if isinstance(x, float) and isinstance(y, float):
            return math.isnan(x) == math.isnan(y) and (
                math.isnan(x) or (x == y and math.copysign(1, x) == math.copysign(1, y))
            )
        return type(x) is type(y) and bool(x == y)

    return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)


INT32, INT64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
UINT32, UINT64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
TIMES = st.fixed_dictionaries(
    {"seconds": st.integers(-(10**10), 10**10), "nanos": st.integers(0, 10**9 - 1)}
)


def inner(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    parts: dict[str, Any] = {"a": INT32, "b": st.text(max_size=5), "c": st.floats(), "t": TIMES}
    parts["color"] = st.sampled_from(COLORS)
    if depth:
        parts["deep"] = deep(depth - 1)
    return st.fixed_dictionaries({}, optional=parts)


def deep(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    parts: dict[str, Any] = {"z": INT64, "ok": st.booleans(), "left": INT32}
    if depth:
        parts["right"] = inner(depth - 1)
    return st.fixed_dictionaries({}, optional=parts)


MESSAGES = st.fixed_dictionaries(
    {"at": TIMES},
    optional={
        "id": INT64, "text": st.text(max_size=12), "inner": inner(2),
        "many": st.lists(INT32, max_size=3),
        "counts": st.dictionaries(st.text(max_size=3), INT32, max_size=2),
        "color": st.sampled_from(COLORS), "left": st.text(max_size=3), "right": INT32,
        "deep": deep(2), "outside": st.sampled_from([0, 1]), "when": TIMES, "cents": INT64,
        "ms": INT64, "u64": UINT64, "f32": UINT32, "sf64": INT64, "f": st.floats(width=32),
        "raw": st.binary(max_size=5), "s32": INT32, "u32": UINT32,
        "uid": st.uuids().map(lambda u: str(u).upper()), "d": st.floats(), "f64": UINT64,
        "sf32": INT32, "i32": INT32,
    },
)  # fmt: skip


def expected(message: Any, contract: Contract) -> dict[str, Any]:
    """Columns of a parsed message; OverflowError where one does not fit."""
    found = {}
    for field in contract.fields:
        *outer, last = field.name.split(".")
        at: Any = message
        for part in outer:
            at = getattr(at, part) if at is not None and at.HasField(part) else None
        value = None if at is None else _value(at, last, field)
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise OverflowError(field.name)
        found[field.name] = value
    return found


def _value(message: Any, name: str, field: Field) -> Any:
    descriptor = message.DESCRIPTOR.fields_by_name[name]
    if descriptor.has_presence and not message.HasField(name):
        return None
    value = getattr(message, name)
    if descriptor.message_type is not None:
        return int(value.seconds) * 10**9 + int(value.nanos)
    if descriptor.enum_type is not None:
        return next(v.name for v in descriptor.enum_type.values if v.number == value)
    if field.unit == "ms":
        return value * 10**6
    return value.lower() if field.type is FieldType.UUID else value


@given(parts=MESSAGES)
@settings(max_examples=300)
def test_messages_are_what_protobuf_reads(
    parts: dict[str, Any], decoder: ProtobufDecoder, contract: Contract, mixed: Any
) -> None:
    message = mixed(**parts)
    [(reason, got)] = read(decoder, [message.SerializeToString()])
    try:
        want = expected(message, contract)
    except OverflowError:
        assert reason == "range"
        return
    assert reason == "ok"
    assert same(got, want), (got, want)


@given(first=MESSAGES, second=MESSAGES, data=st.data())
@settings(max_examples=300)
def test_any_bytes_are_read_as_the_twin_reads_them(
    first: dict[str, Any], second: dict[str, Any], data: st.DataObject,
    decoder: ProtobufDecoder, contract: Contract, mixed: Any,
) -> None:  # fmt: skip
    whole = mixed(**first).SerializeToString()
    more = mixed(**second).SerializeToString()
    at = data.draw(st.integers(0, len(whole)))
    noise = data.draw(st.binary(max_size=6))
    values = [
        whole + more, whole[:at], whole[:at] + noise + whole[at + len(noise) :],
        whole[:at] + noise + whole[at:], noise + data.draw(st.binary(max_size=20)),
    ]  # fmt: skip
    for value, (reason, got) in zip(values, read(decoder, values), strict=True):
        want_reason, want = reference.decode(value, contract)
        want_reason = "empty" if not value else want_reason
        assert reason == want_reason, value
        if reason == "ok":
            assert same(got, want), (got, want)
        _as_protobuf_says(value, reason, got, contract, mixed)


def _as_protobuf_says(
    value: bytes, reason: str, got: dict[str, Any], contract: Contract, mixed: Any
) -> None:
    """What protobuf refuses beyond us is within values that we skip, and the other way round it
    takes a known field on another wire type for an unknown one."""
    try:
        message = mixed.FromString(value)
    except DecodeError:
        return
    assert reason != "decode"
    if reason == "ok":
        assert same(got, expected(message, contract))


def tag(number: int, wire: int) -> bytes:
    return varint(number << 3 | wire)


def varint(bits: int) -> bytes:
    out = b""
    while bits > 0x7F:
        out, bits = out + bytes([bits & 0x7F | 0x80]), bits >> 7
    return out + bytes([bits])


AT = tag(2, 2) + b"\x00"


def one(decoder: ProtobufDecoder, value: bytes) -> tuple[str, dict[str, Any]]:
    return read(decoder, [AT + value])[0]


def test_the_contract(contract: Contract) -> None:
    assert (contract.name, contract.version, contract.language) == ("Mixed", 3, "protobuf")
    assert contract.field("inner.deep.z") == Field(
        "inner.deep.z", FieldType.INT64, True, 0, "", False
    )
    assert contract.field("cents") == Field("cents", FieldType.DECIMAL, scale=2)
    assert contract.field("at") == Field("at", FieldType.TIMESTAMP, unit="iso")
    assert {"many", "counts", "inner.self"}.isdisjoint(contract.names)


def test_wire_types_and_numbers(decoder: ProtobufDecoder) -> None:
    assert one(decoder, tag(1, 5) + b"1234")[0] == "schema"
    assert one(decoder, tag(1, 2) + b"\x01a")[0] == "schema"
    assert one(decoder, tag(3, 0) + b"\x01")[0] == "schema"
    assert one(decoder, tag(7, 0) + b"\x05")[0] == "schema"
    assert one(decoder, tag(77, 0) + b"\x05")[0] == "ok"
    assert one(decoder, b"\x00\x01")[0] == "decode"
    assert one(decoder, tag(1, 6))[0] == "decode"
    assert one(decoder, tag(1, 4))[0] == "decode"
    assert one(decoder, tag(2**29, 0) + b"\x01")[0] == "decode"
    assert one(decoder, tag(3, 2) + b"\x01\xff")[0] == "decode"
    assert one(decoder, tag(3, 2) + varint(2**63) + b"a")[0] == "decode"
    assert read(decoder, [tag(1, 0) + b"\x01"])[0][0] == "schema"


def test_of_an_overlong_varint_the_lowest_64_bits_count(decoder: ProtobufDecoder) -> None:
    reason, found = one(decoder, tag(1, 0) + b"\x85" + b"\x80" * 8 + b"\x7e")
    assert (reason, found["id"]) == ("ok", 5)
    assert one(decoder, tag(1, 0) + b"\x80" * 10 + b"\x01")[0] == "decode"


def test_groups_are_skipped_to_a_depth(decoder: ProtobufDecoder) -> None:
    for depth, reason in ((1, "ok"), (100, "ok"), (101, "decode"), (50_000, "decode")):
        group = tag(99, 3) * depth + tag(98, 0) + b"\x01" + tag(99, 4) * depth
        assert one(decoder, group)[0] == reason, depth
    assert one(decoder, tag(99, 3) + tag(98, 4))[0] == "decode"
    assert one(decoder, tag(99, 3))[0] == "decode"
    assert one(decoder, tag(5, 3) + tag(5, 4))[0] == "ok"  # a repeated field of ours is skipped


def test_the_last_one_wins_and_messages_merge(decoder: ProtobufDecoder) -> None:
    reason, found = one(decoder, tag(1, 0) + b"\x01" + tag(1, 0) + b"\x02")
    assert (reason, found["id"]) == ("ok", 2)
    a, b = tag(1, 0) + b"\x07", tag(2, 2) + b"\x01x"
    reason, found = one(decoder, tag(4, 2) + varint(len(a)) + a + tag(4, 2) + varint(len(b)) + b)
    assert (found["inner.a"], found["inner.b"], found["inner.c"]) == (7, "x", None)
    deep = tag(10, 2) + b"\x02" + tag(1, 0) + b"\x02"
    reason, found = one(decoder, deep + tag(9, 0) + b"\x05" + tag(10, 2) + b"\x00")
    assert (found["deep.z"], found["right"], found["deep.ok"]) == (0, None, False)


def test_times_at_their_edges(decoder: ProtobufDecoder) -> None:
    def at(seconds: int, nanos: int) -> tuple[str, Any]:
        body = tag(1, 0) + varint(seconds % 2**64) + tag(2, 0) + varint(nanos % 2**64)
        [(reason, found)] = read(decoder, [tag(2, 2) + varint(len(body)) + body])
        return reason, found.get("at")

    assert at(9_223_372_036, 854_775_807) == ("ok", 2**63 - 1)
    assert at(9_223_372_036, 854_775_808) == ("range", None)
    assert at(-9_223_372_037, 145_224_192) == ("ok", -(2**63))
    assert at(-9_223_372_037, 145_224_191) == ("range", None)
    assert at(-1, 999_999_999) == ("ok", -1)
    assert at(0, 10**9) == ("schema", None)
    assert at(0, -1) == ("schema", None)


def test_what_must_be_there(descriptors: Path) -> None:
    second = Contract.load(descriptors, message="tests.Second")
    assert second.field("must.id") == Field("must.id", FieldType.INT64)
    with np.errstate(over="ignore"):
        decoder = ProtobufDecoder(second, Envelope(second, "must.id", "ns", 1))
        events = decoder.decode(
            binary_batch([tag(1, 2) + b"\x00", tag(2, 0) + b"\x05"], [b"0", b"0"])
        )
    assert events.reason.tolist() == [Reason.OK, Reason.SCHEMA]


def test_confluents_header_names_the_message(descriptors: Path) -> None:
    contract = Contract.load(descriptors, message="Second.Third")
    second = Contract.load(descriptors, message="Second")
    assert (contract.layout.path, second.layout.path) == ((1, 0), (1,))  # type: ignore[union-attr]
    body = tag(1, 2) + b"\x00"

    def framed(*indexes: int, count: int | None = None) -> bytes:
        path = b"".join(long(k) for k in indexes)
        return (
            b"\x00\x00\x00\x00\x07" + long(len(indexes) if count is None else count) + path + body
        )

    with np.errstate(over="ignore"):
        decoder = ProtobufDecoder(second, Envelope(second, "must.id", "ns", 1), confluent=True)
        values = [
            framed(1), framed(), framed(0), framed(1, 0), b"\x01" + framed(1)[1:], framed(1)[:5],
            framed(count=2**60), framed(count=-1), b"\x00\x00\x00\x00", b"\x00" * 5 + b"\x02",
        ]  # fmt: skip
        reasons = decoder.decode(binary_batch(values, [b"0"] * len(values))).reason
    ok, schema, bad = Reason.OK, Reason.SCHEMA, Reason.DECODE
    assert reasons.tolist() == [ok, schema, schema, schema, bad, bad, bad, bad, bad, bad]


@pytest.mark.parametrize(
    ("text", "named", "problem"),
    [
        ('syntax = "proto2"; message M { optional int32 a = 1; }', "syntax", "proto3"),
        ('syntax = "proto3"; message M {} message N {}', "message", "M, N"),
        ('syntax = "proto3"; message M { repeated int32 a = 1; }', "M.fields", "0 fields"),
        ('syntax = "proto3"; message M { int32 a = }', "m.proto", "protoc"),
        (
            'syntax = "proto3"; import "pipeline/options.proto"; '
            'message M { string a = 1 [(pipeline.unix_time) = "ms"]; }',
            "M.a",
            "option",
        ),
        (
            'syntax = "proto3"; import "pipeline/options.proto"; '
            'message M { int32 a = 1 [(pipeline.unix_time) = "h"]; }',
            "M.a",
            "unix_time",
        ),
        (
            'syntax = "proto3"; import "pipeline/options.proto"; '
            "message M { int32 a = 1 [(pipeline.decimal) = 19]; }",
            "M.a",
            "scale",
        ),
    ],
)
def test_a_wrong_contract_is_named(tmp_path: Path, text: str, named: str, problem: str) -> None:
    path = tmp_path / "m.proto"
    path.write_text(text)
    with pytest.raises(DefinitionError, match=problem) as error:
        Contract.load(path)
    assert named in error.value.field


def test_a_descriptor_set_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "m.desc"
    path.write_bytes(b"\xff\xff")
    with pytest.raises(DefinitionError, match="descriptor set"):
        Contract.load(path)
    with pytest.raises(DefinitionError, match="cannot be read"):
        Contract.load(tmp_path / "absent.proto")
