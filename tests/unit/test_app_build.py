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
