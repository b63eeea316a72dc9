"""RFC 3339 text to nanoseconds since the Unix epoch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.hash import load64
from pipeline.kernels.jit import Int, inlined, part
from pipeline.kernels.text import COLON, MINUS, NINE, PLUS, POINT, SPACE, ZERO, at

__all__ = ["OUT_OF_RANGE", "TIMED", "UNTIMELY", "timestamp"]

U8 = npt.NDArray[np.uint8]

TIMED, UNTIMELY, OUT_OF_RANGE = 0, 1, 2

_BILLION = 1_000_000_000
_LAST_SECOND, _LAST_NS = 9_223_372_036, 854_775_807  # 2**63 - 1 ns, in 2262
_FIRST_SECOND, _FIRST_NS = -9_223_372_037, 145_224_192  # -2**63 ns, in 1677
_UPPER_T, _LOWER_T, _UPPER_Z, _LOWER_Z = 0x54, 0x74, 0x5A, 0x7A

# "0000-00-" and "00:00:00": what is left of the bytes of a word is digits, and 0 where signs are.
_DATE, _CLOCK = np.uint64(0x2D30302D30303030), np.uint64(0x30303A30303A3030)
# What takes all other bytes from 0x80 on: a digit leaves room for 9, a sign for nothing.
_DATE_ROOM, _CLOCK_ROOM = np.uint64(0x7F76767F76767676), np.uint64(0x76767F76767F7676)
_HIGH = np.uint64(0x8080808080808080)
_TEN, _EIGHT = np.uint64(10), np.uint64(8)


@inlined
def _byte(word: Int, shift: int) -> Int:
    return np.int64((word >> np.uint64(shift)) & np.uint64(0xFF))


@inlined
def _pair(data: U8, p: Int) -> Int:
    """Value of the two digits at ``p``, or a large negative number."""
    tens = at(data, p) - ZERO
    ones = at(data, p + 1) - ZERO
    if tens < 0 or tens > 9 or ones < 0 or ones > 9:
        return -100_000
    return tens * 10 + ones


@inlined
def days_since_epoch(year: Int, month: Int, day: Int) -> Int:
    """Days from 1970-01-01 in the proleptic Gregorian calendar, for years from 0 to 9999.

    Source: Hinnant, "chrono-compatible low-level date algorithms", days_from_civil; its divisions
    as products and shifts: Neri and Schneider, "Euclidean affine functions and their application
    to calendar algorithms", 2022.
    """
    early = month <= 2
    y = year - early
    centuries = (y * 5243) >> 19  # y // 100 up to 43,698
    of_year = ((month + 12 * early) * 979 - 2919) >> 5  # days of the months since March
    return 365 * y + (y >> 2) - centuries + (centuries >> 2) + of_year + day - 719_469


@inlined
def _month_days(year: Int, month: Int) -> Int:
    if month == 2:
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        return 29 if leap else 28
    return 30 + ((month + (month >> 3)) & 1)


@part
def _fraction(data: U8, p: Int, stop: Int) -> tuple[Int, Int, Int]:
    """Digits after the point, the first at ``p``: (position after them, ns, status)."""
    ns, place, status, first = 0, 100_000_000, TIMED, p
    while p < stop and ZERO <= at(data, p) <= NINE:
        digit = at(data, p) - ZERO
        ns += digit * place
        if place == 0 and digit != 0:
            status = OUT_OF_RANGE  # finer than a nanosecond
        place //= 10
        p += 1
    return p, ns, UNTIMELY if p == first else status


@inlined
def _offset_seconds(data: U8, p: Int, stop: Int, utc: bool) -> tuple[Int, bool]:
    """Seconds east of UTC that ``data[p:stop]`` says, and whether it is well-formed."""
    if p == stop:
        return 0, utc
    c = at(data, p)
    if c == _UPPER_Z or c == _LOWER_Z:  # noqa: SIM109
        return 0, p + 1 == stop
    if (c != PLUS and c != MINUS) or stop - p != 6 or at(data, p + 3) != COLON:
        return 0, False
    hours, minutes = _pair(data, p + 1), _pair(data, p + 4)
    seconds = hours * 3600 + minutes * 60
    ok = 0 <= hours <= 23 and 0 <= minutes <= 59
    return (-seconds if c == MINUS else seconds), ok


@inlined
def timestamp(data: U8, p: Int, stop: Int, utc: bool) -> tuple[Int, Int]:
    """Nanoseconds since the Unix epoch of ``data[p:stop]``, and a status.

    ``YYYY-MM-DDTHH:MM:SS[.fraction](Z|+HH:MM|-HH:MM)``; the T may be a space, letters may be
    lower case; without an offset only where ``utc`` says that it is UTC. UNTIMELY: not a
    date-time, or no such day or time of day. OUT_OF_RANGE: not within int64 nanoseconds, a leap
    second, or finer than a nanosecond. The value is 0 then.
    """
    if stop - p < 19:
        return np.int64(0), UNTIMELY
    date = load64(data, p) ^ _DATE
    clock = load64(data, p + 11) ^ _CLOCK
    wrong = ((date + _DATE_ROOM) | date | (clock + _CLOCK_ROOM) | clock) & _HIGH
    date = date * _TEN + (date >> _EIGHT)  # in each byte the value of two digits
    clock = clock * _TEN + (clock >> _EIGHT)
    year = _byte(date, 0) * 100 + _byte(date, 16)
    month, day = _byte(date, 40), _pair(data, p + 8)
    hour, minute, second = _byte(clock, 0), _byte(clock, 24), _byte(clock, 48)
    mark = at(data, p + 10)
    if (
        wrong != np.uint64(0)
        or day < 0
        or (mark != _UPPER_T and mark != _LOWER_T and mark != SPACE)
        or month < 1
        or month > 12
        or day < 1
        or day > _month_days(year, month)
        or hour > 23
        or minute > 59
        or second > 60
    ):
        return np.int64(0), UNTIMELY
    p += 19
    ns, status = 0, TIMED
    if p < stop and at(data, p) == POINT:
        p, ns, status = _fraction(data, p + 1, stop)
    east, ok = _offset_seconds(data, p, stop, utc)
    if status == UNTIMELY or not ok:
        return np.int64(0), UNTIMELY
    if second == 60 or status == OUT_OF_RANGE:
        return np.int64(0), OUT_OF_RANGE
    days = days_since_epoch(year, month, day)
    return _join(days * 86_400 + hour * 3600 + minute * 60 + second - east, ns)


@inlined
def _join(seconds: Int, ns: Int) -> tuple[Int, Int]:
    if seconds > _LAST_SECOND or (seconds == _LAST_SECOND and ns > _LAST_NS):
        return np.int64(0), OUT_OF_RANGE
    if seconds < _FIRST_SECOND or (seconds == _FIRST_SECOND and ns < _FIRST_NS):
        return np.int64(0), OUT_OF_RANGE
    if seconds < 0:  # both terms stay within int64, seconds * 10**9 alone would not
        return np.int64((seconds + 1) * _BILLION + (ns - _BILLION)), TIMED
    return np.int64(seconds * _BILLION + ns), TIMED
