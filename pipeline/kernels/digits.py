"""Eight decimal digits in a word."""

from __future__ import annotations

import numpy as np

from pipeline.kernels.jit import Int, inlined

__all__ = ["ZEROS", "digit_count", "eight_digits"]

ZEROS = np.uint64(0x3030303030303030)
_N1, _N8, _N16, _N32, _N56 = (np.uint64(n) for n in (1, 8, 16, 32, 56))
_HIGH, _ONES = np.uint64(0x8080808080808080), np.uint64(0x0101010101010101)
_UP_TO_NINE = np.uint64(0x7676767676767676)  # takes every byte from 10 on to 0x80 or more
# Each lane of 16, 32 or 64 bits takes its lower half times 10, 100 or 10,000, and its upper half.
_TENS, _BYTES = np.uint64(10 << 8 | 1), np.uint64(0x00FF00FF00FF00FF)
_HUNDREDS, _PAIRS = np.uint64(100 << 16 | 1), np.uint64(0x0000FFFF0000FFFF)
_TEN_THOUSANDS = np.uint64(10_000 << 32 | 1)


@inlined
def digit_count(word: Int) -> Int:
    """How many of the 8 bytes of ``word``, which is xored with :data:`ZEROS`, begin as digits."""
    other = ((word + _UP_TO_NINE) | word) & _HIGH  # exact for the lowest one that is none
    if other == np.uint64(0):
        return np.int64(8)
    below = (other & (~other + _N1)) - _N1
    return np.int64(((below & _ONES) * _ONES) >> _N56) - 1


@inlined
def eight_digits(word: Int) -> Int:
    """The number of 8 digits, each a byte from 0 to 9, the first one lowest.

    Source: Lemire, "Number Parsing at a Gigabyte per Second", 2021.
    """
    word = (word * _TENS >> _N8) & _BYTES
    word = (word * _HUNDREDS >> _N16) & _PAIRS
    return np.int64(word * _TEN_THOUSANDS >> _N32)
