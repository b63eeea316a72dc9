"""Obvious twins of the sketches: dictionaries of Python numbers, from ``docs/row-layout.md``."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

__all__ = [
    "Tally",
    "bucket",
    "coarsen",
    "estimate",
    "fit_counts",
    "fit_distinct",
    "fit_extreme",
    "fit_frequent",
    "level_of",
    "most_common",
    "nearest_rank",
    "passes",
    "relative_error",
    "representative",
]

Number = int | float
INFINITE = 2**62


# ---- distinct


def passes(value: Number, level: int) -> bool:
    """Whether the mixed hash of the value's 64 bits begins with ``level`` zeros."""
    h = struct.unpack("<Q", struct.pack("<d" if isinstance(value, float) else "<q", value))[0]
    h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    h = (h ^ h >> 27) * 0x94D049BB133111EB % 2**64
    return f"{h ^ h >> 31:064b}".startswith("0" * level)


def level_of(steps: Iterable[int], tile: int) -> int:
    """How many of the steps are not before the tile."""
    return sum(step >= tile for step in steps)


def fit_distinct(values: dict[Number, int], steps: list[int], newest: int, bound: int) -> None:
    """Raise levels until ``values`` (value -> newest tile) are at most ``bound``; in place."""
    while len(values) > bound:
        level = level_of(steps, newest)
        steps[level : level + 1] = [newest]
        for value, tile in list(values.items()):
            if not passes(value, level_of(steps, tile)):
                del values[value]


def estimate(values: Mapping[Number, int], steps: Iterable[int], first: int) -> int:
    """Number of values seen in tile ``first`` or later."""
    return sum(2 ** min(level_of(steps, tile), 46) for tile in values.values() if tile >= first)


# ---- counts of tiles


@dataclass
class Tally:
    """How often each value, or bucket, occurred in a tile; ``note`` is its level or error."""

    note: int = 0
    counts: dict[Number, int] = field(default_factory=dict)


def bucket(value: Number, level: int) -> int:
    """Bucket of a value."""
    if value == 0:
        return 0
    sign = 1 if value > 0 else -1
    if math.isinf(value):
        return sign * INFINITE
    bits = int.from_bytes(struct.pack("<d", abs(float(value))), "little")
    return int(sign * (bits // 2**level + 1))


def representative(index: int, level: int) -> float:
    """The value that stands for a bucket."""
    if index == 0:
        return 0.0
    sign = 1.0 if index > 0 else -1.0
    if abs(index) == INFINITE:
        return sign * math.inf
    first = (abs(index) - 1) * 2**level
    low, high = max(first, 1), min(first + 2**level - 1, 0x7FEFFFFFFFFFFFFF)
    a, b = (struct.unpack("<d", struct.pack("<q", bits))[0] for bits in (low, high))
    return sign * float(a / (0.5 + 0.5 * (a / b)))


def relative_error(level: int) -> float:
    """How far a representative is from what it stands for, at most."""
    if level == 0:
        return 0.0
    return 1 / (2 ** (53 - level) + 1) if level <= 52 else 1.0


def coarsen(tally: Tally, level: int) -> Tally:
    """The tally at a higher level."""
    made = Tally(level)
    for value, count in tally.counts.items():
        index = bucket(value, level) if tally.note == 0 else int(value)
        if tally.note and index != 0 and abs(index) != INFINITE:
            sign = 1 if index > 0 else -1
            index = sign * ((abs(index) - 1) // 2 ** (level - tally.note) + 1)
        made.counts[index] = made.counts.get(index, 0) + count
    return made


def _size(tiles: Mapping[int, Tally]) -> int:
    return sum(len(tally.counts) for tally in tiles.values())


def _largest(tiles: Mapping[int, Tally]) -> int:
    return max(sorted(tiles), key=lambda tile: len(tiles[tile].counts))


def fit_counts(tiles: dict[int, Tally], bound: int) -> list[int]:
    """Coarsen tiles until their entries are at most ``bound``; in place. Tiles dropped for it."""
    dropped = []
    while _size(tiles) > bound:
        largest = _largest(tiles)
        before = tiles[largest]
        for level in range(before.note + 1, 64):
            after = coarsen(before, level)
            if len(after.counts) < len(before.counts):
                tiles[largest] = after
                break
        else:
            dropped.append(min(tiles))
            del tiles[dropped[-1]]
    return dropped


def fit_frequent(tiles: dict[int, Tally], bound: int) -> None:
    """Take the smallest count off the largest tile until its entries fit; in place."""
    while _size(tiles) > bound:
        tally = tiles[_largest(tiles)]
        least = min(tally.counts.values())
        tally.note += least
        tally.counts = {v: c - least for v, c in tally.counts.items() if c > least}


def fit_extreme(tally: Tally, bound: int, *, largest: bool) -> None:
    """Keep the ``bound`` largest, or smallest, values; in place."""
    kept = sorted(tally.counts, reverse=largest)[:bound]
    tally.counts = {value: tally.counts[value] for value in kept}


def nearest_rank(counts: Iterable[tuple[Number, int]], q: float) -> Number | None:
    """The value at rank ``max(1, ceil(q * n))``, of q as it is written; None without any."""
    ascending = sorted(counts)
    total = sum(count for _, count in ascending)
    rank = max(1, math.ceil(Fraction(str(q)) * total))
    for value, count in ascending:
        rank -= count
        if rank <= 0:
            return value
    return None


def most_common(tallies: Iterable[Mapping[Number, int]], k: int) -> list[Number]:
    """The k most frequent values, smaller ones first where they are as frequent."""
    total: Counter[Number] = Counter()
    for counts in tallies:
        total.update(counts)
    return sorted(total, key=lambda value: (-total[value], value))[:k]
