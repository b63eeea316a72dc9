"""Twin of ``pipeline.kernels.decay``; and a decayed sum by its definition."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

from tests.reference.exp2 import doubled, exact_exp2, halved, shrink

__all__ = ["Decayed", "add", "as_of", "defined_sum"]

Decayed = tuple[int, float, float]
"""Reference time, weight, sum."""


def add(state: Decayed | None, time: int, value: float, half_life: int) -> Decayed:
    """After one more event."""
    reference, weight, total = state or (time, 0.0, 0.0)
    if time > reference:
        halvings = -((reference - time) // half_life)
        if halvings <= 50 and reference + halvings * half_life < 2**63:
            weight, total = shrink(weight, halvings), shrink(total, halvings)
            reference += halvings * half_life
        else:
            weight = halved(weight, time - reference, half_life)
            total = halved(total, time - reference, half_life)
            reference = time
    weight += halved(1.0, reference - time, half_life)
    total += halved(float(value), reference - time, half_life)
    return reference, weight, total


def as_of(state: Decayed, value: float, at: int, half_life: int) -> float:
    """``value`` of the state as of a time that is no event's past."""
    if at >= state[0]:
        return halved(value, at - state[0], half_life)
    return doubled(value, state[0] - at, half_life)


def defined_sum(events: Iterable[tuple[int, float]], at: int, half_life: int) -> Fraction:
    """Of (time, value), by the definition, to 50 digits."""
    terms = [Fraction(x) * exact_exp2(Fraction(time - at, half_life)) for time, x in events]
    return sum(terms, Fraction(0)) if terms else Fraction(0)


# A subnormal result is rounded to a multiple of 5e-324 at each step: decay, sum, decay to the read.
SUBNORMAL = 3 * Fraction(5e-324)


def nearly(got: float, exact: Fraction, scale: Fraction, tolerance: float) -> bool:
    """Whether a float64 is within ``tolerance`` of ``scale`` from the exact value."""
    if not math.isfinite(got):
        return False
    return abs(Fraction(got) - exact) <= Fraction(tolerance) * scale + SUBNORMAL
