"""Rows for readers: many keys and views in one round trip."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.errors import StoreUnavailableError
from pipeline.ingest.batch import TopicPartition
from pipeline.store.keys import marker_key, partition_tag, row_prefix
from pipeline.store.marker import Marker
from pipeline.store.partition import Fetched, RowRead
from pipeline.store.replies import error_of
from pipeline.store.transaction import Prefixes, Scratch, encode_mget
from pipeline.store.wire import Link, Replies, ServerError, command

__all__ = ["RedisReader"]

I32 = npt.NDArray[np.int32]

_KEYS_PER_MGET = 1 << 14
_IDLE_CONNECTIONS = 16


class RedisReader:
    """Reads over a few connections that are kept open; safe to use from several threads."""

    def __init__(self, connect: Callable[[], Link], address: str, scratch: Scratch) -> None:
        self._connect = connect
        self._address = address
        self._scratch = scratch
        self._idle: list[tuple[Link, Replies]] = []
        self._lock = threading.Lock()
        self._closed = False

    def fetch(self, reads: Sequence[RowRead]) -> list[Fetched]:
        """Answers to all ``reads``, sent at once."""
        prepared = [_Prepared(read, self._scratch) for read in reads]
        request = b"".join(part.request for part in prepared)
        answers = self._exchange(request, sum(part.replies for part in prepared))
        replies = iter(answers)
        return [part.finish([next(replies) for _ in range(part.replies)]) for part in prepared]

    def close(self) -> None:
        """Close all idle connections; those in use are closed when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for link, _ in idle:
            link.close()

    def _exchange(self, request: bytes, replies: int) -> list[list[bytes | None]]:
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        if kept is not None:
            try:
                return self._ask(*kept, request, replies)
            except _Gone:
                pass  # the server closed it while it was idle: nothing is lost in reading again
        link = self._connect()
        try:
            return self._ask(link, Replies(link), request, replies)
        except _Gone as gone:
            raise StoreUnavailableError(str(gone)) from gone.__cause__

    def _ask(
        self, link: Link, reader: Replies, request: bytes, replies: int
    ) -> list[list[bytes | None]]:
        whole = False
        try:
            link.send(memoryview(request))
            answers = [reader.read_bulks() for _ in range(replies)]
            whole = True
        except StoreUnavailableError as lost:
            raise _Gone(str(lost)) from lost
        finally:
            if whole:
                self._keep(link, reader)
            else:
                link.close()
        good: list[list[bytes | None]] = []
        for answer in answers:
            if isinstance(answer, ServerError):
                raise error_of(answer, self._address)
            good.append(answer)
        return good

    def _keep(self, link: Link, reader: Replies) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _IDLE_CONNECTIONS:
                self._idle.append((link, reader))
                return
        link.close()


class _Gone(Exception):  # noqa: N818  (never leaves this module)
    """The connection is lost."""


class _Prepared:
    """The commands of one :class:`RowRead`, and how to put their replies together."""

    def __init__(self, read: RowRead, scratch: Scratch) -> None:
        keys = _partition_keys(read.app, read.topic, read.fingerprint, _count(read.partition))
        index = np.arange(len(read.partition), dtype=np.int64)
        parts: list[bytes] = []
        for first in range(0, len(index), _KEYS_PER_MGET):
            part = slice(first, first + _KEYS_PER_MGET)
            sent = encode_mget(
                scratch, keys.prefixes, read.partition[part], read.keys, read.key_offsets,
                index[part],
            )  # fmt: skip
            parts.append(bytes(sent))
        self._partitions: list[int] = (
            np.unique(read.partition).tolist() if read.with_markers else []
        )
        self._marker_keys = [keys.markers[partition] for partition in self._partitions]
        if self._marker_keys:
            parts.append(command(b"MGET", *self._marker_keys))
        self.request = b"".join(parts)
        self.replies = len(parts)

    def finish(self, answers: list[list[bytes | None]]) -> Fetched:
        """The answer, from the replies to these commands."""
        found = answers.pop() if self._marker_keys else []
        markers = {
            partition: None if value is None else Marker.unpack(value, key.decode())
            for partition, key, value in zip(
                self._partitions, self._marker_keys, found, strict=True
            )
        }
        rows = answers[0] if len(answers) == 1 else [row for part in answers for row in part]
        return Fetched(rows, markers)


@dataclass(frozen=True, slots=True)
class _PartitionKeys:
    """What the keys of a view look like in each of its partitions."""

    prefixes: Prefixes
    markers: tuple[bytes, ...]


@lru_cache(maxsize=256)
def _partition_keys(app: str, topic: str, fingerprint: int, partitions: int) -> _PartitionKeys:
    tags = [partition_tag(app, TopicPartition(topic, p)) for p in range(partitions)]
    return _PartitionKeys(
        Prefixes.of([row_prefix(tag, fingerprint) for tag in tags]),
        tuple(marker_key(tag, fingerprint) for tag in tags),
    )


def _count(partition: I32) -> int:
    """Partitions to make keys for: a power of two, so that few tables are made."""
    highest = int(partition.max(initial=0))
    return 1 << highest.bit_length() if highest else 1
