"""Nexmark's queries over bids as feature views, against DuckDB over the same bids.

q0, q1, q2, q15, q16, q17, q18 and q19 are views; q5 and q7 are windows read at their ends. The
other queries join streams or close sessions, which a feature store does not. A window here is open
at its start and closed at its end, and so it is in the SQL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest

import pipeline as pp
from pipeline.serve.client import FeatureClient
from pipeline.testing.driver import Driver
from tests.nexmark.bids import BASE_NS, CONTRACT, STEP_NS, bids

SEED = 20150715
SECOND = 1_000_000_000
DAY_END = BASE_NS + 86_400 * SECOND
CHEAP, MIDDLE = pl.col("price") < 10_000, pl.col("price").is_between(10_000, 999_999)
RANKS = {"rank1": CHEAP, "rank2": MIDDLE, "rank3": pl.col("price") >= 1_000_000}
SQL_RANKS = {
    "rank1": "price < 10000",
    "rank2": "price BETWEEN 10000 AND 999999",
    "rank3": "price >= 1000000",
}


def stream(key: str) -> pp.EventStream:
    """The bids, keyed by one of their fields."""
    return pp.EventStream("bids", pp.Contract.load(CONTRACT), key=key, time="placed")


def driver(view: pp.FeatureView, *, every: bool = False) -> Driver:
    """The view alone; with a trigger at every event."""
    triggers = [pp.Trigger("every", view=view)] if every else []
    run = Driver([view], triggers, partitions=3, max_records=10_000)
    run.clock.advance(DAY_END // 1_000_000)
    return run


def publish(run: Driver, key: str, events: pl.DataFrame) -> None:
    """Publish bids in the order they are in; they are applied, too."""
    values = events.with_columns(pl.col("placed").dt.strftime("%Y-%m-%dT%H:%M:%S%.9fZ")).select(
        pl.struct(pl.all()).struct.json_encode()
    )
    times = events["placed"].cast(pl.Int64) // 1_000_000
    for name, value, time in zip(events[key], values.to_series(), times, strict=True):
        run.log.append("bids", str(name).encode(), value.encode(), time)
    run.run()


def requests(run: Driver) -> list[dict[str, Any]]:
    """What the trigger sent, by event time."""
    messages = run.publisher.sent[run.names.requests("every")]
    sent = pa.concat_tables(pa.ipc.open_stream(m).read_all() for _, _, m in messages)
    return sorted(sent.to_pylist(), key=lambda row: row["event_time"])


def sql(query: str, bid: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Rows of a query over the table ``bid``; ``placed`` is in ns."""
    with duckdb.connect() as connection:
        connection.register("bid", bid.with_columns(pl.col("placed").cast(pl.Int64)).to_arrow())
        return connection.sql(query).fetchall()


def read(
    run: Driver, view: str, features: Sequence[str], keys: dict[str, Any], at: int
) -> pl.DataFrame:
    """Features of ``keys`` as of ``at`` ns."""
    query = FeatureClient(run.store).prepare([f"{view}:{name}" for name in features])
    table: Any = query.read(keys, at=at)
    return pl.DataFrame(pl.from_arrow(table.select(features)))


@pytest.mark.parametrize(
    ("where", "price", "condition"),
    [
        (None, "price", "true"),  # q0: what came in
        (None, pl.col("price") * 0.908, "true"),  # q1: dollars to euros
        (pl.col("auction") % 123 == 0, "price", "auction % 123 = 0"),  # q2: some auctions
    ],
    ids=["q0", "q1", "q2"],
)
def test_row_by_row(where: pl.Expr | None, price: str | pl.Expr, condition: str) -> None:
    """Every bid that passes comes out, once, with its fields."""
    bid = bids(SEED, 0, 40_000).sort("placed")
    view = pp.FeatureView(
        "bid",
        source=stream("auction"),
        entity="auction",
        where=where,
        features={"bidder": pp.last("bidder"), "price": pp.last(price)},
    )
    run = driver(view, every=True)
    publish(run, "auction", bid)
    factor = 1 if isinstance(price, str) else 0.908
    expected = sql(
        f"SELECT auction, bidder, price * {factor}::DOUBLE FROM bid WHERE {condition} "
        "ORDER BY placed",
        bid,
    )
    assert len(expected) > 100
    found = [(int(r["entity_key"]), int(r["bidder"]), r["price"]) for r in requests(run)]
    assert found == expected


