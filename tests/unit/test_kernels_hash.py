"""The hash kernels against their twins on random bytes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.kernels import hash as kernel
from tests.reference import hash as reference


def _columns(keys: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *map(len, keys)]).astype(np.int64)
    return np.frombuffer(b"".join(keys), dtype=np.uint8), offsets


@settings(deadline=None)
@given(st.lists(st.binary(max_size=100), max_size=20), st.integers(1, 1000))
def test_partitions_and_hashes_equal_the_twins(keys: list[bytes], partitions: int) -> None:
    data, offsets = _columns(keys)
    where = np.empty(len(keys), dtype=np.int32)
    hashes = np.empty(len(keys), dtype=np.uint64)
    spans = np.empty(len(keys), dtype=np.int64)
    with np.errstate(over="ignore"):
        kernel.partition_of(data, offsets, partitions, where)
        kernel.hash_keys(data, offsets, hashes)
        kernel.hash_spans(data, offsets[:-1].copy(), np.diff(offsets), spans)
    assert where.tolist() == [reference.partition_of(k, partitions) for k in keys]
    assert hashes.tolist() == [reference.xxh64(k) for k in keys]
    assert spans.view(np.uint64).tolist() == hashes.tolist()


@settings(deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=40))
def test_equal_bytes_is_equality(a: bytes, b: bytes) -> None:
    x, y = np.frombuffer(b"." + a, dtype=np.uint8), np.frombuffer(b + b".", dtype=np.uint8)
    assert kernel.equal_bytes(x, 1, len(x), y, 0, len(b)) == (a == b)
    assert kernel.equal_bytes(x, 1, len(x), x, 1, len(x))


@settings(deadline=None)
@given(st.binary(max_size=70), st.integers(0, 9), st.booleans())
def test_a_text_is_hashed_and_looked_at_in_one_go(text: bytes, lead: int, ascii_only: bool) -> None:
    text = bytes(b & 0x7F for b in text) if ascii_only else text
    data = np.frombuffer(b"\xff" * lead + text + b"\xff" * (lead & 1), dtype=np.uint8)
    with np.errstate(over="ignore"):
        hashed, plain = kernel.hash_text(data, lead, lead + len(text), 0)
    assert (int(hashed), bool(plain)) == (reference.xxh64(text), text.isascii())
