"""Twin of ``pipeline.kernels.moments``; and the variance by its definition."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

__all__ = ["Moments", "add", "defined_variance", "merge"]

Moments = tuple[int, float, float, float]
"""Count, mean, what the mean lacks, squared differences."""

LOST = (0.0, 0.0, math.nan)


def _split(value: float) -> tuple[float, float]:
    if isinstance(value, float):
        return value, 0.0
    high = float(value & ~0xFFFFFFFF)
    low = float(value & 0xFFFFFFFF)
    return high + low, low - (high + low - high)


def _moved(mean: float, low: float, step: float) -> tuple[float, float]:
    total = mean + step
    part = total - mean
    low += (mean - (total - part)) + (step - part)
    return total + low, low - (total + low - total)


def add(moments: Moments, value: float) -> Moments:
    """After one more value, an int or a float."""
    n, mean, low, squares = moments
    x, x_low = _split(value)
    if n == 0:
        return (1, x, x_low, 0.0) if math.isfinite(x) else (1, *LOST)
    away = (x - mean) + (x_low - low)
    mean, low = _moved(mean, low, away / (n + 1))
    squares += away * ((x - mean) + (x_low - low))
    finite = math.isfinite(mean) and math.isfinite(squares)
    return (n + 1, mean, low, squares) if finite else (n + 1, *LOST)


def merge(a: Moments, b: Moments) -> Moments:
    """The values of both."""
    if a[0] == 0 or b[0] == 0:
        return b if a[0] == 0 else a
    away = (b[1] - a[1]) + (b[2] - a[2])
    weight = float(b[0]) / float(a[0] + b[0])
    mean, low = _moved(a[1], a[2], away * weight)
    squares = a[3] + b[3] + away * away * (float(a[0]) * weight)
    finite = math.isfinite(mean) and math.isfinite(squares)
    return (a[0] + b[0], mean, low, squares) if finite else (a[0] + b[0], *LOST)


def defined_variance(values: Iterable[float], ddof: int) -> Fraction | None:
    """By the definition, exactly."""
    exact = [Fraction(v) for v in values]
    if len(exact) <= ddof:
        return None
    mean = sum(exact, Fraction(0)) / len(exact)
    return sum(((v - mean) ** 2 for v in exact), Fraction(0)) / (len(exact) - ddof)
