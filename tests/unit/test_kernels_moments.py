"""Variance against fractions and the statistics module, whatever the mean and the order."""

from __future__ import annotations

import math
import random
import statistics
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.kernels import moments as kernel
from tests.reference import moments as twin

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

INTS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(-1e140, 1e140)
VALUES = st.one_of(st.lists(INTS, max_size=30), st.lists(FLOATS, max_size=30))


def bits(value: float) -> np.int64:
    return np.float64(value).view(np.int64) if isinstance(value, float) else np.int64(value)


def moments(values: list[float]) -> twin.Moments:
    state = np.int64(0), 0.0, 0.0, 0.0
    for value in values:
        parts = kernel.value_of(bits(value), np.int64(isinstance(value, float)))
        state = (np.int64(state[0] + 1), *kernel.add_moment(*state, *parts))
    return int(state[0]), float(state[1]), float(state[2]), float(state[3])


def twins(values: list[float]) -> twin.Moments:
    state: twin.Moments = (0, 0.0, 0.0, 0.0)
    for value in values:
        state = twin.add(state, value)
    return state


def right(got: float, values: list[float]) -> bool:
    """Within a few units, of what the squares are or of what vanishes below the smallest number."""
    exact = (twin.defined_variance(values, 0) or Fraction(0)) * len(values)
    return abs(Fraction(got) - exact) <= exact * Fraction(1e-14) + len(values) * Fraction(1e-300)


@given(VALUES)
@example([1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16])
@example([1e17, 0.1, -1e17])
@example([2**62 + 1, 2**62 + 2, 2**62 + 4])
@example([-(2**63), 2**63 - 1])
@example([0.1] * 30)
@example([-0.0, 0.0])
def test_squares_equal_their_definition_and_their_twin(values: list[float]) -> None:
    got = moments(values)
    assert got == twins(values)
    assert right(got[3], values)


@given(st.lists(VALUES, max_size=6), st.randoms(use_true_random=False))
def test_parts_put_together_are_the_whole(parts: list[list[float]], rng: random.Random) -> None:
    real = any(isinstance(v, float) for part in parts for v in part)
    parts = [[float(v) if real else v for v in part] for part in parts]
    state = np.int64(0), 0.0, 0.0, 0.0
    reference: twin.Moments = (0, 0.0, 0.0, 0.0)
    for part in parts:
        one = moments(part)
        merged = kernel.merge_moments(*state, np.int64(one[0]), *one[1:])
        state = (np.int64(state[0] + one[0]), *merged)
        reference = twin.merge(reference, one)
    assert (int(state[0]), *map(float, state[1:])) == reference
    assert right(float(state[3]), [v for part in parts for v in part])


@pytest.mark.parametrize("offset", [0.0, 1e9, 1e15, -1e12])
def test_a_large_mean_costs_a_small_variance_nothing(offset: float) -> None:
    rng = random.Random(7)
    values = [offset + rng.randint(-8, 8) / 8 for _ in range(2000)]
    count, _, _, squares = moments(values)
    assert squares / (count - 1) == pytest.approx(statistics.variance(values), rel=1e-14)


@pytest.mark.parametrize(
    "values",
    [[math.inf], [1.0, -math.inf], [math.inf, -math.inf], [1e308, -1e308], [1e200, 3.0],
     [math.inf, 1.0]],
)  # fmt: skip
def test_what_leaves_float64_is_not_a_number_and_stays_it(values: list[float]) -> None:
    for more in ([], [1.0], [1.0, math.inf, 2.0]):
        got = moments(values + more)
        assert math.isnan(got[3])
        assert got[:3] == (len(values + more), 0.0, 0.0)
        merged = kernel.merge_moments(np.int64(got[0]), *got[1:], np.int64(2), 1.0, 0.0, 5.0)
        assert math.isnan(merged[2])


@given(INTS)
def test_an_integer_is_split_exactly(value: int) -> None:
    high, low = kernel.value_of(np.int64(value), np.int64(0))
    assert int(high) + int(low) == value
    assert float(high) == float(value)
