"""Shapes that leave the state table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["EncodedRows"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Packed rows with their entity keys, as columns.

    ``keys``         uint8[..]   entity keys back to back
    ``key_offsets``  int64[n+1]
    ``rows``         uint8[..]   packed rows (row layout v1) back to back
    ``row_offsets``  int64[n+1]
    """

    keys: U8
    key_offsets: I64
    rows: U8
    row_offsets: I64

    def __len__(self) -> int:
        return len(self.key_offsets) - 1
