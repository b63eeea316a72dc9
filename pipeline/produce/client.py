"""What every Kafka client here shares: properties, quiet logs, and errors in our own words."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import confluent_kafka

from pipeline.config import BrokerConfig
from pipeline.errors import BrokerUnavailableError, ConfigurationError, PipelineError

__all__ = ["Connection", "broker_config", "librdkafka_version"]

LOG = logging.getLogger("pipeline.kafka")

_Error = confluent_kafka.KafkaError
_AWAY = {
    _Error._TRANSPORT,
    _Error._ALL_BROKERS_DOWN,
    _Error._MSG_TIMED_OUT,
    _Error._TIMED_OUT,
    _Error._TIMED_OUT_QUEUE,
    _Error._RESOLVE,
    _Error._GAPLESS_GUARANTEE,
    _Error._FATAL,  # of an idempotent producer: it needs a new client, as after a time-out
    _Error._PURGE_QUEUE,
    _Error._PURGE_INFLIGHT,
    _Error.REQUEST_TIMED_OUT,
    _Error.BROKER_NOT_AVAILABLE,
    _Error.LEADER_NOT_AVAILABLE,
    _Error.NOT_ENOUGH_REPLICAS,
    _Error.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    _Error.NOT_CONTROLLER,
}
_REFUSED = {
    _Error._AUTHENTICATION,
    _Error._SSL,
    _Error.SASL_AUTHENTICATION_FAILED,
    _Error.UNSUPPORTED_SASL_MECHANISM,
    _Error.TOPIC_AUTHORIZATION_FAILED,
    _Error.CLUSTER_AUTHORIZATION_FAILED,
    _Error.TOPIC_EXCEPTION,
    _Error.INVALID_CONFIG,
    _Error.INVALID_PARTITIONS,
    _Error.INVALID_REPLICATION_FACTOR,
    _Error.POLICY_VIOLATION,
}


def broker_config(brokers: str | BrokerConfig, timeout_s: float | None = None) -> BrokerConfig:
    """A :class:`BrokerConfig` from one, or from ``host:port,host:port``."""
    if isinstance(brokers, BrokerConfig):
        return brokers
    if timeout_s is None:
        return BrokerConfig(brokers=brokers)
    return BrokerConfig(brokers=brokers, timeout_ms=max(1, int(timeout_s * 1000)))


def librdkafka_version() -> str:
    """Version of the C library that confluent-kafka ships."""
    return str(confluent_kafka.libversion()[0])


class Connection:
    """The address of a cluster, and what its clients last complained about.

    librdkafka repeats one failed connection many times a second on standard error. Here its
    lines go to the logger ``pipeline.kafka`` at DEBUG, and the last one explains the error that
    the caller gets.
    """

    def __init__(self, broker: BrokerConfig) -> None:
        self.broker = broker
        self.timeout_s = broker.timeout_ms / 1000
        self._complaint = ""
        self.fatal = ""  # what made a client fail for good

    def open(self, client: Callable[..., Any], defaults: Mapping[str, str | bool]) -> Any:
        """A confluent-kafka client with ``defaults``, overridden by the configuration."""
        self.fatal = ""
        properties = {**defaults, **self.broker.client_properties(), "error_cb": self._heard}
        try:
            return client(properties, logger=_Quiet(LOG, {"connection": self}))
        except confluent_kafka.KafkaException as error:
            raise ConfigurationError(f"broker: {error.args[0].str()}") from error

    def translate(self, error: confluent_kafka.KafkaError, doing: str) -> PipelineError:
        """The exception for ``error`` while ``doing`` something, such as ``"create topic 'x'"``."""
        code = error.code()
        if code in _AWAY:
            return self.unavailable(doing)
        kind = ConfigurationError if code in _REFUSED else PipelineError
        return kind(f"could not {doing}: {error.str()} ({error.name()})")

    def unavailable(self, doing: str) -> BrokerUnavailableError:
        """Nobody answered while ``doing`` something."""
        heard = f" ({self._complaint})" if self._complaint else ""
        return BrokerUnavailableError(
            f"could not {doing}: no Kafka broker answered at {self.broker.brokers} "
            f"within {self.timeout_s:g} s{heard}; start one, or set broker.brokers (--brokers)"
        )

    def _heard(self, error: confluent_kafka.KafkaError) -> None:
        if error.code() == _Error._ALL_BROKERS_DOWN:
            return  # it says less than the line before it
        text = str(error.str()).partition(" (after")[0]
        self._complaint = text.rpartition("failed: ")[2].rpartition("/bootstrap: ")[2]


class _Quiet(logging.LoggerAdapter[logging.Logger]):
    """Passes every line on at DEBUG: what matters is raised as an exception."""

    def log(self, level: int, msg: object, *args: object, **kwargs: object) -> None:
        if args[:1] == ("FATAL",):
            connection: Any = (self.extra or {}).get("connection")
            connection.fatal = str(args[-1]).partition("Fatal error: ")[2]
        self.logger.debug(msg, *args)
