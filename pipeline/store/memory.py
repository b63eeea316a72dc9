"""The store in memory, for tests: the same fencing, the same errors, no server.

Everything is kept as the packed bytes that Redis would hold, and a :class:`MemoryStore` can be
made to fail as a server does: :meth:`MemoryStore.restore` takes it back in time,
:attr:`MemoryStore.refuse` makes it answer every call with an error, and
:attr:`MemoryStore.lose_replies` loses the answers of commits that were carried out. With a clock,
rows expire.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.errors import FencedError, PipelineError, StoreUnavailableError
from pipeline.ingest.batch import TopicPartition
from pipeline.state.batch import PackedRows
from pipeline.store.keys import lease_key, marker_key, partition_tag, quarantine_key, row_key
from pipeline.store.lease import Lease, next_lease, out_of_turn, refuse_newer
from pipeline.store.marker import Marker
from pipeline.store.partition import Awaited, Fetched, RowExpiry, RowRead, RowWrite, StoreInfo
from pipeline.store.registry import Registry
from pipeline.store.sweep import delay_of, is_sound, parse_row_key
from pipeline.store.transaction import check_commit

__all__ = ["MemoryPartition", "MemoryStore", "memory_store"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


class MemoryStore:
    """:class:`~pipeline.store.partition.Store` in a dictionary; safe for several threads.

    ``values`` is what Redis would hold, key to bytes. ``refuse``, when set, is raised by every
    call that would ask the server. The next ``lose_replies`` commits are carried out, and whoever
    sent them is told that the connection was lost. ``deadlines`` says when a key expires, by
    ``clock_ms``, the server's time; without one nothing does.
    """

    def __init__(self, clock_ms: Callable[[], int] | None = None) -> None:
        self.values: dict[bytes, bytes] = {}
        self.deadlines: dict[bytes, int] = {}
        self._clock_ms = clock_ms
        self.refuse: PipelineError | None = None
        self.lose_replies = 0
        self.lock = threading.RLock()
        self._registry = Registry(_MemoryFields())

    @property
    def address(self) -> str:
        """``memory://``."""
        return "memory://"

    @property
    def registry(self) -> Registry:
        """Names of views."""
        return self._registry

    def open_partition(self, app: str, source: TopicPartition) -> MemoryPartition:
        """The partition's store."""
        return MemoryPartition(self, partition_tag(app, source))

    def fetch(self, reads: Sequence[RowRead]) -> list[Fetched]:
        """Answers to all ``reads``."""
        with self.asked():
            return [self._fetch(read) for read in reads]

    def sweeper(self, app: str) -> MemorySweeper:
        """A sweeper over the rows of ``app``."""
        return MemorySweeper(self, app)

    def scan(self, pattern: bytes, count: int) -> Iterator[list[bytes]]:
        """Keys that match, ``count`` looked at at a time."""
        with self.asked():
            left = sorted(self.values)
        for first in range(0, len(left), count):
            with self.asked():
                page = left[first : first + count]
                yield [key for key in page if fnmatchcase(_text(key), _text(pattern))]

    def drop(self, keys: Sequence[bytes]) -> int:
        """Forget these."""
        with self.asked():
            return sum(self.values.pop(key, None) is not None for key in keys)

    def expire(self, key: bytes, delay_ms: int) -> bool:
        """Forget ``key`` in so many ms, unless it is written before; whether there is one."""
        if key not in self.values or self._clock_ms is None:
            return False
        self.deadlines[key] = self._clock_ms() + delay_ms
        return True

    def purge(self) -> None:
        """Forget what has expired, as a server does before it answers."""
        if self._clock_ms is None or not self.deadlines:
            return
        now = self._clock_ms()
        for key in [key for key, at in self.deadlines.items() if at <= now]:
            del self.deadlines[key]
            self.values.pop(key, None)

    def verify(self) -> None:
        """A dictionary evicts nothing."""

    def info(self) -> StoreInfo:
        """A dictionary, and how much it holds."""
        with self.asked():
            held = sum(len(key) + len(value) for key, value in self.values.items())
            return StoreInfo("memory", "", "master", "noeviction", held, 0, len(self.values))

    def close(self) -> None:
        """Nothing to close; what is held stays."""

    def snapshot(self) -> dict[bytes, bytes]:
        """What is held now, for :meth:`restore`."""
        with self.lock:
            return dict(self.values)

    def restore(self, values: dict[bytes, bytes]) -> None:
        """Hold exactly ``values`` from now on, as a server that lost its last writes.

        No key has an expiry then.
        """
        with self.lock:
            self.values = dict(values)
            self.deadlines.clear()

    def asked(self) -> threading.RLock:
        """The lock, to be held during one call; raises what ``refuse`` says."""
        if self.refuse is not None:
            raise type(self.refuse)(str(self.refuse))
        with self.lock:
            self.purge()
        return self.lock

    def _fetch(self, read: RowRead) -> Fetched:
        partitions = read.partition.tolist()
        tags = {p: partition_tag(read.app, TopicPartition(read.topic, p)) for p in set(partitions)}
        keys = _slices(read.keys, read.key_offsets)
        name = quarantine_key if read.quarantined else row_key
        rows = [
            self.values.get(name(tags[p], read.fingerprint, key))
            for p, key in zip(partitions, keys, strict=True)
        ]
        wanted = tags if read.with_markers else {}
        markers = {p: self.marker(tag, read.fingerprint) for p, tag in wanted.items()}
        return Fetched(PackedRows.of(rows), markers)

    def marker(self, tag: bytes, fingerprint: int) -> Marker | None:
        """A stored marker; raises CorruptRowError."""
        key = marker_key(tag, fingerprint)
        value = self.values.get(key)
        return None if value is None else Marker.unpack(value, key.decode())


