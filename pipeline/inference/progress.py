"""What a request partition has answered: the highest source offset per stream and partition.

Kept as one row in the store, written by the same transaction as the marker, so it is exactly as
old as the marker; its entity key is empty, its fingerprint the model's. With the ids of a request
partition ascending (see :mod:`pipeline.inference.request`) a row was answered if and only if its
offset is not above the highest. Packed form, little-endian::

     0  "PG"   magic
     2  u8     version = 1
     3  u8     flags = 0
     4  u32    entries
     8  5 x u64  rows by outcome: predicted, deadline, model_error, nan, shape
    48  entries x (u64 stream, i64 source partition, i64 highest offset), ascending
     .  u32    CRC-32 (IEEE, as zlib) of everything before
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.errors import CorruptRowError
from pipeline.inference.prediction import Outcome
from pipeline.inference.request import RequestRows

__all__ = ["PROGRESS_KEY", "Highest", "Progress", "advance", "fresh_rows"]

I64 = npt.NDArray[np.int64]
Highest = dict[tuple[int, int], int]

PROGRESS_KEY = b""  # no entity key is empty, so no entity can have this row
_MAGIC = b"PG"
_HEAD = struct.Struct("<2sBBI5Q")
_ENTRY = struct.Struct("<Qqq")
_CRC = struct.Struct("<I")


@dataclass(slots=True)
class Progress:
    """Highest source offset by (stream, source partition), and rows by outcome, since ever."""

    highest: Highest = field(default_factory=dict)
    outcomes: list[int] = field(default_factory=lambda: [0] * len(Outcome))

    def pack(self) -> bytes:
        """The bytes that are stored."""
        head = _HEAD.pack(_MAGIC, 1, 0, len(self.highest), *self.outcomes)
        entries = b"".join(
            _ENTRY.pack(stream, partition, offset)
            for (stream, partition), offset in sorted(self.highest.items())
        )
        return head + entries + _CRC.pack(zlib.crc32(head + entries))

    @classmethod
    def unpack(cls, data: bytes, name: str = "progress") -> Progress:
        """The progress in ``data``; raises :class:`CorruptRowError`, which says ``name``."""
        body = data[: -_CRC.size]
        if len(body) < _HEAD.size or _CRC.pack(zlib.crc32(body)) != data[-_CRC.size :]:
            raise CorruptRowError(f"{name}: cut off, or its checksum is wrong")
        magic, version, _flags, entries, *outcomes = _HEAD.unpack_from(body)
        if magic != _MAGIC or version != 1 or len(body) != _HEAD.size + entries * _ENTRY.size:
            raise CorruptRowError(f"{name}: not progress of version 1")
        highest = {
            (stream, partition): offset
            for stream, partition, offset in _ENTRY.iter_unpack(body[_HEAD.size :])
        }
        return cls(highest, list(outcomes))


def advance(highest: Highest, requests: RequestRows, first: int, last: int) -> None:
    """Raise ``highest`` to what the rows ``first`` to ``last`` of ``requests`` bring."""
    trigger, partition = requests.trigger[first:last], requests.source_partition[first:last]
    for code in np.unique(trigger).tolist():
        stream = requests.origin.stream(requests.triggers[code])
        of_trigger = trigger == code
        for number in np.unique(partition[of_trigger]).tolist():
            rows = of_trigger & (partition == number)
            offset = int(requests.source_offset[first:last][rows].max())
            highest[stream, number] = max(offset, highest.get((stream, number), -1))


def fresh_rows(
    requests: RequestRows, highest: Mapping[tuple[int, int], int]
) -> tuple[I64, Highest]:
    """Rows that were not seen before, ascending, and the highest offsets with them included.

    ``highest`` is not changed. A row is fresh if its offset is above ``highest`` and above every
    row of its stream and partition before it in the message. O(rows), per distinct pair.
    """
    update: Highest = {}
    if len(requests) == 0:
        return np.zeros(0, dtype=np.int64), update
    fresh = np.zeros(len(requests), dtype=np.bool_)
    for code, trigger in enumerate(requests.triggers):
        of_trigger = np.flatnonzero(requests.trigger == code)
        stream = requests.origin.stream(trigger)
        for partition in np.unique(requests.source_partition[of_trigger]).tolist():
            rows = of_trigger[requests.source_partition[of_trigger] == partition]
            offsets = requests.source_offset[rows]
            seen = highest.get((stream, partition), -1)
            before = np.maximum.accumulate(np.concatenate([[seen], offsets[:-1]]))
            fresh[rows] = offsets > before
            update[stream, partition] = max(seen, int(offsets.max()))
    return np.flatnonzero(fresh).astype(np.int64), update
