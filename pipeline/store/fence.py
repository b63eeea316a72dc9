"""The fenced commit: one partition over one connection.

Every commit is one send::

    MULTI  PEXPIRE row..  MSET row..  SET marker..  EXEC  WATCH lease marker..  MGET lease marker..

and its last two commands arm the next: from the WATCH on, the server aborts an EXEC if the lease
or a marker changes, and the MGET shows that they had not changed *before* it. Their answer is
compared with what was written here before the next MULTI is sent. Markers are watched beside the
lease because a store that went back in time while the connection stayed open (a replica that
resynchronised) brings back the same lease with an older marker.

The connection is never opened again on the way: a WATCH lives and dies with it, and a transaction
on a fresh connection would not be fenced. Only :meth:`RedisPartition.acquire` opens one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import FencedError, PipelineError, StoreUnavailableError
from pipeline.state.batch import PackedRows
from pipeline.store.keys import lease_key, marker_key, row_prefix
from pipeline.store.lease import (
    Lease,
    lost_writes,
    next_lease,
    out_of_turn,
    refuse_newer,
    why_aborted,
)
from pipeline.store.marker import Marker
from pipeline.store.partition import Awaited, RowExpiry, RowWrite
from pipeline.store.replies import error_of, root_cause
from pipeline.store.transaction import (
    Asked,
    Scratch,
    Sent,
    applied,
    arm,
    check_commit,
    encode_commit,
    encode_mget,
    prefixes_of,
)
from pipeline.store.whole import Whole
from pipeline.store.wire import OK, Link, Replies, Reply, ServerError, bulks, command

__all__ = ["ACQUIRE_ATTEMPTS", "RedisPartition"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

ACQUIRE_ATTEMPTS = 8
Got = TypeVar("Got")
_KEYS_PER_MGET = 1 << 14
_NONCE_BYTES = 16


class RedisPartition(Awaited):
    """:class:`~pipeline.store.partition.PartitionStore` on a Redis connection.

    ``connect`` opens a connection that never opens itself again. Not for use by two threads at
    once.
    """

    def __init__(
        self,
        connect: Callable[[], Link],
        tag: bytes,
        address: str,
        *,
        scratch: Scratch | None = None,
        nonce: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._connect = connect
        self._tag = tag
        self._lease_key = lease_key(tag)
        self._address = address
        self._scratch = scratch if scratch is not None else Scratch()
        self._nonce = nonce
        self._link: Link | None = None
        self._replies: Replies | None = None
        self._lease: Lease | None = None
        self._expected: dict[bytes, bytes | None] = {}  # lease first, then markers
        self._sent: Sent | None = None
        self._asked: deque[Asked] = deque()
        self._reads = 0  # that were begun, ever
        self._lost: PipelineError = PipelineError("acquire() the partition first")
        self._whole = Whole(self._interrupted)

    @property
    def held(self) -> bool:
        """Whether a commit may be tried."""
        return self._link is not None and self._lease_key in self._expected

    def acquire(self, generation: int) -> Lease:
        """Take the partition over a fresh connection."""
        self._lose(StoreUnavailableError(f"{self._name}: the lease was not taken"))
        self._finished = False
        self._link = self._connect()
        self._replies = Replies(self._link)
        try:
            for _ in range(ACQUIRE_ATTEMPTS):
                lease = self._try_acquire(generation)
                if lease is not None:
                    return lease
        except BaseException:
            self._lose(self._lost)
            raise
        self._lose(FencedError(f"{self._name}: {ACQUIRE_ATTEMPTS} others took the lease first"))
        raise self._again()

    def markers(self, fingerprints: Sequence[int]) -> list[Marker | None]:
        """Markers of these views; watched from here on."""
        self._require_ready()
        if not fingerprints:
            return []
        keys = [marker_key(self._tag, fingerprint) for fingerprint in fingerprints]
        with self._whole:
            self._send(arm(tuple(keys)))
            self._read(Replies.read)
            values = self._read(Replies.read_bulks)
        found = [
            None if value is None else Marker.unpack(value, key.decode())
            for key, value in zip(keys, values, strict=True)
        ]
        for key, value in zip(keys, values, strict=True):
            if self._expected.setdefault(key, value) != value:
                raise self._give_up(lost_writes(self._name))
        return found

    def begin_read(self, fingerprint: int, keys: U8, key_offsets: I64, index: I64) -> int:
        """Ask for rows of the keys ``index``, unless too many would be under way: then
        :meth:`finish_read` does. A commit under way is awaited first, and raises what it raises."""
        self._require_held()
        if self._sent is not None:
            self.finish_commit()
            self._finished = True
        under_way = sum(len(read.index) for read in self._asked)
        now = under_way + len(index) <= _KEYS_PER_MGET and all(read.sent for read in self._asked)
        self._reads += 1
        read = Asked(self._reads, fingerprint, keys, key_offsets, index, now)
        with self._whole:
            self._asked.append(read)
            if now and len(index):
                self._ask(read, 0)
        return read.number

    def finish_read(self, number: int) -> PackedRows:
        """Packed rows; lease and markers are compared after they were read."""
        self._require_held()
        if not self._asked or self._asked[0].number != number:
            raise self._give_up(out_of_turn(self._name))
        parts: list[PackedRows] = []
        with self._whole:
            read = self._asked.popleft()
            for first in range(0, len(read.index), _KEYS_PER_MGET):
                if not read.sent:
                    self._ask(read, first)
                parts.append(self._read(Replies.read_packed))
            if parts and not self._unchanged():
                raise self._again()
        return PackedRows.joined(parts)

    def begin_commit(
        self,
        writes: Sequence[RowWrite],
        markers: Sequence[Marker],
        expiries: Sequence[RowExpiry] = (),
    ) -> None:
        """Send one fenced transaction."""
        self._require_ready()
        check_commit(writes, markers, self._expected, self._tag)
        expected = dict(self._expected)
        for marker in markers:
            expected[marker_key(self._tag, marker.fingerprint)] = marker.pack()
        data, queued = encode_commit(
            self._scratch, self._tag, writes, markers, expiries, arm(tuple(expected))
        )
        with self._whole:
            self._sent = Sent(expected, queued, any(map(len, expiries)))
            self._send(data)

    def finish_commit(self) -> None:
        """Await the outcome; returns only if the transaction was applied."""
        if self._finished:
            self._finished = False
            return
        if self._sent is None:
            self._require_held()
            raise PipelineError("begin_commit() first")
        with self._whole:
            sent, self._sent = self._sent, None
            self._finish(sent)

    def check(self) -> bool:
        """Whether lease and markers in the store are still the ones written here."""
        if not self.held and isinstance(self._lost, FencedError):
            return False
        self._require_ready()
        with self._whole:
            self._send(command(b"MGET", *self._expected))
        return self._unchanged()

    def close(self) -> None:
        """Close the connection; the lease stays."""
        self._lose(PipelineError(f"{self._name}: closed; acquire() it again"))

    def _ask(self, read: Asked, first: int) -> None:
        """Send the request for its keys from the ``first``; with the last of them, what says
        whether the rows are of the time of our markers."""
        part = read.index[first : first + _KEYS_PER_MGET]
        last = first + len(part) == len(read.index)
        data = encode_mget(
            self._scratch, prefixes_of((row_prefix(self._tag, read.fingerprint),)),
            np.zeros(len(part), dtype=np.int32), read.keys, read.key_offsets, part,
            after=command(b"MGET", *self._expected) if last else b"",
        )  # fmt: skip
        self._send(data)

    def _unchanged(self) -> bool:
        """Whether lease and markers, asked for last, are ours still; else the partition is lost."""
        with self._whole:
            if self._told(bulks(self._expected.values())):
                return True
            values = self._read(Replies.read_bulks)
        self._lose(self._why_aborted(list(self._expected), values))
        return False

    # -- taking the lease

    def _try_acquire(self, generation: int) -> Lease | None:
        stored = self._watch_lease()
        current = None if stored is None else Lease.unpack(stored, self._lease_key.decode())
        refuse_newer(current, generation, f"the lease {self._lease_key.decode()}")
        lease = next_lease(current, self._lease, generation, self._nonce(_NONCE_BYTES))
        # MULTI is awaited here: were it refused, the SET after it would be carried out at once.
        self._send(command(b"MULTI"))
        self._read(Replies.read)
        self._send(command(b"SET", self._lease_key, lease.pack()) + command(b"EXEC"))
        queued, outcome = self._take(Replies.read), self._take(Replies.read)
        if isinstance(outcome, ServerError):
            refused = queued if isinstance(queued, ServerError) else None
            raise error_of(root_cause(outcome, refused), self._address)
        if outcome is None or self._watch_lease() != lease.pack():
            return None
        self._lease = lease
        self._expected = {self._lease_key: lease.pack()}
        return lease

    def _watch_lease(self) -> bytes | None:
        self._send(arm((self._lease_key,)))
        self._read(Replies.read)
        return self._read(Replies.read_bulks)[0]

    def _finish(self, sent: Sent) -> None:
        if not sent.expiring and self._told(applied(sent.queued)):
            self._expected = sent.expected
            self._rearm_after_success()
            return
        outcome = self._read_outcome(sent.queued)
        if isinstance(outcome, list):
            self._expected = sent.expected
            self._rearm_after_success()
            return
        watched, values = self._take(Replies.read), self._take(Replies.read_bulks)
        if isinstance(outcome, ServerError):
            self._keep_if_unchanged(sent, watched, values)
            raise error_of(outcome, self._address)
        self._lose(self._why_aborted(list(sent.expected), values))
        raise self._again()

    def _read_outcome(self, queued: int) -> Reply:
        """Reply of EXEC: a list when applied, None when fenced, else the error that refused it."""
        started = self._take(Replies.read)
        refused: ServerError | None = None
        for _ in range(queued):
            reply = self._take(Replies.read)
            if isinstance(reply, ServerError) and refused is None:
                refused = reply
        outcome = self._take(Replies.read)
        if isinstance(started, ServerError):
            # Without its MULTI the rest was carried out command by command, or not at all.
            raise self._give_up(error_of(started, self._address))
        if isinstance(outcome, ServerError):
            return root_cause(outcome, refused)
        if isinstance(outcome, list):
            for reply in outcome:
                if isinstance(reply, ServerError):
                    raise self._give_up(error_of(reply, self._address))
        elif outcome is not None:
            raise self._give_up(StoreUnavailableError(f"{self._name}: EXEC said {outcome!r}"))
        return outcome

    def _rearm_after_success(self) -> None:
        """Read the answer that arms the next commit; what is wrong there is raised by the next."""
        keys = list(self._expected)
        try:
            if self._told(OK + bulks(self._expected.values())):
                return
            watched, values = self._take(Replies.read), self._take(Replies.read_bulks)
        except StoreUnavailableError:
            return
        for reply in (watched, values):
            if isinstance(reply, ServerError):
                self._lose(error_of(reply, self._address))
                return
        if values != list(self._expected.values()):
            self._lose(self._why_aborted(keys, values))

    def _keep_if_unchanged(
        self, sent: Sent, watched: Reply, values: list[bytes | None] | ServerError
    ) -> None:
        """After a refused transaction: stay armed if lease and markers are what they were."""
        before = [self._expected[key] for key in sent.expected]
        if watched == b"OK" and values == before:
            return
        if isinstance(values, ServerError):
            self._lose(error_of(values, self._address))
        else:
            self._lose(self._why_aborted(list(sent.expected), values))

    def _why_aborted(
        self, keys: list[bytes], values: list[bytes | None] | ServerError
    ) -> PipelineError:
        if isinstance(values, ServerError):
            return error_of(values, self._address)
        stored = dict(zip(keys, values, strict=True))[self._lease_key]
        return why_aborted(self._name, stored, self._lease_key, self._lease)

    @property
    def _name(self) -> str:
        return f"{self._tag.decode()} at {self._address}"

    def _send(self, data: bytes | memoryview) -> None:
        if self._link is None:
            raise self._again()
        try:
            self._link.send(memoryview(data))
        except StoreUnavailableError as gone:
            self._lose(gone)
            raise

    def _take(self, read: Callable[[Replies], Got]) -> Got:
        if self._replies is None:
            raise self._again()
        try:
            return read(self._replies)
        except StoreUnavailableError as gone:
            self._lose(gone)
            raise

    def _told(self, reply: bytes) -> bool:
        """Whether the next replies are these, which are then taken; else nothing is."""
        return self._take(partial(Replies.skip, reply=reply))

    def _read(self, read: Callable[[Replies], Got | ServerError]) -> Got:
        reply = self._take(read)
        if isinstance(reply, ServerError):
            raise self._give_up(error_of(reply, self._address))
        return reply

    def _require_held(self) -> None:
        if not self.held:
            raise self._again()

    def _require_ready(self) -> None:
        self._require_held()
        if self._sent is not None or self._finished:
            raise PipelineError("a commit is under way: finish_commit() first")
        if self._asked:
            raise self._give_up(out_of_turn(self._name))

    def _interrupted(self) -> None:
        self._lose(StoreUnavailableError(f"{self._name}: interrupted; what it holds is unknown"))

    def _give_up(self, error: PipelineError) -> PipelineError:
        self._lose(error)
        return error

    def _lose(self, reason: PipelineError) -> None:
        link, self._link, self._replies, self._sent = self._link, None, None, None
        self._expected, self._lost = {}, reason
        self._asked.clear()
        if link is not None:
            link.close()

    def _again(self) -> PipelineError:
        """A new exception that says why the partition is not held."""
        return type(self._lost)(str(self._lost))
