"""Obvious twins of :mod:`pipeline.kernels.hash`, in Python integers from the specifications."""

from __future__ import annotations

_LOW32 = 2**32 - 1
_LOW64 = 2**64 - 1
_P1 = 0x9E3779B185EBCA87
_P2 = 0xC2B2AE3D27D4EB4F
_P3 = 0x165667B19E3779F9
_P4 = 0x85EBCA77C2B2AE63
_P5 = 0x27D4EB2F165667C5


def murmur2(data: bytes) -> int:
    """``org.apache.kafka.common.utils.Utils.murmur2``: a signed 32-bit integer."""
    m = 0x5BD1E995
    h = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & _LOW32
        k = (k ^ k >> 24) * m & _LOW32
        h = (h * m & _LOW32) ^ k
    if data[whole:]:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & _LOW32
    h = (h ^ h >> 13) * m & _LOW32
    h ^= h >> 15
    return h - 2**32 if h >= 2**31 else h


def partition_of(key: bytes, partitions: int) -> int:
    """Partition the Java client's default partitioner gives a key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def _rotate(x: int, bits: int) -> int:
    return (x << bits | x >> (64 - bits)) & _LOW64


def _round(accumulator: int, lane: int) -> int:
    return _rotate((accumulator + lane * _P2) & _LOW64, 31) * _P1 & _LOW64


def xxh64(data: bytes, seed: int = 0) -> int:
    """XXH64 as in the xxHash specification."""
    rest = data
    if len(data) >= 32:
        lanes = [seed + _P1 + _P2, seed + _P2, seed, seed - _P1]
        while len(rest) >= 32:
            words = [int.from_bytes(rest[8 * k : 8 * k + 8], "little") for k in range(4)]
            lanes = [_round(v, w) for v, w in zip(lanes, words, strict=True)]
            rest = rest[32:]
        h = sum(_rotate(v & _LOW64, r) for v, r in zip(lanes, (1, 7, 12, 18), strict=True))
        for v in lanes:
            h = ((h ^ _round(0, v)) * _P1 + _P4) & _LOW64
    else:
        h = seed + _P5
    h = (h + len(data)) & _LOW64
    while len(rest) >= 8:
        h = _rotate(h ^ _round(0, int.from_bytes(rest[:8], "little")), 27) * _P1 + _P4 & _LOW64
        rest = rest[8:]
    if len(rest) >= 4:
        lane = int.from_bytes(rest[:4], "little") * _P1 & _LOW64
        h = _rotate(h ^ lane, 23) * _P2 + _P3 & _LOW64
        rest = rest[4:]
    for byte in rest:
        h = _rotate(h ^ byte * _P5 & _LOW64, 11) * _P1 & _LOW64
    h = (h ^ h >> 33) * _P2 & _LOW64
    h = (h ^ h >> 29) * _P3 & _LOW64
    return h ^ h >> 32
