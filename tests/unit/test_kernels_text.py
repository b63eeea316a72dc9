"""Strings and whole values of JSON text against Python's codec and json."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels.text import skip_value, string_end, unescape


def end_of(contents: bytes, lead: int = 0) -> tuple[int, int]:
    """Position after the string relative to its contents, and whether it has escapes."""
    data = np.frombuffer(b"." * lead + contents + b'"  }', dtype=np.uint8)
    with np.errstate(over="ignore"):
        end, escaped = string_end(data, lead, len(data))
    return (int(end) - lead if end >= 0 else -1), int(escaped)


def is_utf8(data: bytes) -> bool:
    """Python's verdict."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def test_utf8_at_every_edge_of_the_table() -> None:
    edges = [0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1]
    edges += [0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF]
    for n in (1, 2, 3):
        for contents in map(bytes, itertools.product(edges, repeat=n)):
            expected = len(contents) + 1 if is_utf8(contents) else -1
            assert end_of(contents)[0] == expected, contents
    for lead, second in itertools.product([0xF0, 0xF1, 0xF4], edges):
        for contents in (bytes([lead, second, 0x80, 0x80]), bytes([lead, second, 0x80, 0x41])):
            assert end_of(contents)[0] == (5 if is_utf8(contents) else -1), contents


def test_every_byte_at_every_place_of_a_word() -> None:
    for byte, place in itertools.product(range(256), range(17)):
        contents = b"a" * place + bytes([byte]) + b"a" * 20
        whole = 0x20 <= byte < 0x80 and byte != 0x5C
        expected = place + 1 if byte == 0x22 else (len(contents) + 1 if whole else -1)
        assert end_of(contents)[0] == expected, (byte, place)


@pytest.mark.parametrize("unit", [0x0000, 0xD7FF, 0xD800, 0xDBFF, 0xDC00, 0xDFFF, 0xE000, 0xFFFF])
def test_lone_surrogates_are_refused(unit: int) -> None:
    contents = f"\\u{unit:04x}".encode()
    lone = 0xD800 <= unit <= 0xDFFF
    assert end_of(contents) == ((-1 if lone else 7), 1)
    for low in (0x0041, 0xDBFF, 0xDC00, 0xDFFF, 0xE000):
        pair = 0xD800 <= unit <= 0xDBFF and 0xDC00 <= low <= 0xDFFF
        apart = not lone and not 0xD800 <= low <= 0xDFFF
        expected = 13 if pair or apart else -1
        assert end_of(contents + f"\\u{low:04X}".encode())[0] == expected, (unit, low)


@pytest.mark.parametrize("letter", [chr(c) for c in range(0x20, 0x7F) if chr(c) != "u"])
def test_escapes(letter: str) -> None:
    assert end_of(f"\\{letter}ab".encode())[0] == (5 if letter in '"\\/bfnrt' else -1)


@given(st.text(), st.integers(0, 9), st.booleans())
def test_strings_are_unescaped_as_python_does(text: str, lead: int, ascii_only: bool) -> None:
    contents = json.dumps(text, ensure_ascii=ascii_only).encode()[1:-1]
    assert end_of(contents, lead) == (len(contents) + 1, int(b"\\" in contents))
    out = np.full(len(contents) + 2, 0x2A, dtype=np.uint8)
    data = np.frombuffer(contents, dtype=np.uint8)
    used = unescape(data, 0, len(contents), out, 1)
    assert out[1:used].tobytes() == text.encode()
    assert out[0] == 0x2A


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)  # fmt: skip


@given(
    json_values,
    st.sampled_from([None, 1]),
    st.integers(0, 60),
    st.sampled_from(list(b'{}[],:"0\\')),
)
def test_values_are_skipped_whole_or_not_at_all(
    value: object, indent: int | None, at: int, byte: int
) -> None:
    text = bytearray(json.dumps({"a": value}, indent=indent).encode())
    _check_skip(bytes(text))
    text[at % len(text)] = byte
    _check_skip(bytes(text))


def _check_skip(text: bytes) -> None:
    data = np.frombuffer(text + b"  }", dtype=np.uint8)
    with np.errstate(over="ignore"):
        end = skip_value(data, 0, len(data))
    try:
        value, length = json.JSONDecoder(object_pairs_hook=list).raw_decode(text.decode())
        json.dumps(value, ensure_ascii=False).encode()  # fails on a lone surrogate
        expected = len(text.decode()[:length].encode())
    except (json.JSONDecodeError, UnicodeEncodeError):
        expected = -1
    assert end == expected or (expected == -1 and end > len(text)), text
