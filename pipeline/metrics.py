"""Every metric of the package, by name, and the registry that counts them in process.

The core returns numbers; whoever runs it adds them here, once per batch and never per event.
Names, units and the text of :meth:`Registry.exposition` follow the Prometheus conventions
(text exposition format 0.0.4), so any collector reads them without a client library.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigurationError

__all__ = ["Counter", "Gauge", "Histogram", "Metric", "Registry", "quantile"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Metric:
    """A name with its meaning. ``buckets`` (upper bounds, ascending) makes it a histogram."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _spaced(low_exponent: int, high_exponent: int, per_decade: int) -> tuple[float, ...]:
    """Bounds from 10**low to 10**high, evenly spaced in the logarithm, at 4 digits."""
    steps = (high_exponent - low_exponent) * per_decade
    return tuple(float(f"{10 ** (low_exponent + i / per_decade):.4g}") for i in range(steps + 1))


# 10 bounds a decade keep a quantile within 13 % of the truth, interpolation aside.
_LATENCY_S = _spaced(-5, 1, 10)
_FRESHNESS_S = _spaced(-4, 5, 10)
_PARTITION = ("topic", "partition")
_ROWS = tuple(float(2**k) for k in range(18))

# ---- ingest -----------------------------------------------------------------------------------
CONSUMED = Metric(
    "pipeline_consumed_records_total", "counter", "Records read.", ("topic", "partition")
)
CONSUMED_BYTES = Metric(
    "pipeline_consumed_bytes_total", "counter", "Bytes of values read.", ("topic",)
)
BATCH_RECORDS = Metric(
    "pipeline_batch_records", "histogram", "Records of a batch.", ("topic",), _ROWS
)
DEAD_LETTERED = Metric(
    "pipeline_dead_lettered_records_total",
    "counter",
    "Records sent to the dead-letter topic.",
    ("topic", "reason"),
)
LAG = Metric(
    "pipeline_lag_records",
    "gauge",
    "Records between the marker and the end of the log.",
    ("topic", "partition"),
)
HELD_BACK_RECORDS = Metric(
    "pipeline_held_back_records", "gauge", "Offsets behind an open transaction.", _PARTITION
)
HELD_BACK_SECONDS = Metric(
    "pipeline_held_back_seconds", "gauge", "Age of the open transaction, 0: none.", _PARTITION
)
LAST_STABLE_OFFSET = Metric(
    "pipeline_last_stable_offset", "gauge", "Start of the open transaction, -1: none.", _PARTITION
)
PARTITIONS = Metric("pipeline_owned_partitions", "gauge", "Partitions that this worker owns.")
NATIVE_LANE = Metric(
    "pipeline_native_lane", "gauge", "1 where the native lane reads, 0 where the portable one does."
)

# ---- state, commit ----------------------------------------------------------------------------
OUTCOMES = Metric(
    "pipeline_events_total",
    "counter",
    "Records by view and outcome; the outcomes sum to the records consumed.",
    ("view", "outcome"),
)
STAGE_SECONDS = Metric(
    "pipeline_stage_seconds",
    "histogram",
    "Time of one batch in one stage: poll, decode, apply, publish, commit.",
    ("stage",),
    _LATENCY_S,
)
FRESHNESS_MISSED = Metric(
    "pipeline_freshness_missed_records_total",
    "counter",
    "Records that were older at their commit than the application's freshness goal.",
    ("view",),
)
FRESHNESS = Metric(
    "pipeline_freshness_seconds",
    "histogram",
    "From broker time of a record to its features being readable.",
    ("view",),
    _FRESHNESS_S,
)
ROWS_WRITTEN = Metric(
    "pipeline_written_rows_total", "counter", "Rows committed to the store.", ("view",)
)
BYTES_WRITTEN = Metric(
    "pipeline_written_bytes_total", "counter", "Bytes of rows committed to the store.", ("view",)
)
CACHE_ROWS = Metric("pipeline_cache_rows", "gauge", "Rows in the worker's cache.", ("view",))
CACHE_BYTES = Metric("pipeline_cache_bytes", "gauge", "Memory of the worker's cache.", ("view",))
CACHE_MISSES = Metric(
    "pipeline_cache_misses_total", "counter", "Rows that had to be read from the store.", ("view",)
)
CACHE_EVICTED = Metric(
    "pipeline_cache_evicted_rows_total", "counter", "Rows dropped from the cache.", ("view",)
)
EXPIRING = Metric(
    "pipeline_expiring_rows_total",
    "counter",
    "Rows given an expiry in the store: evicted, released with their partition, or swept.",
    ("view", "cause"),
)
CORRUPT_ROWS = Metric(
    "pipeline_corrupt_rows_total", "counter", "Stored rows that were quarantined.", ("view",)
)
FENCED = Metric(
    "pipeline_fenced_commits_total", "counter", "Commits refused: another worker owns the lease."
)
REWINDS = Metric(
    "pipeline_rewinds_total",
    "counter",
    "Returns to the marker, by what made them necessary.",
    ("cause",),
)
RETRIES = Metric(
    "pipeline_retries_total", "counter", "Pauses because a server did not answer.", ("server",)
)
PUBLISHED = Metric(
    "pipeline_published_messages_total",
    "counter",
    "Messages that a broker acknowledged.",
    ("topic",),
)
PUBLISH_FAILURES = Metric(
    "pipeline_publish_failures_total", "counter", "Messages that no broker took.", ("topic",)
)

