"""The answer to one question, and how close to it a computed one has to be."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

__all__ = ["ANYTHING", "Expected", "Value"]

Value: TypeAlias = "int | float | str | bytes | list[Any] | None"

ANYTHING = math.inf
INEXACT = frozenset({"degraded", "estimated"})


@dataclass(frozen=True, slots=True)
class Expected:
    """What a feature is at a time.

    ``value``      None is null; a list for features of several cells, without trailing nulls
    ``status``     present, missing, expired, degraded or estimated
    ``tolerance``  absolute, of floats; 0 asks for the same bits
    ``loose``      a bound was exceeded or an intermediate sum may have overflowed: an answer that
                   says that it is inexact, or is not finite, is right too
    """

    value: Value
    status: str = "present"
    tolerance: float = 0.0
    loose: bool = False

    def problem(self, value: Value, status: str) -> str | None:
        """What is wrong with an answer; None if nothing is."""
        if self.tolerance == ANYTHING and status in INEXACT | {"present"}:
            return None
        if self.loose and (status in INEXACT or not _finite(value)):
            return None
        if status != self.status:
            return f"status {status} (value {value!r}), expected {self.status} ({self.value!r})"
        if self.status in INEXACT and self.loose:
            return None
        if not _close(value, self.value, self.tolerance):
            allowed = f" +- {self.tolerance:g}" if self.tolerance else ""
            return f"value {value!r}, expected {self.value!r}{allowed}"
        return None


def _finite(value: Value) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _close(found: Any, wanted: Any, tolerance: float) -> bool:
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(_close(f, w, tolerance) for f, w in zip(found, wanted, strict=True))
        )
    if not isinstance(wanted, float) or not isinstance(found, float):
        return type(found) is type(wanted) and bool(found == wanted)
    if tolerance == 0 or not (math.isfinite(found) and math.isfinite(wanted)):
        return struct.pack("<d", found) == struct.pack("<d", wanted)
    return abs(Fraction(found) - Fraction(wanted)) <= tolerance
