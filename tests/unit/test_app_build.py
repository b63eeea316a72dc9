"""What the configuration makes of the lane."""

from __future__ import annotations

import pytest

from pipeline.app.build import lane_config
from pipeline.config import AppConfig, BrokerConfig, Config


@pytest.mark.parametrize(("timeout_ms", "heartbeat_ms"), [(1_000, 333), (45_000, 3_000)])
def test_heartbeats_are_well_within_the_session_timeout(timeout_ms: int, heartbeat_ms: int) -> None:
    """The client's default of 3 s would lose the partitions of a shorter session every time."""
    settings = lane_config("g", Config(app=AppConfig(session_timeout_ms=timeout_ms))).settings()
    assert settings["session.timeout.ms"] == str(timeout_ms)
    assert settings["heartbeat.interval.ms"] == str(heartbeat_ms)


def test_a_librdkafka_property_wins() -> None:
    broker = BrokerConfig(properties={"heartbeat.interval.ms": "200"})
    assert lane_config("g", Config(broker=broker)).settings()["heartbeat.interval.ms"] == "200"


def test_a_fetch_waits_for_a_share_of_the_freshness_that_is_wanted() -> None:
    usual = lane_config("g", Config()).settings()
    assert "fetch.min.bytes" not in usual  # the first record of any partition ends the wait
    fresh = lane_config("g", Config(app=AppConfig(freshness_ms=20))).settings()
    assert fresh["fetch.wait.max.ms"] == "5"
    assert int(fresh["fetch.min.bytes"]) > 50_000
    relaxed = lane_config("g", Config(app=AppConfig(freshness_ms=3_600_000))).settings()
    assert relaxed["fetch.wait.max.ms"] == usual["fetch.wait.max.ms"] == "100"
    broker = BrokerConfig(properties={"fetch.min.bytes": "1"})
    own = lane_config("g", Config(broker=broker, app=AppConfig(freshness_ms=20))).settings()
    assert own["fetch.min.bytes"] == "1"
