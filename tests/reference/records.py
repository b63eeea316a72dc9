"""Records as Python values to a :class:`BinaryBatch`, and rows of an event batch back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts.contract import FieldType
from pipeline.ingest.batch import BinaryBatch, EventBatch, TopicPartition


def _joined(items: Sequence[bytes | None]) -> tuple[Any, Any, Any]:
    offsets = np.cumsum([0, *(len(item or b"") for item in items)]).astype(np.int64)
    null = np.array([item is None for item in items], dtype=np.uint8)
    return np.frombuffer(b"".join(i or b"" for i in items), dtype=np.uint8), offsets, null


def binary_batch(
    values: Sequence[bytes | None],
    keys: Sequence[bytes | None],
    timestamps_ms: npt.ArrayLike = -1,
    *,
    source: TopicPartition = TopicPartition("events", 0),  # noqa: B008  (frozen)
    sizes: Sequence[int] | None = None,
    first_offset: int = 0,
) -> BinaryBatch:
    """A batch of these records; ``sizes`` on the wire where they differ from the values'."""
    payload, value_offsets, value_null = _joined(values)
    key_bytes, key_offsets, key_null = _joined(keys)
    n = len(values)
    return BinaryBatch(
        source=source,
        payload=payload,
        value_offsets=value_offsets,
        value_null=value_null,
        value_size=np.diff(value_offsets) if sizes is None else np.array(sizes, dtype=np.int64),
        keys=key_bytes,
        key_offsets=key_offsets,
        key_null=key_null,
        offsets=np.arange(first_offset, first_offset + n, dtype=np.int64),
        timestamps_ms=np.broadcast_to(np.asarray(timestamps_ms, dtype=np.int64), n).copy(),
    )


def row(events: EventBatch, i: int) -> dict[str, Any]:
    """Values of row ``i`` as Python objects: strings as text, null as None."""
    found: dict[str, Any] = {}
    for name, field in events.fields.items():
        value: Any = events.columns[name][i].item()
        if not events.valid[name][i]:
            value = None
        elif field.type is FieldType.BOOL:
            value = bool(value)
        elif field.type in {FieldType.STRING, FieldType.UUID, FieldType.BYTES}:
            text, start, length = events.strings[name]
            value = text[start[i] : start[i] + length[i]].tobytes()
            value = value if field.type is FieldType.BYTES else value.decode()
        found[name] = value
    return found
