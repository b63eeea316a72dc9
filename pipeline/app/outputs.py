"""What a batch sends out before its commit: changed rows, requests, late and dead letters.

Every message names (view, topic id, partition, offset) of what it stands for, so that a
reader can drop what it has seen when a crash makes a worker send it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import AppConfig
from pipeline.features.plan import Plan
from pipeline.ingest.batch import TopicPartition
from pipeline.ingest.entity import split_keys
from pipeline.kernels.take import take_bytes, taken_offsets
from pipeline.produce.messages import message_slices
from pipeline.state.batch import Finalized
from pipeline.state.columns import feature_columns, feature_type

__all__ = [
    "TopicNames",
    "changes_batch",
    "changes_schema",
    "entity_arrays",
    "ipc_messages",
    "select_bytes",
]

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
ENTITY_TYPES: dict[str, Any] = {
    "int64": pa.int64(),
    "string": pa.string(),
    "uuid": pa.string(),
    "bytes": pa.binary(),
}


@dataclass(frozen=True, slots=True)
class TopicNames:
    """Names of an application's output topics."""

    app: str
    dead_letter_suffix: str
    late_suffix: str
    changes_suffix: str

    @classmethod
    def of(cls, app: str, config: AppConfig) -> TopicNames:
        """The names that the configuration gives."""
        return cls(app, config.dead_letter_suffix, config.late_suffix, config.changes_suffix)

    @property
    def dead_letters(self) -> str:
        """Records that cannot be applied."""
        return f"{self.app}{self.dead_letter_suffix}"

    @property
    def late(self) -> str:
        """Records that came too late for every window of a view."""
        return f"{self.app}{self.late_suffix}"

    def changes(self, view: str) -> str:
        """Changed rows of a view."""
        return f"{self.app}-{view}{self.changes_suffix}"

    def requests(self, trigger: str) -> str:
        """Prediction requests of a trigger."""
        return f"{self.app}-{trigger}-requests"


def changes_schema(plan: Plan, app: str, topic: str, topic_id: str) -> pa.Schema:
    """Columns of a changes batch: one per field of the entity, position, one per feature."""
    position = [
        *(pa.field(n, ENTITY_TYPES[kind], nullable=False) for n, kind in plan.entities.items()),
        pa.field("event_time", pa.timestamp("ns", "UTC"), nullable=False),
        pa.field("source_partition", pa.int32(), nullable=False),
        pa.field("source_offset", pa.int64(), nullable=False),
    ]
    features = [pa.field(f.name, feature_type(f)) for f in plan.features]
    metadata: dict[str | bytes, str | bytes] = {
        "app": app,
        "view": plan.view,
        "fingerprint": f"{plan.fingerprint:016x}",
        "topic": topic,
        "topic_id": topic_id,
    }
    return pa.schema(position + features, metadata=metadata)


def changes_batch(
    plan: Plan, schema: pa.Schema, source: TopicPartition,
    keys: U8, key_offsets: I64, event_time: I64, source_offset: I64, rows: Finalized,
) -> pa.RecordBatch:  # fmt: skip
    """The changed rows of one partition, each as of its own last event."""
    n = len(event_time)
    columns: list[Any] = [
        *entity_arrays(plan, keys, key_offsets),
        pa.array(event_time).cast(pa.timestamp("ns", "UTC")),
        pa.array(np.full(n, source.partition, dtype=np.int32)),
        pa.array(source_offset),
    ]
    columns += feature_columns(plan, rows.cells, rows.valid, [f.name for f in plan.features])
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def entity_arrays(plan: Plan, keys: U8, key_offsets: I64) -> list[Any]:
    """Message keys as columns of the fields of their entity: the inverse of making keys."""
    kinds = list(plan.entities.values())
    arrays = []
    for kind, (data, bounds) in zip(kinds, split_keys(keys, key_offsets, kinds), strict=True):
        buffers: Any = [None, pa.py_buffer(bounds.data), pa.py_buffer(data.data)]
        raw = pa.large_binary() if kind == "bytes" else pa.large_string()
        text = pa.Array.from_buffers(raw, len(bounds) - 1, buffers)
        arrays.append(text.cast(ENTITY_TYPES[kind]))
    return arrays


def ipc_messages(batch: pa.RecordBatch) -> Iterator[bytes]:
    """The batch as self-contained Arrow IPC streams, each well below a broker's default limit."""
    sizes = np.full(len(batch), batch.nbytes // max(len(batch), 1), dtype=np.int64)
    columns: list[Any] = batch.columns
    for column in columns:
        if pa.types.is_list(column.type):
            ends = np.cumsum([0, *_text_sizes(column.values)])[column.offsets.to_numpy()]
            sizes += np.diff(ends)
        else:
            sizes += _text_sizes(column)
    for rows in message_slices(sizes):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch.slice(rows.start, rows.stop - rows.start))
        yield sink.getvalue().to_pybytes()


def _text_sizes(column: Any) -> I64:
    """Bytes of each string; 0 of null and of other values."""
    if not (pa.types.is_string(column.type) or pa.types.is_binary(column.type)):
        return np.zeros(len(column), dtype=np.int64)
    lengths: Any = pc.fill_null(pc.binary_length(column), 0)
    return np.asarray(lengths.to_numpy(), dtype=np.int64)


def select_bytes(data: U8, offsets: I64, rows: I64) -> tuple[U8, I64]:
    """The ``rows`` of a binary column (bytes, offsets int64[n+1]), laid back to back."""
    out_offsets = np.empty(len(rows) + 1, dtype=np.int64)
    taken_offsets(offsets, rows, out_offsets)
    out = np.empty(int(out_offsets[-1]), dtype=np.uint8)
    take_bytes(data, offsets, rows, out_offsets, out)
    return out, out_offsets
