"""Training features equal a plain loop over the purchases; the committed model is reproducible."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TypedDict, cast

import numpy as np
import polars as pl
import pytest

from pipeline.demo.training import FEATURES, LABEL, POINT_TIME, training_points

pytest.importorskip("duckdb")
START = datetime(2017, 3, 1)


class Line(TypedDict):
    """One purchased product."""

    household_id: int
    store_id: int
    basket_id: int
    product_id: int
    sales_value: float
    coupon_disc: float
    transaction_timestamp: datetime


def lines(seed: int) -> pl.DataFrame:
    """Made-up purchases in file order: baskets of one time each, some at the edges of windows."""
    rng = np.random.default_rng(seed)
    rows: list[Line] = []
    times = sorted(START + timedelta(hours=int(h)) for h in rng.integers(0, 24 * 45, 60))
    for basket, time in enumerate(times):
        household = int(rng.integers(3))
        for _ in range(int(rng.integers(1, 5))):
            rows.append(
                {
                    "household_id": household,
                    "store_id": int(rng.integers(3)),
                    "basket_id": basket,
                    "product_id": int(rng.integers(8)),
                    "sales_value": int(rng.integers(0, 999)) / 100,
                    "coupon_disc": float(rng.integers(2)),
                    "transaction_timestamp": time,
                }
            )
    return pl.DataFrame(rows)


def expected(rows: list[Line]) -> list[dict[str, float]]:
    seen: set[tuple[int, int]] = set()
    points = []
    for i, row in enumerate(rows):
        key = (row["household_id"], row["basket_id"])
        if key in seen:
            continue
        seen.add(key)
        points.append(_point(rows, i))
    return points


def _point(rows: list[Line], i: int) -> dict[str, float]:
    at = rows[i]["transaction_timestamp"]
    mine = [(j, r) for j, r in enumerate(rows) if r["household_id"] == rows[i]["household_id"]]
    day, hour = at.replace(hour=0, minute=0), at.replace(minute=0)
    windows = {
        "1d": hour - timedelta(days=1),
        "7d": day - timedelta(days=7),
        "30d": day - timedelta(days=30),
    }
    past = {
        name: [r for j, r in mine if j <= i and r["transaction_timestamp"] > since]
        for name, since in windows.items()
    }
    point: dict[str, float] = {}
    for name, window in past.items():
        cents = [round(r["sales_value"] * 100) for r in window]
        point[f"lines_{name}"] = len(window)
        point[f"spend_{name}"] = sum(cents) / 100
        point[f"baskets_{name}"] = len({r["basket_id"] for r in window})
        point[f"products_{name}"] = len({r["product_id"] for r in window})
    month = past["30d"]
    cents = [round(r["sales_value"] * 100) for r in month]
    point["mean_line_30d"] = sum(cents) / 100 / len(month)
    point["max_line_30d"] = max(cents) / 100
    point["coupon_share_30d"] = sum(r["coupon_disc"] > 0 for r in month) / len(month)
    point["stores_30d"] = len({r["store_id"] for r in month})
    week = at + timedelta(days=7)
    after = [r for _, r in mine if at < r["transaction_timestamp"] <= week]
    point[LABEL] = sum(round(r["sales_value"] * 100) for r in after) / 100
    return point


@pytest.mark.parametrize("seed", range(5))
def test_training_points_equal_a_plain_loop(seed: int) -> None:
    purchases = lines(seed)
    points = training_points(purchases, START, START + timedelta(days=60))
    wanted = expected(cast("list[Line]", purchases.to_dicts()))
    assert len(points) == len(wanted)
    for name in (*FEATURES, LABEL):
        values = [point[name] for point in wanted]
        np.testing.assert_allclose(points[name].to_numpy(), values, rtol=1e-12, err_msg=name)


def test_the_period_is_half_open() -> None:
    purchases = lines(0)
    times = purchases["transaction_timestamp"].unique().sort()
    points = training_points(purchases, times[5], times[10])
    assert points[POINT_TIME].min() == times[5]
    assert points[POINT_TIME].max() < times[10]


def test_other_callers_columns_are_left_alone() -> None:
    points = training_points(lines(1), START, START + timedelta(days=60))
    assert points.columns == ["household_id", POINT_TIME, *FEATURES, LABEL]
    assert points.null_count().sum_horizontal()[0] == 0
