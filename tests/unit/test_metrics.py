from __future__ import annotations

import re
import threading

import numpy as np
import pytest

from pipeline import metrics
from pipeline.errors import ConfigurationError
from pipeline.metrics import Histogram, Metric, Registry


def every_metric() -> list[Metric]:
    return [value for value in vars(metrics).values() if isinstance(value, Metric)]


def test_names_follow_the_conventions_and_are_unique() -> None:
    found = every_metric()
    assert len({m.name for m in found}) == len(found) > 20
    for metric in found:
        assert re.fullmatch(r"pipeline_[a-z0-9_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert metric.help.endswith(".")


def test_buckets_agree_with_a_loop() -> None:
    rng = np.random.default_rng(7)
    values = np.concatenate([rng.lognormal(-3, 3, 5_000), [0.0, 1e-4, 1e9, -1.0, np.nan, 1.0]])
    bounds = metrics.FRESHNESS.buckets
    histogram = Histogram(bounds)
    histogram.observe(values[:10])
    histogram.observe(values[10:].reshape(-1, 2))
    expected = [0] * (len(bounds) + 1)
    for value in values:
        if value == value:
            place = next((i for i, bound in enumerate(bounds) if value <= bound), len(bounds))
            expected[place] += 1
    assert histogram.counts.tolist() == expected
    assert histogram.count == len(values) - 1
    assert histogram.sum == pytest.approx(np.nansum(values))


@pytest.mark.parametrize("q", [0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0])
def test_quantiles_are_within_a_bucket(q: float) -> None:
    values = np.random.default_rng(3).lognormal(-3, 1, 50_000)
    histogram = Histogram(metrics.FRESHNESS.buckets)
    histogram.observe(values)
    truth = float(np.quantile(values, q))
    assert truth / 1.26 <= histogram.quantile(q) <= truth * 1.26  # 10 bounds a decade


def test_quantile_of_nothing_and_beyond_the_last_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    assert np.isnan(histogram.quantile(0.5))
    histogram.observe([5.0, 6.0])
    assert histogram.quantile(0.5) == 2.0


def test_registry_keeps_labels_apart() -> None:
    registry = Registry()
    registry.counter(metrics.OUTCOMES, "v", "applied").add(3)
    registry.counter(metrics.OUTCOMES, "v", "applied").add()
    registry.counter(metrics.OUTCOMES, "v", "late").add(2)
    registry.gauge(metrics.PARTITIONS).set(4)
    snapshot = registry.snapshot()
    assert snapshot['pipeline_events_total{view="v",outcome="applied"}'] == 4
    assert snapshot['pipeline_events_total{view="v",outcome="late"}'] == 2
    assert snapshot["pipeline_owned_partitions"] == 4


def test_exposition_is_the_text_format() -> None:
    registry = Registry()
    metric = Metric("x_seconds", "histogram", "Time.", ("who",), (0.1, 1.0))
    registry.histogram(metric, 'a"b\\c\nd').observe([0.05, 0.5, 5.0])
    registry.counter(metrics.RETRIES, "store").add(2)
    label = r'who="a\"b\\c\nd"'
    assert registry.exposition() == (
        "# HELP pipeline_retries_total Pauses because a server did not answer.\n"
        "# TYPE pipeline_retries_total counter\n"
        'pipeline_retries_total{server="store"} 2.0\n'
        "# HELP x_seconds Time.\n"
        "# TYPE x_seconds histogram\n"
        f'x_seconds_bucket{{{label},le="0.1"}} 1\n'
        f'x_seconds_bucket{{{label},le="1"}} 2\n'
        f'x_seconds_bucket{{{label},le="+Inf"}} 3\n'
        f"x_seconds_sum{{{label}}} 5.55\n"
        f"x_seconds_count{{{label}}} 3\n"
    )


def test_misuse_is_named() -> None:
    registry = Registry()
    with pytest.raises(ConfigurationError, match=r"labels \(view, outcome\), got 1"):
        registry.counter(metrics.OUTCOMES, "v")
    with pytest.raises(ConfigurationError, match="is a gauge, not a counter"):
        registry.counter(metrics.PARTITIONS)
    with pytest.raises(ValueError, match="cannot go down"):
        registry.counter(metrics.FENCED).add(-1)


def test_threads_lose_no_count() -> None:
    registry = Registry()

    def count() -> None:
        for _ in range(2_000):
            registry.counter(metrics.FENCED).add()
            registry.histogram(metrics.READ_SECONDS).observe(0.1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.counter(metrics.FENCED).value == 8_000
    assert registry.histogram(metrics.READ_SECONDS).count == 8_000
