"""The obvious twin of :mod:`pipeline.kernels.timestamps`: a pattern, and the datetime module."""

from __future__ import annotations

import calendar
import re
from datetime import date

MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_TIME = re.compile(
    rb"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([-+])(\d\d):(\d\d))?"
)


def timestamp(text: bytes, utc: bool) -> tuple[int, str]:
    """Ns since the Unix epoch and ``timed``, or 0 and ``untimely`` or ``out of range``."""
    match = _TIME.fullmatch(text)
    if match is None:
        return 0, "untimely"
    year, month, day, hour, minute, second = (int(g) for g in match.groups()[:6])
    fraction, z, sign, east_hours, east_minutes = match.groups()[6:]
    if not 1 <= month <= 12 or hour > 23 or minute > 59 or second > 60:
        return 0, "untimely"
    last = MONTH_DAYS[month - 1] + (month == 2 and calendar.isleap(year))
    if not 1 <= day <= last or not (z or sign or utc):
        return 0, "untimely"
    east = 0
    if sign:
        if int(east_hours) > 23 or int(east_minutes) > 59:
            return 0, "untimely"
        east = (int(east_hours) * 3600 + int(east_minutes) * 60) * (-1 if sign == b"-" else 1)
    digits = (fraction or b"0").decode()
    if year == 0 or second == 60 or digits[9:].strip("0"):
        return 0, "out of range"
    days = (date(year, month, day) - date(1970, 1, 1)).days
    seconds = days * 86_400 + hour * 3600 + minute * 60 + second - east
    value = seconds * 10**9 + int(digits[:9].ljust(9, "0"))
    return (value, "timed") if -(2**63) <= value < 2**63 else (0, "out of range")