def statistics(entity: str) -> pp.FeatureView:
    """q15 over all bids, q16 by channel: counts of a day, by rank of the price."""
    features: dict[str, Any] = {}
    for name, where in {"all": None, **RANKS}.items():
        features[f"bids_{name}"] = pp.count(where=where)
        for column in ("bidder", "auction"):
            features[f"{column}s_{name}"] = pp.distinct(column, where=where, bound=65_536)
    features["newest"] = pp.max("placed")
    return pp.FeatureView(
        "statistics",
        source=stream(entity),
        entity=entity,
        features={n: f.over("1d", slide="1d") for n, f in features.items()},
    )


@pytest.mark.parametrize("entity", ["site", "channel"], ids=["q15", "q16"])
def test_statistics_of_a_day(entity: str) -> None:
    """Bids, bidders and auctions of a day by rank of the price, on the site and by channel."""
    bid = bids(SEED, 0, 30_000)
    view = statistics(entity)
    run = driver(view)
    publish(run, entity, bid)
    columns = ["count(*)", "count(DISTINCT bidder)", "count(DISTINCT auction)"]
    counts = columns + [
        f"{c} FILTER (WHERE {condition})" for condition in SQL_RANKS.values() for c in columns
    ]
    expected = sql(
        f"SELECT {entity}, {', '.join(counts)}, max(placed) FROM bid "
        f"WHERE placed > {BASE_NS} AND placed <= {DAY_END} GROUP BY ALL ORDER BY 1",
        bid,
    )
    names = list(view.features)
    found = read(run, view.name, names, {entity: [row[0] for row in expected]}, DAY_END)
    found = found.with_columns(pl.col("newest").cast(pl.Int64))
    assert found.rows() == [row[1:] for row in expected]
    assert all(count > 0 for row in expected for count in row[1:]) is (entity == "site")


def test_statistics_of_an_auction() -> None:
    """q17: bids of a day on each auction, by rank, and their lowest, highest, mean and sum."""
    bid = bids(SEED, 0, 30_000)
    prices = {
        "lowest": pp.min("price"),
        "highest": pp.max("price"),
        "mean": pp.mean("price"),
        "total": pp.sum("price"),
    }
    counts = {"bids": pp.count()} | {n: pp.count(where=where) for n, where in RANKS.items()}
    view = pp.FeatureView(
        "auction",
        source=stream("auction"),
        entity="auction",
        features={n: f.over("1d", slide="1d") for n, f in {**counts, **prices}.items()},
    )
    run = driver(view)
    publish(run, "auction", bid)
    ranks = ", ".join(f"count(*) FILTER (WHERE {c})" for c in SQL_RANKS.values())
    expected = sql(
        f"SELECT auction, count(*), {ranks}, min(price), max(price), "
        "sum(price)::DOUBLE / count(*), sum(price)::BIGINT FROM bid GROUP BY ALL ORDER BY 1",
        bid,
    )
    found = read(
        run, "auction", list(view.features), {"auction": [r[0] for r in expected]}, DAY_END
    )
    assert found.rows() == [row[1:] for row in expected]


