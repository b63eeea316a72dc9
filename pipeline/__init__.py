"""Event topics in Kafka to exact, fresh features in Redis and batched predictions, in columns.

In the order data flows:

``contracts``   what an event looks like: JSON Schema and Avro files as typed fields
``ingest``      bytes from the broker, gathered and decoded into columns
``features``    what a user declares: streams, views, aggregations, triggers; compiled to plans
``kernels``     compiled functions over arrays that interpret the plans
``state``       the cached rows of a partition: keys, tiles, lists
``store``       rows, leases and markers in Redis; fenced commits
``app``         the Faust application and its data plane, wired
``produce``     producers of events and of outputs
``serve``       readers of features
``inference``   batched predictions
``embedded``    servers for a laptop, a test, a demo
``testing``     the same machinery without a server

Names are imported when first used, so ``import pipeline`` is quick and reading features does not
load the stream processor.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.app.application import App as App
    from pipeline.config import Config as Config
    from pipeline.contracts.contract import Contract as Contract
    from pipeline.features.aggregations import count as count
    from pipeline.features.aggregations import decayed_count as decayed_count
    from pipeline.features.aggregations import decayed_sum as decayed_sum
    from pipeline.features.aggregations import distinct as distinct
    from pipeline.features.aggregations import ewma as ewma
    from pipeline.features.aggregations import first as first
    from pipeline.features.aggregations import last as last
    from pipeline.features.aggregations import max as max
    from pipeline.features.aggregations import max_n as max_n
    from pipeline.features.aggregations import mean as mean
    from pipeline.features.aggregations import median as median
    from pipeline.features.aggregations import min as min
    from pipeline.features.aggregations import min_n as min_n
    from pipeline.features.aggregations import quantile as quantile
    from pipeline.features.aggregations import ratio as ratio
    from pipeline.features.aggregations import std as std
    from pipeline.features.aggregations import sum as sum
    from pipeline.features.aggregations import top_k as top_k
    from pipeline.features.aggregations import var as var
    from pipeline.features.stream import EventStream as EventStream
    from pipeline.features.view import FeatureView as FeatureView
    from pipeline.features.view import Trigger as Trigger
    from pipeline.features.view import changed as changed
    from pipeline.produce.producer import EventProducer as EventProducer
    from pipeline.serve.client import FeatureClient as FeatureClient

_HOMES = {
    "App": "pipeline.app.application",
    "Config": "pipeline.config",
    "Contract": "pipeline.contracts.contract",
    "EventProducer": "pipeline.produce.producer",
    "EventStream": "pipeline.features.stream",
    "FeatureClient": "pipeline.serve.client",
    "FeatureView": "pipeline.features.view",
    "Trigger": "pipeline.features.view",
    "changed": "pipeline.features.view",
    "count": "pipeline.features.aggregations",
    "decayed_count": "pipeline.features.aggregations",
    "decayed_sum": "pipeline.features.aggregations",
    "distinct": "pipeline.features.aggregations",
    "ewma": "pipeline.features.aggregations",
    "first": "pipeline.features.aggregations",
    "last": "pipeline.features.aggregations",
    "max": "pipeline.features.aggregations",
    "max_n": "pipeline.features.aggregations",
    "mean": "pipeline.features.aggregations",
    "median": "pipeline.features.aggregations",
    "min": "pipeline.features.aggregations",
    "min_n": "pipeline.features.aggregations",
    "quantile": "pipeline.features.aggregations",
    "ratio": "pipeline.features.aggregations",
    "std": "pipeline.features.aggregations",
    "sum": "pipeline.features.aggregations",
    "top_k": "pipeline.features.aggregations",
    "var": "pipeline.features.aggregations",
}

__all__ = sorted(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
