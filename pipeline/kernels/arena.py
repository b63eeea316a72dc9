"""Blocks of int64 words in one array: 32 size classes per doubling, with free lists.

``heads`` int64[HEADS] holds, per size class, the offset of its first free block (-1: none; a
free block's first word is the offset of the next), then the two counters below. A fresh arena has
``heads`` filled with -1 and both counters 0.

Blocks have 2, 4, ... 124, 126, 128, 132, ... 252, 256, 264, ... words: beyond 64, what is asked for
is more than 32 of their 33 parts. A block is never split nor joined with another: whoever lets the
arena grow moves what is in use together first, if much is not.

Nothing here can run out: callers leave room first (:func:`has_room`), because an array
can only grow outside of a kernel.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.jit import Int, inlined

__all__ = ["FLAGS", "HEADS", "LIVE", "TOP", "allocate", "block_words", "has_room", "release"]

I64 = npt.NDArray[np.int64]

TOP = 1022  # words handed out so far, free ones included
LIVE = 1023  # words in use
HEADS = 1024
FLAGS = 1  # the bit of a size that is its owner's, as sizes are even
_UNIT = 2  # words


@inlined
def _shift(words: Int) -> Int:
    """By how much a number of units is shifted until 32 to 63, or less, are left, rounded up."""
    shift = np.int64(0)
    while (63 * _UNIT) << shift < words:
        shift += 1
    return shift


@inlined
def block_words(words: Int) -> Int:
    """Words of the smallest block that holds so many, of which there is at least one."""
    unit = np.int64(_UNIT) << _shift(words)
    return (words + unit - 1) & -unit


@inlined
def _class(size: Int) -> Int:
    """Class of the blocks of exactly ``size`` words: its number among all sizes."""
    shift = _shift(size)
    return 32 * shift + (size >> shift >> 1)


@inlined
def has_room(arena: I64, heads: I64, words: Int) -> bool:
    """Whether blocks of ``words`` in total can be allocated whatever the free lists hold."""
    return bool(heads[TOP] + words <= len(arena))


@inlined
def allocate(arena: I64, heads: I64, size: Int) -> Int:
    """Offset of a block of ``size`` words, a :func:`block_words`; they are undefined."""
    heads[LIVE] += size
    c = _class(size)
    block = heads[c]
    if block >= 0:
        heads[c] = arena[block]
        return block
    block = heads[TOP]
    heads[TOP] = block + size
    return block


@inlined
def release(arena: I64, heads: I64, block: Int, size: Int) -> None:
    """Give a block of ``size`` words, FLAGS apart, back."""
    size = size & ~FLAGS
    heads[LIVE] -= size
    c = _class(size)
    arena[block] = heads[c]
    heads[c] = block
