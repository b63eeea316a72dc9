"""How long a repartition topic has to keep its messages: it is the truth of its views.

What a store lost is computed again from this topic's log, not from the sources: there the rows
would come in another order. So it is never compacted, and keeps the longest window at least.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from pipeline.config import BrokerConfig
from pipeline.errors import ConfigurationError
from pipeline.features.plan import Plan
from pipeline.features.stored import AnyView
from pipeline.produce.topics import (
    OUTPUT_CONFIG,
    TopicInfo,
    ensure_topic,
    find_topic,
    topic_config,
)
from pipeline.units import format_duration

__all__ = ["longest_window_ns", "repartition_topic", "retention_problem"]

log = logging.getLogger(__name__)

FOREVER = -1
SHORTEST_MS = 7 * 24 * 3_600_000  # Kafka's own default
_NS_PER_MS = 1_000_000
_POLICY, _RETENTION = "cleanup.policy", "retention.ms"


def longest_window_ns(plans: Sequence[Plan]) -> int:
    """How far back a row of these views reaches, in ns; -1 where nothing bounds it."""
    reach = 0
    for plan in plans:
        for feature in plan.features:
            window = feature.window_ns + feature.slide_ns + feature.delay_ns or plan.ttl_ns
            if not window:
                return FOREVER
            reach = max(reach, window)
    return reach


def retention_problem(config: Mapping[str, str], plans: Sequence[Plan]) -> str | None:
    """What is wrong with a repartition topic's settings; None if nothing, or if none are known."""
    if "compact" in config.get(_POLICY, ""):
        return f"{_POLICY} is {config[_POLICY]}: it is the truth of its views; set it to delete"
    kept = config.get(_RETENTION)
    if kept is None or int(kept) == FOREVER:
        return None
    reach = longest_window_ns(plans)
    if reach == FOREVER:
        return (
            f"{_RETENTION} is {kept}, but views keep values without a window or ttl: set it to -1"
        )
    if int(kept) * _NS_PER_MS < reach:
        return (
            f"{_RETENTION} is {kept}, shorter than the longest window ({format_duration(reach)}): "
            f"set it to {-(-reach // _NS_PER_MS)} at least"
        )
    return None


def repartition_topic(
    broker: BrokerConfig, topic: str, partitions: int, views: Sequence[AnyView]
) -> TopicInfo:
    """The repartition topic, made with so many partitions unless it is there with any number.

    Raises :class:`ConfigurationError` for a compacted one; a short retention is a warning.
    """
    plans = [view.plan for view in views]
    found = find_topic(broker, topic)
    if found is None:
        reach = longest_window_ns(plans)
        kept = FOREVER if reach == FOREVER else max(SHORTEST_MS, -(-reach // _NS_PER_MS))
        config = {**OUTPUT_CONFIG, _POLICY: "delete", _RETENTION: str(kept)}
        log.info("creating repartition topic %s, %d partitions, %s", topic, partitions, config)
        return ensure_topic(broker, topic, partitions, config)
    config = topic_config(broker, topic)
    problem = retention_problem(config, plans)
    if "compact" in config.get(_POLICY, ""):
        raise ConfigurationError(f"topic {topic!r}: {problem}")
    if problem is not None:
        log.warning("topic %s: %s", topic, problem)
    return ensure_topic(broker, topic, found.partitions or None)
