"""The marker: how far a view has come in a partition, and what became of every record.

Packed form, little-endian, the same in every language::

      0  "FM"   magic
      2  u8     version: 1, or 2 with the positions below
      3  u8     flags = 0
      4  u64    fingerprint of the view
     12  24 B   topic id: 22 characters of base64 (URL alphabet, no padding), NUL-padded;
                all NUL where the broker gives none
     36  i32    partition
     40  i32    leader epoch of the last record, -1 unknown
     44  i64    next offset to read
     52  i64    broker time processed through, ms since the Unix epoch, -1 none
     60  6 x u64  consumed, applied, duplicate, late, dead_lettered, filtered
    108  u32    version 2 only: number of positions n, at least 1
    112  n x 16 B  version 2 only: u32 source topic, u32 source partition, i64 highest offset seen
      .  u32    CRC-32 (IEEE, as zlib) of everything before

Positions are those of a repartition topic's views: per source topic (its place in the topic's list
of sources) and partition, ascending. A marker without any is written as version 1, of 112 bytes.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass, replace

import numpy as np

from pipeline.errors import CorruptRowError, PipelineError

__all__ = ["POSITION", "Marker"]

POSITION = np.dtype([("topic", "<u4"), ("partition", "<u4"), ("offset", "<i8")])
"""One position, as it is packed."""

_MAGIC = b"FM"
_PLAIN, _WITH_POSITIONS = 1, 2
_BODY = struct.Struct("<2sBBQ24siiqq6Q")
_U32 = struct.Struct("<I")
_TOPIC_ID = re.compile(r"[A-Za-z0-9_-]{22}|")


@dataclass(frozen=True, slots=True)
class Marker:
    """Position and cumulative accounting of one view in one partition.

    ``positions`` are packed :data:`POSITION` entries, ascending by topic and partition; empty but
    for a view that reads a repartition topic.

    ``consumed == applied + duplicate + late + dead_lettered + filtered`` is checked here, so a
    marker that breaks it can be neither written nor read. Raises PipelineError.
    """

    fingerprint: int
    topic_id: str
    partition: int
    next_offset: int
    leader_epoch: int = -1
    processed_through_ms: int = -1
    consumed: int = 0
    applied: int = 0
    duplicate: int = 0
    late: int = 0
    dead_lettered: int = 0
    filtered: int = 0
    positions: bytes = b""

    def __post_init__(self) -> None:
        counts = (self.applied, self.duplicate, self.late, self.dead_lettered, self.filtered)
        if self.consumed != sum(counts) or min(counts) < 0:
            raise PipelineError(
                f"records are not accounted for: consumed {self.consumed} is not applied "
                f"{self.applied} + duplicate {self.duplicate} + late {self.late} + "
                f"dead_lettered {self.dead_lettered} + filtered {self.filtered}"
            )
        if not _TOPIC_ID.fullmatch(self.topic_id):
            raise PipelineError(f"topic id {self.topic_id!r} is not 22 characters of base64")
        if self.next_offset < 0 or self.partition < 0 or not 0 <= self.fingerprint < 1 << 64:
            raise PipelineError(f"not a marker: {self!r}")
        if self.positions and not _ascend(self.positions):
            raise PipelineError("the positions of a marker do not ascend, or are cut off")

    def pack(self) -> bytes:
        """The bytes that are stored: 112, and 4 + 16 a position where there are any."""
        body = _BODY.pack(
            _MAGIC,
            _WITH_POSITIONS if self.positions else _PLAIN,
            0,
            self.fingerprint,
            self.topic_id.encode(),
            self.partition,
            self.leader_epoch,
            self.next_offset,
            self.processed_through_ms,
            self.consumed,
            self.applied,
            self.duplicate,
            self.late,
            self.dead_lettered,
            self.filtered,
        )
        if self.positions:
            body += _U32.pack(len(self.positions) // POSITION.itemsize) + self.positions
        return body + _U32.pack(zlib.crc32(body))

    @classmethod
    def unpack(cls, data: bytes, name: str = "marker") -> Marker:
        """The marker in ``data``; raises CorruptRowError, which says ``name``."""
        positions = _positions(data, name)
        magic, version, _flags, fingerprint, topic_id, *rest = _BODY.unpack_from(data)
        (crc,) = _U32.unpack_from(data, len(data) - _U32.size)
        if magic != _MAGIC or crc != zlib.crc32(data[: -_U32.size]):
            raise CorruptRowError(f"{name}: not a marker, or its checksum is wrong")
        if version not in (_PLAIN, _WITH_POSITIONS):
            raise CorruptRowError(f"{name}: marker version {version}, this program knows 1 and 2")
        partition, leader_epoch, next_offset, through, *counts = rest
        try:
            text = topic_id.rstrip(b"\0").decode("ascii")
            found = cls(fingerprint, text, partition, next_offset, leader_epoch, through, *counts)
            return replace(found, positions=positions)
        except (PipelineError, UnicodeDecodeError) as problem:
            raise CorruptRowError(f"{name}: {problem}") from problem


def _positions(data: bytes, name: str) -> bytes:
    """The packed positions in ``data``; CorruptRowError if it has not the length that it says."""
    plain, count = _BODY.size + _U32.size, 0
    wanted = plain
    if data[2:3] == bytes([_WITH_POSITIONS]):
        if len(data) > plain:
            (count,) = _U32.unpack_from(data, _BODY.size)
        wanted += _U32.size + max(count, 1) * POSITION.itemsize
    if len(data) != wanted:
        raise CorruptRowError(f"{name}: {len(data)} bytes, this marker has {wanted}")
    return data[plain : -_U32.size] if count else b""


def _ascend(positions: bytes) -> bool:
    """Whether these are whole positions that ascend, with offsets that can be."""
    if len(positions) % POSITION.itemsize:
        return False
    found = np.frombuffer(positions, dtype=POSITION)
    place = found["topic"].astype(np.uint64) << np.uint64(32) | found["partition"]
    return bool((place[1:] > place[:-1]).all() and (found["offset"] >= 0).all())
