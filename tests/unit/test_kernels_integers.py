"""Arithmetic at the ends of int64 against Python's integers and fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.features.plan import exact_q
from pipeline.kernels import integers, tiles

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

INT = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-100, 100),
    st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**62, 2**63 - 1, -(2**63), -(2**63) + 1]),
)
LOW, HIGH = -(2**63), 2**63 - 1


@given(INT, INT)
def test_sums_and_differences(a: int, b: int) -> None:
    x, y = np.int64(a), np.int64(b)
    with np.errstate(over="ignore"):
        assert integers.minus(x, y) == min(max(a - b, LOW), HIGH)
        fits = LOW < a + b <= HIGH and LOW not in (a, b)
        assert integers.add_exact(x, y) == (a + b if fits else integers.OVERFLOW)
        assert (int(integers.add_wrapping(x, y)) - (a + b)) % 2**64 == 0
        assert (int(integers.subtract_wrapping(x, y)) - (a - b)) % 2**64 == 0


@given(INT, INT.filter(bool))
@example(2**63 - 1, 3)
@example(-(2**63), -1)
@example(2**53 + 1, 2)
@example(0, -1)
def test_quotients_are_rounded_once(a: int, b: int) -> None:
    with np.errstate(over="ignore"):
        got = float(integers.divide_scaled(np.int64(a), np.int64(b), np.int64(0)))
    assert got.hex() == float(Fraction(a, b)).hex()  # 0 of both signs are equal floats


@st.composite
def near_half(draw: st.DrawFn) -> tuple[int, int, int]:
    """Quotients next to the middle of two floats, where rounding twice shows."""
    b, scale = draw(st.integers(1, 2**40)), draw(st.integers(0, 18))
    middle = draw(st.integers(2**53, 2**54 - 1)) * 2 + 1
    exponent = draw(st.integers(-70, 20))
    a = int(Fraction(middle) * b * 10**scale * Fraction(2) ** exponent) + draw(st.integers(-1, 1))
    return min(max(a, LOW), HIGH), b, scale


@given(st.tuples(INT, INT.filter(bool), st.integers(-18, 18)) | near_half())
@example((2**63 - 1, -(2**63), 18))
@example((-(2**63), 1, -18))
@example((1, -(2**63), 18))
@example((-(2**63), 2**63 - 1, -18))
@example((3, 2**53 - 1, 1))
@example((0, -7, 18))
def test_decimals_are_rounded_once(case: tuple[int, int, int]) -> None:
    a, b, scale = case
    with np.errstate(over="ignore"):
        got = float(integers.divide_scaled(np.int64(a), np.int64(b), np.int64(scale)))
    assert got.hex() == float(Fraction(a, b) / Fraction(10) ** scale).hex()


def test_a_scaled_operand_beyond_int64_is_not_rounded_before_the_division() -> None:
    """Quotients that were off by one place when quotient and power were divided as floats."""
    rng = np.random.default_rng(7)
    off = 0
    for a, b in rng.integers(2**50, 2**62, (400, 2)).tolist():
        exact = float(Fraction(a, b * 10**6))
        off += float(Fraction(a, b)) / 1e6 != exact
        got = float(integers.divide_scaled(np.int64(a), np.int64(b), np.int64(6)))
        assert got == exact, (a, b)
    assert off > 20


@given(st.floats(0, 1) | st.integers(0, 1000).map(lambda n: n / 1000), st.integers(0, HIGH))
@example(0.07, 100)
@example(0.29, 100)
@example(0.999999999999999, HIGH)
@example(1.0, HIGH)
def test_a_share_is_of_the_decimal_that_was_written(q: float, n: int) -> None:
    exact = Fraction(str(q))
    if exact * 10**18 % 1:
        with pytest.raises(ValueError, match="18 decimal places"):
            exact_q(q)
        return
    assert integers.part_of(np.int64(exact_q(q)), np.int64(n)) == math.ceil(exact * n)


@given(INT.filter(lambda time: time > LOW), st.integers(1, 10**15))
def test_a_tile_is_open_at_its_start_and_closed_at_its_end(time: int, width: int) -> None:
    k = int(tiles.tile_of(np.int64(time), np.int64(width)))
    assert k * width < time <= (k + 1) * width


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_minimum_and_maximum_know_both_zeros(a: float, b: float) -> None:
    x, y = np.float64(a).view(np.int64), np.float64(b).view(np.int64)
    low = np.int64(tiles.fold(tiles.MIN_FLOAT, x, y)).view(np.float64)
    high = np.int64(tiles.fold(tiles.MAX_FLOAT, x, y)).view(np.float64)
    if a == b == 0:
        assert np.signbit(low) == (np.signbit(a) or np.signbit(b))
        assert np.signbit(high) == (np.signbit(a) and np.signbit(b))
    assert (low, high) == (min(a, b), max(a, b))
