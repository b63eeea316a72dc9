"""Row-wise recognition of what was seen before, by the highest position of each source."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.jit import bare

__all__ = ["mark_repeated"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


@bare
def mark_repeated(source: I64, offset: I64, select: U8, highest: I64, repeated: U8) -> None:
    """Set ``repeated`` uint8[n] of selected rows at or below the highest offset of their source.

    ``source`` int64[n] indexes ``highest`` int64[s], which rises with every selected row beyond it.
    """
    for i in range(len(source)):
        repeated[i] = 0
        if select[i]:
            if offset[i] <= highest[source[i]]:
                repeated[i] = 1
            else:
                highest[source[i]] = offset[i]
