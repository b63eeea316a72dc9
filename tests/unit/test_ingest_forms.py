"""Uuids and base64 texts of columns against Python's own reading of them."""

from __future__ import annotations

import base64
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest import forms
from pipeline.ingest.batch import Reason
from tests.reference import forms as reference
from tests.reference.hash import xxh64

UUIDS = st.uuids().map(lambda u: str(u).encode())
ENCODED = st.binary(max_size=9).map(base64.b64encode)


def _damage(draw: st.DrawFn, text: bytes) -> bytes:
    at = draw(st.integers(0, max(len(text) - 1, 0)))
    return draw(
        st.sampled_from(
            [text, text, text.upper(), text + b"=", text[:-1], b"{" + text + b"}", text + text[:1],
             text[:at] + b"=" + text[at + 1 :], text[:at] + b"g" + text[at + 1 :],
             text[:at] + b"-" + text[at + 1 :], text[:at] + b"\0" + text[at + 1 :], b""]
        )
    )  # fmt: skip


@st.composite
def texts(draw: st.DrawFn, good: st.SearchStrategy[bytes]) -> list[bytes]:
    return [_damage(draw, text) for text in draw(st.lists(good, max_size=6))]


def _read(
    settle: Callable[..., forms.Text], rows: list[bytes], valid: list[int], reasons: list[int]
) -> tuple[list[bytes], list[int], list[int]]:
    bounds = np.cumsum([1, *map(len, rows)]).astype(np.int64)
    data = np.frombuffer(b"." + b"".join(rows), dtype=np.uint8)
    reason, column = np.array(reasons, dtype=np.uint8), np.zeros(len(rows), dtype=np.int64)
    with np.errstate(over="ignore"):
        out, start, length = settle(
            (data, bounds[:-1].copy(), np.diff(bounds)),
            np.array(valid, dtype=np.uint8), reason, column,
        )  # fmt: skip
    found = [out[s : s + n].tobytes() for s, n in zip(start, length, strict=True)]
    return found, reason.tolist(), column.view(np.uint64).tolist()


@pytest.mark.parametrize(
    ("settle", "twin", "good"),
    [
        (forms.lower_uuids, reference.lower_uuid, UUIDS),
        (forms.base64_bytes, reference.base64_bytes, ENCODED),
    ],
    ids=["uuid", "base64"],
)
@given(data=st.data())
def test_texts_equal_the_twins(
    settle: Callable[..., forms.Text],
    twin: Callable[[bytes], bytes | None],
    good: st.SearchStrategy[bytes],
    data: st.DataObject,
) -> None:
    rows = data.draw(texts(good))
    found, reasons, hashes = _read(settle, rows, [1] * len(rows), [0] * len(rows))
    expected = [twin(row) for row in rows]
    assert [r == Reason.SCHEMA for r in reasons] == [value is None for value in expected]
    for value, got, hashed in zip(expected, found, hashes, strict=True):
        assert value is None or (got == value and hashed == xxh64(value))


@pytest.mark.parametrize("settle", [forms.lower_uuids, forms.base64_bytes])
def test_the_first_reason_stays_and_nulls_are_left_alone(
    settle: Callable[..., forms.Text],
) -> None:
    before = [Reason.OK, Reason.OK, Reason.DECODE, Reason.RANGE, Reason.KEY_MISMATCH]
    _, after, _ = _read(settle, [b"!"] * 5, [1, 0, 1, 1, 1], [int(r) for r in before])
    schema = Reason.SCHEMA
    assert after == [schema, Reason.OK, Reason.DECODE, schema, schema]
