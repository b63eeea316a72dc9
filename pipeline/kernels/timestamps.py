"""RFC 3339 text to nanoseconds since the Unix epoch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.jit import Int, inlined, part
from pipeline.kernels.text import COLON, MINUS, NINE, PLUS, POINT, SPACE, ZERO, at

__all__ = ["OUT_OF_RANGE", "TIMED", "UNTIMELY", "timestamp"]

U8 = npt.NDArray[np.uint8]

TIMED, UNTIMELY, OUT_OF_RANGE = 0, 1, 2

_BILLION = 1_000_000_000
_LAST_SECOND, _LAST_NS = 9_223_372_036, 854_775_807  # 2**63 - 1 ns, in 2262
_FIRST_SECOND, _FIRST_NS = -9_223_372_037, 145_224_192  # -2**63 ns, in 1677
_UPPER_T, _LOWER_T, _UPPER_Z, _LOWER_Z = 0x54, 0x74, 0x5A, 0x7A


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
    """Days from 1970-01-01 in the proleptic Gregorian calendar.

    Source: Hinnant, "chrono-compatible low-level date algorithms", days_from_civil.
    """
    y = year - (month <= 2)
    era = y // 400
    of_era = y - era * 400
    of_year = (153 * (month + (9 if month <= 2 else -3)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


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
    year = _pair(data, p) * 100 + _pair(data, p + 2)
    month, day = _pair(data, p + 5), _pair(data, p + 8)
    hour, minute, second = _pair(data, p + 11), _pair(data, p + 14), _pair(data, p + 17)
    mark = at(data, p + 10)
    if (
        (year | month | day | hour | minute | second) < 0
        or at(data, p + 4) != MINUS
        or at(data, p + 7) != MINUS
        or at(data, p + 13) != COLON
        or at(data, p + 16) != COLON
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
