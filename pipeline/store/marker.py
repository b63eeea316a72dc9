"""The marker: how far a view has come in a partition, and what became of every record.

Packed form, little-endian, 108 bytes, the same in every language::

      0  "FM"   magic
      2  u8     version = 1
      3  u8     flags = 0
      4  u64    fingerprint of the view
     12  24 B   topic id: 22 characters of base64 (URL alphabet, no padding), NUL-padded;
                all NUL where the broker gives none
     36  i32    partition
     40  i32    leader epoch of the last record, -1 unknown
     44  i64    next offset to read
     52  i64    broker time processed through, ms since the Unix epoch, -1 none
     60  6 x u64  consumed, applied, duplicate, late, dead_lettered, filtered
    108  u32    CRC-32 (IEEE, as zlib) of bytes 0 to 107
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from pipeline.errors import CorruptRowError, PipelineError

__all__ = ["Marker"]

_MAGIC = b"FM"
_VERSION = 1
_BODY = struct.Struct("<2sBBQ24siiqq6Q")
_CRC = struct.Struct("<I")
_TOPIC_ID = re.compile(r"[A-Za-z0-9_-]{22}|")


@dataclass(frozen=True, slots=True)
class Marker:
    """Position and cumulative accounting of one view in one partition.

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

    def pack(self) -> bytes:
        """The 112 bytes that are stored."""
        body = _BODY.pack(
            _MAGIC,
            _VERSION,
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
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def unpack(cls, data: bytes, name: str = "marker") -> Marker:
        """The marker in ``data``; raises CorruptRowError, which says ``name``."""
        if len(data) != _BODY.size + _CRC.size:
            raise CorruptRowError(f"{name}: {len(data)} bytes, a marker has 112")
        magic, version, _flags, fingerprint, topic_id, *rest = _BODY.unpack_from(data)
        (crc,) = _CRC.unpack_from(data, _BODY.size)
        if magic != _MAGIC or crc != zlib.crc32(data[: _BODY.size]):
            raise CorruptRowError(f"{name}: not a marker, or its checksum is wrong")
        if version != _VERSION:
            raise CorruptRowError(f"{name}: marker version {version}, this program knows 1")
        partition, leader_epoch, next_offset, through, *counts = rest
        try:
            text = topic_id.rstrip(b"\0").decode("ascii")
            return cls(fingerprint, text, partition, next_offset, leader_epoch, through, *counts)
        except (PipelineError, UnicodeDecodeError) as problem:
            raise CorruptRowError(f"{name}: {problem}") from problem
