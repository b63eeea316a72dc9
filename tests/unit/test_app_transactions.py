"""What is told of transactions that stay open."""

from __future__ import annotations

import logging

import pytest

from pipeline import metrics
from pipeline.app.transactions import AGAIN_S, PATIENCE_S, OpenTransactions
from pipeline.ingest.batch import TopicPartition

SOURCE = TopicPartition("payments", 3)


def seen(registry: metrics.Registry) -> tuple[float, float, float]:
    """Last stable offset, offsets held back, for how long."""
    names = (metrics.LAST_STABLE_OFFSET, metrics.HELD_BACK_RECORDS, metrics.HELD_BACK_SECONDS)
    first, second, third = (registry.gauge(name, "payments", "3").value for name in names)
    return first, second, third


def test_one_that_stays_is_told_of_once_then_every_minute_and_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    registry = metrics.Registry()
    watch = OpenTransactions(registry)
    watch.observe({SOURCE: (120, 130)}, 0.0)
    assert not caplog.records
    assert seen(registry) == (120, 10, 0)
    watch.observe({SOURCE: (120, 165)}, PATIENCE_S)
    (line,) = caplog.messages
    assert "payments[3]" in line
    assert "last stable offset 120 has held back the 45 offsets up to 165 for 5 s" in line
    watch.observe({SOURCE: (120, 165)}, PATIENCE_S + 1)
    assert len(caplog.messages) == 1
    watch.observe({SOURCE: (120, 170)}, PATIENCE_S + AGAIN_S)
    assert len(caplog.messages) == 2
    assert seen(registry) == (120, 50, 65)
    watch.observe({}, PATIENCE_S + AGAIN_S + 1)
    assert "the transaction at offset 120 is over after 66 s" in caplog.messages[-1]
    assert seen(registry) == (-1, 0, 0)


def test_transactions_that_follow_one_another_are_no_alarm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    registry = metrics.Registry()
    watch = OpenTransactions(registry)
    for second in range(100):
        watch.observe({SOURCE: (10 * second, 10 * second + 9)}, float(second))
    assert not caplog.records
    assert seen(registry) == (990, 9, 0)
