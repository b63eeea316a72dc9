"""What a repartition topic has to keep."""

from __future__ import annotations

from typing import Any

import pytest

import pipeline as pp
from pipeline.app.retention import longest_window_ns, retention_problem
from pipeline.features.plan import Plan

DAY_MS = 86_400_000
STREAM = pp.EventStream(
    "t",
    pp.Contract.load(
        {
            "title": "t",
            "type": "object",
            "properties": {
                "a": {"type": "integer"},
                "b": {"type": "integer"},
                "at": {"type": "integer", "x-unix-time": "ms"},
            },
            "required": ["a", "b", "at"],
        }
    ),
    key="a",
    time="at",
)


def plan(ttl: str | None = None, **features: Any) -> Plan:
    return pp.FeatureView("v", source=STREAM, entity="b", ttl=ttl, features=features).plan


def test_the_longest_window_counts() -> None:
    week = plan(n=pp.count().over("7d", slide="1d"), m=pp.count().over("1d", delay="5d"))
    assert longest_window_ns([week]) == 8 * DAY_MS * 10**6
    assert longest_window_ns([week, plan(n=pp.count().over("30d"))]) == 30 * DAY_MS * 10**6
    assert longest_window_ns([week, plan(n=pp.last("a"))]) == -1
    assert longest_window_ns([plan("9d", n=pp.last("a"))]) == 9 * DAY_MS * 10**6


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({}, None),
        ({"cleanup.policy": "delete", "retention.ms": "-1"}, None),
        ({"retention.ms": str(8 * DAY_MS)}, None),
        ({"retention.ms": str(8 * DAY_MS - 1)}, "shorter than the longest window"),
        ({"cleanup.policy": "compact", "retention.ms": "-1"}, "the truth of its views"),
        ({"cleanup.policy": "compact,delete"}, "the truth of its views"),
    ],
)
def test_a_topic_that_forgets_too_soon_is_told_of(
    config: dict[str, str], problem: str | None
) -> None:
    found = retention_problem(config, [plan(n=pp.count().over("7d", slide="1d"))])
    assert (found is None) == (problem is None)
    assert problem is None or problem in (found or "")


def test_values_without_an_end_are_kept_for_ever() -> None:
    found = retention_problem({"retention.ms": "1000"}, [plan(n=pp.last("a"))])
    assert "set it to -1" in (found or "")
