"""Arrow string views over bytes that stay where they are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.jit import bare

__all__ = ["string_views"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

INLINE = 12  # longer strings are referred to


@bare
def string_views(data: U8, start: I64, length: I64, reason: U8, out: U8) -> None:
    """Write the 16-byte view of each ``data[start[i]:start[i]+length[i]]`` to ``out`` uint8[n, 16].

    Rows with a ``reason`` get the empty string. Views refer to one buffer, of index 0, so a start
    must fit an int32. Source: Arrow columnar format, "Variable-size Binary View Layout".
    """
    for i in range(len(start)):
        n = length[i] if reason[i] == 0 else 0
        out[i, :] = 0
        for k in range(4):
            out[i, k] = (n >> (8 * k)) & 0xFF
        first = start[i]
        if n <= INLINE:
            for k in range(n):
                out[i, 4 + k] = data[first + k]
        else:
            for k in range(4):
                out[i, 4 + k] = data[first + k]
                out[i, 12 + k] = (first >> (8 * k)) & 0xFF
