"""A single device in simulated time: what share of micro-batches a policy finishes on time.

The policy under test is the very object that the worker uses. Times are ns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.inference.batcher import Dispatch, MicroBatch, Shed, Wait

__all__ = ["Outcome", "Policy", "bursty", "poisson", "polled", "simulate"]

I64 = npt.NDArray[np.int64]


class Policy(Protocol):
    """What the simulator needs of a batcher."""

    def offer(self, batch: MicroBatch[int]) -> None:
        """Queue a micro-batch."""

    def decide(self, now_ns: int, idle: bool) -> Dispatch[int] | Wait | Shed[int]:
        """What to do now."""

    def completed(self, rows: int, service_ns: float, delivery_ns: float | None = None) -> None:
        """A run has ended."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Finish time of every micro-batch (-1 where it was shed), and how many were on time."""

    finish_ns: I64
    on_time: int


def simulate(
    policy: Policy,
    arrivals_ns: I64,
    *,
    rows: int,
    slo_ns: int,
    service: Callable[[int], float],
) -> Outcome:
    """Run ``policy`` over arrivals of ``rows`` rows each until every one has an outcome.

    ``arrivals_ns`` ascends; equal times arrive together, before the policy is asked.
    ``service(n)`` is what the device really takes for ``n`` rows.
    """
    finish = np.full(len(arrivals_ns), -1, dtype=np.int64)
    now, free, upcoming, running = 0, 0, 0, 0
    wake: int | None = None
    while True:
        while upcoming < len(arrivals_ns) and arrivals_ns[upcoming] <= now:
            at = int(arrivals_ns[upcoming])
            policy.offer(MicroBatch(rows, at + slo_ns, at, upcoming))
            upcoming += 1
        if running and free <= now:
            policy.completed(running, service(running))
            running = 0
        wake = None
        while True:
            choice = policy.decide(now, running == 0)
            if isinstance(choice, Shed):
                continue
            if isinstance(choice, Dispatch):
                running = choice.bucket
                free = now + max(int(service(running)), 1)
                finish[[batch.payload for batch in choice.batches]] = free
                continue
            wake = choice.until_ns
            break
        later = [t for t in (wake, free if running else None) if t is not None and t > now]
        if upcoming < len(arrivals_ns):
            later.append(int(arrivals_ns[upcoming]))
        if not later:
            break
        now = min(later)
    deadline = arrivals_ns + slo_ns
    return Outcome(finish, int(((finish >= 0) & (finish <= deadline)).sum()))


def poisson(rng: np.random.Generator, count: int, rate: float) -> I64:
    """``count`` arrivals at ``rate`` a ns, independent of each other."""
    return np.cumsum(rng.exponential(1.0 / rate, count)).astype(np.int64)


def bursty(
    rng: np.random.Generator, count: int, rate: float, *, ratio: float = 4.0, stay_ns: float = 4e7
) -> I64:
    """Arrivals at a mean of ``rate`` that switches between a low and a high rate.

    Stays are exponential with mean ``stay_ns``; the high rate is ``ratio`` times the low one.
    """
    low = 2.0 * rate / (1.0 + ratio)
    parts: list[npt.NDArray[np.float64]] = []
    start, made, high = 0.0, 0, bool(rng.integers(2))
    while made < count:
        stay = rng.exponential(stay_ns)
        n = int(rng.poisson(stay * (low * ratio if high else low)))
        parts.append(start + np.sort(rng.random(n)) * stay)
        start, made, high = start + stay, made + n, not high
    return np.concatenate(parts)[:count].astype(np.int64)


def polled(rng: np.random.Generator, count: int, rate: float, *, poll_ns: float = 5e6) -> I64:
    """Poisson arrivals at ``rate`` that are handed over together at the next poll."""
    return (np.ceil(poisson(rng, count, rate) / poll_ns) * poll_ns).astype(np.int64)
