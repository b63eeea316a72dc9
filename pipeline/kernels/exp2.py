"""Powers of two from additions and multiplications alone: the same bits on every machine.

A library's ``exp2`` differs between machines in the last bit, and with it the bytes of a row
would. ``2**x`` is ``1 + t + t**2/2! + ...`` with ``t = x * log(2)``, |x| <= 1/2; the product and
the sum of the first two terms carry what their rounding drops (Dekker 1971). Within 0.7 units in
the last place.
"""

from __future__ import annotations

import numpy as np

from pipeline.kernels.jit import Int, bare, inlined

__all__ = ["doubled", "exp2", "halved", "shrink"]

_LN2_HIGH = 0.6931471805599453  # log(2) to 53 bits, and what is left of it
_LN2_LOW = 2.3190468138462996e-17
_SPLIT = 134217729.0  # 2**27 + 1
_LN2_UPPER = 0.6931471824645996  # _LN2_HIGH in 26 bits, and what is left of it
_LN2_LOWER = -1.904654323148236e-09
_GONE = 2200  # halvings after which nothing of a float64 is left
_STEP = 1000


@inlined
def exp2(x: float) -> float:
    """``2**x`` for -1 <= x <= 1."""
    scale = 1.0
    if x > 0.5:
        x, scale = x - 1.0, 2.0
    elif x < -0.5:
        x, scale = x + 1.0, 0.5
    t = x * _LN2_HIGH
    wide = _SPLIT * x
    upper = wide - (wide - x)
    lower = x - upper
    rest = ((upper * _LN2_UPPER - t) + upper * _LN2_LOWER + lower * _LN2_UPPER) + lower * _LN2_LOWER
    rest = rest + x * _LN2_LOW
    q = 1.0 / 87178291200.0
    q = q * t + 1.0 / 6227020800.0
    q = q * t + 1.0 / 479001600.0
    q = q * t + 1.0 / 39916800.0
    q = q * t + 1.0 / 3628800.0
    q = q * t + 1.0 / 362880.0
    q = q * t + 1.0 / 40320.0
    q = q * t + 1.0 / 5040.0
    q = q * t + 1.0 / 720.0
    q = q * t + 1.0 / 120.0
    q = q * t + 1.0 / 24.0
    q = q * t + 1.0 / 6.0
    q = q * t + 0.5
    q = q * t * t + (rest + rest * t)
    high = 1.0 + t
    low = t - (high - 1.0)
    return (high + (low + q)) * scale


@bare
def shrink(value: float, halvings: Int) -> float:
    """``value * 2**-halvings``, rounded only where it becomes subnormal; ``halvings >= 0``."""
    if halvings > _GONE:
        return value * 0.0 if value - value == 0.0 else value
    while halvings > _STEP:
        value = value * np.int64((1023 - _STEP) << 52).view(np.float64)
        halvings -= _STEP
    return value * np.int64((1023 - halvings) << 52).view(np.float64)


@bare
def halved(value: float, elapsed: Int, half_life: Int) -> float:
    """``value * 2**-(elapsed / half_life)``; ``elapsed >= 0``. What is infinite stays it."""
    halvings = elapsed // half_life
    part = elapsed - halvings * half_life
    return shrink(value * exp2(-(np.float64(part) / np.float64(half_life))), halvings)


@bare
def doubled(value: float, ahead: Int, half_life: Int) -> float:
    """``value * 2**(ahead / half_life)``; ``0 <= ahead <= half_life``."""
    return value * exp2(np.float64(ahead) / np.float64(half_life))
