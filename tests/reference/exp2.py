"""Twin of ``pipeline.kernels.exp2``: the same series in Python, its errors from fractions."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction

__all__ = ["doubled", "exact_exp2", "exp2", "halved", "shrink"]

LN2 = Fraction("0.69314718055994530941723212145817656807550013436025525412068")


def exp2(x: float) -> float:
    """``2**x`` for -1 <= x <= 1, from the series of ``exp(x * log(2))`` up to its 14th term."""
    if abs(x) > 0.5:
        return exp2(x - 1) * 2 if x > 0 else exp2(x + 1) * 0.5
    high = float(LN2)
    t = x * high
    missing = float(Fraction(x) * Fraction(high) - Fraction(t)) + x * float(LN2 - Fraction(high))
    series = 0.0
    for n in range(14, 1, -1):
        series = series * t + 1.0 / math.factorial(n)
    series = series * t * t + (missing + missing * t)
    one = 1.0 + t
    return one + ((t - (one - 1.0)) + series)


def exact_exp2(x: Fraction) -> Fraction:
    """``2**x`` to 50 digits."""
    with localcontext() as context:
        context.prec = 60
        whole = math.floor(x)
        part = Decimal(2) ** (Decimal((x - whole).numerator) / Decimal((x - whole).denominator))
        return Fraction(part) * Fraction(2) ** whole


def shrink(value: float, halvings: int) -> float:
    """``value * 2**-halvings``; nothing is left of a finite value after 2200."""
    if halvings > 2200:
        return value * 0.0 if math.isfinite(value) else value
    while halvings > 1000:
        value *= 2.0**-1000
        halvings -= 1000
    return value * 2.0**-halvings


def halved(value: float, elapsed: int, half_life: int) -> float:
    """``value`` after ``elapsed``."""
    halvings, part = divmod(elapsed, half_life)
    return shrink(value * exp2(-(float(part) / float(half_life))), halvings)


def doubled(value: float, ahead: int, half_life: int) -> float:
    """``value`` as it was ``ahead`` before."""
    return value * exp2(float(ahead) / float(half_life))
