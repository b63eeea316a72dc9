"""The JSON scanner against Python's json: verdict and values, of valid and broken documents."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.contracts.contract import Contract, FieldType
from pipeline.ingest.batch import EventBatch, Reason
from pipeline.ingest.decode import JsonDecoder
from tests.reference import json as reference
from tests.reference.hash import xxh64
from tests.reference.records import binary_batch, row

PROPERTIES: dict[str, Any] = {
    "id": {"type": "integer"},
    "when": {"type": "integer", "x-unix-time": "ns"},
    "n": {"type": ["integer", "null"]},
    "amount": {"type": "number", "x-decimal": 2},
    "x": {"type": "number"},
    "ok": {"type": "boolean"},
    "text": {"type": "string"},
    "a_rather_long_field_name": {"type": ["string", "null"]},
    "at": {"type": "string", "format": "date-time"},
    "local": {"type": "string", "format": "date-time", "x-timezone": "UTC"},
    "ms": {"type": "integer", "x-unix-time": "ms"},
}
REQUIRED = ["id", "when", "amount", "text"]


def _contract(additional: bool) -> Contract:
    return Contract.load(
        {
            "title": "mixed",
            "type": "object",
            "properties": PROPERTIES,
            "required": REQUIRED,
            "additionalProperties": additional,
        }
    )


OPEN, CLOSED = _contract(True), _contract(False)

ODD_NUMBERS = [
    "0",
    "-0",
    "-0.0",
    "1.0",
    "1e3",
    "01",
    "-",
    "1.",
    ".5",
    "1e",
    "+1",
    "1.5",
    "0.1e1",
    "1e-1",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "92233720368547758.07",
    "92233720368547758.08",
    "-92233720368547758.08",
    "0.005",
    "1e400",
    "-1e400",
    "1e-400",
    "0e999",
    "1000000000000000000000000000000e-30",
    "9007199254740993",
    "2.2250738585072014e-308",
    "4.9e-324",
    "1.7976931348623157e308",
    "1e22",
    "1e23",
    "NaN",
    "Infinity",
    "-Infinity",
    "0x10",
    "1e99999999999999999999",
    "5e-9999999999999999",
]
ODD_TIMES = [
    '"2262-04-11T23:47:16.854775807Z"',
    '"2262-04-11T23:47:16.854775808Z"',
    '"1677-09-21T00:12:43.145224192Z"',
    '"1677-09-21T00:12:43.145224191Z"',
    '"0000-01-01T00:00:00Z"',
    '"9999-12-31T23:59:59Z"',
    '"2016-12-31T23:59:60Z"',
    '"2000-02-29T00:00:00Z"',
    '"1900-02-29T00:00:00Z"',
    '"2017-01-01T11:53:26"',
    '"2017-01-01T11:53:26+0100"',
    '"2017-01-01"',
    '"2017-01-01T11:53:26.Z"',
    '"2017-1-1T1:1:1Z"',
    '"2017-01-01T11\\u003a53:26Z"',
    '"1970-01-01T00:00:00-00:00"',
    '"1969-12-31T23:59:59.5Z"',
]
ODD_STRINGS = [
    '"\\ud800"',
    '"\\udc00"',
    '"\\ud83d\\ude00"',
    '"\\ud83dx"',
    '"\\ud83d\\u0041"',
    '"\\q"',
    '"\\u12"',
    '"\\u00e9"',
    '"tab\there"',
    '"\x00"',
    '"\x7f"',
    '"',
    '"\\',
    '"a\\"',
    '"\\/"',
    '"0123456\\n"',
    '"01234567\\t89"',
    '"}"',
    '"\\u0000"',
]

_numbers = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(-(10**6), 10**6, places=2).map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,24})?([eE][-+]?[0-9]{1,3})?", fullmatch=True),
    st.sampled_from(ODD_NUMBERS),
)
_strings = st.one_of(
    st.text(max_size=30).map(json.dumps),
    st.text(max_size=30).map(lambda s: json.dumps(s, ensure_ascii=False)),
    st.sampled_from(ODD_STRINGS),
)
_times = st.one_of(
    st.datetimes().map(lambda t: f'"{t.isoformat()}Z"'),
    st.datetimes().map(lambda t: f'"{t.isoformat()}"'),
    st.from_regex(
        r'"[0-2][0-9]{3}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9]'
        r'(\.[0-9]{1,12})?(Z|z|[-+][0-2][0-9]:[0-6][0-9]|)"',
        fullmatch=True,
    ),
    st.sampled_from(ODD_TIMES),
)
_scalars = st.one_of(_numbers, _strings, st.sampled_from(["true", "false", "null", "tru", "nul"]))
_nested = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda v: "[" + ", ".join(v) + "]"),
        st.lists(inner, max_size=3).map(
            lambda v: "{" + ",".join(f'"k{i}":{x}' for i, x in enumerate(v)) + "}"
        ),
    ),
    max_leaves=5,
)
_space = st.sampled_from(["", "", "", " ", "\n\t \r", "  "])
_GOOD = {
    "id": "7",
    "when": "1700000000000000000",
    "n": "null",
    "amount": "12.50",
    "x": "0.1",
    "ok": "true",
    "text": '"plain text"',
    "a_rather_long_field_name": '"\\u00e9t\\u00e9"',
    "at": '"2017-01-01T11:53:26Z"',
    "local": '"2017-01-01 11:53:26.123456789"',
    "ms": "1700000000000",
}


def _fitting(name: str) -> st.SearchStrategy[str]:
    kind = OPEN.field(name).type
    if PROPERTIES[name].get("format"):
        return _times
    if kind in {FieldType.INT64, FieldType.FLOAT64, FieldType.DECIMAL, FieldType.TIMESTAMP}:
        return _numbers
    return _strings if kind is FieldType.STRING else st.sampled_from(["true", "false", "tru", "1"])


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """Mostly well-formed documents in any order, with some odd values and unknown fields."""
    members = dict(_GOOD)
    for name in draw(st.lists(st.sampled_from(sorted(PROPERTIES)), max_size=2, unique=True)):
        members[name] = draw(st.one_of(_fitting(name), _fitting(name), _nested, st.just("null")))
    for name in draw(st.lists(st.sampled_from(sorted(PROPERTIES)), max_size=2)):
        members.pop(name, None)
    parts = [(json.dumps(name), value) for name, value in members.items()]
    if draw(st.booleans()):
        parts.append((draw(_strings), draw(_nested)))
    if draw(st.integers(0, 9)) == 0:
        parts.append(draw(st.sampled_from(parts or [('"z"', "1")])))
    if draw(st.integers(0, 9)) == 0:
        parts = [(key.replace("e", "\\u0065"), value) for key, value in parts]
    if draw(st.booleans()):
        parts = draw(st.permutations(parts))
    a, b, c, d = (draw(_space) for _ in range(4))
    text = a + "{" + b + f"{c},{d}".join(f"{k}{d}:{b}{v}" for k, v in parts) + c + "}" + d
    return text.encode("utf-8", "surrogatepass")


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A document with a cut, a changed byte, or something inserted."""
    data = bytearray(draw(documents()))
    at = draw(st.integers(0, len(data) - 1))
    how = draw(st.integers(0, 3))
    if how == 0:
        return bytes(data[:at])
    if how == 1:
        data[at] = draw(st.integers(0, 255))
    elif how == 2:
        data[at:at] = draw(st.sampled_from([b"{", b"}", b'"', b",", b"\\", b"0", b"\xff", b"\x00"]))
    else:
        del data[at]
    return bytes(data)


