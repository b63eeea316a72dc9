"""Durations and sizes as people write them: ``"1h30m"``, ``"500ms"``, ``"256MiB"``.

Pure text to integers and back. Everything here raises :class:`ValueError` with a message
that is a whole sentence; the caller adds the field's name and the exception of its layer.
"""

from __future__ import annotations

import re
from datetime import timedelta

__all__ = ["format_duration", "format_size", "parse_duration", "parse_size"]

_DURATION_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # micro sign
    "μs": 1_000,  # Greek mu, what some keyboards give for the same unit
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3_600 * 1_000_000_000,
    "d": 86_400 * 1_000_000_000,
    "w": 7 * 86_400 * 1_000_000_000,
}
_DURATION_STEPS = ("d", "h", "m", "s", "ms", "us", "ns")
_SIZE_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE_STEPS = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_PART = re.compile(r"(\d+)(?:\.(\d+))?\s*([a-zA-Zµμ]+)")
_SIZE = re.compile(r"(\d+)(?:\.(\d+))?\s*([a-zA-Z]*)")
_INT64_MAX = 2**63 - 1
_DURATION_EXAMPLE = "write numbers with units, such as '60d', '1h30m' or '500ms'"
_SIZE_EXAMPLE = "write bytes or text such as '64KiB' or '256MiB'"


def parse_duration(text: str | int | timedelta) -> int:
    """Nanoseconds of a duration that is not negative.

    Takes text such as ``"60d"``, ``"1h30m"``, ``"1.5s"``, ``"0"`` (units w, d, h, m, s, ms,
    us, ns; largest first, each at most once), a :class:`~datetime.timedelta`, or an int
    that is nanoseconds already. The result is exact: a fraction of a nanosecond, a negative
    duration or one over 292 years is a :class:`ValueError`.
    """
    if isinstance(text, timedelta):
        return _in_range((text // timedelta(microseconds=1)) * 1_000, text)
    if isinstance(text, int) and not isinstance(text, bool):
        return _in_range(text, text)
    if not isinstance(text, str):
        raise ValueError(
            f"{text!r} is not a duration: write text such as '60d', '1h30m' or '500ms'"
        )
    stripped = text.strip()
    if stripped == "0":
        return 0
    total, end, smallest = 0, 0, _INT64_MAX
    for match in _PART.finditer(stripped):
        if stripped[end : match.start()].strip():
            break
        whole, fraction, unit = match.groups()
        size = _DURATION_UNITS.get(unit)
        if size is None:
            raise ValueError(f"{text!r} is not a duration: {_unknown_unit(unit)}")
        if size >= smallest:
            raise ValueError(
                f"{text!r} is not a duration: units go from large to small, each at most once"
            )
        total += _scaled(whole, fraction, size, text)
        smallest, end = size, match.end()
    if end == 0 or stripped[end:].strip():
        raise ValueError(f"{text!r} is not a duration: {_DURATION_EXAMPLE}")
    return _in_range(total, text)


def format_duration(ns: int) -> str:
    """Text that :func:`parse_duration` reads back as ``ns``: ``"60d"``, ``"1h30m"``, ``"0s"``.

    Days are the largest unit. Negative durations (an age in the future) have a leading minus.
    """
    if ns < 0:
        return "-" + format_duration(-ns)
    parts: list[str] = []
    rest = ns
    for unit in _DURATION_STEPS:
        count, rest = divmod(rest, _DURATION_UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_size(text: str | int) -> int:
    """Bytes of a size that is not negative: ``"256MiB"``, ``"1GB"``, ``"512"``, or an int.

    KiB, MiB, GiB, TiB are powers of 1024, kB, MB, GB, TB powers of 1000; case is ignored.
    Anything else is a :class:`ValueError`.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return _in_range(text, text)
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a size: {_SIZE_EXAMPLE}")
    whole, fraction, unit = match.groups()
    size = _SIZE_UNITS.get(unit.lower())
    if size is None:
        raise ValueError(f"{text!r} is not a size: unknown unit {unit!r}; {_SIZE_EXAMPLE}")
    return _in_range(_scaled(whole, fraction, size, text), text)


def format_size(n_bytes: int) -> str:
    """Text for people, exact for a whole number of KiB, MiB, ...: ``"256MiB"``, ``"1.5KiB"``."""
    for unit, size in _SIZE_STEPS:
        if n_bytes >= size:
            return f"{n_bytes / size:.1f}".removesuffix(".0") + unit
    return f"{n_bytes}B"


def _scaled(whole: str, fraction: str | None, size: int, text: object) -> int:
    """``whole.fraction * size`` in integers; a remainder is an error, not rounded away."""
    digits = fraction or ""
    scale = int(10 ** len(digits))
    value, remainder = divmod(int(whole + digits) * size, scale)
    if remainder:
        raise ValueError(f"{text!r} is finer than the smallest unit: write a whole number of it")
    return value


def _in_range(value: int, text: object) -> int:
    if value < 0:
        raise ValueError(f"{text!r} is negative")
    if value > _INT64_MAX:
        raise ValueError(f"{text!r} does not fit 64 bits")
    return value


def _unknown_unit(unit: str) -> str:
    hint = {"M": " (minutes are 'm', months have no fixed length)", "y": " (write days)"}.get(
        unit, ""
    )
    return f"unknown unit {unit!r}{hint}, use w, d, h, m, s, ms, us or ns"
