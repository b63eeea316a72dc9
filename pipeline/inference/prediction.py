"""Predictions: the packed row in the store, and the message on the prediction topic.

Packed row, little-endian, 56 bytes, the same in every language. One row a (model, entity), the
latest request's::

     0  "PR"  magic
     2  u8    version = 1
     3  u8    outcome          0 predicted, 1 deadline, 2 model_error, 3 nan, 4 shape
     4  i32   source partition of the event that asked
     8  f64   score            the model's, or the manifest's fallback score, or NaN
    16  i64   event time       ns since the Unix epoch
    24  i64   source offset    of the event that asked
    32  u64   model            fingerprint: first 8 bytes of SHA-256(name NUL version)
    40  i64   predicted at     ms since the Unix epoch, wall time
    48  u64   xxh64 (seed 0) of the row with this field zero

Message: Arrow IPC stream bytes of one record batch (see :mod:`pipeline.inference.ipc`), columns
entity_key binary, source_partition int32, source_offset int64, trigger string, event_time
timestamp[ns, UTC], outcome string, score float64 (null where there is none), predicted_at
timestamp[ms, UTC]; metadata model, version, view, fingerprint (of the view), app, topic, topic_id,
rows. A reader drops row ids (see :mod:`pipeline.inference.request`) that it has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import CorruptRowError
from pipeline.inference.ipc import write_batch
from pipeline.inference.manifest import ModelManifest
from pipeline.inference.request import COLUMNS, RequestRows, binary
from pipeline.kernels.hash import hash_keys
from pipeline.produce.messages import message_slices

__all__ = ["Outcome", "Prediction", "encode_predictions", "pack_predictions"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

_ROW = np.dtype(
    [
        ("magic", "S2"),
        ("version", "u1"),
        ("outcome", "u1"),
        ("source_partition", "<i4"),
        ("score", "<f8"),
        ("event_time", "<i8"),
        ("source_offset", "<i8"),
        ("model", "<u8"),
        ("predicted_at", "<i8"),
        ("checksum", "<u8"),
    ]
)
_VERSION = 1
_ROW_BYTES = 64  # of a row of a message, beside key and trigger


class Outcome(IntEnum):
    """What became of a request row: predicted, or fallback for a reason."""

    PREDICTED = 0
    DEADLINE = 1  # given up: it could not be in time
    MODEL_ERROR = 2  # the model failed on its batch, or did not answer
    NAN = 3  # the model's score is not finite
    SHAPE = 4  # the model made another number of scores than rows


_NAMES = tuple(outcome.name.lower() for outcome in Outcome)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One unpacked prediction row; times as in the packed form."""

    outcome: Outcome
    score: float
    event_time: int
    source_partition: int
    source_offset: int
    model: int
    predicted_at_ms: int

    @classmethod
    def unpack(cls, data: bytes, name: str = "prediction") -> Prediction:
        """The prediction in ``data``; raises :class:`CorruptRowError`, which says ``name``."""
        if len(data) != _ROW.itemsize:
            raise CorruptRowError(f"{name}: {len(data)} bytes, a prediction has {_ROW.itemsize}")
        row = np.frombuffer(data, dtype=_ROW).copy()
        noted = int(row["checksum"][0])
        if row["magic"][0] != b"PR" or noted != _checksums(row)[0]:
            raise CorruptRowError(f"{name}: not a prediction, or its checksum is wrong")
        known = row["outcome"][0] in [outcome.value for outcome in Outcome]
        if row["version"][0] != _VERSION or not known:
            raise CorruptRowError(f"{name}: version or outcome is not known to this program")
        return cls(
            outcome=Outcome(int(row["outcome"][0])),
            score=float(row["score"][0]),
            event_time=int(row["event_time"][0]),
            source_partition=int(row["source_partition"][0]),
            source_offset=int(row["source_offset"][0]),
            model=int(row["model"][0]),
            predicted_at_ms=int(row["predicted_at"][0]),
        )


def pack_predictions(
    requests: RequestRows, rows: I64, outcome: U8, score: F64, model: int, predicted_at_ms: I64
) -> U8:
    """Packed rows of the rows ``rows`` of a request batch, back to back: uint8[56 * len(rows)].

    ``outcome``, ``score``, ``predicted_at_ms`` are one a packed row.
    """
    packed = np.zeros(len(rows), dtype=_ROW)
    packed["magic"] = b"PR"
    packed["version"] = _VERSION
    packed["outcome"] = outcome
    packed["source_partition"] = requests.source_partition[rows]
    packed["score"] = score
    packed["event_time"] = requests.event_time[rows]
    packed["source_offset"] = requests.source_offset[rows]
    packed["model"] = np.uint64(model)
    packed["predicted_at"] = predicted_at_ms
    packed["checksum"] = _hashes(packed)
    return packed.view(np.uint8)


def encode_predictions(
    requests: RequestRows,
    rows: I64,
    outcome: U8,
    score: F64,
    manifest: ModelManifest,
    predicted_at_ms: I64,
) -> list[bytes]:
    """Messages of the rows ``rows`` of a request batch, in their order, each well below a broker's
    default limit; see the module."""
    keys, key_offsets = requests.keys_of(rows)
    missing = np.isnan(score)
    source: Any = pa.record_batch(
        {
            "entity_key": binary(keys, key_offsets),
            "source_partition": pa.array(requests.source_partition[rows]),
            "source_offset": pa.array(requests.source_offset[rows]),
            "trigger": _texts(requests.triggers, requests.trigger[rows]),
            "event_time": pa.array(requests.event_time[rows]).view(COLUMNS["event_time"]),
            "outcome": _texts(_NAMES, outcome),
            "score": pa.array(score, mask=missing if missing.any() else None),
            "predicted_at": pa.array(predicted_at_ms).view(COLUMNS["requested_at"]),
        }
    )
    metadata = requests.origin.metadata()
    metadata |= {"model": manifest.name, "version": manifest.version}
    longest = max(map(len, (text.encode() for text in requests.triggers)), default=0)
    sizes = np.diff(key_offsets) + (_ROW_BYTES + longest)
    return [
        write_batch(source.slice(part.start, part.stop - part.start), metadata)
        for part in message_slices(sizes)
    ]


def _texts(names: Sequence[str], codes: npt.NDArray[Any]) -> Any:
    """``names[codes]`` as strings."""
    first = codes[0] if len(codes) else 0
    if (codes == first).all():
        return pa.repeat(pa.scalar(names[first], pa.string()), len(codes))
    return pa.array(list(names), type=pa.string()).take(pa.array(codes))


def _checksums(rows: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    blank = rows.copy()
    blank["checksum"] = 0
    return _hashes(blank)


def _hashes(rows: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    starts = np.arange(len(rows) + 1, dtype=np.int64) * _ROW.itemsize
    out = np.empty(len(rows), dtype=np.uint64)
    hash_keys(rows.view(np.uint8), starts, out)
    return out
