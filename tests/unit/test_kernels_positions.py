"""Rows that came before, and spans of bytes, against their slow twins."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels.take import take_spans
from pipeline.store.marker import POSITION
from pipeline.store.positions import repeated_rows
from tests.reference.positions import repeated

ROWS = st.lists(
    st.tuples(
        st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 7, 2**31 - 1])),
        st.sampled_from([0, 1, 2, 3, 2**62]) | st.integers(0, 2**63 - 1),
        st.booleans(),
    ),
    max_size=30,
)


@given(ROWS, st.integers(0, 30))
def test_repeated_rows_equal_their_twin_however_they_are_cut(
    rows: list[tuple[tuple[int, int], int, bool]], cut: int
) -> None:
    expected, highest = repeated(rows, {})
    found: list[bool] = []
    positions = b""
    for part in (rows[:cut], rows[cut:]):
        places = np.array([place for place, _, _ in part], dtype=np.int32).reshape(-1, 2)
        seen, positions = repeated_rows(
            positions,
            np.ascontiguousarray(places[:, 0]),
            np.ascontiguousarray(places[:, 1]),
            np.array([offset for _, offset, _ in part], dtype=np.int64),
            np.array([selected for _, _, selected in part], dtype=np.uint8),
        )
        found += [bool(s) for s in seen]
    assert found == expected
    kept = np.frombuffer(positions, dtype=POSITION).tolist()
    assert [((t, p), o) for t, p, o in kept] == sorted(highest.items())


@given(st.binary(max_size=40), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40))))
def test_spans_are_copied(data: bytes, spans: list[tuple[int, int]]) -> None:
    inside = [(min(a, len(data)), min(a + n, len(data))) for a, n in spans]
    start = np.array([a for a, _ in inside], dtype=np.int64)
    length = np.array([b - a for a, b in inside], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    out = np.empty(int(offsets[-1]), dtype=np.uint8)
    source = np.frombuffer(data, dtype=np.uint8)
    take_spans(source, start, length, offsets, out)
    assert out.tobytes() == b"".join(data[a:b] for a, b in inside)
