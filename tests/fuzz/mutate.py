"""Values from values: what a mutation fuzzer does to bytes."""

from __future__ import annotations

import random

INTERESTING = [
    b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80", b"\xff" * 9 + b"\x01", b"\x80" * 10, b"\xff" * 10, b"\xfe" * 9 + b"\x01",
    b"{", b"}", b"[", b'"', b"\\u", b"1e999", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
]  # fmt: skip


def mutated(rng: random.Random, value: bytes, others: list[bytes]) -> bytes:
    """``value`` after one to four changes; ``others`` are spliced in."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        value = _once(rng, value, others)
    return value[:100_000]


def _once(rng: random.Random, value: bytes, others: list[bytes]) -> bytes:
    at = rng.randrange(len(value) + 1)
    end = min(len(value), at + rng.choice((1, 1, 2, 4, 8, 32)))
    how = rng.randrange(9)
    if how == 0 and value:
        at = rng.randrange(len(value))
        return value[:at] + bytes([value[at] ^ 1 << rng.randrange(8)]) + value[at + 1 :]
    if how == 1:
        return value[:at] + rng.randbytes(end - at) + value[end:]
    if how == 2:
        return value[:at]
    if how == 3:
        return value[:at] + value[end:]
    if how == 4:
        return value[:at] + value[at:end] * rng.choice((2, 3, 50)) + value[end:]
    if how == 5:
        other = rng.choice(others)
        start = rng.randrange(len(other) + 1)
        return value[:at] + other[start : start + rng.choice((1, 4, 16, 10_000))] + value[end:]
    piece = rng.choice(INTERESTING)
    return value[:at] + piece + value[at if how == 6 else at + len(piece) :]
