"""What a store does: the protocols that the Redis and the in-memory store both keep.

One :class:`PartitionStore` is the only way to write the rows of a partition. Its life::

    acquire() -> markers() -> read() ... begin_commit() finish_commit() ... -> close()

*Fencing.* A commit is applied as a whole or not at all, and only while the lease is the one that
:meth:`PartitionStore.acquire` wrote.

*After an error* look at :attr:`PartitionStore.held`. True: the store did not take the commit,
nothing changed, the same commit may be tried again. False: what the store holds is unknown or
another worker's; drop every cached row, ``acquire()``, read the markers, seek to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.ingest.batch import TopicPartition
from pipeline.state.batch import EncodedRows, PackedRows
from pipeline.store.keys import quarantine_prefix, row_prefix
from pipeline.store.lease import Lease
from pipeline.store.marker import Marker
from pipeline.store.registry import Registry
from pipeline.store.wire import Link

__all__ = [
    "Awaited",
    "Fetched",
    "PartitionStore",
    "RowExpiry",
    "RowRead",
    "RowWrite",
    "Store",
    "StoreInfo",
    "StoreSettingWarning",
    "Sweeper",
]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


class StoreSettingWarning(UserWarning):
    """A setting of the store that matters could not be read."""


@dataclass(frozen=True, slots=True)
class RowWrite:
    """Packed rows of one view, to be written by one commit.

    ``owner``: fingerprint of the view that keeps them to look them up, with whose marker they are
    written; None where they are a view's own.
    ``quarantined``: not rows but copies of what stood there and failed its checks.
    """

    fingerprint: int
    rows: EncodedRows
    quarantined: bool = False
    owner: int | None = None

    @property
    def marked_by(self) -> int:
        """Fingerprint of the marker that has to be in the same commit."""
        return self.fingerprint if self.owner is None else self.owner

    def prefix(self, tag: bytes) -> bytes:
        """What the store's keys of all its rows start with."""
        begin = quarantine_prefix if self.quarantined else row_prefix
        return begin(tag, self.fingerprint)


@dataclass(frozen=True, slots=True)
class RowExpiry:
    """Rows of one view that the store may drop, ``delay_ms`` int64[n] after the commit.

    A row that is written by the same commit or a later one does not expire.
    """

    fingerprint: int
    keys: U8 = field(repr=False)
    key_offsets: I64 = field(repr=False)
    delay_ms: I64 = field(repr=False)

    def __len__(self) -> int:
        return len(self.delay_ms)

    def part(self, first: int, last: int) -> RowExpiry:
        """Rows ``first`` to ``last``, without copying them."""
        offsets = self.key_offsets[first : last + 1]
        return RowExpiry(self.fingerprint, self.keys, offsets, self.delay_ms[first:last])

    def key(self, i: int) -> bytes:
        """Entity key ``i``."""
        return self.keys[self.key_offsets[i] : self.key_offsets[i + 1]].tobytes()


@dataclass(frozen=True, slots=True)
class RowRead:
    """Rows of one view that a reader asks for, of any partitions.

    ``keys`` uint8[..] with ``key_offsets`` int64[n+1], entity keys as in Kafka;
    ``partition`` int32[n], the partition each key belongs to. ``with_markers`` asks for the markers
    of those partitions too; ``quarantined`` for the copies of corrupt rows instead of the rows.
    """

    app: str
    topic: str
    fingerprint: int
    keys: U8 = field(repr=False)
    key_offsets: I64 = field(repr=False)
    partition: I32 = field(repr=False)
    with_markers: bool = False
    quarantined: bool = False


