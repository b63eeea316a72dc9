"""The application that the integration tests run as a process of its own."""

from __future__ import annotations

import json
import os
import random
from typing import Any

import polars as pl
import pyarrow as pa

import pipeline as pp

TOPIC = os.environ.get("SHOP_TOPIC", "payments")
APP = os.environ.get("SHOP_APP", "shop")
CONTRACT = {
    "title": "payment",
    "type": "object",
    "properties": {
        "user": {"type": "integer"},
        "shop": {"type": "integer"},
        "cents": {"type": "number", "x-decimal": 2},
        "price": {"type": "number"},
        "at": {"type": "string", "format": "date-time"},
    },
    "required": ["user", "shop", "cents", "price", "at"],
}


def definitions(topic: str, changed: bool = False) -> tuple[pp.FeatureView, pp.Trigger]:
    """The view and the trigger over ``topic``; the view as it is, or as it is ``changed`` later."""
    more = {"payments_2d": pp.count().over("2d", slide="1h")} if changed else {}
    payments = pp.EventStream(topic, contract=pp.Contract.load(CONTRACT), key="user", time="at")
    view = pp.FeatureView(
        "spending",
        source=payments,
        entity="user",
        ttl="20d",
        where=pl.col("shop") != 13,
        features={
            "payments_1d": pp.count().over("1d", slide="1h"),
            "spent_3d": pp.sum("cents").over("3d", slide="6h"),
            "priced_3d": pp.sum("price").over("3d", slide="6h"),
            "dearest_3d": pp.max("price").over("3d", slide="6h"),
            "shops_3d": pp.distinct("shop").over("3d", slide="6h"),
            "last_shops": pp.last("shop", n=3),
            "last_shop": pp.last("shop"),
            **more,
        },
    )
    return view, pp.Trigger("new_shop", view=view, when=pp.changed("shop"), features=["spent_3d"])


def added(view: pp.FeatureView) -> pp.FeatureView:
    """A view that a later version of the application has too, over the topic of this one."""
    return pp.FeatureView(
        "visiting",
        source=view.source,
        entity="user",
        features={
            "visits_2d": pp.count().over("2d", slide="1h"),
            "last_visits": pp.last("shop", n=2),
        },
    )


spending, new_shop = definitions(TOPIC, "SHOP_CHANGED" in os.environ)
later = [added(spending)] if "SHOP_LATER" in os.environ else []
app = pp.App(APP, views=[spending, *later], triggers=[new_shop])


@app.agent(spending.changes)
async def watch(batches: Any) -> None:
    """Write down how many changed rows came to the agent."""
    async for batch in batches:
        if not isinstance(batch, pa.RecordBatch):
            raise TypeError(f"a {type(batch).__name__} came through the channel")
        if "SHOP_SEEN" in os.environ:
            with open(os.environ["SHOP_SEEN"], "a") as seen:
                seen.write(f"{len(batch)}\n")


def events(n: int, seed: int) -> list[dict[str, Any]]:
    """Payments that are out of order by up to a month, with equal times and a hot key."""
    draw = random.Random(seed)
    minute = 0
    made = []
    for _ in range(n):
        minute += draw.randint(0, 24)
        late = draw.choice([0, 0, 0, 0, 30, 3000, 40000])
        day, rest = divmod(max(0, minute - late), 1440)
        made.append(
            {
                "user": draw.choice([1, 1, draw.randint(1, 400)]),
                "shop": draw.randint(10, 20),
                "cents": draw.randint(-500, 10_000) / 100,
                "price": draw.uniform(-1, 1) * 10 ** draw.randint(-3, 6),
                "at": f"2024-{1 + day // 28 % 12:02d}-{1 + day % 28:02d}"
                f"T{rest // 60:02d}:{rest % 60:02d}:00Z",
            }
        )
    return made


def message(event: dict[str, Any]) -> tuple[bytes, bytes]:
    """Key and value as a producer writes them."""
    return str(event["user"]).encode(), json.dumps(event).encode()
