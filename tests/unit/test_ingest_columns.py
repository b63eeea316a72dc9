"""Decoded events as Arrow and polars columns."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from pipeline.contracts.contract import Contract
from pipeline.errors import UnknownNameError
from pipeline.ingest.batch import EventBatch
from pipeline.ingest.columns import to_arrow, to_polars
from pipeline.ingest.decode import JsonDecoder
from tests.reference.records import binary_batch

CONTRACT = Contract.load(
    {
        "title": "c",
        "type": "object",
        "properties": {
            "id": {"type": "integer"},
            "at": {"type": "string", "format": "date-time"},
            "x": {"type": ["number", "null"]},
            "d": {"type": "number", "x-decimal": 2},
            "b": {"type": "boolean"},
            "s": {"type": ["string", "null"]},
        },
        "required": ["id", "at"],
    }
)


def events() -> EventBatch:
    """A full row, a row with nulls, a rejected row, and one with a long escaped string."""
    at = '"at":"2017-01-01T11:53:26.5Z"'
    values = [
        f'{{"id":1,{at},"x":0.1,"d":12.34,"b":true,"s":"short"}}',
        f'{{"id":2,{at},"x":null,"s":null}}',
        f'{{"id":3,{at},"s":"a string longer than twelve bytes"',
        f'{{"id":4,{at},"d":-1,"b":false,"s":"a string longer\\nthan twelve bytes \\u00e9"}}',
    ]
    with np.errstate(over="ignore"):
        batch = binary_batch([v.encode() for v in values], [b"1", b"2", b"3", b"4"])
        return JsonDecoder(CONTRACT, "id", "at", 1).decode(batch)


def test_values_types_and_nulls() -> None:
    frame = to_polars(events(), CONTRACT.names)
    assert dict(frame.schema) == {
        "id": pl.Int64(),
        "at": pl.Datetime("ns", "UTC"),
        "x": pl.Float64(),
        "d": pl.Float64(),
        "b": pl.Boolean(),
        "s": pl.String(),
    }
    at = datetime(2017, 1, 1, 11, 53, 26, 500_000, tzinfo=UTC)
    assert frame.rows() == [
        (1, at, 0.1, 12.34, True, "short"),
        (2, at, None, None, None, None),
        (None, None, None, None, None, None),
        (4, at, None, -1.0, False, "a string longer\nthan twelve bytes é"),
    ]


def test_arrow_is_valid_and_refers_to_the_decoded_columns() -> None:
    batch = events()
    record_batch = to_arrow(batch, ["s", "id"])
    record_batch.validate(full=True)
    assert record_batch.schema.names == ["s", "id"]
    values = record_batch.column(1).buffers()[1]
    assert values is not None
    assert values.address == batch.columns["id"].ctypes.data


@pytest.mark.parametrize("n", [0, 1, 11, 12, 13, 14, 100])
def test_strings_of_every_length(n: int) -> None:
    text = "abcdefghij"[: n % 10] + "é" * (n // 10) + "x" * (n - n % 10 - 2 * (n // 10))
    value = f'{{"id":1,"at":"2017-01-01T00:00:00Z","s":"{text}"}}'
    with np.errstate(over="ignore"):
        decoder = JsonDecoder(CONTRACT, "id", "at", 1)
        frame = to_polars(decoder.decode(binary_batch([value.encode()], [b"1"])), ["s"])
    assert frame["s"].to_list() == [text]


def test_no_columns_keep_the_number_of_rows() -> None:
    assert to_polars(events(), []).height == 4
    assert to_arrow(events(), []).num_rows == 4


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"'y'.*id, at, x, d, b, s"):
        to_arrow(events(), ["y"])
