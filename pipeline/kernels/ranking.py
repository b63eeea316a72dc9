"""Order statistics of a window: the value at a rank, and the most frequent values.

Values with their counts are gathered, from the tiles of a COUNTS or FREQUENT list or from an EVENTS
list, into the words of a scratch array, and ranked there. Nothing depends on the order in which
they are gathered.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.buckets import ordered, representative, unordered
from pipeline.kernels.counts import FIRST, NOTE, SIZE, VALUES, next_tile
from pipeline.kernels.integers import divide_scaled, exponent, part_of
from pipeline.kernels.jit import Int, inlined, part

__all__ = [
    "DIGITS",
    "most_frequent",
    "quantile_of_events",
    "quantile_of_tiles",
    "scratch_words",
    "tally_events",
    "tally_tiles",
]

I64 = npt.NDArray[np.int64]

DIGITS = 256  # words of the histogram in front of what is ranked
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LOWEST = -(2**63)
_FLOAT, _DECIMAL = 1, 2


@inlined
def scratch_words(entries: Int) -> Int:
    """Words that ranking so many entries can take."""
    return DIGITS + (2 << exponent(2 * entries))


@part
def _at_rank(scratch: I64, n: Int, rank: Int) -> Int:
    """The ``rank``-th lowest of n pairs (key, count) from ``scratch[DIGITS]`` on; changes them.

    A radix selection from the highest byte down: O(n).
    """
    left = rank
    for shift in range(56, -8, -8):
        for d in range(DIGITS):
            scratch[d] = 0
        for k in range(DIGITS, DIGITS + 2 * n, 2):
            d = ((scratch[k] ^ _LOWEST) >> shift) & 0xFF
            scratch[d] += scratch[k + 1]
        digit = np.int64(0)
        while left > scratch[digit]:
            left -= scratch[digit]
            digit += 1
        kept = np.int64(0)
        for k in range(DIGITS, DIGITS + 2 * n, 2):
            if ((scratch[k] ^ _LOWEST) >> shift) & 0xFF == digit:
                scratch[DIGITS + 2 * kept] = scratch[k]
                scratch[DIGITS + 2 * kept + 1] = scratch[k + 1]
                kept += 1
        n = kept
        if n == 1:
            break
    return scratch[DIGITS]


@inlined
def _rank_of(q: Int, total: Int) -> Int:
    """Nearest rank: ``max(1, ceil(q * total))``, of q in parts of 10**-18."""
    return max(np.int64(1), part_of(q, total))


@inlined
def _exact(key: Int, kind: Int, scale: Int) -> Int:
    """Bits of an ordered value as float64, rounded once."""
    if kind == _FLOAT:
        return unordered(key, kind)
    if kind == _DECIMAL:
        return np.float64(divide_scaled(key, np.int64(1), scale)).view(np.int64)
    return np.float64(key).view(np.int64)


@part
def quantile_of_events(
    arena: I64, block: Int, first: Int, stop: Int, kind: Int, scale: Int, q: Int, scratch: I64
) -> Int:
    """Bits of the float64 at rank q, in 10**-18, of the events ``first`` to ``stop`` (3 words)."""
    n = np.int64(0)
    for e in range(first, stop):
        scratch[DIGITS + 2 * n] = ordered(arena[block + 3 * e + 2], kind)
        scratch[DIGITS + 2 * n + 1] = 1
        n += 1
    return _exact(_at_rank(scratch, n, _rank_of(q, n)), kind, scale)


@part
def quantile_of_tiles(
    arena: I64, block: Int, words: Int, first_tile: Int, stop_tile: Int, kind: Int, scale: Int,
    q: Int, scratch: I64,
) -> tuple[Int, Int, Int]:  # fmt: skip
    """Bits of the float64 at rank q (in 10**-18) of tiles ``first_tile`` to before ``stop_tile``.

    Also the number of values and the highest level: the value is exact if that is 0, else within
    the relative error of that level. Undefined bits where there are no values.
    """
    level, total, n = np.int64(0), np.int64(0), np.int64(0)
    p = block + FIRST
    while p < block + words:
        if first_tile <= arena[p] < stop_tile:
            level = max(level, arena[p + NOTE])
        p = next_tile(arena, p)
    p = block + FIRST
    while p < block + words:
        if first_tile <= arena[p] < stop_tile:
            for e in range(p + VALUES, next_tile(arena, p), 2):
                key = arena[e]
                if arena[p + NOTE] > 0:
                    key = ordered(representative(key, arena[p + NOTE]), np.int64(_FLOAT))
                elif level > 0 and kind != _FLOAT:
                    key = ordered(np.float64(key).view(np.int64), np.int64(_FLOAT))
                scratch[DIGITS + 2 * n] = key
                scratch[DIGITS + 2 * n + 1] = arena[e + 1]
                total += arena[e + 1]
                n += 1
        p = next_tile(arena, p)
    if n == 0:
        return np.int64(0), total, level
    key = _at_rank(scratch, n, _rank_of(q, total))
    if level == 0:
        return _exact(key, kind, scale), total, level
    value = np.int64(unordered(key, np.int64(_FLOAT))).view(np.float64)
    if kind == _DECIMAL:
        for _ in range(abs(scale)):
            value = value / 10.0 if scale > 0 else value * 10.0
    return np.float64(value).view(np.int64), total, level


@inlined
def _clear(scratch: I64, n: Int) -> Int:
    """An empty hash table of at least 2 n places of two words; returns the bits of its size."""
    bits = exponent(2 * n)
    for k in range(1, 2 << bits, 2):
        scratch[k] = 0
    return bits


@inlined
def _tally(scratch: I64, bits: Int, value: Int, count: Int) -> None:
    mixed = np.uint64(np.int64(value).view(np.uint64) * _GOLDEN).view(np.int64)
    p = (mixed >> (64 - bits)) & ((1 << bits) - 1)
    while scratch[2 * p + 1] != 0 and scratch[2 * p] != value:
        p = (p + 1) & ((1 << bits) - 1)
    scratch[2 * p] = value
    scratch[2 * p + 1] += count


@inlined
def _together(scratch: I64, bits: Int) -> Int:
    """Move the pairs of the table to the front; returns how many there are."""
    m = np.int64(0)
    for p in range(1 << bits):
        if scratch[2 * p + 1] != 0:
            scratch[2 * m], scratch[2 * m + 1] = scratch[2 * p], scratch[2 * p + 1]
            m += 1
    return m


@part
def tally_events(arena: I64, block: Int, first: Int, stop: Int, kind: Int, scratch: I64) -> Int:
    """Pairs (ordered value, count) of the events ``first`` to ``stop``; returns how many."""
    if stop <= first:
        return np.int64(0)
    bits = _clear(scratch, stop - first)
    for e in range(first, stop):
        _tally(scratch, bits, ordered(arena[block + 3 * e + 2], kind), np.int64(1))
    return _together(scratch, bits)


@part
def tally_tiles(
    arena: I64, block: Int, words: Int, first_tile: Int, stop_tile: Int, scratch: I64
) -> tuple[Int, Int]:
    """Pairs (ordered value, count) of the tiles ``first_tile`` to before ``stop_tile``.

    Returns how many there are, and by how much any count can be too low.
    """
    n, error = np.int64(0), np.int64(0)
    p = block + FIRST
    while p < block + words:
        if first_tile <= arena[p] < stop_tile:
            n += arena[p + SIZE]
            error += arena[p + NOTE]
        p = next_tile(arena, p)
    if n == 0:
        return n, error
    bits = _clear(scratch, n)
    p = block + FIRST
    while p < block + words:
        if first_tile <= arena[p] < stop_tile:
            for e in range(p + VALUES, next_tile(arena, p), 2):
                _tally(scratch, bits, arena[e], arena[e + 1])
        p = next_tile(arena, p)
    return _together(scratch, bits), error


@inlined
def _before(scratch: I64, a: Int, b: Int) -> bool:
    """Whether pair a ranks before pair b: more frequent, or as frequent and smaller."""
    x, y = scratch[2 * a + 1], scratch[2 * b + 1]
    return bool(x > y or (x == y and scratch[2 * a] < scratch[2 * b]))


@inlined
def _sift(scratch: I64, root: Int, n: Int) -> None:
    while True:
        child = 2 * root + 1
        if child >= n:
            break
        if child + 1 < n and _before(scratch, child + 1, child):
            child += 1
        if not _before(scratch, child, root):
            break
        for word in range(2):
            a, b = 2 * root + word, 2 * child + word
            scratch[a], scratch[b] = scratch[b], scratch[a]
        root = child


@part
def most_frequent(scratch: I64, n: Int, k: Int) -> Int:
    """Bring the k first of n pairs, in order, to the end: the i-th is pair ``n - 1 - i``.

    A heap from which k are taken: O(n + k log n). Returns how many there are, at most k.
    """
    for root in range(n // 2 - 1, -1, -1):
        _sift(scratch, root, n)
    taken = min(n, k)
    for i in range(taken):
        last = n - 1 - i
        for word in range(2):
            a, b = np.int64(word), 2 * last + word
            scratch[a], scratch[b] = scratch[b], scratch[a]
        _sift(scratch, np.int64(0), last)
    return taken
