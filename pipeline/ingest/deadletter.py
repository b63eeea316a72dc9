"""Rejected records as messages for the dead-letter topic.

A message's value is one JSON object:

    {"reason": "schema",            lower-case name of a Reason
     "view": null,                  the view that refused the record; null: every view did
     "topic": "purchases", "topic_id": "", "partition": 3, "offset": 1234,
     "timestamp_ms": 1700000000000, broker time, -1 where absent
     "size": 143,                   bytes of the value on the wire
     "key": "MTIzNDU=",             base64 of its first 65,536 bytes, null for a null key
     "value": "eyJ..."}             base64 of its first 1,024 bytes; null for a tombstone, and
                                    where a value over the limit was left out

A row of a repartition topic is named by the record that it was at its source, and has no value.

Its key is ``<topic>/<partition>/<offset>`` (with ``.<row>`` for a row but the first of a message of
many) and, for one view, ``/<view>``: the same record gives
the same key again after a crash, so readers drop ids they have seen, and a compacted topic keeps
one. A null value says that the letter was dealt with.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import CorruptRowError
from pipeline.ingest.batch import BinaryBatch, Origin, Reason, Rejects

__all__ = ["DeadLetter", "dead_letters"]

MAX_BODY_BYTES = 1024
MAX_KEY_BYTES = 65_536  # a record that is all key must not make a letter that no broker takes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter as it was read back; ``id`` is its key. ``key`` and ``value`` may be cut."""

    id: str
    reason: str
    view: str | None
    topic: str
    topic_id: str
    partition: int
    offset: int
    timestamp_ms: int
    size: int
    key: bytes | None
    value: bytes | None

    @classmethod
    def from_message(cls, key: bytes, value: bytes) -> DeadLetter:
        """The letter in a message of the dead-letter topic; CorruptRowError if it is none."""
        try:
            fields = json.loads(value)
            return cls(
                id=key.decode(),
                reason=str(fields["reason"]),
                view=fields["view"],
                topic=str(fields["topic"]),
                topic_id=str(fields["topic_id"]),
                partition=int(fields["partition"]),
                offset=int(fields["offset"]),
                timestamp_ms=int(fields["timestamp_ms"]),
                size=int(fields["size"]),
                key=_bytes(fields["key"]),
                value=_bytes(fields["value"]),
            )
        except (ValueError, KeyError, TypeError, binascii.Error) as problem:
            raise CorruptRowError(f"{key!r} is not a dead letter: {problem!r}") from problem


def dead_letters(
    batch: BinaryBatch,
    rejects: Rejects,
    *,
    view: str | None = None,
    topic_id: str = "",
    origin: Origin | None = None,
    message: npt.NDArray[np.int64] | None = None,
) -> list[tuple[bytes, bytes]]:
    """(key, value) of one message for each reject, in offset order.

    ``view`` is the view (or repartition topic) that alone refused them; ``origin`` and
    ``message`` are those of an :class:`~pipeline.ingest.batch.EventBatch`.
    """
    return [
        _letter(batch, index, Reason(reason).name.lower(), view, topic_id, origin, message)
        for index, reason in zip(rejects.index.tolist(), rejects.reason.tolist(), strict=True)
    ]


def _letter(
    batch: BinaryBatch, i: int, reason: str, view: str | None, topic_id: str,
    origin: Origin | None, message: npt.NDArray[np.int64] | None,
) -> tuple[bytes, bytes]:  # fmt: skip
    row = 0
    size = int(batch.value_size[i])
    topic, partition, offset = batch.source.topic, batch.source.partition, int(batch.offsets[i])
    if origin is not None:
        offset = int(origin.message[i])
        if origin.topic[i] >= 0:
            place = int(origin.topic[i])
            topic, topic_id = origin.topics[place], origin.topic_ids[place]
            partition, offset = int(origin.partition[i]), int(origin.offset[i])
    elif message is not None:
        offset = int(message[i])
        row = i - int(np.searchsorted(message, offset))
    first, last = int(batch.value_offsets[i]), int(batch.value_offsets[i + 1])
    body = batch.payload[first : min(last, first + MAX_BODY_BYTES)].tobytes()
    absent = bool(batch.value_null[i]) or last - first < size
    key = batch.key(i)
    letter: dict[str, Any] = {
        "reason": reason,
        "view": view,
        "topic": topic,
        "topic_id": topic_id,
        "partition": partition,
        "offset": offset,
        "timestamp_ms": int(batch.timestamps_ms[i]),
        "size": size,
        "key": None if key is None else _base64(key[:MAX_KEY_BYTES]),
        "value": None if absent else _base64(body),
    }
    name = f"{topic}/{partition}/{offset}" + (f".{row}" if row else "")
    if view is not None:
        name += f"/{view}"
    return name.encode(), json.dumps(letter, separators=(",", ":")).encode()


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode("ascii")


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)
