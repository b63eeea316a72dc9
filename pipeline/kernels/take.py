"""Selecting rows of a variable-length binary column."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.jit import bare, jit

__all__ = ["take_bytes", "take_spans", "taken_offsets"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


@jit
def taken_offsets(offsets: I64, index: I64, out: I64) -> None:
    """Offsets int64[len(index) + 1] of the rows ``index`` laid back to back."""
    total = 0
    out[0] = 0
    for i in range(len(index)):
        total += offsets[index[i] + 1] - offsets[index[i]]
        out[i + 1] = total


@jit
def take_bytes(data: U8, offsets: I64, index: I64, out_offsets: I64, out: U8) -> None:
    """Copy the rows ``index`` of (``data``, ``offsets``) to ``out`` at ``out_offsets``."""
    for i in range(len(index)):
        start = offsets[index[i]]
        position = out_offsets[i]
        for j in range(offsets[index[i] + 1] - start):
            out[position + j] = data[start + j]


@bare
def take_spans(data: U8, start: I64, length: I64, out_offsets: I64, out: U8) -> None:
    """Copy each ``data[start[i]:start[i] + length[i]]`` to ``out`` at ``out_offsets[i]``."""
    for i in range(len(start)):
        source, position = start[i], out_offsets[i]
        for j in range(length[i]):
            out[position + j] = data[source + j]
