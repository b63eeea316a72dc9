"""What a lane learns about itself: service time by rows, arrival rate, delivery time.

Pure arithmetic over numbers that the caller measured; no clock is read here. Times are
nanoseconds, kept as floats.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

__all__ = ["ArrivalRate", "RecentQuantile", "ServiceTime"]


class ServiceTime:
    """``L(n) = t0 + a*n``: the time that a model takes for ``n`` rows, learned.

    The warm-up sweep is fitted by least squares and stays in the fit with a small constant
    weight: live traffic often has one batch size for a long time, and a line through one
    size has no slope. Later observations are weighted exponentially (``memory`` of them).
    Where a bucket's own mean is off the line by more than a tenth, that mean's distance from
    the line is added (piecewise by bucket).
    """

    PRIOR_WEIGHT = 4.0
    BUCKET_MIN_COUNT = 8
    BUCKET_TOLERANCE = 0.1

    def __init__(self, t0_ns: float, a_ns: float, *, memory: int = 64) -> None:
        if not (t0_ns >= 0 and a_ns > 0 and memory >= 2):
            raise ValueError("service time needs t0_ns >= 0, a_ns > 0 and memory >= 2")
        self.t0_ns = float(t0_ns)
        self.a_ns = float(a_ns)
        self.residual_ns = 0.0
        self._keep = 1.0 - 1.0 / memory
        self._prior = np.zeros(5)
        self._sums = np.zeros(5)
        self._squares = 0.0
        self._weight = 0.0
        self._buckets: tuple[int, ...] = ()
        self._offset: list[float] = []
        self._count: list[int] = []

    @classmethod
    def fit(
        cls, rows: Sequence[int], times_ns: Sequence[float], *, memory: int = 64
    ) -> ServiceTime:
        """Fit of a warm-up sweep: ``times_ns[i]`` is one run over ``rows[i]`` rows.

        Needs two different sizes; the sizes become the buckets of the piecewise correction.
        Slope and intercept are held at or above 0 (a tiny slope where the line falls).
        """
        if len(rows) != len(times_ns) or len(set(rows)) < 2:
            raise ValueError("a warm-up sweep needs at least two different batch sizes")
        x, y = np.asarray(rows, dtype=np.float64), np.asarray(times_ns, dtype=np.float64)
        sums = np.array([len(x), x.sum(), y.sum(), (x * x).sum(), (x * y).sum()])
        t0, a = _line(sums)
        fitted = cls(t0, a, memory=memory)
        fitted._prior = sums * (cls.PRIOR_WEIGHT / len(x))
        spread = y - (t0 + a * x)
        fitted.residual_ns = float(np.sqrt((spread * spread).mean()))
        fitted._squares = fitted.residual_ns**2 * cls.PRIOR_WEIGHT
        fitted._weight = cls.PRIOR_WEIGHT
        fitted._buckets = tuple(sorted(set(rows)))
        fitted._offset = [0.0] * len(fitted._buckets)
        fitted._count = [0] * len(fitted._buckets)
        return fitted

    def observe(self, rows: int, took_ns: float) -> None:
        """Learn from one run. A service made without :meth:`fit` is fixed and ignores it."""
        if not self._prior[0]:
            return
        error = took_ns - self(rows)
        self._squares = self._squares * self._keep + error * error
        self._weight = self._weight * self._keep + 1.0
        self.residual_ns = math.sqrt(self._squares / self._weight)
        x = float(rows)
        self._sums *= self._keep
        self._sums += (1.0, x, took_ns, x * x, x * took_ns)
        self.t0_ns, self.a_ns = _line(self._prior + self._sums)
        bucket = self._bucket(rows)
        self._count[bucket] += 1
        gain = max(1.0 - self._keep, 1.0 / self._count[bucket])
        self._offset[bucket] += gain * (took_ns - self._on_line(rows) - self._offset[bucket])

    def __call__(self, rows: int) -> float:
        """Expected time of a run over ``rows`` rows, in ns."""
        line = self._on_line(rows)
        if self._buckets:
            bucket = self._bucket(rows)
            offset = self._offset[bucket]
            known = self._count[bucket] >= self.BUCKET_MIN_COUNT
            if known and abs(offset) > self.BUCKET_TOLERANCE * line:
                return max(line + offset, 0.0)
        return line

    def _on_line(self, rows: int) -> float:
        return self.t0_ns + self.a_ns * rows

    def _bucket(self, rows: int) -> int:
        return min(bisect_left(self._buckets, rows), len(self._buckets) - 1)


class ArrivalRate:
    """Rows a nanosecond, exponentially weighted with a time constant, unbiased from the start."""

    def __init__(self, tau_ns: float) -> None:
        self._tau = float(tau_ns)
        self._rate = 0.0
        self._first: int | None = None
        self._last = 0

    def observe(self, rows: int, now_ns: int) -> None:
        """``rows`` arrived at ``now_ns``; a clock that steps back counts as standing still."""
        if self._first is None:
            self._first = self._last = now_ns
        elapsed = max(now_ns - self._last, 0)
        self._rate = self._rate * math.exp(-elapsed / self._tau) + rows / self._tau
        self._last = max(now_ns, self._last)

    def __call__(self, now_ns: int) -> float:
        """The rate as of ``now_ns``; 0 before a hundredth of the time constant has passed."""
        if self._first is None:
            return 0.0
        age = max(now_ns, self._last) - self._first
        if age < 0.01 * self._tau:
            return 0.0
        decayed = self._rate * math.exp(-max(now_ns - self._last, 0) / self._tau)
        return decayed / -math.expm1(-age / self._tau)


class RecentQuantile:
    """A quantile of the last ``size`` observations; 0 before the first."""

    def __init__(self, q: float, size: int = 256) -> None:
        self._q = q
        self._ring = np.zeros(size)
        self._seen = 0
        self._value = 0.0

    def observe(self, value: float) -> None:
        """Add one observation. O(1), and O(size) for every sixteenth."""
        self._ring[self._seen % len(self._ring)] = value
        self._seen += 1
        if self._seen <= 16 or self._seen % 16 == 0:
            filled = self._ring[: min(self._seen, len(self._ring))]
            self._value = float(np.quantile(filled, self._q))

    def __call__(self) -> float:
        """The quantile, at most sixteen observations old."""
        return self._value


def _line(sums: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
    """Least squares from (weight, x, y, xx, xy), with intercept >= 0 and slope > 0."""
    weight, x, y, xx, xy = (float(s) for s in sums)
    spread = weight * xx - x * x
    a = (weight * xy - x * y) / spread if spread > 0 else 0.0
    t0 = (y - a * x) / weight
    if t0 < 0:
        t0, a = 0.0, xy / xx
    if a <= 0:
        a = 1e-9 * y / max(x, 1.0) + 1e-9
        t0 = max(y / weight - a * x / weight, 0.0)
    return t0, a
