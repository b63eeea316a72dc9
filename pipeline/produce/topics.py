"""Topics: make one, look at one, list them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from pipeline.config import BrokerConfig
from pipeline.errors import ConfigurationError, UnknownNameError
from pipeline.produce.client import Connection, broker_config
from pipeline.settings import suggest

__all__ = [
    "OUTPUT_CONFIG",
    "Cluster",
    "TopicInfo",
    "describe",
    "describe_cluster",
    "ensure_topic",
    "find_topic",
    "topic_config",
]

# Of topics that workers write. A broker refuses the time of a machine whose clock is an hour ahead
# (message.timestamp.after.max.ms), and keeps messages by it: let it be the broker's own.
OUTPUT_CONFIG = {"message.timestamp.type": "LogAppendTime"}
_LEADER_PAUSE_S = 0.05
_NOT_TOLD = {
    KafkaError._UNSUPPORTED_FEATURE,
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """``topic_id`` is the 22 characters of Kafka's base64 UUID, ``""`` where there is none."""

    topic: str
    partitions: int
    topic_id: str
    replicas: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a cluster answers about itself; ``topics`` maps a name to its number of partitions."""

    cluster_id: str
    brokers: int
    topics: Mapping[str, int]


def ensure_topic(
    brokers: str | BrokerConfig,
    topic: str,
    partitions: int | None = None,
    config: Mapping[str, str] | None = None,
    *,
    replicas: int | None = None,
    timeout_s: float | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> TopicInfo:
    """The topic, created if it is not there, once each partition has a leader.

    ``partitions`` and ``replicas`` None mean what the broker's default is. A topic that exists
    with another number of partitions is a :class:`ConfigurationError`: keys would move.
    :class:`BrokerUnavailableError` after ``timeout_s`` (default: the configuration's 10 s).
    """
    connection = Connection(broker_config(brokers, timeout_s))
    admin = connection.open(AdminClient, {})
    wanted = NewTopic(
        topic,
        num_partitions=-1 if partitions is None else partitions,
        replication_factor=-1 if replicas is None else replicas,
        config=dict(config or {}),
    )
    deadline = monotonic() + connection.timeout_s
    found = _describe(connection, admin, topic)
    if found is None:
        _create(connection, admin, wanted)
    while found is None or found.partitions == 0:
        if monotonic() > deadline:
            raise connection.unavailable(f"find a leader for topic {topic!r}")
        found = _describe(connection, admin, topic)
        if found is None or found.partitions == 0:
            time.sleep(_LEADER_PAUSE_S)
    if partitions is not None and found.partitions != partitions:
        raise ConfigurationError(
            f"topic {topic!r} has {found.partitions} partitions, not {partitions}: "
            f"keys would change their partition; use the number it has, or another topic"
        )
    return found


def describe(
    brokers: str | BrokerConfig, topic: str, *, timeout_s: float | None = None
) -> TopicInfo:
    """The topic as it is; :class:`UnknownNameError` (with close names) if it does not exist."""
    connection = Connection(broker_config(brokers, timeout_s))
    admin = connection.open(AdminClient, {})
    found = _describe(connection, admin, topic)
    if found is None:
        existing = sorted(_cluster(connection, admin).topics)
        raise UnknownNameError(
            f"no topic {topic!r} at {connection.broker.brokers}{suggest(topic, existing)}"
        )
    return found


def find_topic(
    brokers: str | BrokerConfig, topic: str, *, timeout_s: float | None = None
) -> TopicInfo | None:
    """The topic as it is, None if it does not exist; 0 partitions while one has no leader."""
    connection = Connection(broker_config(brokers, timeout_s))
    return _describe(connection, connection.open(AdminClient, {}), topic)


def topic_config(
    brokers: str | BrokerConfig, topic: str, *, timeout_s: float | None = None
) -> dict[str, str]:
    """The topic's settings by name; empty where the broker does not tell them."""
    connection = Connection(broker_config(brokers, timeout_s))
    admin = connection.open(AdminClient, {})
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    asked = admin.describe_configs([resource], request_timeout=connection.timeout_s)
    try:
        found = asked[resource].result(connection.timeout_s + 1)
    except KafkaException as error:
        admin.poll(0)
        if error.args[0].code() in _NOT_TOLD:
            return {}
        raise connection.translate(error.args[0], f"read the settings of {topic!r}") from error
    except TimeoutError as error:
        admin.poll(0)
        raise connection.unavailable(f"read the settings of {topic!r}") from error
    return {name: str(entry.value) for name, entry in found.items() if entry.value is not None}


def describe_cluster(brokers: str | BrokerConfig, *, timeout_s: float | None = None) -> Cluster:
    """Cluster id, number of brokers, and the topics that are not internal."""
    connection = Connection(broker_config(brokers, timeout_s))
    return _cluster(connection, connection.open(AdminClient, {}))


def _cluster(connection: Connection, admin: Any) -> Cluster:
    try:
        found = admin.list_topics(timeout=connection.timeout_s)
    except KafkaException as error:
        admin.poll(0)  # hands over what was logged, for the message
        raise connection.translate(error.args[0], "list the topics") from error
    topics = {name: len(t.partitions) for name, t in found.topics.items() if name[:2] != "__"}
    return Cluster(found.cluster_id or "", len(found.brokers), topics)


def _describe(connection: Connection, admin: Any, topic: str) -> TopicInfo | None:
    """None if there is no such topic; 0 partitions while one of them has no leader."""
    doing = f"look at topic {topic!r}"
    asked = admin.describe_topics(TopicCollection([topic]), request_timeout=connection.timeout_s)
    try:
        found = asked[topic].result(connection.timeout_s + 1)
    except KafkaException as error:
        admin.poll(0)
        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise connection.translate(error.args[0], doing) from error
    except TimeoutError as error:
        admin.poll(0)
        raise connection.unavailable(doing) from error
    led = all(p.leader is not None and p.leader.id >= 0 for p in found.partitions)
    replicas = min((len(p.replicas) for p in found.partitions), default=0)
    # librdkafka writes a UUID in the plain base64 alphabet, Kafka itself in the one for URLs.
    topic_id = str(found.topic_id or "").translate(str.maketrans("+/", "-_"))
    return TopicInfo(topic, len(found.partitions) if led else 0, topic_id.rstrip("="), replicas)


def _create(connection: Connection, admin: Any, wanted: NewTopic) -> None:
    doing = f"create topic {wanted.topic!r}"
    asked = admin.create_topics([wanted], request_timeout=connection.timeout_s)
    try:
        asked[wanted.topic].result(connection.timeout_s + 1)
    except KafkaException as error:
        admin.poll(0)
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise connection.translate(error.args[0], doing) from error
    except TimeoutError as error:
        admin.poll(0)
        raise connection.unavailable(doing) from error
