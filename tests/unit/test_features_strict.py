"""Rows that fail strict steps, against every row computed alone."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

import pipeline as pp
from pipeline.features.expressions import FAILURES, deserialize, serialize
from pipeline.features.strict import StrictSteps

CONTRACT = pp.Contract.load(
    {
        "title": "event",
        "type": "object",
        "properties": {
            "s": {"type": ["string", "null"]},
            "t": {"type": ["string", "null"]},
            "i": {"type": ["integer", "null"]},
            "f": {"type": ["number", "null"]},
        },
    }
)
TEXTS = ["1", "-7", "x", "", None, "300", "2024-02-30", "2024-02-28", "ff", "fg", "1.5", "AA=="]
FRAME = pl.DataFrame(
    {
        "s": TEXTS * 3,
        "t": [*TEXTS[5:], *TEXTS[:5]] * 3,
        "i": [None, 1, 300, -1, 2**62, 0] * 6,
        "f": [float("nan"), 1e300, 1.0, None] * 9,
    }
)
S, T, N, F = (pl.col(name) for name in "stif")
EXPRESSIONS: dict[str, Any] = {
    "cast": S.cast(pl.Int64),
    "narrow": N.cast(pl.Int8),
    "of a float": F.cast(pl.Int64) + N,
    "lenient": S.cast(pl.Int64, strict=False),
    "date": S.str.to_date("%Y-%m-%d").cast(pl.Int32),
    "time": S.str.strptime(pl.Datetime("us"), "%Y-%m-%d").dt.day(),
    "integer": S.str.to_integer() + 1,
    "integers of a base": S.str.to_integer(base=16),
    "base of a column": S.str.to_integer(base=N),
    "hex": S.str.decode("hex").bin.size(),
    "base64": S.str.decode("base64").bin.size(),
    "two steps": S.cast(pl.Int64) + T.cast(pl.Int64),
    "a step of a step": S.cast(pl.Float64).cast(pl.Int8),
    "both branches": pl.when(N > 0).then(S.cast(pl.Int64)).otherwise(T.str.to_integer()),
    "a branch that is never taken": pl.when(pl.lit(True)).then(N).otherwise(S.cast(pl.Int64)),
    "never taken, and another": (
        pl.when(pl.lit(False)).then(S.cast(pl.Int64)).otherwise(T.cast(pl.Int64))
    ),
    "a branch in a branch": pl.when(N > 0)
    .then(pl.when(T.str.to_integer() > 1).then(S.cast(pl.Int64)).otherwise(N))
    .otherwise(F.cast(pl.Int64)),
    "a step to choose by": pl.when(S.cast(pl.Int64) > 0).then(T.cast(pl.Int64)),
    "filled by a step": N.fill_null(S.cast(pl.Int64)),
    "or": (N > 0) | (S.cast(pl.Int64) > 0),
    "least": pl.min_horizontal(N, S.cast(pl.Int64)),
    "filled": S.cast(pl.Int64).fill_null(N),
    "either": pl.coalesce(S.cast(pl.Int64), T.cast(pl.Int64)),
    "and": (N > 0) & (S.cast(pl.Int64) > 0),
    "among": S.cast(pl.Int64).is_in([1, 2]),
    "nothing strict": pl.col("i") + 1,
    "a pattern": S.str.contains(T),
}


def alone(frame: pl.DataFrame, expression: pl.Expr) -> bool:
    try:
        frame.select(expression)
    except FAILURES:
        return False
    return True


@pytest.mark.parametrize("name", EXPRESSIONS, ids=lambda name: name.replace(" ", "-"))
def test_rows_are_those_that_fail_alone(name: str) -> None:
    text = serialize(EXPRESSIONS[name], CONTRACT, name)
    expression = deserialize(text)
    rows = [FRAME[i : i + 1] for i in range(len(FRAME))]
    expected = [not alone(row, expression) for row in rows]
    found = StrictSteps([text]).failing(FRAME, lambda row: alone(row, expression))
    if name in ("base of a column", "a pattern"):
        assert not found.any(), "these are no steps that could be done leniently"
    else:
        assert found.tolist() == expected
        assert any(expected) or name.startswith(("lenient", "a branch", "nothing"))


def test_one_row_is_tried_for_all_that_fail_the_same_steps() -> None:
    texts = [serialize(e, CONTRACT, "x") for e in (S.cast(pl.Int64), T.cast(pl.Int64))]
    expressions = [deserialize(text) for text in texts]
    tried: list[int] = []

    def succeeds(row: pl.DataFrame) -> bool:
        tried.append(len(row))
        return alone(row, expressions[0]) and alone(row, expressions[1])

    n = 10_000
    frame = pl.DataFrame({"s": [f"x{i}" for i in range(n)], "t": ["1", "y"] * (n // 2)})
    assert StrictSteps(texts).failing(frame, succeeds).all()
    assert tried == [1, 1]
