"""The demo's definitions: what households buy, and when to ask for a prediction."""

from __future__ import annotations

from pathlib import Path

import polars as pl

import pipeline as pp

__all__ = ["TOPIC", "household", "new_basket", "purchases"]

TOPIC = "purchases"
CONTRACT = Path(__file__).with_name("purchase.json")  # a link: an installed package has no schemas/
PREDICTORS = (
    "lines_1d", "baskets_1d", "spend_1d", "spend_7d", "spend_30d", "lines_7d", "lines_30d",
    "mean_line_30d", "max_line_30d", "coupon_share_30d", "products_7d", "products_30d",
    "baskets_7d", "baskets_30d", "stores_30d",
)  # fmt: skip


def purchases() -> pp.EventStream:
    """One line of a receipt per event, keyed by household."""
    return pp.EventStream(
        TOPIC, contract=CONTRACT, key="household_id", time="transaction_timestamp"
    )


def household(source: pp.EventStream) -> pp.FeatureView:
    """What a household bought in the last day, week and month."""
    with_coupon = pl.col("coupon_disc") > 0
    return pp.FeatureView(
        "household_activity",
        source=source,
        entity="household_id",
        ttl="60d",
        features={
            "lines_1d": pp.count().over("1d", slide="1h"),
            "baskets_1d": pp.distinct("basket_id").over("1d", slide="1h"),
            "spend_1d": pp.sum("sales_value").over("1d", slide="1h"),
            "spend_7d": pp.sum("sales_value").over("7d", slide="1d"),
            "spend_30d": pp.sum("sales_value").over("30d", slide="1d"),
            "lines_7d": pp.count().over("7d", slide="1d"),
            "lines_30d": pp.count().over("30d", slide="1d"),
            "mean_line_30d": pp.mean("sales_value").over("30d", slide="1d"),
            "max_line_30d": pp.max("sales_value").over("30d", slide="1d"),
            "coupon_share_30d": pp.ratio(pp.count(where=with_coupon), pp.count()).over(
                "30d", slide="1d"
            ),
            "products_7d": pp.distinct("product_id").over("7d", slide="1d"),
            "products_30d": pp.distinct("product_id").over("30d", slide="1d"),
            "baskets_7d": pp.distinct("basket_id").over("7d", slide="1d"),
            "baskets_30d": pp.distinct("basket_id").over("30d", slide="1d"),
            "stores_30d": pp.distinct("store_id").over("30d", slide="1d"),
            "last_stores": pp.last("store_id", n=5),
            "last_basket": pp.last("basket_id"),
        },
    )


def new_basket(view: pp.FeatureView) -> pp.Trigger:
    """Fires at the first line of each new basket."""
    return pp.Trigger(
        "new_basket", view=view, when=pp.changed("basket_id"), features=list(PREDICTORS)
    )
