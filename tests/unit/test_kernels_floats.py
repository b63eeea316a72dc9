"""Decimal numbers to the nearest float64, beside Python's own reading of the same text."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.kernels.floats import nearest_float

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")

SMALLEST_NORMAL = 2.2250738585072014e-308
MANTISSAS = st.integers(1, 10**18 - 1)
FLOATS = st.floats(min_value=SMALLEST_NORMAL, allow_nan=False, allow_infinity=False)


def check(mantissa: int, exponent: int) -> None:
    value, found = nearest_float(np.int64(mantissa), np.int64(exponent))
    want = float(f"{mantissa}e{exponent}")
    if found:
        assert float(value).hex() == want.hex(), (mantissa, exponent)
    else:
        assert want <= SMALLEST_NORMAL or math.isinf(want), (mantissa, exponent)


@given(MANTISSAS, st.integers(-360, 330))
@example(9007199254740993, 0)  # half-way between two floats, to even below
@example(9007199254740995, 0)  # and above
@example(9007199254740991, 0)
@example(1, 308)
@example(17976931348623157, 292)
@example(17976931348623159, 292)  # infinite
@example(22250738585072014, -324)
@example(1, -400)
def test_any_mantissa_and_power(mantissa: int, exponent: int) -> None:
    check(mantissa, exponent)


@given(FLOATS)
def test_the_shortest_text_of_a_float_gives_it_back(value: float) -> None:
    mantissa, _, power = repr(value).partition("e")
    whole, _, fraction = mantissa.partition(".")
    check(int(whole + fraction), int(power or 0) - len(fraction))


@given(st.integers(2**52, 2**53 - 1), st.integers(-4, 4), st.sampled_from([-1, 0, 1]))
def test_half_way_between_two_floats_and_one_beside(even: int, power: int, off: int) -> None:
    half = (2 * even + 1) * 10 ** max(0, -power)
    if half + off < 10**18:
        check(half + off, min(0, power))


@given(st.binary(min_size=8, max_size=8))
def test_every_bit_pattern_survives_17_digits(data: bytes) -> None:
    (value,) = struct.unpack("<d", data)
    if math.isfinite(value) and abs(value) > SMALLEST_NORMAL:
        digits, _, power = f"{abs(value):.16e}".partition("e")
        check(int(digits.replace(".", "")), int(power) - 16)
