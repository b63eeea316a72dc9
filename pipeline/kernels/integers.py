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
    "divide_scaled",
    "exponent",
    "magnitude",
    "minus",
    "part_of",
    "subtract_wrapping",
]

OVERFLOW = -(2**63)  # an integer sum that left int64 becomes this and stays it
_MAX = 2**63 - 1
_EXACT = 1 << 53
_U0, _U1 = np.uint64(0), np.uint64(1)
_FIFTY_FIVE_BITS = np.uint64(1 << 54)
_TEN, _HALF, _TOP, _LOW_HALF = np.uint64(10), np.uint64(32), np.uint64(63), np.uint64(2**32 - 1)
_BILLION, _QUINTILLION = 10**9, 10**18


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
def exponent(n: Int) -> Int:
    """The smallest ``e`` from 3 on with ``2**e >= n``: of a hash table, say."""
    e = np.int64(3)
    while (1 << e) < n:
        e += 1
    return e


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
def _times_power(u: Int, scale: Int) -> tuple[Int, Int]:
    """``u * 10**scale`` as a high and a low word; ``scale`` is at most 18."""
    high, low = _U0, np.uint64(u)
    for _ in range(scale):
        units = (low & _LOW_HALF) * _TEN
        upper = (low >> _HALF) * _TEN + (units >> _HALF)
        high = high * _TEN + (upper >> _HALF)
        low = (upper << _HALF) | (units & _LOW_HALF)
    return high, low


@inlined
def _doubled(high: Int, low: Int) -> tuple[Int, Int]:
    return (high << _U1) | (low >> _TOP), low << _U1


@part
def _divide_wide(high: Int, low: Int, by_high: Int, by_low: Int) -> float:
    """Nearest float64 to a quotient of numbers of two words, from 1 to below 2**126.

    Long division to 55 bits or more and a sticky one; the cast to float64 rounds once.
    """
    exponent = 0
    while by_high < high or (by_high == high and by_low < low):
        by_high, by_low = _doubled(by_high, by_low)
        exponent += 1
    while high < by_high or (high == by_high and low < by_low):
        high, low = _doubled(high, low)
        exponent -= 1
    q = _U0
    while True:
        q = q << _U1
        if by_high < high or (by_high == high and by_low <= low):
            high -= by_high + (_U1 if low < by_low else _U0)
            low -= by_low
            q = q | _U1
        if q >= _FIFTY_FIVE_BITS:
            break
        high, low = _doubled(high, low)
        exponent -= 1
    if high != _U0 or low != _U0:
        q = q | _U1
    return np.float64(q) * 2.0**exponent


@part
def divide_scaled(a: Int, b: Int, scale: Int) -> Int:
    """The float64 nearest to ``a / b / 10**scale``; ``b != 0``, ``scale`` is -18 to 18.

    0 has no sign, whatever ``b`` is.
    """
    if a == 0:
        return 0.0
    power = np.int64(1)
    for _ in range(abs(scale)):
        power *= 10
    times, by = (np.int64(1), power) if scale > 0 else (power, np.int64(1))
    most_a, most_b = _EXACT // times, _EXACT // by
    if -most_a <= a <= most_a and -most_b <= b <= most_b:
        return np.float64(a * times) / np.float64(b * by)
    high, low = _times_power(magnitude(a), max(-scale, 0))
    by_high, by_low = _times_power(magnitude(b), max(scale, 0))
    x = _divide_wide(high, low, by_high, by_low)
    return x if (a < 0) == (b < 0) else -x


@part
def part_of(q: Int, n: Int) -> Int:
    """``ceil(q * n / 10**18)``, exactly, for ``q`` from 0 to 10**18 and ``n`` from 0."""
    upper, lower = q // _BILLION, q % _BILLION
    many, few = n // _BILLION, n % _BILLION
    whole = upper * many
    left = np.int64(0)
    for middle in (upper * few, lower * many):
        whole += middle // _BILLION
        left += middle % _BILLION
    rest = left * _BILLION + lower * few
    whole += rest // _QUINTILLION
    return whole + 1 if rest % _QUINTILLION > 0 else whole
