"""Both embedded servers, started together and stopped together."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.embedded.redis import EmbeddedRedis

__all__ = ["EmbeddedServers"]


class EmbeddedServers:
    """An embedded broker and an embedded Redis for the length of a ``with`` block.

    >>> with EmbeddedServers() as servers:
    ...     app = App(brokers=servers.brokers, store=servers.redis_url)

    Raises MissingExtraError without the ``embedded`` extra, BrokerUnavailableError or
    StoreUnavailableError when a server does not come up; the other one is stopped then.
    """

    def __init__(
        self, *, broker: EmbeddedBroker | None = None, redis: EmbeddedRedis | None = None
    ) -> None:
        self.broker = broker or EmbeddedBroker()
        self.redis = redis or EmbeddedRedis()
        self._running = ExitStack()

    @property
    def brokers(self) -> str:
        """``bootstrap.servers`` of the embedded broker."""
        return self.broker.brokers

    @property
    def redis_url(self) -> str:
        """``redis://`` address of the embedded store."""
        return self.redis.url

    def start(self) -> EmbeddedServers:
        """Start both servers and wait until both answer."""
        with ExitStack() as starting:
            starting.enter_context(self.redis)
            starting.enter_context(self.broker)
            self._running = starting.pop_all()
        return self

    def stop(self) -> None:
        """Stop both servers; harmless when they are not running."""
        self._running.close()

    def __enter__(self) -> EmbeddedServers:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
