"""The obvious twin of :mod:`pipeline.kernels.numbers`: the number as text, then as integers."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([-+]?\d+))?", re.ASCII)


def scaled(text: str, scale: int) -> tuple[int, str]:
    """``text * 10**scale`` and ``exact``, ``inexact`` (then 0) or ``overflow`` (then 0)."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(text)
    sign, whole, fraction, exponent = match.groups()
    digits = (whole + (fraction or "")).lstrip("0")
    significant = digits.rstrip("0")
    if not significant:
        return 0, "exact"
    shift = int(exponent or 0) - len(fraction or "") + scale + len(digits) - len(significant)
    if shift < 0:
        return 0, "inexact"
    if shift + len(significant) > 40:
        return 0, "overflow"
    value = int(significant) * 10**shift * (-1 if sign else 1)
    return (value, "exact") if -(2**63) <= value < 2**63 else (0, "overflow")
