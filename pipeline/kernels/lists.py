"""Bounded lists: what they have in common, and the last values by (time, offset).

A LAST section holds ``[time, offset, value]`` ascending by (time, offset). EVENTS sections are in
:mod:`pipeline.kernels.events`, IDS in :mod:`pipeline.kernels.ids`, DECAYED in
:mod:`pipeline.kernels.decay`, DISTINCT in :mod:`pipeline.kernels.distinct`, COUNTS, FREQUENT,
LARGEST and SMALLEST in :mod:`pipeline.kernels.counts`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.jit import Int, inlined, part
from pipeline.kernels.table import SECTION
from pipeline.kernels.tiles import grow

__all__ = [
    "COUNTS",
    "DECAYED",
    "DISTINCT",
    "EVENTS",
    "FREQUENT",
    "IDS",
    "LARGEST",
    "LAST",
    "LAST_WORDS",
    "LIST_BOUND",
    "LIST_HORIZON",
    "LIST_INPUT",
    "LIST_KIND",
    "LIST_MASK",
    "LIST_RING",
    "LIST_TYPE",
    "SMALLEST",
    "add_last",
    "has_counts",
    "one_zero",
    "takes_value",
]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

(
    LIST_KIND,
    LIST_RING,
    LIST_INPUT,
    LIST_MASK,
    LIST_BOUND,
    LIST_HORIZON,
    LIST_TYPE,
) = range(7)
DISTINCT, LAST, EVENTS, DECAYED, COUNTS, IDS, FREQUENT, LARGEST, SMALLEST = range(
    9
)  # 7 on: what a tile keeps is bounded
LAST_WORDS = 3
_MINUS_ZERO = -(2**63)
_FLOAT = 1


@inlined
def has_counts(kind: Int) -> bool:
    """Whether a list of this kind holds values with their counts, by tile."""
    return bool(kind in (COUNTS, FREQUENT, LARGEST, SMALLEST))


@inlined
def takes_value(lists: I64, i: Int, usable: U8, passed: U8) -> bool:
    """Whether list ``i`` is interested in the event: its mask is true and its input usable."""
    mask, source = lists[i, LIST_MASK], lists[i, LIST_INPUT]
    return bool((mask < 0 or passed[mask] != 0) and (source < 0 or usable[source] != 0))


@inlined
def one_zero(bits: Int, kind: Int) -> Int:
    """The bits of a value of cell type ``kind``, -0.0 as 0.0."""
    return np.int64(0) if kind == _FLOAT and bits == _MINUS_ZERO else bits


@inlined
def _remove(arena: I64, block: Int, count: Int, entry: Int, i: Int) -> None:
    for k in range(block + i * entry, block + (count - 1) * entry):
        arena[k] = arena[k + entry]


@part
def add_last(
    arena: I64, heads: I64, slots: I64, slot: Int, section: Int, bound: Int,
    time: Int, offset: Int, value: Int,
) -> None:  # fmt: skip
    """Insert ``value`` at its place by (time, offset); beyond ``bound`` the oldest entry goes."""
    at = SECTION + 3 * section
    block, count = slots[slot, at], slots[slot, at + 1]
    if block < 0:
        block = grow(arena, heads, slots, slot, at, np.int64(LAST_WORDS))
        count = np.int64(0)
    i = count
    while i > 0:
        e = block + 3 * (i - 1)
        if arena[e] < time or (arena[e] == time and arena[e + 1] <= offset):
            break
        i -= 1
    if count >= bound:
        if i == 0:
            return
        _remove(arena, block, count, 3, 0)
        count -= 1
        i -= 1
    elif (count + 1) * 3 > slots[slot, at + 2]:
        block = grow(arena, heads, slots, slot, at, (count + 1) * 3)
    for k in range(block + 3 * count - 1, block + 3 * i - 1, -1):
        arena[k + 3] = arena[k]
    arena[block + 3 * i] = time
    arena[block + 3 * i + 1] = offset
    arena[block + 3 * i + 2] = value
    slots[slot, at + 1] = count + 1
