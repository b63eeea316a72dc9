"""Slow twin of the demo's DuckDB oracle: loops over rows, fractions for money."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from fractions import Fraction
from typing import Any

HOUR = 3_600 * 10**9
DAY = 24 * HOUR


def nanoseconds(at: datetime) -> int:
    """Naive UTC time as ns since the epoch."""
    delta = at - datetime(1970, 1, 1)
    return (delta.days * 86_400 + delta.seconds) * 10**9 + delta.microseconds * 1000


def features(rows: Sequence[dict[str, Any]], household: int, last: int, at: int) -> dict[str, Any]:
    """Every demo feature of ``household`` at ``at`` ns, knowing ``rows[: last + 1]`` only."""
    mine = [
        (nanoseconds(row["transaction_timestamp"]), i, row)
        for i, row in enumerate(rows)
        if i <= last and row["household_id"] == household
    ]

    def window(length: int, slide: int) -> list[dict[str, Any]]:
        end = at - at % slide
        return [row for t, _, row in mine if end - length < t <= at]

    def dollars(chosen: list[dict[str, Any]]) -> list[Fraction]:
        return [Fraction(round(row["sales_value"] * 100), 100) for row in chosen]

    def kinds(chosen: list[dict[str, Any]], column: str) -> int:
        return len({row[column] for row in chosen})

    day, week, month = window(DAY, HOUR), window(7 * DAY, DAY), window(30 * DAY, DAY)
    newest = [row for t, i, row in sorted(mine, key=lambda m: (-m[0], -m[1])) if t > at - 60 * DAY]
    coupons = [row for row in month if row["coupon_disc"] > 0]
    return {
        "lines_1d": len(day),
        "baskets_1d": kinds(day, "basket_id"),
        "spend_1d": float(sum(dollars(day), Fraction(0))),
        "spend_7d": float(sum(dollars(week), Fraction(0))),
        "spend_30d": float(sum(dollars(month), Fraction(0))),
        "lines_7d": len(week),
        "lines_30d": len(month),
        "mean_line_30d": float(sum(dollars(month), Fraction(0)) / len(month)) if month else None,
        "max_line_30d": float(max(dollars(month))) if month else None,
        "coupon_share_30d": float(Fraction(len(coupons), len(month))) if month else None,
        "products_7d": kinds(week, "product_id"),
        "products_30d": kinds(month, "product_id"),
        "baskets_7d": kinds(week, "basket_id"),
        "baskets_30d": kinds(month, "basket_id"),
        "stores_30d": kinds(month, "store_id"),
        "last_stores": [row["store_id"] for row in newest[:5]],
        "last_basket": [row["basket_id"] for row in newest[:1]],
    }
