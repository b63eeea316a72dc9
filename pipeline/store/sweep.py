"""The sweep: rows that left a worker's cache without an expiry are given one, slowly.

A row gets its expiry when its worker drops it from the cache. A worker that is killed drops
nothing, so one worker of an application goes through the store's keys with ``SCAN``, a few a
second. It writes rows of partitions that others own, so each is guarded by itself::

    WATCH row..  PTTL row..  GET row ..      MULTI  PEXPIRE row ms ..  EXEC

after a first look at their headers (GETRANGE row 0 47). A row that fails its checks is left for
somebody to look at: what its header says cannot be trusted.

A row that its owner writes in between makes EXEC do nothing, and a later sweep finds it again.
Even without that guard no row would go too early: the time is counted from the moment the server
carries it out, which is after the row's last write, and the next write takes the expiry away.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from pipeline.errors import StoreUnavailableError
from pipeline.kernels.hash import hash_keys
from pipeline.store.replies import error_of
from pipeline.store.wire import Link, Replies, Reply, ServerError, command

__all__ = ["HEAD_BYTES", "Candidate", "RedisSweeper", "delay_of", "is_sound", "parse_row_key"]

HEAD_BYTES = 48
QUIET_MS = 3_600_000  # rows written lately are most likely cached: their worker sees to them

_HEAD = struct.Struct("<2sBBIQqqq")  # docs/row-layout.md
_MAGIC = b"FR"
_CHECKSUM = slice(40, 48)
_WATCHED_ROWS = 64  # at once: they are read whole
_SCAN_COUNT = 1_000  # a millisecond or so of the server's time
_NO_EXPIRY = -1
_ELSEWHERE = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"})


class Candidate(NamedTuple):
    """A row's key, what it starts with (one hash slot), the fingerprint of its view."""

    key: bytes
    tag: bytes
    fingerprint: int


def parse_row_key(key: bytes) -> Candidate | None:
    """The parts of a row's key; None for a lease, a marker or anything else."""
    end = key.find(b"}")
    if (
        not key.startswith(b"{")
        or key[end : end + 4] != b"}:r:"
        or key[end + 20 : end + 21] != b":"
    ):
        return None
    with suppress(ValueError):
        return Candidate(key, key[: end + 1], int(key[end + 4 : end + 20], 16))
    return None


