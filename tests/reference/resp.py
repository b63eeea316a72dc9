"""Slow, obvious twin of ``pipeline.kernels.resp``."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["argument", "command", "pack_bulks", "parse_bulks"]


def argument(data: bytes) -> bytes:
    """One argument of a command."""
    return b"$" + str(len(data)).encode() + b"\r\n" + data + b"\r\n"


def command(*arguments: bytes) -> bytes:
    """A whole command."""
    return b"*" + str(len(arguments)).encode() + b"\r\n" + b"".join(map(argument, arguments))


def parse_bulks(data: bytes) -> tuple[Sequence[bytes | None], bytes]:
    """Complete bulk strings at the front of ``data``, and the bytes left over."""
    values: list[bytes | None] = []
    while True:
        head, found, rest = data.partition(b"\r\n")
        if not found:
            return values, data
        if not head.startswith(b"$"):
            raise ValueError(head)
        size = int(head[1:])
        if size < 0:
            values.append(None)
            data = rest
        elif len(rest) < size + 2:
            return values, data
        else:
            values.append(rest[:size])
            data = rest[size + 2 :]


def pack_bulks(values: Sequence[bytes | None]) -> tuple[bytes, list[int], list[int]]:
    """The strings back to back, where each ends (from 0), and 1 for each null."""
    packed, ends = b"", [0]
    for value in values:
        packed += value or b""
        ends.append(len(packed))
    return packed, ends, [int(value is None) for value in values]
