"""Arrays as the state's kernels want them."""

from __future__ import annotations

import mmap
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from pipeline.kernels.arena import LIVE, TOP

__all__ = ["empty", "flags", "grown", "longer", "memory", "plain", "words"]

LINE = 64  # bytes of the cache
SMALL, HUGE = 1 << 20, 4 << 20  # bytes
PRIVATE = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)  # 0: not this system
HUGE_PAGES = getattr(mmap, "MADV_HUGEPAGE", 0)  # as NumPy asks for

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
A = TypeVar("A", bound=npt.NDArray[Any])


def flags(n: int) -> U8:
    """n zeros."""
    return np.zeros(n, dtype=np.uint8)


def empty(heads: I64) -> None:
    """An arena with nothing in it."""
    heads.fill(-1)
    heads[TOP] = heads[LIVE] = 0


def plain(array: npt.NDArray[Any], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """``array`` as kernels are compiled for: contiguous and writable, a copy only if it is not."""
    if array.flags.carray and array.dtype == dtype:  # np.require looks for 7 us
        return array
    return np.require(array, dtype, ["C", "W"])


def memory(n: int) -> U8:
    """``n`` undefined bytes from the beginning of a cache line on: a small block is then in one.

    From a mebibyte on they come from the system and go back to it as soon as nobody has them.
    Malloc may keep what it is given back: of an arena that had grown to 500 MB, 50 MB of what it
    was before.
    """
    if n < SMALL or not PRIVATE:
        raw = np.empty(n + LINE, dtype=np.uint8)
        first = -raw.ctypes.data % LINE
        return raw[first : first + n]
    try:
        pages = mmap.mmap(-1, n, flags=PRIVATE)
    except OSError as error:
        raise MemoryError(f"no {n:,} bytes for the state of entities: {error}") from error
    if n >= HUGE and HUGE_PAGES:
        pages.madvise(HUGE_PAGES)
    return np.frombuffer(pages, dtype=np.uint8)


def words(n: int) -> I64:
    """``n`` undefined words in such :func:`memory`."""
    return memory(8 * n).view(np.int64)


def longer(length: int, size: int) -> int:
    """Items that an array of ``length`` grows to, whose items take ``size`` bytes.

    Twice as many up to a mebibyte; beyond, a quarter more: what is copied again and again is then
    five times what there is in the end, and little of it is never used.
    """
    return 2 * length if length * size < SMALL else length + length // 4


def grown(array: A, at_least: int) -> A:
    """A copy of ``array`` with room for ``at_least`` rows, and so much more that it is rare."""
    length = max(at_least, longer(len(array), array.strides[0]))
    bigger = memory(length * array.strides[0]).view(array.dtype).reshape(length, *array.shape[1:])
    bigger[: len(array)] = array
    return cast(A, bigger)
