"""Learned service time, arrival rate and quantile."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.inference.service import ArrivalRate, RecentQuantile, ServiceTime


def test_a_sweep_is_fitted_exactly() -> None:
    service = ServiceTime.fit([1, 64, 1024], [1000 + 3 * n for n in (1, 64, 1024)])
    assert math.isclose(service.t0_ns, 1000, rel_tol=1e-9)
    assert math.isclose(service.a_ns, 3, rel_tol=1e-9)
    assert service.residual_ns < 1e-6
    assert math.isclose(service(500), 2500)


def test_it_follows_a_device_that_slows_down() -> None:
    service = ServiceTime.fit([1, 64, 1024], [1000 + 3 * n for n in (1, 64, 1024)])
    rng = np.random.default_rng(1)
    for _ in range(2_000):
        n = int(rng.integers(1, 1024))
        service.observe(n, 4000 + 5 * n)
    assert math.isclose(service(512), 4000 + 5 * 512, rel_tol=0.05)


def test_one_batch_size_for_ever_does_not_lose_the_slope() -> None:
    service = ServiceTime.fit([1, 64, 1024], [1000 + 3 * n for n in (1, 64, 1024)])
    rng = np.random.default_rng(2)
    for _ in range(5_000):
        service.observe(64, 1000 + 3 * 64 + rng.normal(0, 20))
    assert math.isclose(service(1024), 1000 + 3 * 1024, rel_tol=0.1)
    assert 10 < service.residual_ns < 40


def test_a_bucket_off_the_line_gets_its_own_time() -> None:
    sizes = [1, 64, 1024]
    service = ServiceTime.fit(sizes, [1000 + 3 * n for n in sizes])
    truth = {1: 1003.0, 64: 2500.0, 1024: 4072.0}
    for _ in range(300):
        for n in sizes:
            service.observe(n, truth[n])
    assert all(math.isclose(service(n), truth[n], rel_tol=0.05) for n in sizes)


def test_a_fixed_service_ignores_observations() -> None:
    service = ServiceTime(10, 1)
    service.observe(5, 1e9)
    assert service(5) == 15


@pytest.mark.parametrize(("rows", "times"), [([1], [1.0]), ([4, 4], [1.0, 2.0]), ([1, 2], [1.0])])
def test_a_sweep_needs_two_sizes(rows: list[int], times: list[float]) -> None:
    with pytest.raises(ValueError, match="two different"):
        ServiceTime.fit(rows, times)


def test_slope_and_intercept_are_never_negative() -> None:
    falling = ServiceTime.fit([1, 100], [1000, 10])
    assert falling.a_ns > 0
    assert falling.t0_ns >= 0
    steep = ServiceTime.fit([10, 100], [0, 1000])
    assert steep.t0_ns == 0
    assert steep.a_ns > 0


def test_the_rate_is_unbiased_early_and_decays() -> None:
    rate = ArrivalRate(tau_ns=1e9)
    assert rate(0) == 0
    for i in range(1, 101):
        rate.observe(64, i * 1_000_000)
    assert math.isclose(rate(100_000_000), 64 / 1e6, rel_tol=0.05)
    assert rate(20_000_000_000) < 1e-6 * 64 / 1e6
    rate.observe(64, 50)  # a clock that steps back
    assert rate(50) > 0


def test_the_quantile_is_of_the_recent_past() -> None:
    quantile = RecentQuantile(0.99, size=64)
    assert quantile() == 0
    for _ in range(64):
        quantile.observe(100.0)
    for _ in range(64):
        quantile.observe(1.0)
    assert quantile() == 1.0
