"""Looks at the running workers through their metrics pages."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline import metrics
from pipeline.demo.sample import Sample

__all__ = ["AppWatch", "scrape"]

I64 = npt.NDArray[np.int64]
LINE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
TIMEOUT_S = 2.0


def scrape(url: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """(name, labels, value) of every sample of a metrics page; OSError if nobody answers."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as page:
        text = page.read().decode()
    for line in text.splitlines():
        found = LINE.fullmatch(line)
        if found:
            yield found[1], dict(LABEL.findall(found[2] or "")), float(found[3])


class AppWatch:
    """Makes :class:`Sample` values from an application's metrics page.

    Freshness is over the time between two samples, from the difference of the histograms.
    """

    def __init__(self, url: str, view: str) -> None:
        self._url = url
        self._view = view
        self._bounds = np.array(metrics.FRESHNESS.buckets, dtype=np.float64)
        self._before: I64 = np.zeros(len(self._bounds) + 1, dtype=np.int64)
        self.total: I64 = self._before
        self.partitions = 0
        self.applied = 0

    def look(self, t_s: float, produced: int, predicted: int) -> Sample:
        """A sample at ``t_s``; OSError if the application does not answer."""
        buckets: list[tuple[float, float]] = []
        accounted = 0.0
        for name, labels, value in scrape(self._url):
            if name == metrics.OUTCOMES.name and labels.get("view") == self._view:
                accounted += value
            elif name == metrics.PARTITIONS.name:
                self.partitions = int(value)
            elif name == f"{metrics.FRESHNESS.name}_bucket" and labels.get("view") == self._view:
                buckets.append((float(labels["le"].replace("+Inf", "inf")), value))
        self.applied = int(accounted)
        self.total = np.diff([0.0, *(v for _, v in sorted(buckets))]).astype(np.int64)
        if not len(self.total):
            self.total = np.zeros(len(self._bounds) + 1, dtype=np.int64)
        recent, self._before = self.total - self._before, self.total
        return Sample(
            t_s=t_s,
            produced=produced,
            applied=self.applied,
            predicted=predicted,
            lag=max(0, produced - self.applied),
            freshness_p50_ms=self.quantile_ms(recent, 0.5),
            freshness_p99_ms=self.quantile_ms(recent, 0.99),
        )

    def quantile_ms(self, counts: I64, q: float) -> float | None:
        """A quantile of bucket counts, None when empty."""
        if not counts.sum():
            return None
        return metrics.quantile(self._bounds, counts, q) * 1000
