"""Training set of the demo's model: features as of a point in time, and what came after.

Written in SQL (DuckDB), apart from the engine: what the engine serves at an event must
equal what this computes for it. :data:`PointsInTime` is the seam for another source of the same
columns, such as a replay of the view.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import duckdb
import polars as pl

__all__ = ["FEATURES", "LABEL", "LABEL_DAYS", "POINT_TIME", "PointsInTime", "training_points"]

PointsInTime = Callable[[pl.DataFrame, datetime, datetime], pl.DataFrame]
"""(purchases, from, before) -> one row a training point: POINT_TIME, FEATURES, LABEL."""

POINT_TIME = "event_time"
LABEL = "spend_next_7d"
LABEL_DAYS = 7

FEATURES = (
    "lines_1d",
    "baskets_1d",
    "spend_1d",
    "spend_7d",
    "spend_30d",
    "lines_7d",
    "lines_30d",
    "mean_line_30d",
    "max_line_30d",
    "coupon_share_30d",
    "products_7d",
    "products_30d",
    "baskets_7d",
    "baskets_30d",
    "stores_30d",
)

# Money is summed in whole cents, so no sum depends on an order. A window of W that slides by S,
# read at T, is (floor(T, S) - W, T]; the lines of one event time that come after the
# point in the file are not known yet.
_SQL = """
with line as (
    select row, household_id, store_id, basket_id, product_id,
           cast(round(sales_value * 100) as bigint) as cents, coupon_disc > 0 as coupon,
           transaction_timestamp as t
    from purchases
),
point as (
    select household_id, t as event_time, row,
           date_trunc('hour', t) - interval 1 day as since_1d,
           date_trunc('day', t) - interval 7 day as since_7d,
           date_trunc('day', t) - interval 30 day as since_30d
    from line
    where t >= $start and t < $before
    qualify row_number() over (partition by household_id, basket_id order by row) = 1
),
past as (
    select point.row,
           count(*) filter (l.t > since_1d) as lines_1d,
           count(distinct l.basket_id) filter (l.t > since_1d) as baskets_1d,
           coalesce(sum(cents) filter (l.t > since_1d), 0) / 100 as spend_1d,
           coalesce(sum(cents) filter (l.t > since_7d), 0) / 100 as spend_7d,
           sum(cents) / 100 as spend_30d,
           count(*) filter (l.t > since_7d) as lines_7d,
           count(*) as lines_30d,
           sum(cents) / 100 / count(*) as mean_line_30d,
           max(cents) / 100 as max_line_30d,
           count(*) filter (coupon) / count(*) as coupon_share_30d,
           count(distinct l.product_id) filter (l.t > since_7d) as products_7d,
           count(distinct l.product_id) as products_30d,
           count(distinct l.basket_id) filter (l.t > since_7d) as baskets_7d,
           count(distinct l.basket_id) as baskets_30d,
           count(distinct l.store_id) as stores_30d
    from point join line l
      on l.household_id = point.household_id and l.t > since_30d and l.row <= point.row
    group by point.row
),
future as (
    select point.row, sum(l.cents) / 100 as spend_next_7d
    from point join line l
      on l.household_id = point.household_id
     and l.t > point.event_time and l.t <= point.event_time + interval 7 day
    group by point.row
)
select point.household_id, point.event_time, past.* exclude (row),
       coalesce(future.spend_next_7d, 0) as spend_next_7d
from point join past using (row) left join future using (row)
order by point.row
"""


def training_points(purchases: pl.DataFrame, start: datetime, before: datetime) -> pl.DataFrame:
    """One row for the first line of each household's every basket from ``start`` to ``before``.

    ``purchases`` in file order, as of :func:`pipeline.demo.dataset.purchases`. Columns:
    household_id, event_time, :data:`FEATURES` as of that line inclusive, and :data:`LABEL`, the
    household's spend in dollars in ``(event_time, event_time + 7 days]``. No nulls.
    """
    with duckdb.connect() as database:
        database.register("purchases", purchases.with_row_index("row").to_arrow())
        points = database.sql(_SQL, params={"start": start, "before": before})
        return pl.DataFrame(points.to_arrow_table())