# ---- serve, inference -------------------------------------------------------------------------
READS = Metric("pipeline_reads_total", "counter", "Requests for features.", ("view",))
READ_KEYS = Metric(
    "pipeline_read_keys_total", "counter", "Keys read, by status of the row.", ("view", "status")
)
READ_SECONDS = Metric(
    "pipeline_read_seconds", "histogram", "Time of one request for features.", (), _LATENCY_S
)
INFERENCE_ROWS = Metric(
    "pipeline_inference_rows_total",
    "counter",
    "Rows by outcome: predicted, or fallback with its reason.",
    ("model", "outcome", "reason"),
)
INFERENCE_BATCH = Metric(
    "pipeline_inference_batch_rows", "histogram", "Rows of one model call.", ("model",), _ROWS
)
INFERENCE_SERVICE_SECONDS = Metric(
    "pipeline_inference_service_seconds",
    "histogram",
    "Time of one model call.",
    ("model",),
    _LATENCY_S,
)
INFERENCE_SECONDS = Metric(
    "pipeline_inference_seconds",
    "histogram",
    "From request to prediction.",
    ("model",),
    _LATENCY_S,
)
INFERENCE_ON_TIME = Metric(
    "pipeline_inference_on_time_rows_total", "counter", "Rows predicted within the SLO.", ("model",)
)


class Counter:
    """A sum that only grows."""

    def __init__(self) -> None:
        self._value = 0.0
        self._lock = threading.Lock()

    def add(self, amount: float = 1) -> None:
        """Add ``amount`` >= 0; a negative one is a :class:`ValueError`."""
        if amount < 0:
            raise ValueError(f"a counter cannot go down by {-amount}")
        with self._lock:
            self._value += amount

    @property
    def value(self) -> float:
        """The sum so far."""
        return self._value


class Gauge:
    """A value that goes up and down."""

    def __init__(self) -> None:
        self._value = 0.0

    def set(self, value: float) -> None:
        """Replace the value."""
        self._value = float(value)

    @property
    def value(self) -> float:
        """The value last set, 0 before."""
        return self._value


