"""Redis wire format (RESP2): small commands out, replies in.

No socket is opened here: a :class:`Link` is one connection that is either open or lost for good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.errors import StoreUnavailableError
from pipeline.kernels.resp import MALFORMED, pack_bulks, scan_bulks
from pipeline.state.batch import PackedRows

__all__ = ["Link", "Replies", "Reply", "ServerError", "array_header", "command"]

U8 = npt.NDArray[np.uint8]

_FIRST_BUFFER = 1 << 17


class Link(Protocol):
    """One connection; never opens itself again."""

    def send(self, data: memoryview) -> None:
        """Send all of ``data``; raises StoreUnavailableError when the connection is lost."""

    def receive(self, into: memoryview) -> int:
        """Wait for bytes; their number, at least 1. Raises StoreUnavailableError."""

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
        self._buffer: U8 = np.empty(_FIRST_BUFFER, dtype=np.uint8)
        self._at = 0  # first byte not yet used
        self._end = 0  # after the last byte received

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
        start = np.empty(size, dtype=np.int64)
        length = np.empty(size, dtype=np.int64)
        done, begin = 0, 0
        values: list[bytes | None] = []
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

    def _line(self) -> bytes:
        looked = self._at
        while True:
            view = self._buffer[looked : min(self._end, looked + 512)].tobytes()
            end = view.find(b"\n")
            if end >= 0:
                stop = looked + end
                line = self._buffer[self._at : stop + 1].tobytes()
                self._at = stop + 1
                if not line.endswith(b"\r\n"):
                    raise self._nonsense(line)
                return line[:-2]
            if len(view) == 512:
                looked += 512
                continue
            offset = self._end - self._at
            self._fill(1)
            looked = self._at + offset

    def _bulk(self, size: int) -> bytes | None:
        if size < 0:
            return None
        while self._end - self._at < size + 2:
            self._fill(size + 2 - (self._end - self._at))
        data = self._buffer[self._at : self._at + size].tobytes()
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
            target = self._buffer if size == len(self._buffer) else np.empty(size, dtype=np.uint8)
            target[:held] = self._buffer[self._at : self._end].copy()
            self._buffer, self._at, self._end = target, 0, held
        self._end += self._link.receive(self._buffer.data[self._end :])

    def _nonsense(self, data: bytes) -> StoreUnavailableError:
        self._link.close()
        return StoreUnavailableError(
            f"the store's answer is not of the Redis protocol: {data[:40]!r}; "
            "is the address that of a Redis server?"
        )
