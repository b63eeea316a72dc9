"""Arrays as the state's kernels want them."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from pipeline.kernels.arena import LIVE, TOP

__all__ = ["empty", "flags", "grown", "plain"]

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


def grown(array: A, at_least: int) -> A:
    """A copy of ``array`` with room for ``at_least`` rows, at least twice as long."""
    bigger = np.empty((max(at_least, 2 * len(array)), *array.shape[1:]), dtype=array.dtype)
    bigger[: len(array)] = array
    return cast(A, bigger)
