"""The value of one aggregation over the entries of its window."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipeline.features.aggregations import Aggregation
from pipeline.testing.oracle.columns import Kind
from pipeline.testing.oracle.expected import ANYTHING, Expected
from pipeline.testing.oracle.sums import LARGEST, RELATIVE, Total, ratio, total, variance
from pipeline.units import parse_duration

__all__ = ["Entry", "answer", "decayed", "quotient"]


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """A value that an event gave a feature; ordered by time, then position in the log."""

    time: int
    order: int
    value: Any


def answer(aggregation: Aggregation, kind: Kind, entries: Sequence[Entry]) -> Expected:
    """What ``aggregation`` is over ``entries``, which are its window's, ascending."""
    op, values = aggregation.op.name, [e.value for e in entries]
    if op == "COUNT":
        return Expected(len(values))
    if op == "SUM":
        return total(values, kind).answer(kind)
    if op == "MEAN":
        return ratio(total(values, kind), Total(len(values)), aggregation.default)
    if op in {"VAR", "STD"}:
        return variance(values, kind, _field(aggregation, "ddof"), root=op == "STD")
    if op == "DISTINCT":
        return Expected(len({_settled(v) for v in values}))
    if op in {"MIN", "MAX"}:
        chosen = (min if op == "MIN" else max)(values, key=_rank, default=None)
        return Expected(_cell(chosen, kind))
    if op in {"MAX_N", "MIN_N"}:
        best = sorted(map(_settled, values), reverse=op == "MAX_N")[: aggregation.n]
        return _several([_cell(v, kind) for v in best], aggregation.n)
    if op == "FIRST":
        return Expected(_cell(values[0] if values else None, kind))
    if op == "LAST":
        return _several([_cell(v, kind) for v in reversed(values[-aggregation.n :])], aggregation.n)
    if op == "QUANTILE":
        ranked = sorted(_settled(v) for v in values)
        rank = max(1, math.ceil(Fraction(str(aggregation.q)) * len(ranked)))
        return Expected(float(ranked[rank - 1]) if ranked else None)
    if op == "TOP_K":
        counted = Counter(_settled(v) for v in values)
        best = sorted(counted, key=lambda v: (-counted[v], _word(v)))[: aggregation.n]
        return _several([_cell(v, kind) for v in best], aggregation.n)
    raise ValueError(f"the oracle does not know {op}")


def quotient(
    aggregation: Aggregation, kinds: Sequence[Kind], parts: Sequence[Sequence[Entry]]
) -> Expected:
    """A ratio, of the entries of its numerator and denominator."""
    sums = [
        Total(len(entries)) if part.op.name == "COUNT" else total([e.value for e in entries], kind)
        for part, kind, entries in zip(aggregation.parts, kinds, parts, strict=True)
    ]
    return ratio(sums[0], sums[1], aggregation.default)


def decayed(aggregation: Aggregation, entries: Sequence[Entry], at: int) -> Expected:
    """Sum, count or mean whose weights halve every half-life, at ``at``."""
    mean, half_life = aggregation.op.name == "EWMA", parse_duration(aggregation.half_life or 0)
    if mean and not entries:
        return Expected(aggregation.default)
    infinite = {float(e.value) for e in entries if math.isinf(float(e.value))}
    if infinite:
        return Expected(infinite.pop()) if len(infinite) == 1 else Expected(None, "degraded")
    # A mean is the same at any time; of that of its newest event nothing vanishes.
    time = max(e.time for e in entries) if mean else at
    terms = [_halved(float(e.value), time - e.time, half_life) for e in entries]
    size = sum((abs(Fraction(t)) for t in terms), Fraction(0))
    if size > LARGEST:
        return Expected(None, tolerance=ANYTHING)
    value, error = math.fsum(terms), RELATIVE * float(size) + 5e-324 * len(terms)
    if mean:
        weight = math.fsum(_halved(1.0, time - e.time, half_life) for e in entries)
        value, error = value / weight, 2 * error / weight + abs(value / weight) * RELATIVE
    return Expected(value, tolerance=error)


def _halved(value: float, elapsed: int, half_life: int) -> float:
    """``value * 2 ** -(elapsed / half_life)``, the exponent rounded no more than the result."""
    halvings, part = divmod(elapsed, half_life)
    return math.ldexp(value * 2.0 ** -(part / half_life), -min(halvings, 3000))


def _several(values: list[Any], width: int) -> Expected:
    """One cell is a scalar, several are a list, which is null without any value."""
    if width == 1:
        return Expected(values[0] if values else None)
    return Expected(values or None)


def _cell(value: Any, kind: Kind) -> Any:
    return float(value) if value is not None and kind.name == "decimal" else value


def _settled(value: Any) -> Any:
    """-0.0 is the same value as 0.0."""
    return value + 0.0 if isinstance(value, float) else value


def _word(value: Any) -> Any:
    """A string as the number that orders it among others as frequent; a number itself."""
    text = value.encode() if isinstance(value, str) else value
    if not isinstance(text, bytes):
        return value
    return int.from_bytes((text + b"\1").ljust(8, b"\0"), "little", signed=True)


def _rank(value: Any) -> tuple[Any, float]:
    """Order of values, -0.0 before 0.0."""
    return value, math.copysign(1.0, value) if isinstance(value, float) else 0.0


def _field(aggregation: Aggregation, name: str) -> Any:
    return getattr(aggregation, name)
