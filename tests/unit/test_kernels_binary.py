"""Varints: read by the word where eight bytes lie in the buffer, byte by byte where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.kernels.binary import low_varint, varint


def kernel(data: bytes, p: int, end: int) -> list[tuple[int, int]]:
    """What :func:`varint` and :func:`low_varint` say."""
    array = np.frombuffer(data, dtype=np.uint8)
    with np.errstate(over="ignore"):
        answers = varint(array, p, end), low_varint(array, p, end)
    return [(int(bits), int(after)) for bits, after in answers]


def twin(value: bytes, last: int) -> tuple[int, int]:
    """The bits of the varint that ``value`` begins with as an int64, and how many bytes it has."""
    for k, byte in enumerate(value[:10]):
        if byte < 0x80:
            bits = sum((b & 0x7F) << 7 * j for j, b in enumerate(value[: k + 1])) % 2**64
            if k == 9 and byte > last:
                break
            return bits - 2**64 * (bits >= 2**63), k + 1
    return 0, -1


@pytest.mark.parametrize("behind", range(10))
@pytest.mark.parametrize("size", range(1, 12))
def test_varints_of_every_length_at_every_distance_from_the_end(size: int, behind: int) -> None:
    rng = np.random.default_rng(size)
    for last in (0x00, 0x01, 0x02, 0x7F):
        value = bytes(rng.integers(0x80, 0x100, size - 1).tolist()) + bytes([last])
        for rest in (b"\x00" * behind, b"\xff" * behind):
            data = b"\x80\x80" + value + rest
            for cut in range(size + 1):  # where the record ends
                end = len(data) if cut == 0 else 2 + cut
                got = kernel(data, 2, end)
                for (bits, after), most in zip(got, (1, 0x7F), strict=True):
                    want, length = twin(data[2:end], most)
                    assert after == (-1 if length < 0 else 2 + length), (size, behind, last, cut)
                    assert after < 0 or bits == want, (size, behind, last, cut)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=24), st.data())
def test_varints_of_any_bytes(data: bytes, draw: st.DataObject) -> None:
    p = draw.draw(st.integers(0, len(data) - 1))
    end = draw.draw(st.integers(p, len(data)))
    for (bits, after), most in zip(kernel(data, p, end), (1, 0x7F), strict=True):
        want, length = twin(data[p:end], most)
        assert after == (-1 if length < 0 else p + length)
        assert after < 0 or bits == want
