"""Stored rows that fail their checks: told of, copied aside, left alone until they are mended."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.errors import CorruptRowError
from pipeline.ingest.batch import TopicPartition
from pipeline.state.batch import EncodedRows
from pipeline.store.keys import partition_tag, quarantine_key, row_key
from pipeline.store.partition import RowWrite

__all__ = ["Quarantine"]

log = logging.getLogger(__name__)


@dataclass
class Quarantine:
    """The corrupt rows of one view in one partition.

    A row is copied and told of once, and again when its bytes have changed and are still wrong.
    """

    app: str
    source: TopicPartition
    view: str
    fingerprint: int
    seen: dict[bytes, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.seen)

    def take(self, found: Sequence[tuple[bytes, bytes]]) -> RowWrite | None:
        """The copies of the rows among ``found``, (key, row), that are new; None if none is."""
        new = [(key, row) for key, row in found if self.seen.get(key) != zlib.crc32(row)]
        if not new:
            return None
        self.seen.update((key, zlib.crc32(row)) for key, row in new)
        self._tell(new)
        keys, rows = [key for key, _ in new], [row for _, row in new]
        packed = EncodedRows(*_packed(keys), *_packed(rows))
        return RowWrite(self.fingerprint, packed, quarantined=True)

    def _tell(self, new: Sequence[tuple[bytes, bytes]]) -> None:
        tag, (key, _) = partition_tag(self.app, self.source), new[0]
        error = CorruptRowError(
            f"{self.source}: the stored row of {self.view} for key {key!r} fails its checks "
            f"({len(new)} such rows in this batch). Its entity's records are dead-lettered until "
            f"{row_key(tag, self.fingerprint, key)!r} is restored, or deleted to begin anew; what "
            f"was there is kept under {quarantine_key(tag, self.fingerprint, key)!r}. Delete all "
            f"keys {tag.decode()}* to have the partition computed again from the log"
        )
        log.error("%s: %s", type(error).__name__, error)


def _packed(
    parts: Sequence[bytes],
) -> tuple[np.ndarray[tuple[int], np.dtype[np.uint8]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    offsets = np.zeros(len(parts) + 1, dtype=np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return np.frombuffer(bytearray(b"".join(parts)), dtype=np.uint8), offsets
