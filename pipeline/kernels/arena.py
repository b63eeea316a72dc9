"""Blocks of int64 words in one array: power-of-two size classes with free lists.

``heads`` int64[HEADS] holds, per size class, the offset of its first free block (-1: none; a
free block's first word is the offset of the next), then the two counters below. A fresh arena has
``heads`` filled with -1 and both counters 0.

Nothing here can run out: callers leave room first (:func:`has_room`), because an array
can only grow outside of a kernel.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.jit import Int, inlined

__all__ = ["HEADS", "LIVE", "MIN_CLASS", "TOP", "allocate", "has_room", "release", "size_class"]

I64 = npt.NDArray[np.int64]

MIN_CLASS = 3  # 8 words: one cache line
TOP = 62  # words handed out so far, free ones included
LIVE = 63  # words in use
HEADS = 64


@inlined
def size_class(words: Int) -> Int:
    """The smallest class whose blocks (``2**class`` words) hold ``words``."""
    c = MIN_CLASS
    while (1 << c) < words:
        c += 1
    return c


@inlined
def has_room(arena: I64, heads: I64, words: Int) -> bool:
    """Whether blocks of ``words`` in total can be allocated whatever the free lists hold."""
    return bool(heads[TOP] + words <= len(arena))


@inlined
def allocate(arena: I64, heads: I64, c: Int) -> Int:
    """Offset of a block of class ``c``; its words are undefined."""
    heads[LIVE] += 1 << c
    block = heads[c]
    if block >= 0:
        heads[c] = arena[block]
        return block
    block = heads[TOP]
    heads[TOP] = block + (1 << c)
    return block


@inlined
def release(arena: I64, heads: I64, block: Int, c: Int) -> None:
    """Give a block of class ``c`` back."""
    heads[LIVE] -= 1 << c
    arena[block] = heads[c]
    heads[c] = block
