"""Arrow's string views, for texts of every length up to the very end of the bytes."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from pipeline.kernels.views import string_views


@pytest.mark.parametrize("behind", range(18))
def test_views_are_as_the_format_has_them(behind: int) -> None:
    data = bytes(range(1, 40))
    spans = [(len(data) - behind - n, n) for n in range(len(data) - behind + 1)]
    start, length = np.array(spans, dtype=np.int64).T.copy()
    reason = np.zeros(len(spans), dtype=np.uint8)
    reason[3] = 7
    out = np.full(2 * len(spans), 2**64 - 1, dtype=np.uint64)
    string_views(np.frombuffer(data, dtype=np.uint8), start, length, reason, out)
    for i, (first, n) in enumerate(spans):
        text = data[first : first + n] if not reason[i] else b""
        inline = struct.pack("<i12s", len(text), text)
        wanted = inline if len(text) <= 12 else struct.pack("<i4sii", n, text[:4], 0, first)
        assert out[2 * i : 2 * i + 2].tobytes() == wanted, (first, n)
