"""Kernel inputs and masks from expressions: constants, nulls, failures of single rows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest

import pipeline as pp
from pipeline.app.plane import decoder
from pipeline.features.derive import Derivation, Derived
from pipeline.features.expressions import serialize
from pipeline.ingest.batch import EventBatch, TopicPartition
from pipeline.testing.log import LoggedRecord, binary_batch

CONTRACT = pp.Contract.load(
    {
        "title": "event",
        "type": "object",
        "properties": {
            "i": {"type": "integer"},
            "n": {"type": ["integer", "null"]},
            "f": {"type": "number"},
            "d": {"type": "number", "x-decimal": 2},
            "s": {"type": "string"},
            "b": {"type": "boolean"},
            "at": {"type": "string", "format": "date-time"},
        },
        "required": ["i", "f", "d", "s", "b", "at"],
    }
)
STREAM = pp.EventStream("t", contract=CONTRACT, key="i", time="at")


def decoded(**columns: list[Any]) -> EventBatch:
    """A batch of one partition; fields that are not given hold the same in every row."""
    n = len(next(iter(columns.values())))
    rest = {"i": 1, "n": 5, "f": 1.5, "d": 2.25, "s": "7", "b": True, "at": "2024-01-01T00:00:00Z"}
    records = []
    for row in range(n):
        event = rest | {name: values[row] for name, values in columns.items()}
        key = str(event["i"]).encode()
        records.append(LoggedRecord(row, key, json.dumps(event).encode(), -1))
    return decoder(STREAM, 1).decode(binary_batch(TopicPartition("t", 0), records))


def derive(events: EventBatch, aggregation: Any, *masks: pl.Expr) -> Derived:
    view = pp.FeatureView(
        "v", source=STREAM, entity="i", features={"x": aggregation.over("1h", slide="1m")}
    )
    texts = [serialize(mask, CONTRACT, "mask") for mask in masks]
    return Derivation(view.plan, texts).compute(events)


@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_constants_hold_for_every_row(rows: int) -> None:
    found = derive(decoded(i=[1] * rows), pp.sum(pl.lit(7)), pl.lit(True), pl.lit(False))
    assert found.inputs.tolist() == [[7] * rows]
    assert found.valid.tolist() == [[1] * rows]
    assert found.masks.tolist() == [[1] * rows, [0] * rows]
    assert len(found.failed) == 0


def test_null_is_not_true_and_not_a_value() -> None:
    events = decoded(n=[1, None, 3])
    found = derive(events, pp.sum(pl.col("n") * 2), pl.col("n") > 1, pl.col("n").is_null())
    assert found.valid.tolist() == [[1, 0, 1]]
    assert found.inputs[0, [0, 2]].tolist() == [2, 6]
    assert found.masks.tolist() == [[0, 0, 1], [0, 1, 0]]


def test_types_become_their_64_bits() -> None:
    events = decoded(d=[0.1, -3.0], f=[float("1e300"), -0.0], b=[True, False])
    assert derive(events, pp.sum("d")).inputs.tolist() == [[10, -300]]
    real = derive(events, pp.sum(pl.col("f") * 1)).inputs[0].view(np.float64)
    assert (real[0], str(real[1])) == (1e300, "-0.0")
    assert derive(events, pp.sum(~pl.col("b"))).inputs.tolist() == [[0, 1]]
    shifted = derive(events, pp.max(pl.col("at").dt.offset_by("1h"))).inputs
    assert (shifted - events.event_time).tolist() == [[3_600 * 10**9] * 2]
    half = derive(events, pp.sum((pl.col("d") / 2).cast(pl.Float32)))
    assert half.inputs[0].view(np.float64)[1] == -1.5


def test_a_failing_expression_fails_its_own_rows_only() -> None:
    texts = [str(i) if i % 7 else f"x{i}" for i in range(100)]
    found = derive(decoded(s=texts), pp.sum(pl.col("s").cast(pl.Int64)), pl.col("f") > 1)
    assert found.failed.tolist() == list(range(0, 100, 7))
    good = [i for i in range(100) if i % 7]
    assert found.inputs[0, good].tolist() == good
    assert found.masks[0, good].all()


def test_a_batch_on_whose_every_row_an_expression_fails_is_computed_as_a_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = decoded(s=[f"none {i}" for i in range(20_000)])
    computed: list[int] = []
    select = pl.DataFrame.select

    def counted(frame: pl.DataFrame, *args: Any, **kwargs: Any) -> pl.DataFrame:
        computed.append(len(frame))
        return select(frame, *args, **kwargs)

    monkeypatch.setattr(pl.DataFrame, "select", counted)
    found = derive(events, pp.sum(pl.col("s").cast(pl.Int64)), pl.col("f") > 1)
    assert found.failed.tolist() == list(range(20_000))
    assert not found.valid.any()
    assert not found.masks.any(), "a row that failed counts for nothing"
    assert computed == [0, 2, 20_000, 20_000, 1], "two for the definition, one row tried"


def test_what_no_leniency_helps_is_halved_down_to() -> None:
    """A pattern of a column that is none."""
    patterns = ["a" if i % 9 else "(" for i in range(100)]
    events = decoded(s=patterns)
    found = derive(events, pp.sum(pl.lit("a").str.contains(pl.col("s")).cast(pl.Int64)))
    assert found.failed.tolist() == list(range(0, 100, 9))
    assert found.inputs[0, found.valid[0] == 1].tolist() == [1] * 88


def test_both_kinds_of_failures_in_one_batch() -> None:
    texts = ["(" if i % 9 == 0 else "x" if i % 5 == 0 else "1" for i in range(100)]
    number = pl.lit("1").str.contains(pl.col("s")).cast(pl.Int64)
    found = derive(decoded(s=texts), pp.sum(number + pl.col("s").cast(pl.Int64)))
    assert found.failed.tolist() == [i for i in range(100) if texts[i] != "1"]
    assert found.inputs[0, found.valid[0] == 1].tolist() == [2] * texts.count("1")
