"""What the demo found, as a value: JSON for machines, exit code for scripts."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from pipeline.demo.oracle import OracleResult

__all__ = ["Accounting", "DemoReport", "Machine", "Predictions", "Quantiles", "versions"]

PACKAGES = (
    "pipeline",
    "faust-streaming",
    "confluent-kafka",
    "redis",
    "numba",
    "numpy",
    "polars",
    "pyarrow",
    "onnxruntime",
    "duckdb",
)


@dataclass(frozen=True, slots=True)
class Accounting:
    """Where every record went: ``consumed`` is the sum of the other five, or the run is wrong."""

    consumed: int = 0
    applied: int = 0
    duplicate: int = 0
    late: int = 0
    dead_lettered: int = 0
    filtered: int = 0

    @property
    def balanced(self) -> bool:
        """Whether the identity holds."""
        return self.consumed == self.outcomes

    @property
    def outcomes(self) -> int:
        """Records whose outcome is known."""
        return self.applied + self.duplicate + self.late + self.dead_lettered + self.filtered

    def __add__(self, other: Accounting) -> Accounting:
        return Accounting(
            self.consumed + other.consumed,
            self.applied + other.applied,
            self.duplicate + other.duplicate,
            self.late + other.late,
            self.dead_lettered + other.dead_lettered,
            self.filtered + other.filtered,
        )


@dataclass(frozen=True, slots=True)
class Predictions:
    """Rows asked for, and what became of them: exactly one of predicted or fallback."""

    requested: int
    predicted: int
    fallback: int

    @property
    def balanced(self) -> bool:
        """Whether every request has its outcome."""
        return self.requested == self.predicted + self.fallback


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Median and 99th percentile; the unit is in the name of the field that holds them."""

    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Machine:
    """What the run had: cores it may use, processor's name, memory in GiB."""

    cores: int
    cpu: str
    memory_gib: float

    @classmethod
    def read(cls) -> Self:
        """This machine."""
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        return cls(cores, _cpu_model(), round(pages * size / 2**30, 1))


@dataclass(frozen=True)
class DemoReport:
    """The figures of one run.

    ``events``             produced; every one must be consumed
    ``entities``           households seen
    ``events_per_s``       applied, from the first produced to the last readable
    ``partitions``         accounting by partition
    ``freshness_ms``       broker time of an event -> its features can be read
    ``read_ms``            one read of ``read_keys`` households by a client
    ``oracle``             None where the run was not verified
    ``predictions``        None where no model took part
    ``expected_requests``  requests the log implies, None where not computed
    ``seconds``            by phase, in order
    """

    events: int
    entities: int
    events_per_s: float
    partitions: Mapping[int, Accounting]
    seconds: Mapping[str, float]
    machine: Machine
    versions: Mapping[str, str]
    freshness_ms: Quantiles | None = None
    read_ms: Quantiles | None = None
    read_keys: int = 0
    bytes_per_entity: float | None = None
    oracle: OracleResult | None = None
    predictions: Predictions | None = None
    expected_requests: int | None = None
    command: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def accounting(self) -> Accounting:
        """The sum over all partitions."""
        return sum(self.partitions.values(), Accounting())

    def problems(self) -> list[str]:
        """What is wrong, as sentences; empty for a good run."""
        found = self.unaccounted() + self.unpredicted()
        if self.oracle is not None and self.oracle.mismatches:
            found.append(
                f"{self.oracle.mismatches:,} of {self.oracle.checked:,} values differ from DuckDB's"
            )
        if self.oracle is not None and not self.oracle.checked:
            found.append("no value was compared with DuckDB")
        return found

    @property
    def exit_code(self) -> int:
        """0 for a good run, 1 where there is a problem."""
        return 1 if self.problems() else 0

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, as in the JSON file."""
        body: dict[str, Any] = {"ok": not self.problems(), "problems": self.problems()}
        body |= asdict(self)
        partitions = body.pop("partitions")
        total = asdict(self.accounting)
        total["partitions"] = {str(p): counts for p, counts in sorted(partitions.items())}
        body["accounting"] = total
        return body

    def write(self, path: Path) -> None:
        """Write the report as JSON, whole or not at all."""
        part = path.with_suffix(path.suffix + ".part")
        part.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        part.replace(path)

    def unaccounted(self) -> list[str]:
        """Records whose outcome is missing or that were never consumed."""
        found = [
            f"partition {p}: {a.consumed:,} consumed, but {a.outcomes:,} accounted for"
            for p, a in sorted(self.partitions.items())
            if not a.balanced
        ]
        total = self.accounting
        once = total.consumed - total.duplicate
        if once != self.events:
            found.append(f"{self.events:,} events were produced, but {once:,} consumed")
        return found

    def unpredicted(self) -> list[str]:
        """Requests whose outcome is missing, and requests that were not made."""
        if self.predictions is None:
            return []
        found = []
        asked = self.predictions.requested
        if not self.predictions.balanced:
            known = self.predictions.predicted + self.predictions.fallback
            found.append(f"{asked:,} predictions requested, but {known:,} accounted for")
        if self.expected_requests is not None and asked != self.expected_requests:
            cause = f"the log has {self.expected_requests:,} causes"
            found.append(f"{asked:,} predictions requested, but {cause}")
        return found


def versions(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Python and the installed packages that matter, then ``extra`` (servers, libraries)."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed took no part in the run
    return found | dict(extra or {})


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
