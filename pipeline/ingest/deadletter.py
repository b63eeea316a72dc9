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
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import CorruptRowError
from pipeline.ingest.batch import BinaryBatch, Origin, Reason, Rejects, TopicPartition

__all__ = ["DeadLetter", "dead_letters"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
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
    rows = rejects.index
    names = _Names(batch.source, topic_id, view, origin)
    place, partition, offset, row = _positions(batch, rows, origin, message)
    firsts, lasts = batch.value_offsets[rows], batch.value_offsets[rows + 1]
    sizes = batch.value_size[rows]
    absent = (batch.value_null[rows] == 1) | (lasts - firsts < sizes)
    columns = zip(
        rejects.reason.tolist(), place.tolist(), partition.tolist(), offset.tolist(), row.tolist(),
        batch.timestamps_ms[rows].tolist(), sizes.tolist(),
        _texts(batch.keys, batch.key_offsets[rows], batch.key_offsets[rows + 1],
               MAX_KEY_BYTES, batch.key_null[rows] == 1),
        _texts(batch.payload, firsts, lasts, MAX_BODY_BYTES, absent),
        strict=True,
    )  # fmt: skip
    return [names.letter(*values) for values in columns]


class _Names:
    """What many letters have in common, as JSON: the columns of a batch are put between it."""

    def __init__(
        self, source: TopicPartition, topic_id: str, view: str | None, origin: Origin | None
    ) -> None:
        topics = () if origin is None else zip(origin.topics, origin.topic_ids, strict=True)
        self._topics = [*topics, (source.topic, topic_id)]  # the last where a row has no place
        self._named = [
            f'"view":{json.dumps(view)},"topic":{json.dumps(topic)},"topic_id":{json.dumps(id_)}'
            for topic, id_ in self._topics
        ]
        self._reasons = {reason.value: json.dumps(reason.name.lower()) for reason in Reason}
        self._view = "" if view is None else f"/{view}"

    def letter(
        self, reason: int, place: int, partition: int, offset: int, row: int, timestamp_ms: int,
        size: int, key: str, value: str,
    ) -> tuple[bytes, bytes]:  # fmt: skip
        part = f".{row}" if row else ""
        name = f"{self._topics[place][0]}/{partition}/{offset}{part}{self._view}"
        text = (
            f'{{"reason":{self._reasons[reason]},{self._named[place]},"partition":{partition},'
            f'"offset":{offset},"timestamp_ms":{timestamp_ms},"size":{size},"key":{key},'
            f'"value":{value}}}'
        )
        return name.encode(), text.encode()


def _positions(
    batch: BinaryBatch, rows: I64, origin: Origin | None, message: I64 | None
) -> tuple[I64, I64, I64, I64]:
    """Of every record: its topic's place, partition, offset, and number in a message of many."""
    row = np.zeros(len(rows), dtype=np.int64)
    place, partition = row - 1, row + batch.source.partition
    if origin is not None:
        whole = origin.topic[rows] < 0
        place = origin.topic[rows].astype(np.int64)
        partition = np.where(whole, partition, origin.partition[rows])
        return place, partition, np.where(whole, origin.message[rows], origin.offset[rows]), row
    if message is not None:
        return place, partition, message[rows], rows - np.searchsorted(message, message[rows])
    return place, partition, batch.offsets[rows], row


def _texts(data: U8, first: I64, last: I64, most: int, absent: Bools) -> Iterator[str]:
    """The first ``most`` bytes of each value as JSON: base64, or null where it is absent."""
    last = np.minimum(last, first + most)
    memory = data.data
    for start, stop, gone in zip(first.tolist(), last.tolist(), absent.tolist(), strict=True):
        if gone:
            yield "null"
        else:
            yield f'"{binascii.b2a_base64(memory[start:stop], newline=False).decode()}"'


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)
