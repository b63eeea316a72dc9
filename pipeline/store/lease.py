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

from pipeline.errors import (
    CorruptRowError,
    FencedError,
    PipelineError,
    StoreUnavailableError,
)

__all__ = [
    "UNKNOWN_GENERATION",
    "Lease",
    "lost_writes",
    "next_lease",
    "out_of_turn",
    "refuse_newer",
    "why_aborted",
]

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


def next_lease(stored: Lease | None, ours: Lease | None, generation: int, nonce: bytes) -> Lease:
    """The lease that takes over from ``stored``, by a worker that last held ``ours``.

    The epoch passes both: a store that went back in time does not bring an epoch back. A consumer
    that does not know its generation keeps the stored one, so that older ones stay refused.
    """
    epoch = max(stored.epoch if stored else 0, ours.epoch if ours else 0)
    if generation == UNKNOWN_GENERATION and stored is not None:
        generation = stored.generation
    return Lease(epoch + 1, nonce, generation)


def refuse_newer(stored: Lease | None, generation: int, name: str) -> None:
    """Raise FencedError when the lease ``name`` was taken by a newer consumer-group generation."""
    if stored is None or generation == UNKNOWN_GENERATION or stored.generation <= generation:
        return
    raise FencedError(
        f"{name} is of consumer-group generation {stored.generation}, newer than ours, "
        f"{generation}. If the group was deleted or the brokers were set up anew, generations "
        f"began again at 1: stop all workers, then delete that key"
    )


def why_aborted(name: str, stored: bytes | None, key: bytes, ours: Lease | None) -> PipelineError:
    """Why lease or markers of partition ``name`` are not those that we wrote, ``stored`` being the
    lease found under ``key``: another worker has it, or the store went back in time."""
    if stored is not None and ours is not None and stored != ours.pack():
        try:
            other = Lease.unpack(stored, key.decode())
        except CorruptRowError as corrupt:
            return corrupt
        if other.epoch >= ours.epoch:
            return FencedError(
                f"{name}: another worker took the lease (epoch {other.epoch}, "
                f"generation {other.generation}; ours was epoch {ours.epoch})"
            )
    return lost_writes(name)


def lost_writes(name: str) -> StoreUnavailableError:
    """Lease or marker of partition ``name`` is gone, or older than what was written."""
    return StoreUnavailableError(
        f"{name}: the store lost writes (lease or marker is missing or older than "
        "written); take the lease again and continue from the markers found there"
    )


def out_of_turn(name: str) -> StoreUnavailableError:
    """Replies of partition ``name`` that are due belong to something else than is asked for."""
    return StoreUnavailableError(
        f"{name}: rows were asked for and never taken; take the lease again and continue from the "
        "markers found there"
    )
