"""Sums and moments of the values of a window, with the error that a float answer may have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipeline.testing.oracle.columns import Kind
from pipeline.testing.oracle.expected import ANYTHING, Expected

__all__ = ["RELATIVE", "Total", "ratio", "total", "variance"]

RELATIVE = 1e-12  # of the sum of absolute values: what a float sum in another order may be off
LIMIT = 2**63
LARGEST = float.fromhex("0x1.fffffffffffffp+1023")


@dataclass(frozen=True, slots=True)
class Total:
    """A sum: exact (int, Fraction) or a float within ``tolerance``.

    ``broken``  it left int64, or is inf - inf: null, degraded
    ``loose``   it may have left the range on the way, depending on the order
    """

    value: Any
    tolerance: float = 0.0
    broken: bool = False
    loose: bool = False

    @property
    def exact(self) -> bool:
        """Whether it is a number without rounding."""
        return not isinstance(self.value, float)

    def answer(self, kind: Kind) -> Expected:
        """As the value of a feature."""
        if self.broken:
            return Expected(None, "degraded", loose=False)
        value = self.value if self.exact and kind.name != "decimal" else float(self.value)
        return Expected(value, tolerance=self.tolerance, loose=self.loose)


def total(values: Sequence[Any], kind: Kind) -> Total:
    """The sum of ``values``."""
    if kind.name == "float":
        return _floats(values)
    exact = sum((Fraction(v) for v in values), Fraction(0))
    unit = 10**kind.scale
    size = sum((abs(Fraction(v)) for v in values), Fraction(0)) * unit
    value = exact if kind.name == "decimal" else int(exact)
    return Total(value, broken=abs(exact * unit) >= LIMIT, loose=size >= LIMIT)


def _floats(values: Sequence[float]) -> Total:
    infinite = {v for v in values if math.isinf(v)}
    if infinite:
        return Total(math.nan if len(infinite) > 1 else infinite.pop(), broken=len(infinite) > 0)
    size = sum((abs(Fraction(v)) for v in values), Fraction(0))
    if size > LARGEST:
        return Total(0.0, tolerance=ANYTHING, loose=True)
    return Total(math.fsum(values) + 0.0, tolerance=float(size) * RELATIVE)


def ratio(a: Total, b: Total, otherwise: float | None) -> Expected:
    """The quotient of two sums; ``otherwise`` where the divisor is 0."""
    if a.broken or b.broken:
        return Expected(None, "degraded")
    if ANYTHING in (a.tolerance, b.tolerance):
        return Expected(None, tolerance=ANYTHING)
    if a.exact and b.exact:
        if b.value == 0:
            return Expected(otherwise, loose=a.loose or b.loose)
        return Expected(float(Fraction(a.value) / Fraction(b.value)), loose=a.loose or b.loose)
    divisor = float(b.value)
    loose = a.loose or b.loose
    if divisor == 0 and b.tolerance == 0:
        return Expected(otherwise, loose=loose)
    if abs(divisor) <= 2 * b.tolerance:
        return Expected(None, tolerance=ANYTHING)
    if math.isinf(float(a.value)) and math.isinf(divisor):
        return Expected(None, "degraded")
    value = float(a.value) / divisor
    if math.isinf(value) or math.isinf(divisor):
        return Expected(value, loose=True)
    error = (a.tolerance + abs(value) * b.tolerance) / abs(divisor)
    return Expected(value, tolerance=2 * error + abs(value) * RELATIVE + 5e-324, loose=loose)


def variance(values: Sequence[Any], kind: Kind, ddof: int, *, root: bool) -> Expected:
    """Variance, or its root; null with ``ddof`` values or fewer.

    The tolerance is that of Welford's update (Chan, Golub, LeVeque 1983): it grows with the mean's
    share in the values, of which a sum of squares would lose everything.
    """
    n = len(values)
    if n <= ddof:
        return Expected(None)
    if any(isinstance(v, float) and math.isinf(v) for v in values):
        return Expected(None, "degraded")
    exact = [Fraction(v) for v in values]
    mean = sum(exact, Fraction(0)) / n
    squares = sum(((v - mean) ** 2 for v in exact), Fraction(0))
    norm = sum((v * v for v in exact), Fraction(0))
    if norm > Fraction(LARGEST) / 4:
        return Expected(None, tolerance=ANYTHING)
    unit = 16 * n * 2.0**-53
    error = unit * math.sqrt(float(norm) * float(squares)) + unit * unit * float(norm)
    value, error = float(squares / (n - ddof)), error / (n - ddof)
    if not root:
        return Expected(value, tolerance=error + value * RELATIVE + 5e-324)
    error = min(math.sqrt(error), error / math.sqrt(value) if value else math.inf)
    return Expected(math.sqrt(value), tolerance=error + math.sqrt(value) * RELATIVE + 5e-324)
