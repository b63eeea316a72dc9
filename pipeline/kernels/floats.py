"""The float64 nearest to ``mantissa * 10**exponent``, for mantissas of up to 18 digits.

A product with the 128 upper bits of the power of five decides in all cases but subnormal and
infinite results, which are left to others. Source: Lemire, "Number Parsing at a Gigabyte per
Second", 2021; that the product always decides: Mushtak and Lemire, "Fast Number Parsing Without
Fallback", 2023.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.jit import Int, inlined, part

__all__ = ["nearest_float"]

U64 = npt.NDArray[np.uint64]

_SMALLEST, _LARGEST = -342, 308  # powers of ten whose products can be finite and not 0
_WORD = 1 << 64
_MANTISSA_BITS = 52
_BIAS = 1023
_LEAST_TIE, _MOST_TIE = -4, 23  # powers of ten between which a product can lie half-way

_U0, _U1, _U3 = np.uint64(0), np.uint64(1), np.uint64(3)
_HALF, _LOW_HALF = np.uint64(32), np.uint64(2**32 - 1)
_UNSURE = np.uint64(
    (1 << 64 - _MANTISSA_BITS - 3) - 1
)  # low bits of a product that may still carry
_HIDDEN, _NEXT = np.uint64(1 << _MANTISSA_BITS), np.uint64(2 << _MANTISSA_BITS)


def _five_to(power: int) -> int:
    """``5**power`` as 128 bits with the top one set: cut off, or rounded up for a quotient."""
    five: int = 5 ** abs(power)
    if power >= 0:
        spare = five.bit_length() - 128
        return five >> spare if spare > 0 else five << -spare
    bits = (five - 1).bit_length()
    quotient = (1 << (bits + 127 if power >= -27 else 2 * bits + 128)) // five + 1
    return quotient >> max(0, quotient.bit_length() - 128)


def _powers_of_five() -> U64:
    """Upper and lower words of the powers, uint64[powers, 2]."""
    values = [_five_to(power) for power in range(_SMALLEST, _LARGEST + 1)]
    return np.array([(v // _WORD, v % _WORD) for v in values], dtype=np.uint64)


_FIVES = _powers_of_five()
# 2**k by k + 1074: a 53-bit integer times one of these is exact, if it is not subnormal.
_TWOS = np.array([2.0**k for k in range(-1074, 972)], dtype=np.float64)


@inlined
def _product(a: Int, b: Int) -> tuple[Int, Int]:
    """Upper and lower word of the product of two words."""
    a_low, a_high, b_low, b_high = a & _LOW_HALF, a >> _HALF, b & _LOW_HALF, b >> _HALF
    low, cross, other = a_low * b_low, a_low * b_high, a_high * b_low
    middle = (low >> _HALF) + (cross & _LOW_HALF) + (other & _LOW_HALF)
    high = a_high * b_high + (cross >> _HALF) + (other >> _HALF) + (middle >> _HALF)
    return high, (middle << _HALF) | (low & _LOW_HALF)


@part
def nearest_float(mantissa: Int, exponent: Int) -> tuple[float, bool]:
    """The value of ``mantissa``, 1 to 10**18 - 1, and whether it is one that this way gives."""
    if exponent < _SMALLEST or exponent > _LARGEST:
        return 0.0, False
    word, shifted = np.uint64(mantissa), np.int64(0)
    for step in (32, 16, 8, 4, 2, 1):
        if word >> np.uint64(64 - step) == _U0:
            word = word << np.uint64(step)
            shifted += step
    row = exponent - _SMALLEST
    high, low = _product(word, _FIVES[row, 0])
    if high & _UNSURE == _UNSURE:
        carry, _ = _product(word, _FIVES[row, 1])
        low = low + carry
        if low < carry:
            high = high + _U1
    top = np.int64(high >> np.uint64(63))
    drop = np.uint64(top + 64 - _MANTISSA_BITS - 3)
    bits = high >> drop
    # The binary exponent of 10**e is floor(e * log2(10)), here for |e| < 350.
    power = ((217706 * exponent) >> 16) + 63 + top - shifted + _BIAS
    if power <= 0:
        return 0.0, False
    half_way = low <= _U1 and _LEAST_TIE <= exponent <= _MOST_TIE and bits & _U3 == _U1
    if half_way and bits << drop == high:
        bits = bits & ~_U1  # to even
    bits = (bits + (bits & _U1)) >> _U1
    if bits >= _NEXT:
        bits = _HIDDEN
        power += 1
    if power >= 2 * _BIAS + 1:
        return 0.0, False
    return np.float64(bits) * _TWOS[power - _BIAS - _MANTISSA_BITS + 1074], True
