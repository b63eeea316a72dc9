"""JSON numbers to scaled integers and floats, exactly.

A number is read once into mantissa and power of ten. With up to 18 digits the mantissa fits an
int64; longer ones go back to the digits. Positions are as in :mod:`pipeline.kernels.text`: the
document ends with a brace, so loops over digits need no bound.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels.floats import nearest_float
from pipeline.kernels.jit import Int, inlined, part
from pipeline.kernels.text import LETTER_E, MINUS, NINE, PLUS, POINT, ZERO, at

__all__ = ["EXACT", "INEXACT", "OVERFLOW", "fast_float", "number", "scaled"]

U8 = npt.NDArray[np.uint8]

EXACT, INEXACT, OVERFLOW = 0, 1, 2

MAX_DIGITS = 18  # 10**18 - 1 fits an int64 whatever the digits are
_MAX = 2**63 - 1
_MAX_EXPONENT = 1 << 40  # larger ones are cut to this: longer than any document
_MAX_EXACT_MANTISSA = 2**53
_MAX_EXACT_POWER = 22  # 10**22 is the largest power of ten that a float64 holds exactly
_INT_POWERS = np.array([10**k for k in range(19)], dtype=np.int64)
_INT_LIMITS = _MAX // _INT_POWERS
_FLOAT_POWERS = np.array([10.0**k for k in range(23)], dtype=np.float64)


@inlined
def number(data: U8, p: Int) -> tuple[Int, bool, Int, Int, Int]:
    """Read the number at ``p``: (position after it or -1, negative, mantissa, digits, exponent).

    The value is ``mantissa * 10**exponent`` with the sign, if ``digits <= MAX_DIGITS``; with more
    digits the mantissa has wrapped around and must not be used.
    """
    negative = at(data, p) == MINUS
    if negative:
        p += 1
    mantissa = np.int64(0)
    q = p
    if at(data, p) == ZERO:
        q += 1
    else:
        while ZERO <= at(data, q) <= NINE:
            mantissa = mantissa * 10 + (at(data, q) - ZERO)
            q += 1
    digits = q - p
    if digits == 0:
        return -1, negative, mantissa, digits, 0
    exponent = 0
    if at(data, q) == POINT:
        p = q + 1
        q = p
        while ZERO <= at(data, q) <= NINE:
            mantissa = mantissa * 10 + (at(data, q) - ZERO)
            q += 1
        exponent = p - q
        if exponent == 0:
            return -1, negative, mantissa, digits, 0
        digits -= exponent
    if at(data, q) | 0x20 == LETTER_E:
        q, power = _power(data, q + 1)
        exponent += power
    return q, negative, mantissa, digits, exponent


@part
def _power(data: U8, p: Int) -> tuple[Int, Int]:
    """Exponent whose sign or first digit is at ``p``: (position after it or -1, exponent)."""
    negative = at(data, p) == MINUS
    if negative or at(data, p) == PLUS:
        p += 1
    q = p
    power = 0
    while ZERO <= at(data, q) <= NINE:
        if power < _MAX_EXPONENT:
            power = power * 10 + (at(data, q) - ZERO)
        q += 1
    if q == p:
        return -1, 0
    return q, -power if negative else power


@inlined
def scaled(
    data: U8, p: Int, negative: bool, mantissa: Int, digits: Int, exponent: Int, scale: Int
) -> tuple[Int, Int]:
    """``value * 10**scale`` of the number at ``p``, and EXACT, INEXACT or OVERFLOW.

    INEXACT: there are nonzero digits below the last place. OVERFLOW: outside int64. The value is
    0 then.
    """
    if digits > MAX_DIGITS:
        return _scaled_digits(data, p, digits, scale + exponent)
    value = np.int64(mantissa)
    shift = scale + exponent
    if shift > 0 and value != 0:
        if shift > 18 or value > _INT_LIMITS[shift]:
            return np.int64(0), OVERFLOW
        value *= _INT_POWERS[shift]
    elif shift < 0 and value != 0:
        if shift < -18:
            return np.int64(0), INEXACT
        quotient = value // _INT_POWERS[-shift]
        if quotient * _INT_POWERS[-shift] != value:
            return np.int64(0), INEXACT
        value = quotient
    if negative:
        value = -value
    return value, EXACT


@inlined
def _overflows(value: Int, digit: Int, negative: Int) -> Int:
    """Whether ``value * 10 - digit`` leaves int64; ``value`` is the negated magnitude."""
    last = 8 if negative else 7
    return value < -(_MAX // 10) or (value == -(_MAX // 10) and digit > last)


@part
def _scaled_digits(data: U8, p: Int, digits: Int, shift: Int) -> tuple[Int, Int]:
    """As :func:`scaled`, digit by digit, for numbers of any length."""
    negative = at(data, p) == MINUS
    if negative:
        p += 1
    keep = digits + min(shift, 0)
    value = np.int64(0)  # negated, since -2**63 has no positive counterpart
    overflow = False
    k = 0
    while k < digits:
        if at(data, p) != POINT:
            digit = at(data, p) - ZERO
            if k >= keep:
                if digit != 0:
                    return np.int64(0), INEXACT
            elif overflow or _overflows(value, digit, negative):
                overflow = True
            else:
                value = value * 10 - digit
            k += 1
        p += 1
    while shift > 0 and value != 0 and not overflow:
        overflow = _overflows(value, np.int64(0), negative)
        if not overflow:
            value = value * 10
        shift -= 1
    if overflow:
        return np.int64(0), OVERFLOW
    if not negative:
        value = -value
    return value, EXACT


@inlined
def fast_float(negative: bool, mantissa: Int, digits: Int, exponent: Int) -> tuple[float, bool]:
    """The float64 nearest to a number, and whether this gives it: not for more digits than a
    mantissa holds, subnormal numbers and those beyond float64.

    Where both mantissa and power of ten are exact float64, one rounding happens. Source: Clinger,
    "How to read floating point numbers accurately", PLDI 1990.
    """
    if digits > MAX_DIGITS:
        return 0.0, False
    value: Any = np.float64(mantissa)
    if mantissa != 0:
        exact = mantissa <= _MAX_EXACT_MANTISSA
        if not exact or exponent > _MAX_EXACT_POWER or exponent < -_MAX_EXACT_POWER:
            value, found = nearest_float(mantissa, exponent)
            if not found:
                return 0.0, False
        elif exponent < 0:
            value /= _FLOAT_POWERS[-exponent]
        else:
            value *= _FLOAT_POWERS[exponent]
    if negative:
        value = -value
    return value, True
