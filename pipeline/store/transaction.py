"""One commit as bytes on the wire, built without a Python object per row."""

from __future__ import annotations

import threading
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError
from pipeline.kernels.resp import (
    ARGUMENT_OVERHEAD,
    pack_bulks,
    scan_bulks,
    write_keys,
    write_pairs,
)
from pipeline.store.keys import marker_key, row_prefix
from pipeline.store.marker import Marker
from pipeline.store.partition import RowExpiry, RowWrite
from pipeline.store.wire import OK, array_header, command

__all__ = [
    "Asked",
    "Prefixes",
    "Scratch",
    "Sent",
    "applied",
    "arm",
    "check_commit",
    "encode_commit",
    "encode_mget",
    "prefixes_of",
    "warm_up",
]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

_MULTI = command(b"MULTI")
_EXEC = command(b"EXEC")
_HEADER_BYTES = 64

# Redis below 7 takes no more than 2**20 arguments; a longer list is also resized again and again.
_ROWS_PER_MSET = 1 << 17


class Scratch(threading.local):
    """A buffer to build commands in, one a thread, that grows to the largest and is kept."""

    def __init__(self) -> None:
        self._array: U8 = np.empty(1 << 16, dtype=np.uint8)

    def room(self, size: int) -> U8:
        """An array of at least ``size`` bytes; what it held before is lost."""
        if len(self._array) < size:
            self._array = np.empty(max(size, 2 * len(self._array)), dtype=np.uint8)
        return self._array


