"""Reads back what the demo wrote, from Kafka and from Redis, and asks the oracle about it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

import pipeline as pp
from pipeline.config import BrokerConfig
from pipeline.demo.dataset import ENTITY
from pipeline.demo.oracle import Oracle, OracleResult, requested, sample
from pipeline.demo.questions import QUESTIONS
from pipeline.demo.report import Accounting, Quantiles
from pipeline.features.plan import Plan
from pipeline.ingest.scan import scan
from pipeline.serve.entity import encode_keys, key_column
from pipeline.store.open import open_store
from pipeline.store.partition import RowRead

__all__ = ["Stored", "published_rows", "read_stored", "time_reads", "verify"]

POINTS = 1_000
SEED = 2017
READS = 300
READ_KEYS = 100


@dataclass(frozen=True)
class Stored:
    """What Redis holds at the end: rows' sizes and the markers' accounting."""

    bytes_per_entity: float
    partitions: dict[int, Accounting]


def published_rows(broker: BrokerConfig, topic: str) -> pl.DataFrame:
    """Every row of a topic of Arrow batches, in offset order per partition."""
    tables: list[pa.Table] = []
    for record in scan(broker.client_properties(), topic):
        if record.value is not None:
            tables.append(pa.ipc.open_stream(record.value).read_all().replace_schema_metadata())
    frame = pl.from_arrow(pa.concat_tables(tables))
    if not isinstance(frame, pl.DataFrame):
        raise TypeError(f"a table became a {type(frame).__name__}")
    return frame


def verify(
    events: pl.DataFrame, changes: pl.DataFrame, requests: pl.DataFrame, url: str, plan: Plan
) -> tuple[OracleResult, int]:
    """The oracle's judgement, and the number of new baskets.

    Judged are 1,000 changed rows and 1,000 requests, each as of its own event time and offset,
    and the stored row of every household as of its last event.
    """
    names = [f"{plan.view}:{feature.name}" for feature in plan.features]
    households = events[ENTITY].unique().sort()
    with pp.FeatureClient(url) as client:
        table = client.prepare(names).read({ENTITY: households.to_arrow()}, at="event")
    final = pl.from_arrow(table)
    if not isinstance(final, pl.DataFrame):
        raise TypeError(f"a table became a {type(final).__name__}")
    final = final.rename({f"{plan.view}__event_time": "event_time"}).filter(
        pl.col("event_time").is_not_null()
    )
    homes = dict(changes.select(ENTITY, "source_partition").unique().iter_rows())
    with Oracle(events) as oracle:
        changed = oracle.check(sample(changes, POINTS, SEED), homes)
        sent = [q for q in QUESTIONS if q.name in requests.columns]
        asked = oracle.check(requested(sample(requests, POINTS, SEED)), homes, sent)
        return changed + asked + oracle.check_final(final), oracle.new_baskets()


def read_stored(url: str, app: str, plan: Plan, partitions: int, households: pl.Series) -> Stored:
    """Sizes of the stored rows of ``households`` and the accounting in the markers."""
    keys = encode_keys([key_column(plan.entity, plan.entity_type, households.to_arrow())])
    store = open_store(url)
    read = RowRead(
        app, plan.source, plan.fingerprint, keys.keys, keys.key_offsets,
        keys.partitions(partitions), with_markers=True,
    )  # fmt: skip
    (found,) = store.fetch([read])
    store.close()
    sizes = [len(row) for row in found.rows if row is not None]
    accounting = {
        number: Accounting(m.consumed, m.applied, m.duplicate, m.late, m.dead_lettered, m.filtered)
        for number, m in found.markers.items()
        if m is not None
    }
    return Stored(sum(sizes) / max(len(sizes), 1), accounting)


def time_reads(url: str, plan: Plan, households: pl.Series) -> Quantiles:
    """Time of reads of 100 random households, all scalar features, one after the other, in ms."""
    names = [f"{plan.view}:{f.name}" for f in plan.features if f.scalar]
    draw = np.random.default_rng(SEED)
    keys = households.to_numpy()
    taken_ms = []
    with pp.FeatureClient(url) as client:
        query = client.prepare(names)
        for _ in range(READS):
            wanted = {ENTITY: draw.choice(keys, READ_KEYS)}
            started = time.perf_counter()
            query.read_matrix(wanted, at="event")
            taken_ms.append((time.perf_counter() - started) * 1000)
    return Quantiles(*(float(q) for q in np.quantile(taken_ms, [0.5, 0.99])))
