"""Hashes of byte strings: murmur2 (Kafka's partitioner) and xxh64.

All functions take a flat ``uint8`` buffer and byte positions, so a key or string is hashed where
it lies. Positions are trusted: ``0 <= start <= end <= len(data)``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.jit import Int, bare, inlined, part

__all__ = [
    "equal_bytes",
    "hash_keys",
    "hash_spans",
    "hash_text",
    "load64",
    "murmur2",
    "partition_of",
    "xxh64",
]

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

_M = 0x5BD1E995  # below 2**31, so a product with 32 bits stays within int64
_LOW32 = 0xFFFFFFFF
_SEED = 0x9747B28C

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)
_N1, _N2, _N3, _N4 = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
_N5, _N6, _N7, _N8 = np.uint64(5), np.uint64(6), np.uint64(7), np.uint64(8)
_N11, _N12, _N16, _N18 = np.uint64(11), np.uint64(12), np.uint64(16), np.uint64(18)
_N23, _N24, _N27, _N29 = np.uint64(23), np.uint64(24), np.uint64(27), np.uint64(29)
_N31, _N32, _N33, _N40 = np.uint64(31), np.uint64(32), np.uint64(33), np.uint64(40)
_N48, _N56, _N64 = np.uint64(48), np.uint64(56), np.uint64(64)
_HIGH_BITS = np.uint64(0x8080808080808080)


@inlined
def load64(data: U8, at: Int) -> Int:
    """Bytes ``at`` to ``at + 7`` as a little-endian word."""
    u = np.uint64(at)  # an unsigned index needs no wrap-around check; the loads become one
    return (
        np.uint64(data[u])
        | np.uint64(data[u + _N1]) << _N8
        | np.uint64(data[u + _N2]) << _N16
        | np.uint64(data[u + _N3]) << _N24
        | np.uint64(data[u + _N4]) << _N32
        | np.uint64(data[u + _N5]) << _N40
        | np.uint64(data[u + _N6]) << _N48
        | np.uint64(data[u + _N7]) << _N56
    )


@inlined
def _load32(data: U8, at: Int) -> Int:
    """Bytes ``at`` to ``at + 3`` as a little-endian word."""
    u = np.uint64(at)
    return (
        np.uint64(data[u])
        | np.uint64(data[u + _N1]) << _N8
        | np.uint64(data[u + _N2]) << _N16
        | np.uint64(data[u + _N3]) << _N24
    )


@part
def murmur2(data: U8, start: Int, end: Int) -> Int:
    """Java's signed 32-bit ``Utils.murmur2`` of ``data[start:end]``, as an int64.

    Source: ``org.apache.kafka.common.utils.Utils.murmur2`` (Apache Kafka clients).
    """
    h = np.int64(_SEED ^ (end - start))
    i = start
    while i + 4 <= end:
        k = (np.int64(_load32(data, i)) * _M) & _LOW32
        k ^= k >> 24
        k = (k * _M) & _LOW32
        h = ((h * _M) & _LOW32) ^ k
        i += 4
    rest = end - i
    if rest == 3:
        h ^= np.int64(data[np.uint64(i + 2)]) << 16
    if rest >= 2:
        h ^= np.int64(data[np.uint64(i + 1)]) << 8
    if rest >= 1:
        h = ((h ^ np.int64(data[np.uint64(i)])) * _M) & _LOW32
    h ^= h >> 13
    h = (h * _M) & _LOW32
    h ^= h >> 15
    return h - ((h >> 31) << 32)


@bare
def partition_of(keys: U8, key_offsets: I64, n_partitions: Int, out: I32) -> None:
    """Kafka partition of each key: ``(murmur2 & 0x7fffffff) % n_partitions`` into ``out`` int32[n].

    ``key_offsets`` int64[n+1]. A key of 0 bytes gets the partition of the empty string; callers
    that treat it as missing must look at the lengths.
    """
    for i in range(len(key_offsets) - 1):
        h = murmur2(keys, key_offsets[i], key_offsets[i + 1])
        out[i] = (h & 0x7FFFFFFF) % n_partitions


@inlined
def _round(accumulator: Int, lane: Int) -> Int:
    x = accumulator + lane * _P2
    return ((x << _N31) | (x >> _N33)) * _P1


@inlined
def _merge(h: Int, accumulator: Int) -> Int:
    return (h ^ _round(np.uint64(0), accumulator)) * _P1 + _P4


@inlined
def _rotate(x: Int, bits: Int) -> Int:
    return (x << bits) | (x >> (_N64 - bits))


@part
def _stripes(data: U8, start: Int, end: Int, seed: Int) -> tuple[Int, Int]:
    """State after the whole stripes of 32 bytes of at least one, and all their words or-ed."""
    v1, v2, v3, v4 = seed + _P1 + _P2, seed + _P2, seed, seed - _P1
    i, seen = start, np.uint64(0)
    while i + 32 <= end:
        a, b, c, d = (
            load64(data, i), load64(data, i + 8), load64(data, i + 16), load64(data, i + 24)
        )  # fmt: skip
        seen |= a | b | c | d
        v1, v2, v3, v4 = _round(v1, a), _round(v2, b), _round(v3, c), _round(v4, d)
        i += 32
    h = _rotate(v1, _N1) + _rotate(v2, _N7) + _rotate(v3, _N12) + _rotate(v4, _N18)
    return _merge(_merge(_merge(_merge(h, v1), v2), v3), v4), seen


@inlined
def hash_text(data: U8, start: Int, end: Int, seed: Int) -> tuple[Int, bool]:
    """As :func:`xxh64`, and whether all bytes are below 0x80: they are read once for both."""
    s, seen = np.uint64(seed), np.uint64(0)
    h, i = s + _P5, start
    if end - start >= 32:
        h, seen = _stripes(data, start, end, s)
        i = end - ((end - start) & 31)
    h += np.uint64(end - start)
    while i + 8 <= end:
        word = load64(data, i)
        seen |= word
        h = _rotate(h ^ _round(np.uint64(0), word), _N27) * _P1 + _P4
        i += 8
    if i + 4 <= end:
        word = _load32(data, i)
        seen |= word
        h = _rotate(h ^ word * _P1, _N23) * _P2 + _P3
        i += 4
    while i < end:
        word = np.uint64(data[np.uint64(i)])
        seen |= word
        h = _rotate(h ^ word * _P5, _N11) * _P1
        i += 1
    h = (h ^ (h >> _N33)) * _P2
    h = (h ^ (h >> _N29)) * _P3
    return h ^ (h >> _N32), seen & _HIGH_BITS == np.uint64(0)


@bare
def xxh64(data: U8, start: Int, end: Int, seed: Int = 0) -> Int:
    """XXH64 of ``data[start:end]``.

    Source: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
    """
    return hash_text(data, start, end, seed)[0]


@bare
def hash_keys(keys: U8, offsets: I64, out: U64) -> None:
    """xxh64 (seed 0) of each key ``keys[offsets[i]:offsets[i+1]]`` into ``out`` uint64[n]."""
    for i in range(len(offsets) - 1):
        out[i] = hash_text(keys, offsets[i], offsets[i + 1], np.uint64(0))[0]


@bare
def hash_spans(data: U8, start: I64, length: I64, out: I64) -> None:
    """xxh64 (seed 0) of each ``data[start[i]:start[i]+length[i]]``, as the bits of an int64."""
    for i in range(len(start)):
        out[i] = np.int64(hash_text(data, start[i], start[i] + length[i], np.uint64(0))[0])


@inlined
def equal_bytes(a: U8, a_start: Int, a_end: Int, b: U8, b_start: Int, b_end: Int) -> bool:
    """Whether ``a[a_start:a_end]`` and ``b[b_start:b_end]`` hold the same bytes."""
    n = a_end - a_start
    if n != b_end - b_start:
        return False
    k = np.int64(0)
    while k + 8 <= n:
        if load64(a, a_start + k) != load64(b, b_start + k):
            return False
        k += 8
    if k < n and a_start + k + 8 <= len(a) and b_start + k + 8 <= len(b):
        # Only the first n - k bytes of the words count.
        differ = load64(a, a_start + k) ^ load64(b, b_start + k)
        return bool(differ << np.uint64(64 - 8 * (n - k)) == np.uint64(0))
    while k < n:
        if a[np.uint64(a_start + k)] != b[np.uint64(b_start + k)]:
            return False
        k += 1
    return True
