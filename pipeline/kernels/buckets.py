"""Logarithmic buckets: how a quantile sketch tells numbers apart.

A bucket of level ``L`` holds the float64 values of one sign whose bits, read as an unsigned
integer, agree in all but the lowest ``L``: ``2**L`` neighbouring values. So buckets double in width
with each level, two of a level are one of the next, and nothing but integer shifts decides: the
same on every machine. Zero and the infinities have buckets of their own at every level.

Any value of a bucket is within the relative error ``1 / (2**(53 - L) + 1)`` of its
:func:`representative` (levels up to 52, magnitudes from 2**-1022 on): 2**-9 at level 44, 1/3 at
level 52. Beyond, a bucket spans several powers of two and tells the order of magnitude.

Source: the log-linear mapping of DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable
quantile sketch with relative-error guarantees", VLDB 2019), collapsed uniformly as in UDDSketch
(Epicoco, Melle, Cafaro, Pulimeno, Aloisio: "UDDSketch: accurate tracking of quantiles in data
streams", IEEE Access 2020).
"""

from __future__ import annotations

import numpy as np

from pipeline.kernels.jit import Int, inlined

__all__ = [
    "INFINITE",
    "MAX_LEVEL",
    "coarser",
    "finest_index",
    "index_of",
    "is_index",
    "merge_level",
    "ordered",
    "representative",
    "unordered",
]

MAX_LEVEL = 63  # all finite values of a sign are one bucket
INFINITE = 1 << 62  # bucket of the infinities, with their sign
_MAX = 2**63 - 1
_INF = 0x7FF0000000000000
_FLOAT = 1
_MINUS_ZERO = -(2**63)


@inlined
def ordered(bits: Int, kind: Int) -> Int:
    """A value of cell type ``kind`` as an integer of the same order; -0.0 as 0.0."""
    if kind != _FLOAT:
        return bits
    if bits == _MINUS_ZERO:
        return np.int64(0)
    return bits ^ ((bits >> 63) & _MAX)


@inlined
def unordered(value: Int, kind: Int) -> Int:
    """Inverse of :func:`ordered`."""
    return value ^ ((value >> 63) & _MAX) if kind == _FLOAT else value


@inlined
def finest_index(value: Int, kind: Int) -> Int:
    """Bucket of level 0 of an :func:`ordered` value; integers go by their nearest float64."""
    bits = unordered(value, kind)
    if kind != _FLOAT:
        bits = np.float64(value).view(np.int64)
    magnitude = bits & _MAX
    if magnitude == 0:
        return np.int64(0)
    index = np.int64(INFINITE) if magnitude >= _INF else magnitude + 1
    return -index if bits < 0 else index


@inlined
def coarser(index: Int, levels: Int) -> Int:
    """The bucket that holds bucket ``index``, this many levels up (0 to MAX_LEVEL)."""
    if index in (0, INFINITE, -INFINITE):
        return index
    if index < 0:
        return -(((-index - 1) >> levels) + 1)
    return ((index - 1) >> levels) + 1


@inlined
def index_of(value: Int, kind: Int, level: Int) -> Int:
    """Bucket of ``level`` of an :func:`ordered` value."""
    return coarser(finest_index(value, kind), level)


@inlined
def is_index(index: Int, level: Int) -> bool:
    """Whether there is such a bucket."""
    size = abs(index)
    return bool(index in (0, INFINITE, -INFINITE) or 1 <= size <= ((_INF - 1) >> level) + 1)


@inlined
def merge_level(a: Int, b: Int, level: Int) -> Int:
    """The lowest level above ``level`` at which two of its buckets are one; MAX_LEVEL + 1: none."""
    never = np.int64(MAX_LEVEL + 1)
    if (a > 0) != (b > 0) or a == 0 or b == 0 or abs(a) == INFINITE or abs(b) == INFINITE:
        return never
    differing = (abs(a) - 1) ^ (abs(b) - 1)
    bits = np.int64(1)
    while (differing >> bits) != 0:
        bits += 1
    return level + bits


@inlined
def representative(index: Int, level: Int) -> Int:
    """Bits of the value ``2 / (1/low + 1/high)``, whose largest relative error is the least."""
    if index == 0:
        return np.int64(0)
    size = abs(index)
    bits = np.int64(_INF)
    if size != INFINITE:
        first = (size - 1) << level
        low = np.int64(max(np.int64(1), first)).view(np.float64)
        last = first | ((np.int64(1) << level) - 1) if level < MAX_LEVEL else np.int64(_MAX)
        high = np.int64(min(last, np.int64(_INF - 1))).view(np.float64)
        bits = np.float64(low / (0.5 + 0.5 * (low / high))).view(np.int64)
    return bits | _MINUS_ZERO if index < 0 else bits
