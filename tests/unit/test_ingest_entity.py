"""Entity keys of event batches against their twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.contracts.contract import Field, FieldType
from pipeline.errors import DefinitionError, UnknownNameError
from pipeline.ingest.batch import EventBatch, Reason
from pipeline.ingest.entity import entity_keys
from pipeline.kernels import entity as kernel
from tests.reference.entity import entity_key, key_parts
from tests.reference.records import binary_batch

FIELDS = {
    "number": FieldType.INT64,
    "text": FieldType.STRING,
    "uuid": FieldType.UUID,
    "raw": FieldType.BYTES,
}
AWKWARD = [b"", b"|", b"\\", b"\\|", b"a|b", b"{}", b"\0", b"NaN", b"null", b"\xf0\x9f\x90\x98"]
TEXT = st.sampled_from(AWKWARD) | st.text(max_size=8).map(str.encode)
NUMBER = st.sampled_from([0, -1, 9, 10, -9, -10, 2**63 - 1, -(2**63)]) | st.integers(
    -(2**63), 2**63 - 1
)
VALUES: dict[str, Any] = {
    "number": NUMBER,
    "text": TEXT,
    "uuid": st.uuids().map(lambda u: str(u).encode()),
    "raw": st.binary(max_size=8) | st.sampled_from(AWKWARD),
}


def events_of(rows: list[dict[str, Any]], reasons: list[int]) -> EventBatch:
    """A batch of these values; strings lie in one buffer, in a row's order."""
    n = len(rows)
    columns: dict[str, Any] = {}
    valid, strings = {}, {}
    for name in FIELDS:
        values = [row[name] for row in rows]
        valid[name] = np.array([value is not None for value in values], dtype=np.uint8)
        if name == "number":
            columns[name] = np.array([value or 0 for value in values], dtype=np.int64)
            continue
        texts = [value if isinstance(value, bytes) else b"" for value in values]
        bounds = np.cumsum([3, *map(len, texts)]).astype(np.int64)
        data = np.frombuffer(b"..." + b"".join(texts), dtype=np.uint8)
        columns[name] = np.zeros(n, dtype=np.int64)
        strings[name] = (data, bounds[:-1].copy(), np.diff(bounds))
    return EventBatch(
        binary_batch([b"{}"] * n, [b"k"] * n),
        columns,
        valid,
        strings,
        np.zeros(n, dtype=np.int64),
        np.array(reasons, dtype=np.uint8),
        {name: Field(name, type_, nullable=True) for name, type_ in FIELDS.items()},
    )


@st.composite
def batches(draw: st.DrawFn) -> tuple[EventBatch, list[dict[str, Any]], list[int], list[str]]:
    row = st.fixed_dictionaries({name: st.none() | value for name, value in VALUES.items()})
    rows = draw(st.lists(row, max_size=6))
    reasons = [draw(st.sampled_from([0, 0, 0, int(Reason.DECODE)])) for _ in rows]
    fields = draw(st.lists(st.sampled_from(list(FIELDS)), min_size=1, max_size=4))
    return events_of(rows, reasons), rows, reasons, fields


@settings(deadline=None)
@given(batches())
def test_keys_equal_the_twins(
    case: tuple[EventBatch, list[dict[str, Any]], list[int], Any],
) -> None:
    events, rows, reasons, fields = case
    found = entity_keys(events, fields)
    types = [FIELDS[name].value for name in fields]
    expected = [
        None if reason else entity_key([row[name] for name in fields], types)
        for row, reason in zip(rows, reasons, strict=True)
    ]
    assert [found.key(i) for i in range(len(rows))] == [key or b"" for key in expected]
    assert found.valid.tolist() == [int(key is not None) for key in expected]
    assert found.offsets[0] == 0
    assert found.offsets[-1] == len(found.keys)


@settings(deadline=None)
@given(st.lists(st.lists(TEXT, min_size=3, max_size=3), max_size=6))
def test_parts_come_back(rows: list[list[bytes]]) -> None:
    keys = [entity_key(row, ["string"] * 3) or b"" for row in rows]
    data = np.frombuffer(b"".join(keys), dtype=np.uint8)
    offsets = np.cumsum([0, *map(len, keys)]).astype(np.int64)
    sizes = np.empty((3, len(keys)), dtype=np.int64)
    kernel.split_sizes(data, offsets, sizes)
    for part in range(3):
        out = np.empty(int(sizes[part].sum()), dtype=np.uint8)
        kernel.split(data, offsets, part, out)
        assert out.tobytes() == b"".join(row[part] for row in rows)
        assert sizes[part].tolist() == [len(row[part]) for row in rows]
    assert [key_parts(key) for key in keys] == rows


def test_different_entities_have_different_keys() -> None:
    rows = [(b"a|b", b"c"), (b"a", b"b|c"), (b"a\\", b"|c"), (b"a\\|", b"c"), (b"a", b"\\|c")]
    assert len({entity_key(row, ["string", "string"]) for row in rows}) == len(rows)


@pytest.mark.parametrize(("size", "valid"), [(0, 0), (1, 1), (65_536, 1), (65_537, 0)])
def test_a_key_has_a_byte_and_at_most_64_kib(size: int, valid: int) -> None:
    row = {"number": 1, "text": b"x" * size, "uuid": b"", "raw": b""}
    found = entity_keys(events_of([row], [0]), ["text"])
    assert found.valid.tolist() == [valid]
    assert len(found.key(0)) == size * valid


def test_a_key_is_made_of_known_fields_of_certain_types() -> None:
    events = events_of([], [])
    with pytest.raises(UnknownNameError, match=r"'nothing'.*number, text, uuid, raw"):
        entity_keys(events, ["nothing"])
    fields = {**events.fields, "f": Field("f", FieldType.FLOAT64)}
    floats = EventBatch(
        events.binary, {"f": np.zeros(0)}, {}, {}, events.event_time, events.reason, fields
    )
    with pytest.raises(DefinitionError, match="f: is float64; a key is made of int64, string"):
        entity_keys(floats, ["f"])
