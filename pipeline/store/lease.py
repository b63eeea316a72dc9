"""The lease: who may write a partition.

Packed form, little-endian, 40 bytes, the same in every language::

     0  "FL"   magic
     2  u8     version = 1
     3  u8     flags = 0
     4  i64    epoch        raised by one at every take-over
    12  i64    generation   of the consumer group, -1 unknown
    20  16 B   nonce        random, new at every take-over
    36  u32    CRC-32 (IEEE, as zlib) of bytes 0 to 35
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from pipeline.errors import CorruptRowError, PipelineError

__all__ = ["UNKNOWN_GENERATION", "Lease"]

UNKNOWN_GENERATION = -1

_MAGIC = b"FL"
_VERSION = 1
_BODY = struct.Struct("<2sBBqq16s")
_CRC = struct.Struct("<I")
_NONCE_BYTES = 16


@dataclass(frozen=True, slots=True)
class Lease:
    """Right to write one partition, held by whoever knows the nonce."""

    epoch: int
    nonce: bytes
    generation: int = UNKNOWN_GENERATION

    def __post_init__(self) -> None:
        if self.epoch < 1 or len(self.nonce) != _NONCE_BYTES or self.generation < -1:
            raise PipelineError(f"not a lease: {self!r}")

    def pack(self) -> bytes:
        """The 40 bytes that are stored."""
        body = _BODY.pack(_MAGIC, _VERSION, 0, self.epoch, self.generation, self.nonce)
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def unpack(cls, data: bytes, name: str = "lease") -> Lease:
        """The lease in ``data``; raises CorruptRowError, which says ``name``."""
        if len(data) != _BODY.size + _CRC.size:
            raise CorruptRowError(f"{name}: {len(data)} bytes, a lease has 40")
        magic, version, _flags, epoch, generation, nonce = _BODY.unpack_from(data)
        (crc,) = _CRC.unpack_from(data, _BODY.size)
        if magic != _MAGIC or crc != zlib.crc32(data[: _BODY.size]):
            raise CorruptRowError(f"{name}: not a lease, or its checksum is wrong")
        if version != _VERSION:
            raise CorruptRowError(f"{name}: lease version {version}, this program knows 1")
        return cls(epoch, nonce, generation)

    def successor(self, generation: int, nonce: bytes) -> Lease:
        """The lease that takes over from this one.

        A consumer that does not know its generation keeps the one stored, so that an older
        generation stays refused.
        """
        known = generation if generation != UNKNOWN_GENERATION else self.generation
        return Lease(self.epoch + 1, nonce, known)
