"""Rows for readers: many keys and views in one round trip to one server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.ingest.batch import TopicPartition
from pipeline.state.batch import PackedRows
from pipeline.store.keys import marker_key, partition_tag, quarantine_prefix, row_prefix
from pipeline.store.marker import Marker
from pipeline.store.partition import Fetched, RowRead
from pipeline.store.pool import Answer, LinkPool
from pipeline.store.replies import error_of
from pipeline.store.transaction import Prefixes, Scratch, encode_mget, prefixes_of
from pipeline.store.wire import Link, ServerError

__all__ = ["PartitionKeys", "RedisReader", "highest", "partition_keys", "unpack_marker"]

I32 = npt.NDArray[np.int32]

_KEYS_PER_MGET = 1 << 14


class RedisReader:
    """Reads over a few connections that are kept open; safe to use from several threads."""

    def __init__(self, connect: Callable[[], Link], address: str, scratch: Scratch) -> None:
        self._pool = LinkPool(connect)
        self._address = address
        self._scratch = scratch

    def fetch(self, reads: Sequence[RowRead]) -> list[Fetched]:
        """Answers to all ``reads``, sent at once."""
        prepared = [_Prepared(read, self._scratch) for read in reads]
        if not prepared:
            return []
        asked = self._pool.begin(b"".join(part.request for part in prepared))
        answers = self._pool.finish(asked, sum(part.replies for part in prepared))
        replies = iter([self._good(answer) for answer in answers])
        return [part.finish([next(replies) for _ in range(part.replies)]) for part in prepared]

    def close(self) -> None:
        """Close all idle connections; those in use are closed when they come back."""
        self._pool.close()

    def _good(self, answer: Answer) -> PackedRows:
        if isinstance(answer, ServerError):
            raise error_of(answer, self._address)
        return answer


class _Prepared:
    """The commands of one :class:`RowRead`, and how to put their replies together.

    Markers come first, in the same command as the first rows: a marker never says more than the
    rows beside it hold.
    """

    def __init__(self, read: RowRead, scratch: Scratch) -> None:
        keys = partition_keys(
            read.app, read.topic, read.fingerprint, highest(read.partition), read.quarantined
        )
        index = np.arange(len(read.partition), dtype=np.int64)
        self._partitions: list[int] = (
            np.unique(read.partition).tolist() if read.with_markers else []
        )
        self._marker_keys = [keys.markers[partition] for partition in self._partitions]
        parts: list[bytes] = []
        for first in range(0, len(index), _KEYS_PER_MGET):
            part = slice(first, first + _KEYS_PER_MGET)
            sent = encode_mget(
                scratch, keys.prefixes, read.partition[part], read.keys, read.key_offsets,
                index[part], before=self._marker_keys if first == 0 else (),
            )  # fmt: skip
            parts.append(bytes(sent))
        self.request = b"".join(parts)
        self.replies = len(parts)

    def finish(self, answers: list[PackedRows]) -> Fetched:
        """The answer, from the replies to these commands."""
        rows = PackedRows.joined(answers)
        keys = self._marker_keys
        found = zip(self._partitions, keys, (rows[i] for i in range(len(keys))), strict=True)
        markers = {partition: unpack_marker(value, key) for partition, key, value in found}
        return Fetched(rows.after(len(keys)) if keys else rows, markers)


@dataclass(frozen=True, slots=True)
class PartitionKeys:
    """What the keys of a view look like in each of its partitions."""

    tags: tuple[bytes, ...]
    prefixes: Prefixes
    markers: tuple[bytes, ...]


@lru_cache(maxsize=256)
def partition_keys(
    app: str, topic: str, fingerprint: int, partitions: int, quarantined: bool = False
) -> PartitionKeys:
    """The keys of the first ``partitions`` partitions."""
    start = quarantine_prefix if quarantined else row_prefix
    tags = tuple(partition_tag(app, TopicPartition(topic, p)) for p in range(partitions))
    return PartitionKeys(
        tags,
        prefixes_of(tuple(start(tag, fingerprint) for tag in tags)),
        tuple(marker_key(tag, fingerprint) for tag in tags),
    )


def unpack_marker(value: bytes | None, key: bytes) -> Marker | None:
    """The marker stored under ``key``, if any; raises CorruptRowError."""
    return None if value is None else Marker.unpack(value, key.decode())


def highest(partition: I32) -> int:
    """Partitions to make keys for: a power of two, so that few tables are made."""
    largest = int(partition.max(initial=0))
    return 1 << largest.bit_length() if largest else 1
