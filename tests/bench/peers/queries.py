"""The five features of workload (a) from Parquet files, as polars and DuckDB are asked for them.

The files have ``user``, ``time`` in ms, ``price`` in cents and ``dwell``. A window of W that
slides by S ends at T with ``(T // S * S - W, T]``.
"""

from __future__ import annotations

import duckdb
import polars as pl

__all__ = ["duck_state", "duck_timeline", "polars_dynamic", "polars_plain"]

_SHORT, _HOUR, _DAY = (300_000, 10_000), (3_600_000, 60_000), (86_400_000, 1_800_000)

_STATE = """
SELECT "user", count(*) FILTER (time > newest // 10000 * 10000 - 300000) AS n_5m,
  sum(price) FILTER (h)::BIGINT / 100 AS spend_1h, avg(dwell) FILTER (h) AS mean_dwell_1h,
  max(price) FILTER (d) / 100 AS max_price_24h, count(*) FILTER (d) AS n_24h
FROM (
  SELECT *, time > newest // 60000 * 60000 - 3600000 AS h,
    time > newest // 1800000 * 1800000 - 86400000 AS d
  FROM read_parquet('{files}') JOIN (
    SELECT "user", max(time) AS newest FROM read_parquet('{files}') GROUP BY "user"
  ) USING ("user")
) GROUP BY "user"
"""

_TIMELINE = """
SELECT "user", time, count(*) OVER short AS n_5m, sum(price) OVER hour::BIGINT / 100 AS spend_1h,
  avg(dwell) OVER hour AS mean_dwell_1h, max(price) OVER day / 100 AS max_price_24h,
  count(*) OVER day AS n_24h
FROM read_parquet('{files}')
WINDOW
  short AS (PARTITION BY "user" ORDER BY time
    RANGE BETWEEN time % 10000 + 300000 - 1 PRECEDING AND CURRENT ROW),
  hour AS (PARTITION BY "user" ORDER BY time
    RANGE BETWEEN time % 60000 + 3600000 - 1 PRECEDING AND CURRENT ROW),
  day AS (PARTITION BY "user" ORDER BY time
    RANGE BETWEEN time % 1800000 + 86400000 - 1 PRECEDING AND CURRENT ROW)
"""


def duck_state(files: str) -> pl.DataFrame:
    """One GROUP BY, of what is within the windows of each user's newest event."""
    return _ask(_STATE.format(files=files))


def duck_timeline(files: str) -> pl.DataFrame:
    """A frame over each window, of every event."""
    return _ask(_TIMELINE.format(files=files))


def _ask(query: str) -> pl.DataFrame:
    with duckdb.connect() as database:
        found: pl.DataFrame = database.sql(query).pl()
    return found


def polars_plain(files: str) -> pl.DataFrame:
    """One group_by: only what is within the windows of each user's newest event counts."""
    newest = pl.col("time").max().over("user")

    def within(window: tuple[int, int]) -> pl.Expr:
        return pl.col("time") > newest // window[1] * window[1] - window[0]

    return _in_units(
        pl.scan_parquet(files)
        .with_columns(short=within(_SHORT), hour=within(_HOUR), day=within(_DAY))
        .group_by("user")
        .agg(
            n_5m=pl.col("short").sum().cast(pl.Int64),
            spend_1h=pl.col("price").filter(pl.col("hour")).sum(),
            mean_dwell_1h=pl.col("dwell").filter(pl.col("hour")).mean(),
            max_price_24h=pl.col("price").filter(pl.col("day")).max(),
            n_24h=pl.col("day").sum().cast(pl.Int64),
        )
        .collect()
    )


def polars_dynamic(files: str) -> pl.DataFrame:
    """Every window that slides past, of which the one of each user's newest event is kept."""
    price, dwell = pl.col("price"), pl.col("dwell")
    events = pl.scan_parquet(files).sort("time")
    users = events.group_by("user").agg(newest=pl.col("time").max())
    for (window, slide), features in (
        (_SHORT, {"n_5m": pl.len().cast(pl.Int64)}),
        (_HOUR, {"spend_1h": price.sum(), "mean_dwell_1h": dwell.mean()}),
        (_DAY, {"max_price_24h": price.max(), "n_24h": pl.len().cast(pl.Int64)}),
    ):
        # (start, start + window + slide] of a user's newest event ends with that event
        found = events.group_by_dynamic(
            "time", every=f"{slide}i", period=f"{window + slide}i", offset=f"-{window}i",
            closed="right", group_by="user",
        ).agg(**features)  # fmt: skip
        start = pl.col("newest") // slide * slide - window
        users = users.with_columns(time=start).join(found, on=["user", "time"]).drop("time")
    return _in_units(users.drop("newest").collect())


def _in_units(found: pl.DataFrame) -> pl.DataFrame:
    """Cents as units. polars would multiply by the inverse of 100, which is another number."""
    return found.with_columns(
        pl.Series(name, found[name].to_numpy() / 100) for name in ("spend_1h", "max_price_24h")
    )