def encode_commit(
    scratch: Scratch,
    tag: bytes,
    writes: Sequence[RowWrite],
    markers: Sequence[Marker],
    expiries: Sequence[RowExpiry],
    after: bytes,
) -> tuple[memoryview, int]:
    """``MULTI``, ``PEXPIRE`` of rows, ``MSET`` of all rows, ``SET`` of all markers, ``EXEC``,
    then ``after``.

    The rows come last: writing one takes its expiry away. Returns the bytes, valid until
    ``scratch`` is used again, and the number of commands between MULTI and EXEC.
    """
    tail = b"".join(
        command(b"SET", marker_key(tag, marker.fingerprint), marker.pack()) for marker in markers
    )
    tail += _EXEC + after
    prefixes = [write.prefix(tag) for write in writes]
    head = [_MULTI]
    for expiry in expiries:
        start = row_prefix(tag, expiry.fingerprint)
        for i, delay in enumerate(expiry.delay_ms.tolist()):
            head.append(command(b"PEXPIRE", start + expiry.key(i), b"%d" % delay))
    first = b"".join(head)
    size = len(first) + len(tail)
    for write, prefix in zip(writes, prefixes, strict=True):
        size += _bound(write, len(prefix))
    out = scratch.room(size)
    at = _put(out, 0, first)
    queued = len(head) - 1 + len(markers)
    for write, prefix in zip(writes, prefixes, strict=True):
        at, commands = _put_rows(out, at, write, prefix)
        queued += commands
    at = _put(out, at, tail)
    return out.data[:at], queued


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Beginnings of keys, as a table for kernels: ``data`` uint8[..], ``offsets`` int64[n+1]."""

    data: U8
    offsets: I64
    longest: int


@lru_cache(maxsize=1 << 12)
def prefixes_of(prefixes: tuple[bytes, ...]) -> Prefixes:
    """The table of ``prefixes``, remembered: the same of a partition time and again."""
    offsets = np.zeros(len(prefixes) + 1, dtype=np.int64)
    np.cumsum([len(prefix) for prefix in prefixes], out=offsets[1:])
    data = np.array(bytearray(b"".join(prefixes)), dtype=np.uint8)
    return Prefixes(data, offsets, max(map(len, prefixes), default=0))


def encode_mget(
    scratch: Scratch, prefixes: Prefixes, which: I32, keys: U8, key_offsets: I64, index: I64,
    before: Sequence[bytes] = (), after: bytes = b"",
) -> memoryview:  # fmt: skip
    """``MGET`` of prefix ``which[j]`` + key ``index[j]``; valid until ``scratch`` is used again.

    ``which`` int32[m], ``index`` int64[m]; the whole keys ``before`` are asked for first. The
    commands ``after`` are sent with it.
    """
    start = array_header(1 + len(before) + len(index), b"MGET")
    start += b"".join(b"$%d\r\n%s\r\n" % (len(key), key) for key in before)
    length = len(start) + int((key_offsets[index + 1] - key_offsets[index]).sum())
    room = _HEADER_BYTES + length + len(index) * (prefixes.longest + ARGUMENT_OVERHEAD)
    room += len(after)
    out = scratch.room(room)
    at = _put(out, 0, start)
    at = write_keys(prefixes.data, prefixes.offsets, which, keys, key_offsets, index, out, at)
    at = _put(out, at, after)
    return out.data[:at]


def warm_up() -> None:
    """Compile or load the kernels of this module, so that the first commit does not wait."""
    none, bounds, out = np.empty(0, np.uint8), np.zeros(1, np.int64), np.empty(1, np.uint8)
    write_pairs(none, none, bounds, none, bounds, 0, 0, out, 0)
    empty = np.empty(0, dtype=np.int64)
    write_keys(none, bounds, np.empty(0, np.int32), none, bounds, empty, out, 0)
    scan_bulks(out, 0, 0, empty, empty, 0)
    pack_bulks(out, empty, empty, out, bounds, none)


class Sent(NamedTuple):
    """A transaction under way: the keys and values it leaves behind, its number of commands,
    whether some of them set an expiry."""

    expected: dict[bytes, bytes | None]
    queued: int
    expiring: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """Keys ``index`` of ``keys`` that are to be read; ``sent`` once they were asked for."""

    number: int
    fingerprint: int
    keys: U8
    key_offsets: I64
    index: I64
    sent: bool


@lru_cache(maxsize=1 << 12)
def applied(queued: int) -> bytes:
    """What the server says to a transaction of so many SET and MSET that it carried out."""
    return OK + b"+QUEUED\r\n" * queued + b"*%d\r\n" % queued + OK * queued


@lru_cache(maxsize=1 << 12)
def arm(keys: tuple[bytes, ...]) -> bytes:
    """WATCH, then read what is watched: the same keys of a partition time and again."""
    return command(b"WATCH", *keys) + command(b"MGET", *keys)


def check_commit(
    writes: Sequence[RowWrite], markers: Sequence[Marker], read: Container[bytes], tag: bytes
) -> None:
    """Raise PipelineError for a commit that would break the promises.

    That is: rows without their view's marker, two markers of one view, or a marker of a view
    whose key is not in ``read``: nobody knows what it would overwrite.
    """
    marked = {marker.fingerprint for marker in markers}
    if len(marked) != len(markers):
        raise PipelineError("a commit has two markers of one view")
    for fingerprint in marked:
        key = marker_key(tag, fingerprint)
        if key not in read:
            raise PipelineError(f"markers() of {key.decode()} was not called before its commit")
    for write in writes:
        if write.marked_by not in marked:
            raise PipelineError(
                f"rows of view {write.fingerprint:016x} without its marker in the same commit"
            )
        if len(write.rows.row_offsets) != len(write.rows.key_offsets):
            raise PipelineError("a write has more keys than rows, or fewer")


def _bound(write: RowWrite, prefix: int) -> int:
    rows = write.rows
    n = len(rows.key_offsets) - 1
    payload = int(rows.key_offsets[-1] - rows.key_offsets[0])
    payload += int(rows.row_offsets[-1] - rows.row_offsets[0])
    headers = (n // _ROWS_PER_MSET + 1) * _HEADER_BYTES
    return payload + n * (prefix + 2 * ARGUMENT_OVERHEAD) + headers


def _put_rows(out: U8, at: int, write: RowWrite, prefix: bytes) -> tuple[int, int]:
    rows = write.rows
    n = len(rows.key_offsets) - 1
    start = np.array(bytearray(prefix), dtype=np.uint8)
    commands = 0
    for first in range(0, n, _ROWS_PER_MSET):
        last = min(first + _ROWS_PER_MSET, n)
        at = _put(out, at, array_header(1 + 2 * (last - first), b"MSET"))
        at = write_pairs(
            start, rows.keys, rows.key_offsets, rows.rows, rows.row_offsets, first, last, out, at
        )
        commands += 1
    return at, commands


def _put(out: U8, at: int, data: bytes) -> int:
    end = at + len(data)
    out[at:end] = np.frombuffer(data, dtype=np.uint8)
    return end
