"""Keys that come without an event, against their twin; and what is left of a tombstone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.ingest.batch import Reason
from pipeline.kernels import spelling
from tests.reference.checks import is_key, settle_tombstone

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

FORMS = {
    "int64": spelling.INTEGER, "string": spelling.TEXT, "uuid": spelling.UUID, "bytes": spelling.RAW
}  # fmt: skip
UUID = "00010203-0405-a6b7-c8d9-0a0b0c0d0e0f"
_integers = st.one_of(
    st.integers(-(2**64), 2**64), st.sampled_from([2**63, 2**63 - 1, -(2**63), -(2**63) - 1, 0])
)
_parts = st.one_of(
    _integers.map(lambda i: str(i).encode()),
    st.from_regex(rb"-?[0-9+ ]{0,21}", fullmatch=True),
    st.text(max_size=4).map(lambda s: s.encode()),
    st.binary(max_size=6),
    st.sampled_from([UUID.encode(), UUID.upper().encode(), UUID[:-1].encode(), b"\\\\", b"\\|"]),
    st.from_regex(rb"[0-9a-fG]{0,6}", fullmatch=True),
)
_keys = st.lists(_parts, min_size=1, max_size=3).map(b"|".join)


def forms_of(types: list[str]) -> np.ndarray:
    forms = [FORMS[t] for t in types]
    if len(forms) > 1:
        forms = [spelling.HEX if f == spelling.RAW else f for f in forms]
    return np.array(forms, dtype=np.int64)


@given(_keys, st.lists(st.sampled_from(sorted(FORMS)), min_size=1, max_size=3))
@example(b"a\\|b|-7", ["string", "int64"])
@example(b"a|b", ["string"])
@example(b"|", ["string", "string"])
@example(b"\\", ["string", "string"])
@example(b"9223372036854775808", ["int64"])
@example(b"-9223372036854775808|0aff", ["int64", "bytes"])
@example(UUID.encode() + b"|0", ["uuid", "int64"])
@example(b"\xed\xa0\x80", ["string"])
def test_a_key_is_what_an_event_could_have(key: bytes, types: list[str]) -> None:
    data = np.frombuffer(b"7|" + key + b"|7", dtype=np.uint8).copy()
    got = spelling.is_key(data, np.int64(2), np.int64(2 + len(key)), forms_of(types))
    assert bool(got) == is_key(key, types), (key, types)


@given(
    st.lists(
        st.tuples(_keys, st.sampled_from([-1, 0, 5, 2**62, 9_223_372_036_854, 9_223_372_036_855])),
        max_size=6,
    )
)
def test_tombstones_take_their_broker_time(rows: list[tuple[bytes, int]]) -> None:
    keys = [key for key, _ in rows]
    offsets = np.cumsum([0, *map(len, keys)]).astype(np.int64)
    reason = np.full(len(rows), Reason.TOMBSTONE, dtype=np.uint8)
    times = np.full(len(rows), -5, dtype=np.int64)
    stamps = np.array([stamp for _, stamp in rows], dtype=np.int64)
    data = np.frombuffer(b"".join(keys) + b"\0", dtype=np.uint8).copy()
    spelling.accept_tombstones(data, offsets, forms_of(["int64"]), stamps, reason, times)
    assert [Reason(int(r)) for r in reason] == [settle_tombstone(k, ["int64"], t) for k, t in rows]
    for time, stamp, code in zip(times.tolist(), stamps.tolist(), reason.tolist(), strict=True):
        assert time == (-5 if code == Reason.TOMBSTONE else stamp * 10**6)


def test_other_reasons_stay() -> None:
    reason = np.array([Reason.OK, Reason.MISROUTED, Reason.NO_KEY], dtype=np.uint8)
    times = np.zeros(3, dtype=np.int64)
    spelling.accept_tombstones(
        np.frombuffer(b"1x\0", dtype=np.uint8).copy(), np.array([0, 1, 2, 2]), forms_of(["int64"]),
        np.full(3, 9), reason, times,
    )  # fmt: skip
    assert reason.tolist() == [Reason.OK, Reason.MISROUTED, Reason.NO_KEY]
    assert not times.any()
