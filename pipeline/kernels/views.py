"""Arrow string views over bytes that stay where they are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.hash import load64
from pipeline.kernels.jit import Int, bare, inlined

__all__ = ["string_views"]

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

INLINE = 12  # longer strings are referred to
_NOTHING, _ALL, _HALF = np.uint64(0), np.uint64(2**64 - 1), np.uint64(32)


@inlined
def _bytes(data: U8, first: Int, count: Int) -> Int:
    """Up to 8 bytes from ``first`` on as a little-endian word, zero padded."""
    if count <= 0:
        return _NOTHING
    if first + 8 <= len(data):
        return load64(data, first) & (_ALL >> np.uint64(64 - 8 * count))
    word = _NOTHING
    for k in range(count):
        word |= np.uint64(data[first + k]) << np.uint64(8 * k)
    return word


@bare
def string_views(data: U8, start: I64, length: I64, reason: U8, out: U64) -> None:
    """Write the view of each ``data[start[i]:start[i]+length[i]]`` to ``out`` uint64[2 * n].

    Rows with a ``reason`` get the empty string. Views refer to one buffer, of index 0, so a start
    must fit an int32. Source: Arrow columnar format, "Variable-size Binary View Layout".
    """
    for i in range(len(start)):
        n = length[i] if reason[i] == 0 else np.int64(0)
        first = start[i]
        out[np.uint64(2 * i)] = np.uint64(n) | _bytes(data, first, min(n, 4)) << _HALF
        if n <= INLINE:
            out[np.uint64(2 * i + 1)] = _bytes(data, first + 4, n - 4)
        else:
            out[np.uint64(2 * i + 1)] = np.uint64(first) << _HALF
