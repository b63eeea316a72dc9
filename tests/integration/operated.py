"""The application that the tests of the operators' commands run."""

from __future__ import annotations

import os

import pipeline as pp

CONTRACT = {
    "title": "sale",
    "type": "object",
    "properties": {
        "user": {"type": "integer"},
        "shop": {"type": "string"},
        "cents": {"type": "integer"},
        "at": {"type": "integer", "x-unix-time": "ms"},
    },
    "required": ["user", "shop", "cents", "at"],
}

sales = pp.EventStream(
    os.environ.get("OPERATED_TOPIC", "sales"), pp.Contract.load(CONTRACT), key="user", time="at"
)
features = {"n": pp.count().over("1h", slide="1m"), "spent": pp.sum("cents").over("1d")}
users = pp.FeatureView("users", source=sales, entity="user", features=features)
shops = pp.FeatureView("shops", source=sales, entity="shop", features=features)
app = pp.App(os.environ.get("OPERATED_APP", "operated"), views=[users, shops])