def delay_of(head: bytes, keep_ms: int, now_ms: int) -> int | None:
    """After how many ms a row that begins with ``head`` may go; None: not now, or never.

    ``keep_ms`` from now, later if its newest event or broker time is after now. Rows with flags
    know of a deletion, even emptied; rows that cannot be read are for somebody to look at.
    """
    if len(head) < HEAD_BYTES:
        return None
    magic, _version, flags, _length, _layout, event_ns, known_ms, _offset = _HEAD.unpack_from(head)
    if magic != _MAGIC or flags or known_ms > now_ms - QUIET_MS:
        return None
    return keep_ms + max(0, max(int(event_ns) // 1_000_000, int(known_ms)) - now_ms)


def is_sound(row: bytes, fingerprint: int) -> bool:
    """Whether these bytes are a whole row of the view, by length, layout and checksum."""
    if len(row) < HEAD_BYTES:
        return False
    magic, _version, _flags, length, layout, _event, _known, _offset = _HEAD.unpack_from(row)
    if magic != _MAGIC or length != len(row) or layout != fingerprint:
        return False
    unsealed = np.frombuffer(bytearray(row), dtype=np.uint8)
    unsealed[_CHECKSUM] = 0
    computed = np.empty(1, dtype=np.uint64)
    hash_keys(unsealed, np.array([0, len(row)], dtype=np.int64), computed)
    return row[_CHECKSUM] == computed.tobytes()


class RedisSweeper:
    """:class:`~pipeline.store.partition.Sweeper` on Redis, or on the masters of a cluster.

    ``nodes`` gives what connects to each, asked for at the start of every round.
    """

    def __init__(
        self, app: str, nodes: Callable[[], Sequence[Callable[[], Link]]], address: str
    ) -> None:
        self._pattern = b"{%s:*}:r:*" % app.encode()
        self._nodes = nodes
        self._address = address
        self._left: list[Callable[[], Link]] = []
        self._link: Link | None = None
        self._replies: Replies | None = None
        self._cursor = b"0"

    def sweep(self, keep_ms: Mapping[int, int], now_ms: int, keys: int) -> Mapping[int, int]:
        """Look at about ``keys`` more keys."""
        given: dict[int, int] = {}
        try:
            while keys > 0:
                count = min(keys, _SCAN_COUNT)
                for group in self._groups(self._scan(count), keep_ms):
                    for row in self._expire(group, keep_ms, now_ms):
                        given[row.fingerprint] = given.get(row.fingerprint, 0) + 1
                keys -= count
                if self._cursor == b"0":
                    self.close()
                    if not self._left:
                        break  # once round is enough for one call
        except BaseException:
            self.close()
            self._left = []
            raise
        return given

    def close(self) -> None:
        """Close its connection."""
        link, self._link, self._replies, self._cursor = self._link, None, None, b"0"
        if link is not None:
            link.close()

    def _scan(self, count: int) -> list[bytes]:
        if self._link is None:
            self._left = self._left or list(self._nodes())
            self._link = self._left.pop(0)()
            self._replies = Replies(self._link)
        scan = command(b"SCAN", self._cursor, b"MATCH", self._pattern, b"COUNT", b"%d" % count)
        (answer,) = self._ask(scan, 1)
        if isinstance(answer, ServerError):
            raise error_of(answer, self._address)
        cursor, found = answer if isinstance(answer, list) and len(answer) == 2 else (None, None)
        if not isinstance(cursor, bytes) or not isinstance(found, list):
            raise StoreUnavailableError(f"the store at {self._address} answered {answer!r} to SCAN")
        self._cursor = cursor
        return [key for key in found if isinstance(key, bytes)]

    def _groups(self, found: Sequence[bytes], keep_ms: Mapping[int, int]) -> list[list[Candidate]]:
        """Rows of the wanted views by partition: a transaction stays within a slot."""
        groups: dict[bytes, list[Candidate]] = {}
        for key in dict.fromkeys(found):  # SCAN may return a key twice
            row = parse_row_key(key)
            if row is not None and row.fingerprint in keep_ms:
                groups.setdefault(row.tag, []).append(row)
        return list(groups.values())

    def _expire(
        self, rows: Sequence[Candidate], keep_ms: Mapping[int, int], now_ms: int
    ) -> list[Candidate]:
        """Those of ``rows`` that were given an expiry."""
        seen = self._look(b"", rows, keep_ms, now_ms)  # most need none: watch only the others
        chosen = [row for row, _ in seen]
        parts = range(0, len(chosen), _WATCHED_ROWS)
        found = (self._guarded(chosen[i : i + _WATCHED_ROWS], keep_ms, now_ms) for i in parts)
        return [row for part in found for row in part]

    def _guarded(
        self, chosen: Sequence[Candidate], keep_ms: Mapping[int, int], now_ms: int
    ) -> list[Candidate]:
        """The same, with each row watched from before it is read."""
        watch = command(b"WATCH", *(row.key for row in chosen))
        seen = self._look(watch, chosen, keep_ms, now_ms)
        if not seen:
            self._ask(command(b"UNWATCH"), 1)
            return []
        sent = [command(b"PEXPIRE", row.key, b"%d" % delay) for row, delay in seen]
        *_, outcome = self._ask(
            command(b"MULTI") + b"".join(sent) + command(b"EXEC"), len(sent) + 2
        )
        if isinstance(outcome, ServerError) and outcome.code not in (*_ELSEWHERE, "EXECABORT"):
            raise error_of(outcome, self._address)
        if not isinstance(outcome, list):
            return []  # written meanwhile, or on its way to another node: found again later
        return [row for (row, _), done in zip(seen, outcome, strict=True) if done == 1]

    def _look(
        self, first: bytes, rows: Sequence[Candidate], keep_ms: Mapping[int, int], now_ms: int
    ) -> list[tuple[Candidate, int]]:
        """Rows without an expiry that may have one, and how long each is kept; ``first`` a command
        to be sent before, whose rows are then read whole and checked."""
        end = b"%d" % (HEAD_BYTES - 1)
        asked = [
            command(b"PTTL", row.key)
            + (command(b"GET", row.key) if first else command(b"GETRANGE", row.key, b"0", end))
            for row in rows
        ]
        answers = self._ask(first + b"".join(asked), 2 * len(rows) + (1 if first else 0))
        if first and answers.pop(0) != b"OK":
            return []  # the slot moves
        found = []
        for row, left, head in zip(rows, answers[::2], answers[1::2], strict=True):
            if left == _NO_EXPIRY and isinstance(head, bytes):
                if first and not is_sound(head, row.fingerprint):
                    continue
                delay = delay_of(head, keep_ms[row.fingerprint], now_ms)
                if delay is not None:
                    found.append((row, delay))
        return found

    def _ask(self, request: bytes, count: int) -> list[Reply]:
        link, replies = self._link, self._replies
        if link is None or replies is None:
            raise StoreUnavailableError(f"the sweep's connection to {self._address} is closed")
        link.send(memoryview(request))
        return [replies.read() for _ in range(count)]
