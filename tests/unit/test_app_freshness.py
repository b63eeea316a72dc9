"""A freshness goal: waits within it, and a report where it is missed."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import pipeline as pp
from pipeline import metrics
from pipeline.app.freshness import FreshnessGoal, shortened
from pipeline.config import Config
from pipeline.errors import DefinitionError
from tests.unit.test_app_plane import stream, view


def test_waits_leave_room_for_one_another() -> None:
    assert [shortened(10, goal) for goal in (0, 1, 20, 100)] == [10, 1, 5, 10]


def test_what_is_older_is_counted_and_told_once_in_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now, registry = [0.0], metrics.Registry()
    goal = FreshnessGoal(20, registry, lambda: now[0])
    with caplog.at_level(logging.WARNING):
        goal.observe("v", np.array([0.001, 0.020, 0.021, 1.5, 1.7e9]))
        goal.tell()
        assert caplog.messages == []
        now[0] = 10.0
        goal.tell()
        goal.tell()
    assert caplog.messages == [
        "freshness: 50 % of 4 events were older than 20 ms when they could be read, "
        "the oldest 1.5 s"
    ]
    assert registry.counter(metrics.FRESHNESS_MISSED, "v").value == 2
    now[0] = 20.0
    goal.observe("v", np.array([0.001]))
    goal.tell()
    assert len(caplog.messages) == 1


def test_an_application_says_how_fresh_it_wants_to_be() -> None:
    views = [view(stream())]
    assert pp.App("a", views=views, freshness="20ms").plane_config.app.freshness_ms == 20
    assert pp.App("b", views=views).plane_config.app.freshness_ms == 0
    configured = Config.load(environ={}, flags={"app.freshness_ms": "5ms"})
    app = pp.App("c", views=views, freshness="1s", config=configured)
    assert app.plane_config.app.freshness_ms == 5
    for wrong in ("soon", "10us", -1):
        with pytest.raises(DefinitionError, match="freshness"):
            pp.App("d", views=views, freshness=wrong)