_soup = st.text(alphabet='{}[]",:01.eE+-\\u truefalsn\x00é', max_size=40).map(
    lambda s: ("{" + s + "}").encode()
)


def decode(contract: Contract, values: list[bytes]) -> EventBatch:
    """Columns of the documents; keys and times are never refused."""
    keys: list[bytes | None] = []
    for value in values:
        reason, expected = reference.parse(contract, value)
        keys.append(str(expected["id"]).encode() if reason is Reason.OK else b"key")
    with np.errstate(over="ignore"):
        decoder = JsonDecoder(contract, "id", "when", 1, earliest_ns=-(2**63))
        return decoder.decode(binary_batch(values, keys))


def _bits(value: Any) -> Any:
    return struct.pack("<d", value) if isinstance(value, float) else value


def check(contract: Contract, values: list[bytes]) -> None:
    """Every document gets the twin's reason and, if it is OK, the twin's values to the last bit."""
    events = decode(contract, values)
    for i, value in enumerate(values):
        reason, expected = reference.parse(contract, value)
        if not value:
            reason = Reason.EMPTY
        assert Reason(events.reason[i]) is reason, value
        if reason is Reason.OK:
            got = row(events, i)
            assert {k: _bits(v) for k, v in got.items()} == {
                k: _bits(v) for k, v in expected.items()
            }, value
            hashed = int(events.columns["text"][i]) % 2**64
            assert hashed == xxh64(expected["text"].encode())


