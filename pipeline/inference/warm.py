"""Compiles the kernels of the inference worker, before it owns a partition."""

from __future__ import annotations

import numpy as np

from pipeline.inference.prediction import pack_predictions
from pipeline.inference.reader import Read, RequestReader
from pipeline.inference.request import RequestOrigin, encode_requests
from pipeline.ingest.batch import BinaryBatch, TopicPartition

__all__ = ["warm_up"]


def warm_up() -> None:
    """Read the same made-up message twice, in full and as one of a known layout; pack a prediction
    of it."""
    value = encode_requests(
        RequestOrigin("warm-up", 0, "warm-up", "warm-up"),
        keys=np.array([97, 98], dtype=np.uint8),
        key_offsets=np.array([0, 1, 2], dtype=np.int64),
        source_partition=0,
        source_offset=np.array([0, 1], dtype=np.int64),
        trigger="warm-up",
        event_time=np.zeros(2, dtype=np.int64),
        requested_at_ms=0,
        names=("feature",),
        features=np.array([[0.0], [np.nan]]),
    )
    for found in RequestReader(("feature",), 0.0).read(_batch([value, value])):
        if isinstance(found, Read):
            requests, one = found.requests, np.ones(1, dtype=np.int64)
            requests.keys_of(one)
            pack_predictions(requests, one, one.astype(np.uint8), one.astype(np.float64), 0, one)


def _batch(values: list[bytes]) -> BinaryBatch:
    n = len(values)
    sizes = np.array([len(value) for value in values], dtype=np.int64)
    absent = np.zeros(n, dtype=np.uint8)
    return BinaryBatch(
        source=TopicPartition("warm-up", 0),
        payload=np.frombuffer(b"".join(values), dtype=np.uint8).copy(),
        value_offsets=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)]),
        value_null=absent,
        value_size=sizes,
        keys=np.zeros(0, dtype=np.uint8),
        key_offsets=np.zeros(n + 1, dtype=np.int64),
        key_null=np.ones(n, dtype=np.uint8),
        offsets=np.arange(n, dtype=np.int64),
        timestamps_ms=np.full(n, -1, dtype=np.int64),
    )
