"""Arrays as the state's kernels want them."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from pipeline.kernels.arena import LIVE, TOP

__all__ = ["empty", "flags", "grown", "plain", "words"]

LINE = 64  # bytes of the cache

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


def grown(array: A, at_least: int) -> A:
    """A copy of ``array`` with room for ``at_least`` rows, at least twice as long."""
    shape = (max(at_least, 2 * len(array)), *array.shape[1:])
    if array.ndim == 1 and array.dtype == np.int64:
        bigger: npt.NDArray[Any] = words(shape[0])
    else:
        bigger = np.empty(shape, dtype=array.dtype)
    bigger[: len(array)] = array
    return cast(A, bigger)