@given(st.lists(documents(), min_size=1, max_size=5), st.sampled_from([OPEN, CLOSED]))
def test_documents_decode_as_python_reads_them(values: list[bytes], contract: Contract) -> None:
    check(contract, values)


@given(st.lists(st.one_of(broken(), _soup, st.binary(max_size=40)), min_size=1, max_size=5))
def test_broken_documents_get_the_same_verdict(values: list[bytes]) -> None:
    check(OPEN, values)


@given(_fitting("x"))
def test_floats_are_exact_to_the_last_bit(text: str) -> None:
    check(OPEN, [_with(x=text)])


def _with(**members: str) -> bytes:
    return ("{" + ",".join(f'"{k}":{v}' for k, v in {**_GOOD, **members}.items()) + "}").encode()


def test_a_number_that_goes_on_after_its_end_is_no_number() -> None:
    check(
        OPEN, [_with(x=text) for text in ("1e999e1", "1e999.5", "1e999-", "1e999+1e5", "1e99999E")]
    )


def test_odd_values_in_every_field() -> None:
    odd = [*ODD_NUMBERS, *ODD_STRINGS, *ODD_TIMES, "true", "false", "null", "[]", "{}", "nulls"]
    for name in PROPERTIES:
        check(OPEN, [_with(**{name: value}) for value in odd])


def test_every_truncation_is_refused() -> None:
    value = _with()
    check(OPEN, [value[:n] for n in range(len(value) + 1)])


def test_every_changed_byte_gets_the_same_verdict() -> None:
    value = _with()
    seen = set()
    for byte in b'\x00\x1f "\\,:}]0n\x80\xff':
        changed = [value[:i] + bytes([byte]) + value[i + 1 :] for i in range(len(value))]
        check(OPEN, changed)
        seen |= {reference.parse(OPEN, v)[0] for v in changed}
    assert {Reason.OK, Reason.DECODE, Reason.SCHEMA} <= seen


def test_depth_is_limited_and_never_overflows_a_stack() -> None:
    nested: Callable[[int], str] = lambda n: "[" * n + "]" * n  # noqa: E731
    values = [_with(unknown=nested(n)) for n in (1, 62, 63, 64, 65)]
    values += [_with(unknown='{"a":' * n + "1" + "}" * n) for n in (63, 64)]
    check(OPEN, values)
    events = decode(OPEN, [b'{"a":' + b"[" * 10_000 + b"}", *values])
    decode_, ok = Reason.DECODE, Reason.OK
    assert events.reason.tolist() == [decode_, ok, ok, ok, decode_, decode_, ok, decode_]


def test_a_float_that_overflows_is_out_of_range_unless_something_worse_is_wrong() -> None:
    events = decode(OPEN, [_with(x="1e999"), _with(x="1e999", id="true"), _with(x="1e999") + b"!"])
    assert events.reason.tolist() == [Reason.RANGE, Reason.SCHEMA, Reason.DECODE]
