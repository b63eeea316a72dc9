"""Redis wire format (RESP2): small commands out, replies in.

No socket is opened here: a :class:`Link` is one connection that is either open or lost for good.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.errors import StoreUnavailableError
from pipeline.kernels.resp import MALFORMED, pack_bulks, scan_bulks
from pipeline.state.batch import PackedRows

__all__ = ["OK", "Link", "Replies", "Reply", "ServerError", "array_header", "bulks", "command"]

U8 = npt.NDArray[np.uint8]

_FIRST_BUFFER = 1 << 17
OK = b"+OK\r\n"
_ABSENT = b"$-1\r\n"
_FEW = 64  # bulk strings; fewer are read one by one


class Link(Protocol):
    """One connection; never opens itself again."""

    def send(self, data: memoryview) -> None:
        """Send all of ``data``; raises StoreUnavailableError when the connection is lost."""

    def receive(self, into: memoryview) -> int:
        """Wait for bytes; their number, at least 1. Raises StoreUnavailableError."""

    def arrived(self) -> bool:
        """Whether :meth:`receive` would not wait; also where the connection is lost."""

    def close(self) -> None:
        """Close it; closing twice is fine."""


@dataclass(frozen=True, slots=True)
class ServerError:
    """An error reply. It is a value: one reply of many may be one."""

    text: str

    @property
    def code(self) -> str:
        """First word, such as ``OOM``."""
        return self.text.split(" ", 1)[0]


Reply: TypeAlias = "bytes | int | ServerError | list[Reply] | None"


def bulks(values: Collection[bytes | None]) -> bytes:
    """The reply that is an array of these bulk strings."""
    parts = [b"*%d\r\n" % len(values)]
    parts += [
        _ABSENT if value is None else b"$%d\r\n%s\r\n" % (len(value), value) for value in values
    ]
    return b"".join(parts)


def array_header(arguments: int, name: bytes) -> bytes:
    """Start of a command of ``arguments`` arguments, its ``name`` among them."""
    return b"*%d\r\n$%d\r\n%s\r\n" % (arguments, len(name), name)


def command(*arguments: bytes) -> bytes:
    """A whole command."""
    parts = [b"*%d\r\n" % len(arguments)]
    parts += [b"$%d\r\n%s\r\n" % (len(argument), argument) for argument in arguments]
    return b"".join(parts)


class Replies:
    """Reads the replies that arrive on a :class:`Link`, in order."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._hold(bytearray(_FIRST_BUFFER))
        self._at = 0  # first byte not yet used
        self._end = 0  # after the last byte received

    def _hold(self, memory: bytearray) -> None:
        """What is received goes to ``memory``: bytes for what is short, an array for kernels."""
        self._memory = memory
        self._buffer: U8 = np.frombuffer(memory, dtype=np.uint8)

    def skip(self, reply: bytes) -> bool:
        """Take ``reply``, whole replies all, if it is what comes next; else take nothing."""
        while (held := self._end - self._at) < len(reply):
            if not reply.startswith(bytes(self._memory[self._at : self._end])):
                return False
            self._fill(len(reply) - held)
        if not self._memory.startswith(reply, self._at, self._end):
            return False
        self._at += len(reply)
        return True

    def read(self) -> Reply:
        """The next reply; an error is returned, not raised."""
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            return ServerError(rest.decode("utf-8", "replace"))
        if kind == b":":
            return self._number(rest)
        if kind == b"$":
            return self._bulk(self._number(rest))
        if kind == b"*":
            size = self._number(rest)
            return None if size < 0 else [self.read() for _ in range(size)]
        raise self._nonsense(line)

    def read_bulks(self) -> list[bytes | None] | ServerError:
        """The next reply, which is an array of bulk strings such as that of MGET."""
        line = self._line()
        if line[:1] == b"-":
            return ServerError(line[1:].decode("utf-8", "replace"))
        if line[:1] != b"*":
            raise self._nonsense(line)
        size = max(self._number(line[1:]), 0)
        if size <= _FEW:
            return self._few(size)
        values: list[bytes | None] = []
        start = np.empty(size, dtype=np.int64)
        length = np.empty(size, dtype=np.int64)
        done, begin = 0, 0
        while True:
            first = self._at
            done, after, need = scan_bulks(self._buffer, self._at, self._end, start, length, done)
            if need == MALFORMED:
                raise self._nonsense(self._buffer[after : after + 40].tobytes())
            raw = self._buffer[first:after].tobytes()
            for at, size in zip(
                (start[begin:done] - first).tolist(), length[begin:done].tolist(), strict=True
            ):
                values.append(raw[at : at + size] if size >= 0 else None)
            self._at, begin = after, done
            if need == 0:
                return values
            self._fill(need)

    def read_packed(self) -> PackedRows | ServerError:
        """As :meth:`read_bulks`, in columns."""
        line = self._line()
        if line[:1] == b"-":
            return ServerError(line[1:].decode("utf-8", "replace"))
        if line[:1] != b"*":
            raise self._nonsense(line)
        size = max(self._number(line[1:]), 0)
        if size <= _FEW:
            if self.skip(_ABSENT * size):
                return PackedRows.of([None] * size)
            return PackedRows.of(self._few(size))
        start, length = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
        done, parts = 0, []
        while True:
            begin, first = done, self._at
            done, after, need = scan_bulks(self._buffer, self._at, self._end, start, length, done)
            if need == MALFORMED:
                raise self._nonsense(self._buffer[after : after + 40].tobytes())
            data = np.empty(after - first, dtype=np.uint8)  # a little more than the strings need
            offsets = np.empty(done - begin + 1, dtype=np.int64)
            absent = np.empty(done - begin, dtype=np.uint8)
            pack_bulks(self._buffer, start[begin:done], length[begin:done], data, offsets, absent)
            parts.append(PackedRows(data[: offsets[-1]], offsets, absent))
            self._at = after
            if need == 0:
                return PackedRows.joined(parts)
            self._fill(need)

    def _few(self, size: int) -> list[bytes | None]:
        """The bulk strings of an array, one by one."""
        values: list[bytes | None] = []
        for _ in range(size):
            line = self._line()
            if line[:1] != b"$":
                raise self._nonsense(line)
            values.append(self._bulk(self._number(line[1:])))
        return values

    def _line(self) -> bytes:
        looked = self._at
        while True:
            stop = self._memory.find(b"\n", looked, self._end)
            if stop >= 0:
                line = bytes(self._memory[self._at : stop + 1])
                self._at = stop + 1
                if not line.endswith(b"\r\n"):
                    raise self._nonsense(line)
                return line[:-2]
            held = self._end - self._at
            self._fill(1)
            looked = self._at + held

    def _bulk(self, size: int) -> bytes | None:
        if size < 0:
            return None
        while self._end - self._at < size + 2:
            self._fill(size + 2 - (self._end - self._at))
        data = bytes(self._memory[self._at : self._at + size])
        self._at += size + 2
        return data

    def _number(self, digits: bytes) -> int:
        try:
            return int(digits)
        except ValueError as wrong:
            raise self._nonsense(digits) from wrong

    def _fill(self, need: int) -> None:
        """Receive at least one byte; make room for ``need`` by moving or growing."""
        held = self._end - self._at
        if held == 0:
            self._at = self._end = 0
        if len(self._buffer) - self._end < need:
            size = len(self._buffer)
            while size < held + need:
                size *= 2
            left = self._memory[self._at : self._end]
            if size != len(self._buffer):
                self._hold(bytearray(size))
            self._memory[:held] = left
            self._at, self._end = 0, held
        self._end += self._link.receive(self._buffer.data[self._end :])

    def _nonsense(self, data: bytes) -> StoreUnavailableError:
        self._link.close()
        return StoreUnavailableError(
            f"the store's answer is not of the Redis protocol: {data[:40]!r}; "
            "is the address that of a Redis server?"
        )
