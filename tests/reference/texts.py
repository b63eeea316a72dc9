"""Obvious twin of the words of strings: Python bytes, from ``docs/row-layout.md``."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["text_of", "words_of"]


def words_of(text: bytes, count: int) -> list[int]:
    """The words of a string of at most ``8 * count - 1`` bytes."""
    ended = (text + b"\1").ljust(8 * count, b"\0")
    return [int.from_bytes(ended[8 * i : 8 * i + 8], "little", signed=True) for i in range(count)]


def text_of(words: Sequence[int]) -> bytes:
    """Inverse of :func:`words_of`."""
    ended = b"".join(word.to_bytes(8, "little", signed=True) for word in words).rstrip(b"\0")
    assert ended.endswith(b"\1")
    return ended[:-1]