def test_the_last_bid_of_a_bidder_on_an_auction() -> None:
    """q18: bids are keyed by auction; the view is keyed by both, through a repartition topic."""
    bid = bids(SEED, 0, 20_000)
    view = pp.FeatureView(
        "pair",
        source=stream("auction"),
        entity=("bidder", "auction"),
        features={
            "price": pp.last("price"),
            "channel": pp.last("channel"),
            "placed": pp.last("placed"),
            "bids": pp.count().over("1d", slide="1d"),
        },
    )
    run = driver(view)
    publish(run, "auction", bid)
    expected = sql(
        "SELECT bidder, auction, price, channel, placed, count(*) OVER pair FROM bid "
        "WINDOW pair AS (PARTITION BY bidder, auction) "
        "QUALIFY row_number() OVER (PARTITION BY bidder, auction ORDER BY placed DESC) = 1 "
        "ORDER BY ALL",
        bid,
    )
    assert len(expected) > 3_000
    assert max(row[5] for row in expected) > 100
    keys = {"bidder": [row[0] for row in expected], "auction": [row[1] for row in expected]}
    found = read(run, "pair", list(view.features), keys, DAY_END)
    found = found.with_columns(pl.col("placed").cast(pl.Int64))
    assert found.rows() == [row[2:] for row in expected]


def test_the_highest_bids_of_an_auction() -> None:
    """q19: the ten highest bids, and whose they are; a bid of one number orders as the price."""
    bid = bids(SEED, 0, 20_000)
    whose = pl.col("price") * 1_000_000 + pl.col("bidder")
    top = {"prices": pp.max_n("price", 10), "bids": pp.max_n(whose, 10)}
    view = pp.FeatureView(
        "auction",
        source=stream("auction"),
        entity="auction",
        features={n: f.over("1d", slide="1h") for n, f in top.items()}
        | {"exact": pp.max_n("price", 10).over("1d")},
    )
    run = driver(view)
    publish(run, "auction", bid)
    expected = sql(
        "SELECT auction, list(price ORDER BY price DESC)[:10], "
        "list((price, bidder) ORDER BY price DESC, bidder DESC)[:10] FROM bid GROUP BY ALL "
        "ORDER BY ALL",
        bid,
    )
    assert {len(row[1]) for row in expected} == set(range(1, 11))
    found = read(
        run, "auction", list(view.features), {"auction": [r[0] for r in expected]}, DAY_END
    )
    for (_, prices, pairs), row in zip(expected, found.iter_rows(), strict=True):
        assert row[0] == row[2] == prices
        assert [divmod(bid, 1_000_000) for bid in row[1]] == pairs


@pytest.mark.parametrize(
    ("entity", "feature", "size", "slide"),
    [("auction", pp.count(), 10, 2), ("site", pp.max("price"), 10, 10)],
    ids=["q5", "q7"],
)
def test_windows_read_at_their_ends(entity: str, feature: Any, size: int, slide: int) -> None:
    """q5: the auctions with most bids in each 10 s, every 2 s; q7: the highest bid of each 10 s.

    Bids are up to a second newer than the clock that numbers them, so a window is read one slide
    after its end; ``delay`` says so.
    """
    bid = bids(SEED, 0, 12_000)
    value = feature.over(f"{size}s", slide=f"{slide}s", delay=f"{slide}s")
    view = pp.FeatureView("hot", source=stream(entity), entity=entity, features={"value": value})
    run = driver(view)
    found: list[tuple[Any, ...]] = []
    step = slide * SECOND // STEP_NS
    for first in range(0, len(bid), step):
        publish(run, entity, bid[first : first + step])
        end = BASE_NS + (first + step) * STEP_NS
        keys = bid[: first + step][entity].unique().sort()
        values = read(run, "hot", ["value"], {entity: keys.to_list()}, end + slide * SECOND)[
            "value"
        ]
        found += [(end, k, v) for k, v in zip(keys, values, strict=True) if v == values.max()]
    aggregate = "count(*)" if entity == "auction" else "max(price)"
    ends = f"generate_series({BASE_NS + slide * SECOND}, {end}, {slide * SECOND})"
    expected = sql(
        f"WITH w AS (SELECT unnest({ends}) AS e), "
        f"v AS (SELECT e, {entity} AS k, {aggregate} AS v FROM w JOIN bid "
        f"ON placed > e - {size * SECOND} AND placed <= e GROUP BY ALL) "
        "SELECT e, k, v FROM v QUALIFY v = max(v) OVER (PARTITION BY e) ORDER BY e, k",
        bid,
    )
    assert len(expected) >= len(bid) // step
    assert found == expected
