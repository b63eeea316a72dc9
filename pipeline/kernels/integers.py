"""64-bit integers where the result may not fit, and quotients rounded once.

Compiled signed ``+``, ``-`` and ``*`` are undefined on overflow (LLVM's ``nsw``), so whatever may
leave 64 bits goes through unsigned arithmetic here.
"""

from __future__ import annotations

import numpy as np

from pipeline.kernels.jit import Int, inlined, part

__all__ = [
    "OVERFLOW",
    "add_exact",
    "add_wrapping",
    "divide",
    "divide_scaled",
    "magnitude",
    "minus",
    "subtract_wrapping",
]

OVERFLOW = -(2**63)  # an integer sum that left int64 becomes this and stays it
_MAX = 2**63 - 1
_EXACT = 1 << 53
_U0, _U1 = np.uint64(0), np.uint64(1)
_FIFTY_FIVE_BITS = np.uint64(1 << 54)


@inlined
def add_wrapping(a: Int, b: Int) -> Int:
    """``a + b`` modulo 2**64."""
    return np.uint64(np.int64(a).view(np.uint64) + np.int64(b).view(np.uint64)).view(np.int64)


@inlined
def subtract_wrapping(a: Int, b: Int) -> Int:
    """``a - b`` modulo 2**64: the unsigned difference where a >= b."""
    return np.uint64(np.int64(a).view(np.uint64) - np.int64(b).view(np.uint64)).view(np.int64)


@inlined
def minus(a: Int, b: Int) -> Int:
    """``a - b``, held within int64."""
    d = subtract_wrapping(a, b)
    if ((a ^ b) & (a ^ d)) < 0:
        return np.int64(-(2**63)) if a < 0 else np.int64(_MAX)
    return d


@inlined
def add_exact(a: Int, b: Int) -> Int:
    """``a + b``, or OVERFLOW where that does not fit or a or b is OVERFLOW."""
    s = add_wrapping(a, b)
    if a == OVERFLOW or b == OVERFLOW or ((a ^ s) & (b ^ s)) < 0:
        return np.int64(OVERFLOW)
    return s


@inlined
def magnitude(a: Int) -> Int:
    """``abs(a)`` as a uint64, which holds that of -2**63 too."""
    u = np.int64(a).view(np.uint64)
    return u if a >= 0 else ~u + _U1


@part
def _divide_long(a: Int, b: Int) -> Int:
    """Long division to 55 bits or more and a sticky one; the cast to float64 rounds once."""
    n, d = magnitude(a), magnitude(b)
    q = n // d
    r = n - q * d
    shift = 0
    while q < _FIFTY_FIVE_BITS:
        q = q << _U1
        if r >= d - r:
            r = r - (d - r)
            q = q | _U1
        else:
            r = r + r
        shift += 1
    if r != _U0:
        q = q | _U1
    x = np.float64(q) * 2.0**-shift
    return x if (a < 0) == (b < 0) else -x


@part
def divide(a: Int, b: Int) -> Int:
    """The float64 nearest to ``a / b``; ``b != 0``. 0 has no sign, whatever ``b`` is."""
    if a == 0:
        return 0.0
    if -_EXACT <= a <= _EXACT and -_EXACT <= b <= _EXACT:
        return np.float64(a) / np.float64(b)
    return _divide_long(a, b)


@part
def divide_scaled(a: Int, b: Int, scale: Int) -> Int:
    """``a / b / 10**scale``, rounded once while the scaled operand fits int64."""
    power = np.int64(1)
    for _ in range(min(abs(scale), 18)):
        power *= 10
    if scale > 0:
        if abs(b) > _MAX // power:
            return divide(a, b) / np.float64(power)
        return divide(a, b * power)
    if abs(a) > _MAX // power:
        return divide(a, b) * np.float64(power)
    return divide(a * power, b)