class MemoryPartition(Awaited):
    """:class:`~pipeline.store.partition.PartitionStore` of a :class:`MemoryStore`."""

    def __init__(
        self, store: MemoryStore, tag: bytes, *, nonce: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._store = store
        self._tag = tag
        self._name = f"{tag.decode()} at memory://"
        self._lease_key = lease_key(tag)
        self._nonce = nonce
        self._lease: Lease | None = None
        self._expected: dict[bytes, bytes | None] = {}
        self._lost: PipelineError = PipelineError("acquire() the partition first")
        self._sent: _Sent | None = None
        self._asked: deque[tuple[int, PackedRows]] = deque()
        self._reads = 0  # that were begun, ever

    @property
    def held(self) -> bool:
        """Whether a commit may be tried."""
        return self._lease_key in self._expected

    def acquire(self, generation: int) -> Lease:
        """Take the partition."""
        self._lose(StoreUnavailableError(f"{self._name}: the lease was not taken"))
        self._finished = False
        with self._store.asked():
            name = self._lease_key.decode()
            stored = self._store.values.get(self._lease_key)
            current = None if stored is None else Lease.unpack(stored, name)
            refuse_newer(current, generation, f"the lease {name}")
            self._lease = next_lease(current, self._lease, generation, self._nonce(16))
            self._store.values[self._lease_key] = self._lease.pack()
            self._expected = {self._lease_key: self._lease.pack()}
        return self._lease

    def markers(self, fingerprints: Sequence[int]) -> list[Marker | None]:
        """Markers of these views; watched from here on."""
        self._require_ready()
        with self._store.asked():
            found = [self._store.marker(self._tag, f) for f in fingerprints]
            for key in (marker_key(self._tag, f) for f in fingerprints):
                self._expected.setdefault(key, self._store.values.get(key))
            self._refuse_changed()
        return found

    def begin_read(self, fingerprint: int, keys: U8, key_offsets: I64, index: I64) -> int:
        """Look the keys ``index`` up; a commit under way is applied first."""
        self._require_held()
        if self._sent is not None:
            self.finish_commit()
            self._finished = True
        with self._store.asked():
            self._refuse_changed()
            prefix, find = row_key(self._tag, fingerprint, b""), self._store.values.get
            names = (keys[key_offsets[i] : key_offsets[i + 1]].tobytes() for i in index.tolist())
            self._reads += 1
            rows = PackedRows.of([find(prefix + name) for name in names])
            self._asked.append((self._reads, rows))
        return self._reads

    def finish_read(self, number: int) -> PackedRows:
        """What was found."""
        self._require_held()
        if not self._asked or self._asked[0][0] != number:
            raise self._give_up(out_of_turn(self._name))
        return self._asked.popleft()[1]

    def begin_commit(
        self,
        writes: Sequence[RowWrite],
        markers: Sequence[Marker],
        expiries: Sequence[RowExpiry] = (),
    ) -> None:
        """Keep the transaction for :meth:`finish_commit`, where it happens as a whole."""
        self._require_ready()
        check_commit(writes, markers, self._expected, self._tag)
        self._sent = (list(writes), list(markers), list(expiries))

    def finish_commit(self) -> None:
        """Apply the transaction, or raise."""
        if self._finished:
            self._finished = False
            return
        if self._sent is None:
            self._require_held()
            raise PipelineError("begin_commit() first")
        (writes, markers, expiries), self._sent = self._sent, None
        with self._store.asked():
            self._refuse_changed()
            for expiry in expiries:
                for i, delay in enumerate(expiry.delay_ms.tolist()):
                    self._store.expire(row_key(self._tag, expiry.fingerprint, expiry.key(i)), delay)
            for write in writes:
                rows, prefix = write.rows, write.prefix(self._tag)
                for entity, row in zip(
                    _slices(rows.keys, rows.key_offsets),
                    _slices(rows.rows, rows.row_offsets),
                    strict=True,
                ):
                    key = prefix + entity
                    self._store.values[key] = row
                    self._store.deadlines.pop(key, None)
            for marker in markers:
                key = marker_key(self._tag, marker.fingerprint)
                self._store.values[key] = self._expected[key] = marker.pack()
            if self._store.lose_replies:
                self._store.lose_replies -= 1
                raise self._give_up(StoreUnavailableError(f"{self._name}: the reply was lost"))

    def check(self) -> bool:
        """Whether lease and markers in the store are still the ones written here."""
        if not self.held and isinstance(self._lost, FencedError):
            return False
        self._require_ready()
        with self._store.asked():
            try:
                self._refuse_changed()
            except (FencedError, StoreUnavailableError):
                return False
        return True

    def close(self) -> None:
        """Let go of it; the lease stays."""
        self._lose(PipelineError(f"{self._name}: closed; acquire() it again"))

    def _refuse_changed(self) -> None:
        values = self._store.values
        if all(values.get(key) == value for key, value in self._expected.items()):
            return
        stored, ours = values.get(self._lease_key), self._lease
        if stored is not None and ours is not None and stored != ours.pack():
            other = Lease.unpack(stored, self._lease_key.decode())
            if other.epoch >= ours.epoch:
                raise self._give_up(FencedError(f"{self._name}: another worker took the lease"))
        raise self._give_up(StoreUnavailableError(f"{self._name}: the store lost writes"))

    def _require_held(self) -> None:
        if not self.held:
            raise self._again()

    def _require_ready(self) -> None:
        self._require_held()
        if self._sent is not None or self._finished:
            raise PipelineError("a commit is under way: finish_commit() first")
        if self._asked:
            raise self._give_up(out_of_turn(self._name))

    def _give_up(self, error: PipelineError) -> PipelineError:
        self._lose(error)
        return error

    def _lose(self, reason: PipelineError) -> None:
        self._expected, self._sent, self._lost = {}, None, reason
        self._asked.clear()

    def _again(self) -> PipelineError:
        return type(self._lost)(str(self._lost))


class MemorySweeper:
    """:class:`~pipeline.store.partition.Sweeper` of a :class:`MemoryStore`."""

    def __init__(self, store: MemoryStore, app: str) -> None:
        self._store = store
        self._start = b"{%s:" % app.encode()
        self._left: list[bytes] = []

    def sweep(self, keep_ms: Mapping[int, int], now_ms: int, keys: int) -> Mapping[int, int]:
        """Look at ``keys`` more keys."""
        given: dict[int, int] = {}
        with self._store.asked():
            self._left = self._left or sorted(self._store.values)
            looked, self._left = self._left[:keys], self._left[keys:]
            for row in map(parse_row_key, looked):
                if row is None or not row.key.startswith(self._start):
                    continue
                if row.fingerprint not in keep_ms or row.key in self._store.deadlines:
                    continue
                head = self._store.values.get(row.key, b"")
                if not is_sound(head, row.fingerprint):
                    continue
                delay = delay_of(head, keep_ms[row.fingerprint], now_ms)
                if delay is not None and self._store.expire(row.key, delay):
                    given[row.fingerprint] = given.get(row.fingerprint, 0) + 1
        return given

    def close(self) -> None:
        """Nothing to close."""


class _MemoryFields:
    """:class:`~pipeline.store.registry.RegistryFields` in dictionaries."""

    def __init__(self) -> None:
        self._values: dict[bytes, dict[str, bytes]] = {}

    def get(self, key: bytes, name: str) -> bytes | None:
        """One value."""
        return self._values.get(key, {}).get(name)

    def get_all(self, key: bytes) -> dict[str, bytes]:
        """All values."""
        return dict(self._values.get(key, {}))

    def set(self, key: bytes, name: str, value: bytes) -> None:
        """Write one value."""
        self._values.setdefault(key, {})[name] = value

    def set_absent(self, key: bytes, name: str, value: bytes) -> bool:
        """Write one value unless there is one."""
        return self._values.setdefault(key, {}).setdefault(name, value) is value

    def delete(self, key: bytes, name: str) -> None:
        """Remove one value."""
        self._values.get(key, {}).pop(name, None)


_Sent: TypeAlias = tuple[list[RowWrite], list[Marker], list[RowExpiry]]
_named: dict[str, MemoryStore] = {}


def memory_store(name: str) -> MemoryStore:
    """The process's store of that name; a new one every time for the empty name."""
    return _named.setdefault(name, MemoryStore()) if name else MemoryStore()


def _slices(data: U8, offsets: I64) -> list[bytes]:
    raw, bounds = data.tobytes(), offsets.tolist()
    return [raw[a:b] for a, b in pairwise(bounds)]


def _text(data: bytes) -> str:
    """Any bytes as as many characters, in which patterns can be looked for."""
    return data.decode("latin-1")