class Histogram:
    """Counts per bucket: bucket ``i`` holds ``bounds[i-1] < x <= bounds[i]``, the last is open.

    NaN is not counted. Observing n values costs one binary search each, without Python per value.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds: F64 = np.asarray(bounds, dtype=np.float64)
        self._counts: I64 = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, values: npt.ArrayLike) -> None:
        """Count one value or an array of them (any shape, read as float64)."""
        seen = np.asarray(values, dtype=np.float64).ravel()
        seen = seen[~np.isnan(seen)]
        buckets = np.searchsorted(self.bounds, seen, side="left")
        counts = np.bincount(buckets, minlength=len(self._counts))
        with self._lock:
            self._counts += counts
            self._sum += float(seen.sum())

    @property
    def counts(self) -> I64:
        """Values per bucket, int64[len(bounds) + 1]; a copy."""
        with self._lock:
            return self._counts.copy()

    @property
    def count(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    @property
    def sum(self) -> float:
        """Sum of the values."""
        return self._sum

    def quantile(self, q: float) -> float:
        """The ``q`` quantile (0 to 1), interpolated in the logarithm within its bucket.

        NaN when empty. Within one bucket's width of the truth; a quantile in the open last
        bucket is its lower bound.
        """
        return quantile(self.bounds, self.counts, q)


def quantile(bounds: F64, counts: I64, q: float) -> float:
    """:meth:`Histogram.quantile` of bucket counts from anywhere, such as a difference of two."""
    total = int(counts.sum())
    if total == 0:
        return float("nan")
    rank = q * total
    bucket = int(np.searchsorted(np.cumsum(counts), rank, side="left"))
    while counts[bucket] == 0:  # q = 0 lands before the first value
        bucket += 1
    if bucket == len(bounds):
        return float(bounds[-1])
    high = float(bounds[bucket])
    low = float(bounds[bucket - 1]) if bucket else high / 10
    inside = (rank - float(counts[:bucket].sum())) / float(counts[bucket])
    return float(low * (high / low) ** min(max(inside, 0.0), 1.0))


Instrument = Counter | Gauge | Histogram


class Registry:
    """The instruments of one process, by metric and label values. Safe to use from threads."""

    def __init__(self) -> None:
        self._instruments: dict[tuple[str, tuple[str, ...]], Instrument] = {}
        self._metrics: dict[str, Metric] = {}
        self._lock = threading.Lock()

    def counter(self, metric: Metric, *labels: str) -> Counter:
        """The counter of ``metric`` for these label values, in the order of ``metric.labels``."""
        found = self._instrument(metric, labels)
        if not isinstance(found, Counter):
            raise ConfigurationError(f"{metric.name} is a {metric.kind}, not a counter")
        return found

    def gauge(self, metric: Metric, *labels: str) -> Gauge:
        """The gauge of ``metric`` for these label values."""
        found = self._instrument(metric, labels)
        if not isinstance(found, Gauge):
            raise ConfigurationError(f"{metric.name} is a {metric.kind}, not a gauge")
        return found

    def histogram(self, metric: Metric, *labels: str) -> Histogram:
        """The histogram of ``metric`` for these label values."""
        found = self._instrument(metric, labels)
        if not isinstance(found, Histogram):
            raise ConfigurationError(f"{metric.name} is a {metric.kind}, not a histogram")
        return found

    def snapshot(self) -> dict[str, float]:
        """Value by ``name{label="value"}``; histograms as count, sum, p50, p99."""
        values: dict[str, float] = {}
        for metric, labels, found in self._sorted():
            text = _label_text(metric.labels, labels)
            if isinstance(found, Histogram):
                values[f"{metric.name}_count{text}"] = found.count
                values[f"{metric.name}_sum{text}"] = found.sum
                values[f"{metric.name}_p50{text}"] = found.quantile(0.5)
                values[f"{metric.name}_p99{text}"] = found.quantile(0.99)
            else:
                values[f"{metric.name}{text}"] = found.value
        return values

    def exposition(self) -> str:
        """All instruments as text, for ``Content-Type: text/plain; version=0.0.4``."""
        lines: list[str] = []
        announced = ""
        for metric, labels, found in self._sorted():
            if metric.name != announced:
                lines += [
                    f"# HELP {metric.name} {metric.help}",
                    f"# TYPE {metric.name} {metric.kind}",
                ]
                announced = metric.name
            lines += _lines(metric, labels, found)
        return "\n".join([*lines, ""])

    def _instrument(self, metric: Metric, labels: tuple[str, ...]) -> Instrument:
        found = self._instruments.get((metric.name, labels))
        if found is not None:
            return found
        if len(labels) != len(metric.labels):
            raise ConfigurationError(
                f"{metric.name} has labels ({', '.join(metric.labels)}), got {len(labels)} values"
            )
        with self._lock:
            self._metrics[metric.name] = metric
            return self._instruments.setdefault((metric.name, labels), _new(metric))

    def _sorted(self) -> Iterator[tuple[Metric, tuple[str, ...], Instrument]]:
        with self._lock:
            found = sorted(self._instruments.items(), key=lambda item: item[0])
        for (name, labels), instrument in found:
            yield self._metrics[name], labels, instrument


def _new(metric: Metric) -> Instrument:
    if metric.kind == "histogram":
        return Histogram(metric.buckets)
    return Counter() if metric.kind == "counter" else Gauge()


def _lines(metric: Metric, labels: tuple[str, ...], found: Instrument) -> Iterator[str]:
    text = _label_text(metric.labels, labels)
    if not isinstance(found, Histogram):
        yield f"{metric.name}{text} {found.value!r}"
        return
    running = np.cumsum(found.counts)
    bounds = [*(f"{bound:g}" for bound in found.bounds), "+Inf"]
    for bound, count in zip(bounds, running, strict=True):
        inside = _label_text((*metric.labels, "le"), (*labels, bound))
        yield f"{metric.name}_bucket{inside} {int(count)}"
    yield f"{metric.name}_sum{text} {found.sum!r}"
    yield f"{metric.name}_count{text} {int(running[-1])}"


def _label_text(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    if not names:
        return ""
    pairs = (f'{n}="{_escaped(v)}"' for n, v in zip(names, values, strict=True))
    return "{" + ",".join(pairs) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
