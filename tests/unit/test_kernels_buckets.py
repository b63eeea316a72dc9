"""Logarithmic buckets against plain Python, and their error against the value itself."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.features.plan import CellType
from pipeline.kernels import buckets
from tests.reference import sketches
from tests.reference.rows import ordered
from tests.reference.state import bits_of

FLOATS = st.floats(allow_nan=False)
INTS = st.integers(-(2**63), 2**63 - 1)
LEVELS = st.integers(0, 63)


def stored(value: float) -> int:
    """A value as lists keep it."""
    kind = CellType.FLOAT if isinstance(value, float) else CellType.INT
    return int(buckets.ordered(np.int64(bits_of(value)), np.int64(kind)))


def index(value: float, level: int) -> int:
    kind = CellType.FLOAT if isinstance(value, float) else CellType.INT
    return int(buckets.index_of(np.int64(stored(value)), np.int64(kind), np.int64(level)))


def real(index: int, level: int) -> float:
    bits = buckets.representative(np.int64(index), np.int64(level))
    return float(np.int64(bits).view(np.float64))


@given(FLOATS, FLOATS)
@example(-0.0, 0.0)
def test_stored_floats_have_the_order_of_the_floats(a: float, b: float) -> None:
    assert (stored(a) < stored(b)) == (a < b)
    assert (stored(a) == stored(b)) == (a == b)
    assert stored(a) == ordered(a + 0.0)
    kind = np.int64(CellType.FLOAT)
    assert buckets.unordered(np.int64(stored(a)), kind) == bits_of(a + 0.0)


@given(FLOATS | INTS, LEVELS.filter(bool))
@example(2**63 - 1, 1)
@example(5e-324, 63)
@example(-1.7976931348623157e308, 52)
def test_buckets_equal_their_twin(value: float, level: int) -> None:
    place = index(value, level)
    assert place == sketches.bucket(value, level)
    assert buckets.is_index(np.int64(place), np.int64(level))
    assert real(place, level) == sketches.representative(place, level)


@given(FLOATS | INTS, LEVELS, LEVELS)
def test_a_bucket_of_a_bucket_is_the_bucket(value: float, level: int, higher: int) -> None:
    level, higher = sorted((level, higher))
    steps = np.int64(higher - level)
    assert buckets.coarser(np.int64(index(value, level)), steps) == index(value, higher)


@given(FLOATS, FLOATS, LEVELS)
def test_the_level_at_which_two_buckets_merge_is_the_lowest(a: float, b: float, level: int) -> None:
    x, y = index(a, level), index(b, level)
    merged = int(buckets.merge_level(np.int64(x), np.int64(y), np.int64(level)))
    same = [at for at in range(level + 1, 64) if index(a, at) == index(b, at)]
    if x != y:
        assert merged == (same[0] if same else 64)


@given(FLOATS.filter(lambda v: abs(v) >= 2**-1022), LEVELS)
def test_a_representative_is_as_near_as_its_level_says(value: float, level: int) -> None:
    found = real(index(value, level), level)
    if math.isinf(value):
        assert found == value
        return
    error = abs(Fraction(found) - Fraction(value)) / abs(Fraction(value))
    if level <= 52:
        assert error <= sketches.relative_error(level) * (1 + 1e-15) + 2**-52
    assert math.copysign(1, found) == math.copysign(1, value)


@given(st.floats(1e-300, 1e300), st.integers(8, 52))
def test_the_error_is_no_larger_than_it_need_be(value: float, level: int) -> None:
    """Some value of the bucket is nearly that far away: half the bound or more in its octave."""
    found = real(index(value, level), level)
    first = (index(value, level) - 1) << level
    low = float(np.int64(max(first, 1)).view(np.float64))
    assert (found - low) / low >= sketches.relative_error(level) / 2.01
