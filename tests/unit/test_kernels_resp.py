"""The wire format kernels against their twins."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels.resp import (
    ARGUMENT_OVERHEAD,
    MALFORMED,
    pack_bulks,
    scan_bulks,
    write_keys,
    write_pairs,
)
from tests.reference import resp as reference

SOME_BYTES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", b"\r\n", b"$-1\r\n", b"{a}", b"\x00", b"x" * 9, b"x" * 10, b"y" * 1000]),
)


def columns(values: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int64)
    return np.array(bytearray(b"".join(values)), dtype=np.uint8), offsets


@given(SOME_BYTES, st.lists(st.tuples(SOME_BYTES, SOME_BYTES), max_size=8), st.data())
def test_pairs_equal_the_twin(
    prefix: bytes, pairs: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    keys, key_offsets = columns([key for key, _ in pairs])
    rows, row_offsets = columns([row for _, row in pairs])
    first = data.draw(st.integers(0, len(pairs)))
    last = data.draw(st.integers(first, len(pairs)))
    start = np.array(bytearray(prefix), dtype=np.uint8)
    room = len(keys) + len(rows) + len(pairs) * (len(prefix) + 2 * ARGUMENT_OVERHEAD)
    out = np.full(3 + room, 255, dtype=np.uint8)
    end = write_pairs(start, keys, key_offsets, rows, row_offsets, first, last, out, 3)
    wanted = b"".join(
        reference.argument(prefix + key) + reference.argument(row) for key, row in pairs[first:last]
    )
    assert out[:3].tobytes() == b"\xff" * 3
    assert out[3:end].tobytes() == wanted


@given(st.lists(SOME_BYTES, min_size=1, max_size=4), st.lists(SOME_BYTES, max_size=8), st.data())
def test_keys_equal_the_twin(prefixes: list[bytes], keys: list[bytes], data: st.DataObject) -> None:
    table, bounds = columns(prefixes)
    flat, offsets = columns(keys)
    picks = st.tuples(st.integers(0, len(prefixes) - 1), st.integers(0, max(len(keys) - 1, 0)))
    chosen = data.draw(st.lists(picks, max_size=12)) if keys else []
    which = np.array([p for p, _ in chosen], dtype=np.int32)
    index = np.array([i for _, i in chosen], dtype=np.int64)
    wanted = b"".join(reference.argument(prefixes[p] + keys[i]) for p, i in chosen)
    out = np.empty(len(wanted) + ARGUMENT_OVERHEAD, dtype=np.uint8)
    end = write_keys(table, bounds, which, flat, offsets, index, out, 0)
    assert out[:end].tobytes() == wanted


@given(st.lists(st.one_of(st.none(), SOME_BYTES), max_size=8), st.integers(0, 12), st.data())
def test_scan_equals_the_twin_and_goes_on_where_it_stopped(
    values: list[bytes | None], wanted: int, data: st.DataObject
) -> None:
    wire = b"".join(b"$-1\r\n" if v is None else reference.argument(v) for v in values)
    buffer = np.array(bytearray(wire), dtype=np.uint8)
    cuts = [*sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=5))), len(wire)]
    start = np.full(wanted, -7, dtype=np.int64)
    length = np.full(wanted, -7, dtype=np.int64)
    done, at = 0, 0
    for end in cuts:
        done, at, need = scan_bulks(buffer, at, end, start, length, done)
        known, rest = reference.parse_bulks(wire[:end])
        assert done == min(len(known), wanted)
        assert need >= 1 or done == wanted
        if done < wanted:
            assert at == end - len(rest)
            # never asks for more than the next element has, so that reading cannot block for good
            after, _ = reference.parse_bulks(wire[: end + need - 1])
            assert len(after) == len(known)
    got = [
        None if size < 0 else wire[a : a + size]
        for a, size in zip(start[:done].tolist(), length[:done].tolist(), strict=True)
    ]
    assert got == values[:done]
    packed, offsets, absent = reference.pack_bulks(got)
    out = np.full(len(packed) + 1, 77, dtype=np.uint8)
    ends, none = np.empty(done + 1, dtype=np.int64), np.empty(done, dtype=np.uint8)
    pack_bulks(buffer, start[:done], length[:done], out, ends, none)
    assert out.tobytes() == packed + b"M"
    assert (ends.tolist(), none.tolist()) == (offsets, absent)


def test_malformed_answers_are_told_from_short_ones() -> None:
    start, length = np.empty(1, dtype=np.int64), np.empty(1, dtype=np.int64)
    for wire in (b"+OK\r\n", b"$x\r\n", b"$1\rx", b"$--1\r\n", b"$99999999999999999999\r\n"):
        buffer = np.array(bytearray(wire), dtype=np.uint8)
        assert scan_bulks(buffer, 0, len(buffer), start, length, 0)[2] == MALFORMED, wire
    for wire in (b"", b"$", b"$1", b"$1\r", b"$1\r\n", b"$1\r\nx\r"):
        buffer = np.array(bytearray(wire), dtype=np.uint8)
        assert scan_bulks(buffer, 0, len(buffer), start, length, 0)[2] >= 1, wire
