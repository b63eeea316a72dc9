"""Arrays as the state's kernels want them."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from pipeline.kernels.arena import LIVE, TOP

__all__ = ["empty", "flags", "grown", "longer", "plain", "words"]

LINE = 64  # bytes of the cache
SMALL = 1 << 20  # bytes

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


def words(n: int) -> I64:
    """``n`` undefined words from the beginning of a cache line on: a small block is then in one."""
    raw = np.empty(n + LINE // 8, dtype=np.int64)
    first = -raw.ctypes.data % LINE // 8
    return raw[first : first + n]


def longer(length: int, size: int) -> int:
    """Items that an array of ``length`` grows to, whose items take ``size`` bytes.

    Twice as many up to a mebibyte; beyond, a quarter more: what is copied again and again is then
    five times what there is in the end, and little of it is never used.
    """
    return 2 * length if length * size < SMALL else length + length // 4


def grown(array: A, at_least: int) -> A:
    """A copy of ``array`` with room for ``at_least`` rows, and so much more that it is rare."""
    length = max(at_least, longer(len(array), array.strides[0]))
    shape = (length, *array.shape[1:])
    if array.ndim == 1 and array.dtype == np.int64:
        bigger: npt.NDArray[Any] = words(shape[0])
    else:
        bigger = np.empty(shape, dtype=array.dtype)
    bigger[: len(array)] = array
    return cast(A, bigger)
