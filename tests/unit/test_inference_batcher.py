"""LEAD against the exact optimum, its rules one by one, and greedy against a closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.inference import simulate
from pipeline.inference.batcher import Dispatch, LeadBatcher, MicroBatch, Shed, Wait
from pipeline.inference.service import ServiceTime
from tests.reference.batching import optimum, optimum_by_force

# A ranker on a GPU, as in the table of the design: 2 ms + 2 us a row, 20 ms, 64-row micro-batches.
T0, A, SLO, ROWS = 2e6, 2e3, 20_000_000, 64
BEST = (SLO / 2 - T0) / A
RATE = BEST / (T0 + A * BEST)
SEED = 20_171

MS = 1_000_000


def lead(**changes: object) -> LeadBatcher[int]:
    chosen: dict[str, object] = {"slo_ns": SLO, "max_batch": 1 << 16, **changes}
    return LeadBatcher(ServiceTime(T0, A), **chosen)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(40))
def test_the_optimum_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrivals = np.sort(rng.integers(0, 60, int(rng.integers(1, 8)))).astype(np.int64)
    slo, t0, a = (int(rng.integers(*bounds)) for bounds in ((4, 30), (0, 10), (1, 6)))
    assert optimum(arrivals, slo, t0, a) == optimum_by_force(arrivals, slo, t0, a)


@pytest.mark.parametrize(
    ("make", "load", "floor"),
    [
        (simulate.poisson, 0.5, 99.0),
        (simulate.poisson, 0.95, 99.0),
        (simulate.poisson, 1.4, 93.0),
        (simulate.polled, 0.95, 99.0),
        (simulate.polled, 1.4, 93.0),
        (simulate.bursty, 0.95, 91.0),
        (simulate.bursty, 1.4, 91.0),
    ],
)
def test_lead_stays_near_the_optimum(
    make: Callable[..., simulate.I64], load: float, floor: float
) -> None:
    arrivals = make(np.random.default_rng(SEED), 1_200, load * RATE / ROWS)
    outcome = simulate.simulate(
        lead(), arrivals, rows=ROWS, slo_ns=SLO, service=lambda n: T0 + A * n
    )
    share = 100 * outcome.on_time / optimum(arrivals, SLO, T0, A * ROWS)
    print(f"seed {SEED}, {make.__name__} at {load}: {share:.1f} % of the optimum")
    assert floor <= share <= 100


class _Greedy:
    """Runs everything queued as soon as the device is idle."""

    def __init__(self) -> None:
        self._queue: list[MicroBatch[int]] = []

    def offer(self, batch: MicroBatch[int]) -> None:
        self._queue.append(batch)

    def decide(self, now_ns: int, idle: bool) -> Dispatch[int] | Wait | Shed[int]:
        if not idle or not self._queue:
            return Wait()
        taken, self._queue = tuple(self._queue), []
        rows = sum(b.rows for b in taken)
        return Dispatch(taken, rows, rows)

    def completed(self, rows: int, service_ns: float, delivery_ns: float | None = None) -> None:
        return


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_the_simulator_agrees_with_inoues_closed_form(share: float) -> None:
    """Mean latency of greedy batching, arXiv 1912.06322: at most min(f0, f1), and close to it."""
    t0, a = 2e6, 2e4
    lam = share / a
    f0 = (a + t0) / (2 * (1 - lam * a)) * (1 + 2 * lam * t0 + (1 - lam * t0) / (1 + lam * a))
    f1 = 3 * t0 / (2 * (1 - lam * a)) + a / 2 * (lam * a + 2) / (1 - (lam * a) ** 2)
    arrivals = simulate.poisson(np.random.default_rng(SEED), 60_000, lam)
    outcome = simulate.simulate(
        _Greedy(), arrivals, rows=1, slo_ns=1 << 60, service=lambda n: t0 + a * n
    )
    mean = float((outcome.finish_ns - arrivals).mean())
    assert 0.9 * min(f0, f1) <= mean <= 1.05 * min(f0, f1)


def test_every_micro_batch_is_dispatched_or_shed_once_in_order() -> None:
    rng = np.random.default_rng(SEED)
    policy = lead(max_batch=500)
    now, seen, shed, offered = 0, [], [], 0
    for _ in range(2_000):
        now += int(rng.exponential(2e5))
        if offered < 1_500:
            deadline = now + int(rng.integers(0, 2 * SLO))  # deadlines out of order
            policy.offer(MicroBatch(int(rng.integers(1, 65)), deadline, now, offered))
            offered += 1
        choice = policy.decide(now, bool(rng.random() < 0.3))
        if isinstance(choice, Dispatch):
            assert choice.rows == sum(b.rows for b in choice.batches) <= 500
            finish = now + policy.service(choice.rows)
            assert all(b.deadline_ns >= finish for b in choice.batches)
            seen += [b.payload for b in choice.batches]
        elif isinstance(choice, Shed):
            shed += [b.payload for b in choice.batches]
    while not isinstance(choice := policy.decide(now, True), Wait):
        (seen if isinstance(choice, Dispatch) else shed).extend(b.payload for b in choice.batches)
    assert seen == sorted(seen)
    assert sorted(seen + shed) == list(range(offered))
    assert policy.queued_rows == len(policy) == 0


def test_it_waits_while_busy_and_while_empty() -> None:
    policy = lead()
    assert policy.decide(0, True) == Wait()
    policy.offer(MicroBatch(64, SLO, 0, 0))
    assert policy.decide(0, False) == Wait()
    assert isinstance(policy.decide(0, True), Dispatch)


def test_a_head_that_cannot_finish_is_shed_then_the_rest_runs() -> None:
    policy = lead()
    service = T0 + A * 64 * 2
    policy.offer(MicroBatch(64, int(service) - 1, 0, 0))
    policy.offer(MicroBatch(64, SLO, 0, 1))
    policy.offer(MicroBatch(64, SLO, 0, 2))
    shed = policy.decide(0, True)
    assert isinstance(shed, Shed)
    assert [b.payload for b in shed.batches] == [0]
    run = policy.decide(0, True)
    assert isinstance(run, Dispatch)
    assert [b.payload for b in run.batches] == [1, 2]


def test_the_deadline_itself_is_in_time() -> None:
    policy = lead()
    policy.offer(MicroBatch(64, int(T0 + A * 64), 0, 0))
    assert isinstance(policy.decide(0, True), Dispatch)


def test_the_guard_grows_with_delivery_time() -> None:
    policy = lead()
    policy.delivery.observe(5 * MS)
    assert policy.guard_ns == 5 * MS
    policy.offer(MicroBatch(64, int(T0 + A * 64) + 4 * MS, 0, 0))
    assert isinstance(policy.decide(0, True), Shed)


def test_above_capacity_the_target_grows_with_the_load() -> None:
    policy = lead()
    rate = 1.2 * RATE
    for i in range(4_000):
        at = int((i + 1) * ROWS / rate)
        policy.offer(MicroBatch(ROWS, at + SLO, at, i))
    now = int(4_000 * ROWS / rate)
    expected = rate * (SLO - T0) / (1 + rate * A)
    assert math.isclose(policy.target_rows(now), expected, rel_tol=0.05)
    assert policy.target_rows(now + 100 * SLO) == BEST  # the load is gone


def test_defer_waits_a_share_of_the_slo_but_never_past_the_last_chance() -> None:
    policy = lead(defer=0.2)
    policy.offer(MicroBatch(64, SLO, 0, 0))
    assert policy.decide(0, True) == Wait(4 * MS)
    assert isinstance(policy.decide(4 * MS, True), Dispatch)
    policy.offer(MicroBatch(64, 3 * MS, 0, 1))
    assert policy.decide(0, True) == Wait(int(3 * MS - T0 - A * 64))


def test_buckets_pad_up_only_while_that_is_in_time() -> None:
    policy = lead(buckets=(64, 1_024))
    for i in range(3):
        policy.offer(MicroBatch(64, SLO, 0, i))
    run = policy.decide(0, True)
    assert isinstance(run, Dispatch)
    assert (run.rows, run.bucket) == (192, 1_024)
    tight = int(T0 + A * 192)
    for i in range(3):
        policy.offer(MicroBatch(64, tight, 0, i))
    split = policy.decide(0, True)
    assert isinstance(split, Dispatch)
    assert (split.rows, split.bucket) == (64, 64)


@pytest.mark.parametrize(
    "changes", [{"slo_ns": 0}, {"max_batch": 0}, {"z": -1.0}, {"defer": 1.0}, {"defer": -0.1}]
)
def test_settings_are_checked(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="needs"):
        lead(**changes)


def test_a_micro_batch_fits_the_device() -> None:
    with pytest.raises(ValueError, match="1 to 100 rows"):
        lead(max_batch=100).offer(MicroBatch(101, 0, 0, 0))
