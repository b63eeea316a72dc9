"""Figures of the benchmarks as rows of ``build/bench.json``, for the README and for comparison.

A row: the target's ``id`` (P1 to P16), ``what`` was measured, ``ours`` and the ``peer``'s value in
``unit``, their ``ratio`` (the median over ``runs`` pairs, each of one turn), its ``spread``, the
``goal`` and whether it is ``met``; and the machine, with what it was doing besides.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["PLACE", "Figure", "compared", "left_out", "limited", "machine", "publish", "record"]

PLACE = Path(__file__).parents[2] / "build" / "bench.json"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure. ``goal`` is the least ``ratio``, or the most where that was asked for. ``cpu_us``
    is CPU an event of our process and of the peer's, without servers, where it was taken."""

    id: str
    what: str
    ours: float
    peer: str
    peer_value: float
    ratio: float
    goal: float
    unit: str
    runs: int
    spread: tuple[float, float]
    met: bool
    cpu_us: tuple[float, float] | None = None
    machine: dict[str, Any] = field(default_factory=dict)


def compared(
    id: str, what: str, ours: Sequence[float], peer: str, theirs: Sequence[float], unit: str,
    goal: float, *, at_most: bool = False,
) -> Figure:  # fmt: skip
    """The figure of pairs of measurements, each pair taken in turn; a ratio is ours / theirs."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ratios)
    return Figure(
        id, what, _short(statistics.median(ours)), peer, _short(statistics.median(theirs)),
        _short(ratio), goal, unit, len(ratios), (_short(min(ratios)), _short(max(ratios))),
        ratio <= goal if at_most else ratio >= goal,
    )  # fmt: skip


def limited(
    id: str, what: str, ours: Sequence[float], limit: float, unit: str, *, at_least: bool = False
) -> Figure:
    """The figure of measurements against a fixed goal: at most ``limit``, or at least."""
    limits = [limit] * len(ours)
    return compared(id, what, ours, "goal", limits, unit, 1.0, at_most=not at_least)


def publish(
    figures: Sequence[Figure], about: dict[str, Any] | None = None, *, quick: bool = False
) -> None:
    """Print figures, and add them to ``build/bench.json`` unless they are of a smoke run."""
    for f in figures:
        print(
            f"{f.id} {f.what}: {f.ours:,} {f.unit}, {f.peer} {f.peer_value:,}; ratio {f.ratio:g} "
            f"({f.spread[0]:g} to {f.spread[1]:g}), goal {f.goal:g}{'' if f.met else ', NOT MET'}"
        )
    if quick:
        print("a smoke run: nothing recorded")
    else:
        record(figures, about)


def left_out(id: str, what: str, why: object) -> None:
    """Say why a figure is not among the rows."""
    print(f"{id} {what}: left out, {why}")


def record(figures: Sequence[Figure], about: dict[str, Any] | None = None) -> None:
    """Add figures to ``build/bench.json``, in place of older ones of the same thing."""
    rows: list[dict[str, Any]] = json.loads(PLACE.read_text()) if PLACE.exists() else []
    new = {(f.id, f.what, f.peer) for f in figures}
    rows = [row for row in rows if (row["id"], row["what"], row["peer"]) not in new]
    rows += [{**asdict(f), "machine": {**machine(), **(about or {})}} for f in figures]
    PLACE.parent.mkdir(exist_ok=True)
    PLACE.write_text(json.dumps(rows, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """What figures depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "cpu": models[0] if models else platform.processor(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "command": " ".join(["python -m", _module(), *sys.argv[1:]]),
    }


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return str(spec.name) if spec is not None else Path(sys.argv[0]).stem


def _short(value: float) -> float:
    """To four digits."""
    return float(f"{value:.4g}")
