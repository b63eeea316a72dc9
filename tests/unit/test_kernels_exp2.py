"""Powers of two: near the exact value, and the same bits compiled or not."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.kernels import exp2 as kernel
from tests.reference import exp2 as twin

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

UNIT = st.floats(-1, 1)
FLOATS = st.floats(allow_nan=False)
TIMES = st.integers(0, 2**63 - 1)


def compiled_exp2(x: float) -> float:
    """``exp2`` is copied into its callers; ``doubled`` is one that is compiled by itself."""
    return float(kernel.doubled(1.0, np.int64(x * 2**52), np.int64(2**52)))


@given(UNIT)
@example(0.5)
@example(-0.5)
@example(1.0)
@example(-1.0)
@example(5e-324)
def test_within_a_unit_in_the_last_place(x: float) -> None:
    got, exact = twin.exp2(x), twin.exact_exp2(Fraction(x))
    assert abs(Fraction(got) - exact) <= Fraction(0.7) * Fraction(math.ulp(float(exact)))
    assert got == pytest.approx(math.exp2(x), rel=3e-16)
    if x >= 0 and x * 2**52 == int(x * 2**52):
        assert compiled_exp2(x) == got


@given(FLOATS, TIMES, st.integers(1, 2**63 - 1))
def test_halved_and_doubled_equal_their_twins_bit_for_bit(
    value: float, elapsed: int, half_life: int
) -> None:
    got = float(kernel.halved(value, np.int64(elapsed), np.int64(half_life)))
    assert math.copysign(1, got) == math.copysign(1, value)
    assert got == twin.halved(value, elapsed, half_life)
    ahead = elapsed % half_life
    assert float(kernel.doubled(value, np.int64(ahead), np.int64(half_life))) == twin.doubled(
        value, ahead, half_life
    )


@given(st.floats(1e-280, 1e300), st.integers(0, 60), st.integers(0, 10**9), st.integers(1, 10**9))
def test_halved_is_what_it_says(value: float, whole: int, part: int, half_life: int) -> None:
    elapsed = whole * half_life + part % half_life
    exact = Fraction(value) * twin.exact_exp2(Fraction(-elapsed, half_life))
    assert float(kernel.halved(value, elapsed, half_life)) == pytest.approx(float(exact), rel=4e-16)


@pytest.mark.parametrize(
    ("value", "halvings", "expected"),
    [
        (1.0, 0, 1.0), (3.0, 1, 1.5), (1.0, 1074, 5e-324), (1.0, 1076, 0.0),
        (2.0**1023, 2097, 5e-324),
        (1e308, 2200, 0.0), (-1.0, 10**15, -0.0), (math.inf, 10**15, math.inf),
        (math.inf, 5, math.inf),
        (-math.inf, 2**62, -math.inf), (0.0, 3000, 0.0),
    ],
)  # fmt: skip
def test_shrinking_to_nothing(value: float, halvings: int, expected: float) -> None:
    got = float(kernel.shrink(value, np.int64(halvings)))
    assert (got, math.copysign(1, got)) == (expected, math.copysign(1, expected))


def test_what_is_not_a_number_stays_it() -> None:
    assert math.isnan(kernel.halved(math.nan, np.int64(5), np.int64(3)))
    assert math.isnan(kernel.halved(math.nan, np.int64(2**62), np.int64(1)))
