"""Numbers against their twin: exact integers at any scale, floats to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels.numbers import EXACT, INEXACT, OVERFLOW, fast_float, number, scaled
from tests.reference import numbers as reference

STATUS = {"exact": EXACT, "inexact": INEXACT, "overflow": OVERFLOW}
EDGES = [
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "922337203685477580e1",
    "922337203685477581e1",
    "-922337203685477581e1",
    "92233720368547758e2",
    "92233720368547759e2",
    "9223372036854775807000e-3",
    "9223372036854775808000e-3",
    "0.0000000000000000000000001e25",
    "1e18",
    "1e19",
    "0e99999999999999",
    "-0.000",
    "1.10000000000000000000000000",
    "1.10000000000000000000000001",
    "99999999999999999999.5",
    "1e-1099511627776",
]
texts = st.one_of(
    st.sampled_from(EDGES),
    st.integers(-(2**64), 2**64).map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,22})(\.[0-9]{1,22})?([eE][-+]?[0-9]{1,2})?", fullmatch=True),
)


def check(text: str, scale: int) -> None:
    """The kernel's value and status are the twin's."""
    data = np.frombuffer(b"[" + text.encode() + b"}", dtype=np.uint8)
    with np.errstate(over="ignore"):
        end, negative, mantissa, digits, exponent = number(data, 1)
        value, status = scaled(data, 1, negative, mantissa, digits, exponent, scale)
    expected, name = reference.scaled(text, scale)
    assert (end, int(value), status) == (1 + len(text), expected, STATUS[name]), text


@pytest.mark.parametrize("text", EDGES)
def test_edges_at_every_scale(text: str) -> None:
    for scale in range(19):
        check(text, scale)


@given(texts, st.integers(0, 18))
def test_scaled_integers_are_exact(text: str, scale: int) -> None:
    check(text, scale)


@given(st.integers(0, 10**18), st.integers(-30, 30), st.booleans())
def test_the_short_way_gives_the_nearest_float_or_says_no(m: int, e: int, negative: bool) -> None:
    value, decided = fast_float(negative, np.int64(m), len(str(m)), e)
    assert decided == (m < 10**18)
    if decided:
        assert float(value).hex() == float(f"{'-' if negative else ''}{m}e{e}").hex()


@pytest.mark.parametrize("text", ["", "-", "+1", ".5", "1.", "1.e2", "1e", "1e+", "-e1", "e1"])
def test_what_is_no_number_is_refused(text: str) -> None:
    data = np.frombuffer(text.encode() + b"}", dtype=np.uint8)
    assert number(data, 0)[0] == -1
