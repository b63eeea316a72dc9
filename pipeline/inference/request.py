"""Requests: rows that ask a model for a prediction, as one record batch a Kafka message.

Arrow IPC stream bytes (see :mod:`pipeline.inference.ipc`), columns in this order, none of
the first six null::

    entity_key        binary                     the entity, as in the Kafka message key
    source_partition  int32                      of the event that fired
    source_offset     int64
    trigger           dictionary<int16, string>  (or string)
    event_time        timestamp[ns, UTC]
    requested_at      timestamp[ms, UTC]         wall time; the deadline counts from here
    <feature>         float64, one per feature   null where the feature has no value

Schema metadata: ``view``, ``fingerprint`` (16 hexadecimal digits), ``app``, ``topic`` and
``topic_id`` (of the event topic), ``rows``.

*Row id*: (fingerprint, topic and topic id, source partition, source offset, trigger). For one
(fingerprint, topic, trigger, source partition) the ids of a request partition ascend, because
a sender publishes in offset order and sends a source partition always to the same request
partition, ``source_partition % partitions of the request topic``. A sender that replays
starts at its marker and repeats every row after it, so the highest offset seen is enough to
know what was seen (:mod:`pipeline.inference.progress`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.inference.ipc import RefusedError, read_batch, write_batch
from pipeline.ingest.batch import Reason
from pipeline.kernels.take import take_bytes, taken_offsets

__all__ = [
    "COLUMNS",
    "RequestBatch",
    "RequestOrigin",
    "RequestRows",
    "binary",
    "decode_requests",
    "encode_requests",
]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Column = Any  # a pyarrow.Array; its stubs do not know what type an array has

COLUMNS = {
    "entity_key": pa.binary(),
    "source_partition": pa.int32(),
    "source_offset": pa.int64(),
    "trigger": pa.dictionary(pa.int16(), pa.string()),
    "event_time": pa.timestamp("ns", "UTC"),
    "requested_at": pa.timestamp("ms", "UTC"),
}
_METADATA = ("view", "fingerprint", "app", "topic", "topic_id")


@dataclass(frozen=True, slots=True)
class RequestOrigin:
    """Where the rows of a message come from: its schema metadata."""

    view: str
    fingerprint: int
    app: str
    topic: str
    topic_id: str = ""

    def metadata(self) -> dict[str, str]:
        """As schema metadata."""
        return {
            "view": self.view,
            "fingerprint": f"{self.fingerprint:016x}",
            "app": self.app,
            "topic": self.topic,
            "topic_id": self.topic_id,
        }

    def stream(self, trigger: str) -> int:
        """uint64 that names (view fingerprint, topic, topic id, trigger) in progress rows."""
        return _stream(self, trigger)


@lru_cache(maxsize=1024)
def _stream(origin: RequestOrigin, trigger: str) -> int:
    text = f"{origin.fingerprint:016x}\0{origin.topic}\0{origin.topic_id}\0{trigger}"
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "little")


@dataclass(frozen=True)
class RequestRows:
    """Rows of request messages, in source offset order per trigger.

    ``trigger`` int32[n] indexes ``triggers``; ``event_time`` ns, ``requested_at_ms`` ms since
    the Unix epoch.
    """

    origin: RequestOrigin
    keys: U8
    key_offsets: I64
    source_partition: I32
    source_offset: I64
    trigger: I32
    triggers: tuple[str, ...]
    event_time: I64
    requested_at_ms: I64

    def __len__(self) -> int:
        return len(self.source_offset)

    def keys_of(self, rows: I64) -> tuple[U8, I64]:
        """Entity keys of these rows, ascending: bytes and offsets int64[len(rows) + 1]."""
        if len(rows) == len(self):
            return self.keys, self.key_offsets
        offsets = np.empty(len(rows) + 1, dtype=np.int64)
        taken_offsets(self.key_offsets, rows, offsets)
        keys = np.empty(int(offsets[-1]), dtype=np.uint8)
        take_bytes(self.keys, self.key_offsets, rows, offsets, keys)
        return keys, offsets


@dataclass(frozen=True)
class RequestBatch(RequestRows):
    """The rows of one request message; features stay in ``batch`` until :meth:`block`."""

    batch: pa.RecordBatch

    @cached_property
    def features(self) -> frozenset[str]:
        """Names of the feature columns."""
        return frozenset(self.batch.schema.names) - frozenset(COLUMNS)

    def block(self, names: Sequence[str], null_value: float) -> F32:
        """float32[n, len(names)]; a null or NaN feature is ``null_value`` (which may be NaN)."""
        out = np.empty((len(self), len(names)), dtype=np.float32)
        # float64 beyond float32 becomes infinite, as in any cast; one NaN is as good as another.
        with np.errstate(over="ignore", invalid="ignore"):
            for i, name in enumerate(names):
                out[:, i] = _floats(self.batch.column(name))
        np.copyto(out, np.float32(null_value), where=np.isnan(out))
        return out


def encode_requests(
    origin: RequestOrigin,
    *,
    keys: U8,
    key_offsets: I64,
    source_partition: int | I32,
    source_offset: I64,
    trigger: Sequence[str] | str,
    event_time: I64,
    requested_at_ms: int | I64,
    names: Sequence[str],
    features: F64,
    valid: U8 | None = None,
) -> bytes:
    """Message bytes of n rows.

    ``keys`` uint8[..] with ``key_offsets`` int64[n+1]; ``source_partition`` and
    ``requested_at_ms`` are one number for all rows or one a row; ``trigger`` is one name for all
    rows or one a row; ``features`` float64[n, len(names)], null where ``valid`` (uint8, same
    shape) is 0, or where NaN if ``valid`` is None. The caller keeps rows in offset order.
    """
    n = len(source_offset)
    missing = np.isnan(features) if valid is None else np.asarray(valid) == 0
    columns: dict[str, Column] = {
        "entity_key": binary(keys, key_offsets),
        "source_partition": pa.array(np.broadcast_to(np.int32(source_partition), n)),
        "source_offset": pa.array(source_offset, type=pa.int64()),
        "trigger": _triggers(trigger, n),
        "event_time": pa.array(event_time, type=pa.int64()).cast(COLUMNS["event_time"]),
        "requested_at": pa.array(np.broadcast_to(np.int64(requested_at_ms), n)).cast(
            COLUMNS["requested_at"]
        ),
    }
    for i, name in enumerate(names):
        columns[name] = pa.array(
            np.ascontiguousarray(features[:, i]), type=pa.float64(), mask=missing[:, i]
        )
    return write_batch(columns, origin.metadata())


def decode_requests(data: bytes | memoryview, needed: Sequence[str] = ()) -> RequestBatch:
    """The rows in ``data``, validated; ``needed`` are the features that must be there.

    Raises :class:`~pipeline.inference.ipc.RefusedError`, which carries the reason of the dead
    letter, and nothing else. A message is refused as a whole: its sender is broken.
    """
    batch = read_batch(data)
    names = batch.schema.names
    if names[: len(COLUMNS)] != list(COLUMNS) or len(set(names)) != len(names):
        raise RefusedError(Reason.SCHEMA, f"columns start {names[: len(COLUMNS)]}")
    absent = sorted(set(needed) - set(names[len(COLUMNS) :]))
    if absent:
        raise RefusedError(Reason.SCHEMA, f"the model needs the features {', '.join(absent)}")
    for field in batch.schema:
        expected = COLUMNS.get(field.name, pa.float64())
        if field.type != expected and not (field.name == "trigger" and field.type == pa.string()):
            raise RefusedError(Reason.SCHEMA, f"{field.name} is {field.type}, not {expected}")
    for name in COLUMNS:
        if batch.column(name).null_count:
            raise RefusedError(Reason.SCHEMA, f"{name} has nulls")
    return _decoded(batch, _origin(batch.schema.metadata or {}))


def _origin(metadata: dict[bytes, bytes]) -> RequestOrigin:
    try:
        view, fingerprint, app, topic, topic_id = (
            metadata[name.encode()].decode() for name in _METADATA
        )
        if len(fingerprint) != 16:
            raise ValueError("fingerprint is not 16 hexadecimal digits")
        return RequestOrigin(view, int(fingerprint, 16), app, topic, topic_id)
    except (KeyError, ValueError) as error:
        raise RefusedError(Reason.SCHEMA, f"schema metadata: {error}") from error


def _decoded(batch: pa.RecordBatch, origin: RequestOrigin) -> RequestBatch:
    triggers: Column = batch.column("trigger")
    if not pa.types.is_dictionary(triggers.type):
        triggers = triggers.dictionary_encode()
    names = triggers.dictionary.to_pylist()
    if None in names:
        raise RefusedError(Reason.SCHEMA, "trigger has nulls")
    keys, key_offsets = _bytes(batch.column("entity_key"))
    if len(key_offsets) > 1 and int(np.diff(key_offsets).min()) == 0:
        raise RefusedError(Reason.NO_KEY, "an entity_key is empty")
    partition = _ints(batch.column("source_partition"), np.int32)
    offset = _ints(batch.column("source_offset"), np.int64)
    if len(offset) and (int(offset.min()) < 0 or int(partition.min()) < 0):
        raise RefusedError(Reason.RANGE, "a source partition or offset is negative")
    return RequestBatch(
        origin=origin,
        keys=keys,
        key_offsets=key_offsets,
        source_partition=partition,
        source_offset=offset,
        trigger=triggers.indices.to_numpy(zero_copy_only=False).astype(np.int32),
        triggers=tuple(names),
        event_time=_ints(batch.column("event_time").cast(pa.int64()), np.int64),
        requested_at_ms=_ints(batch.column("requested_at").cast(pa.int64()), np.int64),
        batch=batch,
    )


def binary(keys: U8, key_offsets: I64) -> Column:
    """A column of bytes; ``key_offsets`` int64[n + 1] begin with 0."""
    offsets = pa.py_buffer(np.ascontiguousarray(key_offsets, dtype=np.int32).data)
    data = pa.py_buffer(np.ascontiguousarray(keys).data)
    return pa.Array.from_buffers(pa.binary(), len(key_offsets) - 1, [None, offsets, data])


def _bytes(column: Column) -> tuple[U8, I64]:
    _, offsets, data = column.buffers()
    if len(column) == 0 or data is None:
        return np.zeros(0, dtype=np.uint8), np.zeros(len(column) + 1, dtype=np.int64)
    count, skip = len(column) + 1, 4 * column.offset
    ends = np.frombuffer(offsets, dtype=np.int32, count=count, offset=skip)
    keys = np.frombuffer(data, dtype=np.uint8)[ends[0] : ends[-1]].copy()
    return keys, (ends - ends[0]).astype(np.int64)


def _triggers(trigger: Sequence[str] | str, n: int) -> Column:
    if isinstance(trigger, str):
        indices: Column = pa.array(np.zeros(n, dtype=np.int16))
        return pa.DictionaryArray.from_arrays(indices, pa.array([trigger], type=pa.string()))
    return pa.array(list(trigger), type=pa.string()).dictionary_encode().cast(COLUMNS["trigger"])


def _floats(column: Column) -> F64:
    values: F64 = column.to_numpy(zero_copy_only=False)  # nulls of a float64 column become NaN
    return values


def _ints(column: Column, dtype: type[np.int32] | type[np.int64]) -> npt.NDArray[np.signedinteger]:
    values: npt.NDArray[np.signedinteger] = column.to_numpy(zero_copy_only=False).astype(dtype)
    return values
