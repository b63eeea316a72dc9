"""Count, mean and squared differences of values, taken one by one or put together.

Welford, Technometrics 4 (1962); Chan, Golub and LeVeque, Stanford STAN-CS-79-773 (1979). The mean
has a second float64 for what the first does not hold, so that a large mean costs a small
variance no digit. Once the squares are not finite they are NaN, and stay it.
"""

from __future__ import annotations

import numpy as np

from pipeline.kernels.jit import Int, bare, inlined

__all__ = ["NAN", "add_moment", "merge_moments", "value_of"]

NAN = float("nan")
_LOW_HALF = (1 << 32) - 1


@inlined
def value_of(bits: Int, real: Int) -> tuple[float, float]:
    """A value as the sum of two float64: of the bits of one, or of an int64, exactly."""
    if real != 0:
        return np.int64(bits).view(np.float64), 0.0
    low = np.int64(bits) & _LOW_HALF
    a, b = np.float64(np.int64(bits) - low), np.float64(low)
    s = a + b
    return s, b - (s - a)


@inlined
def _moved(mean: float, low: float, step: float) -> tuple[float, float]:
    """``mean + low + step`` as two float64."""
    s = mean + step
    back = s - mean
    low = low + ((mean - (s - back)) + (step - back))
    mean = s + low
    return mean, low - (mean - s)


@bare
def add_moment(
    count: Int, mean: float, low: float, squares: float, value: float, value_low: float
) -> tuple[float, float, float]:
    """Mean (of two parts) and squares of ``count`` values after one more."""
    new_mean, new_low, new_squares = value, value_low, value - value
    if count > 0:
        difference = (value - mean) + (value_low - low)
        new_mean, new_low = _moved(mean, low, difference / np.float64(count + 1))
        new_squares = squares + difference * ((value - new_mean) + (value_low - new_low))
    if new_squares - new_squares != 0.0 or new_mean - new_mean != 0.0:
        return 0.0, 0.0, NAN
    return new_mean, new_low, new_squares


@bare
def merge_moments(
    count: Int, mean: float, low: float, squares: float,
    other: Int, other_mean: float, other_low: float, other_squares: float,
) -> tuple[float, float, float]:  # fmt: skip
    """Mean and squares of ``count`` values and ``other`` values together."""
    if count == 0:
        return other_mean, other_low, other_squares
    if other == 0:
        return mean, low, squares
    difference = (other_mean - mean) + (other_low - low)
    weight = np.float64(other) / np.float64(count + other)
    new_mean, new_low = _moved(mean, low, difference * weight)
    between = difference * difference * (np.float64(count) * weight)
    new_squares = squares + other_squares + between
    if new_squares - new_squares != 0.0 or new_mean - new_mean != 0.0:
        return 0.0, 0.0, NAN
    return new_mean, new_low, new_squares