@dataclass(frozen=True, slots=True)
class Fetched:
    """Answer to a :class:`RowRead`: packed rows in the order of its keys.

    ``markers`` of the partitions that its keys belong to, None for one that never committed; empty
    unless asked for.
    """

    rows: PackedRows
    markers: Mapping[int, Marker | None]


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What a server says about itself; sizes in bytes, ``max_bytes`` 0 for no limit of its own.

    ``policy`` is its eviction policy, empty where it does not tell.
    """

    server: str
    version: str
    role: str
    policy: str
    used_bytes: int
    max_bytes: int
    keys: int


class PartitionStore(Protocol):
    """Rows, lease and markers of one (application, topic, partition)."""

    @property
    def held(self) -> bool:
        """Whether a commit may be tried: the lease was ours when last looked at, nothing lost."""

    @property
    def settled(self) -> bool:
        """Whether a read found that the commit under way was applied: :meth:`finish_commit` would
        return at once. It stays so, whatever becomes of the partition, until it is acquired."""

    def acquire(self, generation: int) -> Lease:
        """Take the partition: a new lease with the epoch raised and a new nonce.

        ``generation`` is the consumer group's, -1 where the client does not know it. Raises
        FencedError when the stored generation is newer or the race for the lease is lost again and
        again, StoreUnavailableError, CorruptRowError for a lease that cannot be read.
        """

    def markers(self, fingerprints: Sequence[int]) -> list[Marker | None]:
        """Markers of these views, None for a view that never committed here.

        From here on the store refuses a commit when one of them has changed behind our back.
        Raises StoreUnavailableError, CorruptRowError.
        """

    def begin_read(self, fingerprint: int, keys: U8, key_offsets: I64, index: I64) -> int:
        """Ask for the packed rows of the keys ``index`` of ``keys``; :meth:`finish_read` awaits
        them, given the number that is returned. Several may be under way, and are finished in the
        order they were begun; no commit begins before. The arrays are not to be changed until then.

        A commit under way is awaited first, and raises what it raises; :meth:`finish_commit` is
        still called afterwards.
        """

    def finish_read(self, number: int) -> PackedRows:
        """What the :meth:`begin_read` asked for that returned ``number``.

        Of the time of our markers: raises FencedError or StoreUnavailableError where another worker
        took the partition or the store went back in time, so that nothing is computed (and sent
        out) on rows that are ahead of their offset or behind it; StoreUnavailableError, too, where
        other rows are to be taken first, which somebody asked for and left.
        """

    def read(self, fingerprint: int, keys: U8, key_offsets: I64, index: I64) -> PackedRows:
        """:meth:`begin_read` and :meth:`finish_read`."""

    def begin_commit(
        self,
        writes: Sequence[RowWrite],
        markers: Sequence[Marker],
        expiries: Sequence[RowExpiry] = (),
    ) -> None:
        """Send one transaction of rows and markers without waiting for its outcome.

        Call :meth:`finish_commit` next. The arrays of ``writes`` are not needed afterwards.
        ``expiries`` are set by the same transaction, before the rows are written.
        Raises FencedError, StoreUnavailableError (nothing was applied if ``held``).
        """

    def finish_commit(self) -> None:
        """Wait for the outcome of :meth:`begin_commit`; returns only if it was applied.

        Raises FencedError (another worker has the partition), StoreFullError (out of memory),
        StoreUnavailableError (see its text, and ``held``).
        """

    def answering(self) -> bool:
        """After :meth:`begin_commit`, whether :meth:`finish_commit` would hardly wait: its answer
        has begun to arrive, or there will be none."""

    def commit(
        self,
        writes: Sequence[RowWrite],
        markers: Sequence[Marker],
        expiries: Sequence[RowExpiry] = (),
    ) -> None:
        """:meth:`begin_commit` and :meth:`finish_commit`."""

    def check(self) -> bool:
        """Whether lease and markers in the store are still the ones written here.

        False: the store lost writes (failover, restart) or another worker took the partition.
        """

    def close(self) -> None:
        """Close the connection. The lease stays until somebody takes it; closing twice is fine."""


class Awaited:
    """Both halves of a read or a commit at once, for a :class:`PartitionStore` to inherit."""

    _finished = False  # a read has awaited the commit that finish_commit() will ask for
    _link: Link | None = None  # None: there is nothing to wait for

    @property
    def settled(self) -> bool:
        """Whether a read found that the commit under way was applied."""
        return self._finished

    def answering(self) -> bool:
        """Whether the answer to a commit under way has begun to arrive."""
        return self._finished or self._link is None or self._link.arrived()

    def read(
        self: PartitionStore, fingerprint: int, keys: U8, key_offsets: I64, index: I64
    ) -> PackedRows:
        """Packed rows of the keys ``index``."""
        return self.finish_read(self.begin_read(fingerprint, keys, key_offsets, index))

    def commit(
        self: PartitionStore,
        writes: Sequence[RowWrite],
        markers: Sequence[Marker],
        expiries: Sequence[RowExpiry] = (),
    ) -> None:
        """One fenced transaction, sent and awaited."""
        self.begin_commit(writes, markers, expiries)
        self.finish_commit()


class Sweeper(Protocol):
    """Looks for rows that left a cache without an expiry: their worker was killed.

    Goes round and round through all keys of the store; what it finds it sets only if the row has
    not changed since it was looked at. Not for use by two threads at once.
    """

    def sweep(self, keep_ms: Mapping[int, int], now_ms: int, keys: int) -> Mapping[int, int]:
        """Look at about ``keys`` more keys; rows that were given an expiry, by fingerprint.

        A row of a view in ``keep_ms`` (by fingerprint) expires so many ms from now, later if its
        newest event or broker time is later than ``now_ms``. Left alone are rows that have an
        expiry, were written within the last hour, know of a deletion or fail their checks. Raises
        StoreUnavailableError, after which it begins again.
        """

    def close(self) -> None:
        """Close its connection."""


class Store(Protocol):
    """A server that holds partitions and the registry."""

    @property
    def address(self) -> str:
        """Where the store is, without a password."""

    @property
    def registry(self) -> Registry:
        """Names of views, and what a reader has to know of them."""

    def open_partition(self, app: str, source: TopicPartition) -> PartitionStore:
        """The partition's store, not yet connected; raises DefinitionError for a bad name."""

    def fetch(self, reads: Sequence[RowRead]) -> list[Fetched]:
        """Answers to all ``reads`` in one round trip. Safe to call from several threads.

        Raises StoreUnavailableError, CorruptRowError for a marker that cannot be read.
        """

    def sweeper(self, app: str) -> Sweeper:
        """A sweeper over the rows of ``app``; connects when first used."""

    def scan(self, pattern: bytes, count: int) -> Iterator[Sequence[bytes]]:
        """Keys that match a glob-style ``pattern``, for about ``count`` keys looked at a page.

        What is there from the first page to the last is found, maybe twice. Raises
        StoreUnavailableError.
        """

    def drop(self, keys: Sequence[bytes]) -> int:
        """Remove these keys, of any partitions and not as a whole; how many there were.

        Not fenced: for what nobody keeps up any more. A marker that is gone makes the commit of
        whoever had read it fail. Raises StoreUnavailableError.
        """

    def verify(self) -> None:
        """Refuse a store that would lose state.

        Raises UnsafeStoreError, which says what to change, and StoreUnavailableError; warns with
        StoreSettingWarning where a setting cannot be read.
        """

    def info(self) -> StoreInfo:
        """What the server says about itself; raises StoreUnavailableError."""

    def close(self) -> None:
        """Close all connections of readers; partitions are closed by whoever opened them."""
