from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipeline.demo.progress import DemoProgress
from pipeline.demo.sample import Sample, rate

RUN = [Sample(float(t), 100 * t, 80 * t, 10 * t, 20 * t, 5.0, 40.0 + t) for t in range(13)]


def lines_of(samples: list[Sample], **options: object) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=60, force_terminal=False)
    with DemoProgress(1200, console, **options) as progress:  # type: ignore[arg-type]
        for sample in samples:
            progress.update(sample)
    return out.getvalue().splitlines()


def test_a_rate_is_over_the_last_seconds() -> None:
    samples = [Sample(0.0), Sample(1.0, produced=10), Sample(3.0, produced=50)]
    assert rate(samples, "produced", over_s=2.0) == 20.0
    assert rate(samples, "produced", over_s=0.5) == 20.0  # at least the newest interval
    assert rate(samples, "produced", over_s=9.0) == pytest.approx(50 / 3)


def test_a_rate_needs_two_samples_and_time_between_them() -> None:
    assert rate([], "produced") == 0.0
    assert rate([Sample(1.0, produced=5)], "produced") == 0.0
    assert rate([Sample(1.0), Sample(1.0, produced=5)], "produced") == 0.0


def test_without_a_terminal_there_is_a_line_every_few_seconds_and_the_last_one() -> None:
    lines = lines_of(RUN, requests=120)
    assert [line.split(" s")[0].strip() for line in lines] == ["0.0", "5.0", "10.0", "12.0"]
    assert lines[-1] == (
        "  12.0 s  produced 1,200 (100/s)  applied 960 (80/s)  predicted 120 (10/s)"
        "  lag 240  fresh in 52 ms (p99)"
    )


def test_the_last_line_is_not_printed_twice() -> None:
    assert len(lines_of(RUN[:11], requests=120)) == 3


def test_without_predictions_and_freshness_they_are_left_out() -> None:
    assert lines_of([Sample(0.0, produced=7, lag=7)]) == [
        "   0.0 s  produced 7 (0/s)  applied 0 (0/s)  lag 7"
    ]


def test_without_samples_nothing_is_printed() -> None:
    assert lines_of([]) == []


def test_bars_show_counts_totals_and_rates() -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system=None)
    with DemoProgress(1200, console, requests=120) as progress:
        progress.note("servers are up")
        for sample in RUN:
            progress.update(sample)
        table = progress.render()
    assert "servers are up" in out.getvalue()
    plain = io.StringIO()
    Console(file=plain, width=100, force_terminal=False).print(table)
    shown = plain.getvalue()
    assert "1,200 / 1,200" in shown
    assert "960 / 1,200" in shown
    assert "120 / 120" in shown
    assert "80/s" in shown
    assert "240" in shown
    assert "fresh in 52 ms (p99)" in shown
