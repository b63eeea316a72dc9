"""Reads by Feast's SDK: told by lines of JSON on standard input, answers by lines of JSON.

The first argument is Redis as ``host:port``, the second a folder of its own, the third the client
that Feast reads with, the fourth a Parquet file: ``user``, ``at``, and a column
``<view>__<feature>`` for every feature. All of it is written to the online store first. A request
is ``{"users": [[...], ...]}``, lists of entities to be read one after the other; its answer has
the seconds of each read and the values of the last one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("FEAST_USAGE", "False")  # it reports to its makers otherwise

import pandas as pd
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64, Int64
from feast.value_type import ValueType


def main() -> None:
    address, directory, client, values = sys.argv[1:]
    table = pd.read_parquet(values)
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry={"path": str(Path(directory) / "registry.db"), "cache_ttl_seconds": 0},
            online_store={"type": "redis", "connection_string": address, "client": client},
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
    )
    user = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)
    source = FileSource(path=values, timestamp_field="at")
    columns: dict[str, list[str]] = {}
    for column in table.columns:
        if "__" in column:
            columns.setdefault(column.partition("__")[0], []).append(column)
    views = [
        FeatureView(
            name=view,
            entities=[user],
            ttl=timedelta(0),
            source=source,
            schema=[
                Field(name=column, dtype=Int64 if table[column].dtype.kind == "i" else Float64)
                for column in mine
            ],
        )
        for view, mine in columns.items()
    ]
    asked = FeatureService(name="asked", features=views)
    store.apply([user, *views, asked])
    for view, mine in columns.items():
        store.write_to_online_store(view, table[["user", "at", *mine]])
    service = store.get_feature_service("asked")
    say({"written": len(table)})
    for line in sys.stdin:
        took: list[float] = []
        found: dict[str, list[Any]] = {}
        for users in json.loads(line)["users"]:
            began = time.perf_counter()
            found = store.get_online_features(service, {"user": users}).to_dict()
            took.append(time.perf_counter() - began)
        say({"seconds": took, "values": found})


def say(answer: dict[str, Any]) -> None:
    """One line, at once."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
