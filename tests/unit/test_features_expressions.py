"""Expressions in definitions: what is refused, and that their text names one and the same thing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

import pipeline as pp
from pipeline.errors import DefinitionError
from pipeline.features.expressions import deserialize, output_type, serialize

CONTRACT = pp.Contract.load(
    {
        "title": "event",
        "type": "object",
        "properties": {
            "i": {"type": "integer"},
            "j": {"type": "integer"},
            "f": {"type": "number"},
            "s": {"type": "string"},
            "b": {"type": "boolean"},
            "at": {"type": "string", "format": "date-time"},
        },
        "required": ["i", "j", "f", "s", "b", "at"],
    }
)
STREAM = pp.EventStream("t", contract=CONTRACT, key="i", time="at")
INT, OTHER, REAL, TEXT, FLAG = (pl.col(name) for name in "ijfsb")

WHOLE_COLUMN: dict[str, Callable[[], Any]] = {
    "is_in of a column": lambda: INT.is_in(OTHER),
    "is_in of a computed column": lambda: (INT + 1).is_in(OTHER * 2),
    "a format that is guessed from the first value": lambda: TEXT.str.to_datetime().dt.hour(),
    "a date format that is guessed": lambda: TEXT.str.to_date().dt.day(),
    "a time format that is guessed": lambda: TEXT.str.to_time().dt.hour(),
    "a format that is guessed, without failing": lambda: TEXT.str.strptime(
        pl.Datetime, strict=False
    ).dt.hour(),
    "codes of categories": lambda: TEXT.cast(pl.Categorical).cast(pl.String),
    "several values": lambda: INT + pl.lit(pl.Series([1, 2, 3])),
    "cumulative": lambda: INT.cum_sum(),
    "shift": lambda: INT.shift(1),
    "window": lambda: INT.sum().over("j"),
    "aggregate": lambda: INT - INT.mean(),
    "first seen": lambda: INT.is_first_distinct(),
    "joined rows": lambda: TEXT.str.join("-"),
    "Python": lambda: INT.map_elements(abs, return_dtype=pl.Int64),
    "sample": lambda: INT.sample(1),
    "forward fill": lambda: INT.fill_null(strategy="forward"),
    "every column": lambda: pl.all(),
    "position": lambda: pl.int_range(0, pl.len()),
}
ROWWISE: dict[str, Callable[[], Any]] = {
    "is_in": lambda: TEXT.is_in(["a", "b"]),
    "is_in of a series": lambda: INT.is_in(pl.Series([[1, 2]])),
    "is_in of computed": lambda: (INT + 1).is_in([2, 3]),
    "format": lambda: TEXT.str.to_datetime("%Y-%m-%d").dt.hour(),
    "date format": lambda: TEXT.str.to_date("%Y-%m-%d").dt.day(),
    "constant": lambda: pl.lit(True),
    "when": lambda: pl.when(FLAG).then(INT).otherwise(0),
    "time of day": lambda: pl.col("at").dt.convert_time_zone("Europe/Berlin").dt.hour(),
    "regex": lambda: TEXT.str.contains("^a+"),
    "signed hash": lambda: TEXT.hash().reinterpret(signed=True),
    "arctan2": lambda: pl.arctan2(REAL, REAL),
    "mean of fields": lambda: pl.mean_horizontal(INT, OTHER),
}


@pytest.mark.parametrize("name", WHOLE_COLUMN)
def test_what_depends_on_other_rows_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match=r"v\.n"):
        pp.FeatureView(
            "v", source=STREAM, entity="i",
            features={"n": pp.count(WHOLE_COLUMN[name]()).over("1h", slide="1m")},
        )  # fmt: skip


@pytest.mark.parametrize("name", ROWWISE)
def test_what_looks_at_one_row_is_taken_and_comes_back(name: str) -> None:
    expression = ROWWISE[name]()
    text = serialize(expression, CONTRACT, "where")
    kind = output_type(expression, CONTRACT, "where")
    assert output_type(deserialize(text), CONTRACT, "where") == kind
    assert serialize(deserialize(text), CONTRACT, "where") == text


def test_a_pattern_that_no_row_can_pass_is_refused_when_it_is_defined() -> None:
    with pytest.raises(DefinitionError, match="regex"):
        output_type(TEXT.str.contains("("), CONTRACT, "where")


def test_a_list_of_values_has_one_text_whatever_its_order() -> None:
    texts = {
        serialize(TEXT.is_in(values), CONTRACT, "where")
        for values in (["a", "b", "c"], ["c", "a", "b"], ["b", "c", "a", "a"], {"a", "b", "c"})
    }
    assert len(texts) == 1
    frame = pl.DataFrame({"s": ["a", "d", None, "c"]})
    found = frame.select(deserialize(texts.pop()))["s"].to_list()
    assert found == [True, False, None, True]


def test_a_set_of_strings_gives_the_same_fingerprint_in_every_process() -> None:
    program = (
        "import polars as pl, pipeline as pp\n"
        "from tests.unit.test_features_expressions import CONTRACT\n"
        "source = pp.EventStream('t', contract=CONTRACT, key='i', time='at')\n"
        "where = pl.col('s').is_in({'a', 'b', 'c', 'd', 'e', 'f', 'g'})\n"
        "view = pp.FeatureView('v', source=source, entity='i', where=where,\n"
        "    features={'n': pp.count().over('1h', slide='1m')})\n"
        "print(view.plan.fingerprint)\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1


@pytest.mark.parametrize("column", [TEXT.hash(), INT.cast(pl.UInt64), INT.cast(pl.Int128)])
def test_a_type_that_does_not_fit_64_signed_bits_is_refused(column: pl.Expr) -> None:
    with pytest.raises(DefinitionError, match="cast it to Int64"):
        pp.FeatureView(
            "v", source=STREAM, entity="i",
            features={"n": pp.distinct(column).over("1h", slide="1m")},
        )  # fmt: skip


def test_a_view_whose_row_would_be_huge_is_refused() -> None:
    many = {f"x{i}": pp.sum("i", where=INT.gt(i)).over("19999s", slide="1s") for i in range(200)}
    with pytest.raises(DefinitionError, match="a full row would take 30 MiB"):
        pp.FeatureView("v", source=STREAM, entity="i", features=many)
