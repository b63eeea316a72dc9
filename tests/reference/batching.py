"""The most micro-batches that any schedule can finish on time, knowing all arrivals.

Equal sizes, deadline = arrival + SLO, one device, ``L(n) = t0 + a*n`` for n micro-batches,
a batch starts after its last member has arrived and ends for all members at once.

An exchange argument makes batches contiguous: if a batch left out a micro-batch that arrived
between two of its members, serving that one instead of the first member is no larger, no later
to start, and has a later deadline. So the optimum is a dynamic programme over (how many were
considered, how many of those were served) -> earliest time at which the device is free.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt


def optimum(arrivals: npt.NDArray[np.int64], slo: float, t0: float, a: float) -> int:
    """By dynamic programme: O(n * n * largest batch)."""
    n = len(arrivals)
    largest = max(int((slo - t0) / a), 0)
    free = np.full((largest + 1, n + 1), np.inf)  # ring over i: free[i % size][served]
    size = largest + 1
    free[0, 0] = -np.inf
    for i in range(1, n + 1):
        best = free[(i - 1) % size].copy()
        last = arrivals[i - 1]
        for m in range(1, min(i, largest) + 1):
            deadline = arrivals[i - m] + slo
            if last + t0 + a * m > deadline:
                break
            done = np.maximum(free[(i - m) % size][: n + 1 - m], last) + (t0 + a * m)
            np.minimum(best[m:], np.where(done <= deadline, done, np.inf), out=best[m:])
        free[i % size] = best
    return int(np.flatnonzero(np.isfinite(free[n % size][1:])).max(initial=-1)) + 1


def optimum_by_force(arrivals: npt.NDArray[np.int64], slo: float, t0: float, a: float) -> int:
    """By trying every subset and every way to cut it into batches; for up to 9 arrivals."""
    n = len(arrivals)
    for count in range(n, 0, -1):
        for subset in combinations(range(n), count):
            for cuts in range(1 << (count - 1)):
                if _feasible([int(arrivals[i]) for i in subset], cuts, slo, t0, a):
                    return count
    return 0


def _feasible(times: list[int], cuts: int, slo: float, t0: float, a: float) -> bool:
    free, start = float("-inf"), 0
    for end in range(1, len(times) + 1):
        if end == len(times) or cuts >> (end - 1) & 1:
            batch = times[start:end]
            free = max(free, batch[-1]) + t0 + a * len(batch)
            if free > batch[0] + slo:
                return False
            start = end
    return True
