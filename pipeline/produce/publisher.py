"""Messages as bytes to any topic: sent in batches, acknowledged together.

The outputs of the pipeline go through here (dead letters, changed rows, requests, predictions),
and so do the events of :class:`pipeline.produce.producer.EventProducer`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import confluent_kafka

from pipeline.config import BrokerConfig
from pipeline.errors import BrokerUnavailableError, PipelineError
from pipeline.produce.client import Connection, broker_config

__all__ = ["Publisher", "Ticket"]

# librdkafka refuses a message when its queue is full, and a later message of the same key may then
# be taken before the refused one is tried again. We wait below its limits instead.
_QUEUE_MESSAGES = 400_000
_QUEUE_KIB = 1 << 20
_MOST_MESSAGES = 300_000
_MOST_BYTES = 256 << 20
_PAUSE_S = 0.01
_FATAL = (confluent_kafka.KafkaException, SystemError)


class Ticket:
    """Messages queued between two calls of :meth:`Publisher.ticket`: how many are not acknowledged.

    One that was refused, or dropped with the others, stays among them for ever.
    """

    __slots__ = ("_publisher", "left")

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self.left = 0

    def delivered(self, error: Any, message: Any) -> None:
        """One of them was acknowledged, or was not."""
        if error is None:
            self.left -= 1
        else:
            self._publisher.failed(error, message)


class Publisher:
    """An idempotent producer (acks=all) whose failures cannot be missed.

    ``timeout_s`` (default: the configuration's 10 s) bounds every wait. Order per partition is
    kept. After an exception nothing is queued any more and the publisher may be used again: the
    caller repeats what was not acknowledged. Keys choose partitions as Java's clients do
    (murmur2). ``tickets`` has every message reported, so that :meth:`wait` can wait for some of
    them. For one thread.
    """

    def __init__(
        self,
        brokers: str | BrokerConfig,
        *,
        client_id: str = "pipeline",
        linger_ms: int = 5,
        timeout_s: float | None = None,
        tickets: bool = False,
    ) -> None:
        self._tickets = tickets
        self._ticket = Ticket(self)
        self._connection = Connection(broker_config(brokers, timeout_s))
        self._client_id = client_id
        self._linger_ms = min(linger_ms, self._connection.broker.timeout_ms - 1)
        self._client: Any = None
        self._queued_bytes = 0
        self._failed = 0
        self._first_failure: tuple[str, Any] | None = None

    def publish(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
    ) -> None:
        """Queue one message, by ``key`` or to ``partition``; waits while the queue is full."""
        self.publish_many(topic, [value], None if key is None else [key], partition)

    def publish_many(
        self,
        topic: str,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None = None,
        partition: int | None = None,
    ) -> None:
        """Queue many messages in this order, with one call into the client for each 10,000 or so.

        Raises :class:`BrokerUnavailableError` when the queue stays full for the time limit,
        :class:`PipelineError` for a message that the client refuses (too large).
        """
        size = sum(map(len, filter(None, values)))
        self._make_room(topic, len(values), size)
        if keys is None:
            messages: list[dict[str, Any]] = [{"value": value} for value in values]
        else:
            pairs = zip(values, keys, strict=True)
            messages = [{"value": value, "key": key} for value, key in pairs]
        where = -1 if partition is None else partition
        report = self._ticket.delivered if self._tickets else self.failed
        taken = self._producer().produce_batch(topic, messages, where, report)
        self._ticket.left += taken
        self._queued_bytes += size
        if taken < len(messages):
            error = next(m["_error"] for m in messages if "_error" in m)
            raise self._give_up(self._connection.translate(error, f"send to topic {topic!r}"))

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until everything queued is acknowledged.

        Raises if any message since the last flush was not: :class:`BrokerUnavailableError` when
        no broker answered in time, else :class:`PipelineError` with what the broker said.
        """
        if self._client is None:
            return
        # A message that times out says why; one more second lets it.
        patience = self._connection.timeout_s + 1 if timeout_s is None else timeout_s
        left = self._serve(self._client.flush, patience)
        if self._failed or left:
            raise self._give_up(self._failure(left))
        self._queued_bytes = 0

    def ticket(self) -> Ticket:
        """For :meth:`wait`: what was queued since the last ticket."""
        ticket, self._ticket = self._ticket, Ticket(self)
        return ticket

    def acknowledged(self, ticket: Ticket) -> bool:
        """Whether :meth:`wait` would return at once; raises as :meth:`wait` where the client
        failed for good."""
        if ticket.left and self._client is not None:
            self._serve(self._client.poll, 0)
        return not ticket.left and not self._failed

    def wait(self, ticket: Ticket) -> None:
        """As :meth:`flush`, for the messages of one ticket; others may still be on their way."""
        if not self._tickets:
            raise PipelineError("wait() needs a Publisher(tickets=True)")
        patience = self._connection.timeout_s + 1
        until = time.monotonic() + patience
        while ticket.left and not self._failed and self._client is not None:
            left_s = until - time.monotonic()
            if left_s <= 0:
                break
            self._serve(self._client.poll, left_s)
        if self._failed or ticket.left:
            raise self._give_up(self._failure(ticket.left))

    def close(self) -> None:
        """Drop what is still queued and disconnect. Call :meth:`flush` first."""
        client, self._client = self._client, None
        if client is not None:
            client.purge()
            _call(client.poll, 0)
        self._ticket = Ticket(self)
        self._queued_bytes, self._failed, self._first_failure = 0, 0, None

    def __enter__(self) -> Publisher:
        self._producer()  # its first second goes into getting an id from a broker
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.flush()
        finally:
            self.close()

    def _producer(self) -> Any:
        if self._client is None:
            self._client = self._connection.open(
                confluent_kafka.Producer,
                {
                    "client.id": self._client_id,
                    "enable.idempotence": "true",
                    # Readers of repartition topics drop what is below what they have seen, so a
                    # message that failed must take those after it along.
                    "enable.gapless.guarantee": "true",
                    "acks": "all",
                    "partitioner": "murmur2_random",
                    "compression.type": "lz4",
                    "linger.ms": str(self._linger_ms),
                    "batch.num.messages": "50000",
                    "message.max.bytes": str(16 << 20),
                    "message.timeout.ms": str(self._connection.broker.timeout_ms),
                    "queue.buffering.max.messages": str(_QUEUE_MESSAGES),
                    "queue.buffering.max.kbytes": str(_QUEUE_KIB),
                    "delivery.report.only.error": not self._tickets,
                },
            )
        return self._client

    def _make_room(self, topic: str, messages: int, size: int) -> None:
        """Wait until both fit; the bytes are known to have left only when the queue is empty."""
        client = self._producer()
        self._serve(client.poll, 0)
        if len(client) == 0:
            self._queued_bytes = 0
        wait_below = _MOST_MESSAGES - messages
        if self._queued_bytes + size > _MOST_BYTES:
            wait_below = 0
        waited_s = 0.0
        while len(client) > max(wait_below, 0):
            if waited_s > self._connection.timeout_s + 1:
                raise self._give_up(self._connection.unavailable(f"send to topic {topic!r}"))
            self._serve(client.poll, _PAUSE_S)
            waited_s += _PAUSE_S
            if self._failed:
                raise self._give_up(self._failure(0))
        if wait_below <= 0:
            self._queued_bytes = 0

    def _serve(self, call: Callable[[float], int], seconds: float) -> int:
        """``flush`` or ``poll``; raises BrokerUnavailableError where the client fails for good."""
        done = _call(call, seconds)
        if done is None:
            where, why = self._connection.broker.brokers, self._connection.fatal
            raise self._give_up(BrokerUnavailableError(f"could not deliver to {where}: {why}"))
        return done

    def failed(self, error: Any, message: Any) -> None:
        """A message was not taken (None: it was)."""
        if error is None:
            return
        self._failed += 1
        if self._first_failure is None:
            self._first_failure = (message.topic() or "?", error)

    def _failure(self, left: int) -> PipelineError:
        count = self._failed + left
        if self._first_failure is None:
            return self._connection.unavailable(f"deliver {count:,} messages")
        topic, error = self._first_failure
        return self._connection.translate(error, f"deliver {count:,} messages to topic {topic!r}")

    def _give_up(self, error: PipelineError) -> PipelineError:
        """Empty the queue; a new client follows, for a fatal error leaves the old one useless."""
        self.close()
        return error


def _call(call: Callable[[float], int], seconds: float) -> int | None:
    """What ``flush`` or ``poll`` returns; None where the client failed for good.

    A message that the broker itself refuses makes it do so. What comes out is a KafkaError, which
    is no exception and passes ``except BaseException``, or SystemError; reports of delivery that
    were due are lost, and the next call says that all is well.
    """
    try:
        return call(seconds)
    except:  # noqa: E722 - what is raised has no class that could be named
        found: object = sys.exc_info()[1]
        if isinstance(found, BaseException) and not isinstance(found, _FATAL):
            raise
        return None
