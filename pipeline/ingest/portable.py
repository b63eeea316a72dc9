"""The portable lane: the same interface on ``confluent_kafka.Consumer``.

One Python object per record, so several times the cost of the native lane; it needs nothing but
the documented Python API.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import confluent_kafka
import numpy as np
from confluent_kafka import KafkaError, KafkaException

from pipeline.errors import BrokerUnavailableError, ConfigurationError, PipelineError
from pipeline.ingest.batch import BinaryBatch, TopicPartition
from pipeline.ingest.faults import PARTITION_EOF, Faults
from pipeline.ingest.lane import Health, LaneConfig, OnAssign, OnRevoke, Position
from pipeline.ingest.membership import Membership, start_offset

__all__ = ["PortableLane"]

_QUERY_TIMEOUT_S = 10.0
_LEAVE_TIMEOUT_S = 10.0
_CHUNK = 8192
_NOT_YET = (KafkaError._STATE, KafkaError._PREV_IN_PROGRESS)


class PortableLane:
    """A :class:`~pipeline.ingest.lane.Lane` on confluent-kafka's consumer.

    Raises ``ConfigurationError`` if librdkafka refuses a property. :meth:`generation` is always
    -1: the Python API does not tell it.
    """

    def __init__(self, config: LaneConfig) -> None:
        self._members = Membership()
        self._faults = Faults()
        self._max_value_bytes = config.max_value_bytes
        self._max_batch_bytes = config.max_batch_bytes
        self._cooperative = config.cooperative
        self._log_starts: dict[TopicPartition, int] = {}
        self._messages: list[Any] = []
        settings: dict[str, Any] = dict(config.settings())
        del settings["log.queue"]  # set by confluent-kafka itself, from `logger`
        settings["error_cb"] = self._on_error
        settings["stats_cb"] = self._on_stats
        settings["on_commit"] = self._on_commit
        try:
            self._consumer: Any = confluent_kafka.Consumer(settings)
        except KafkaException as error:
            raise ConfigurationError(f"lane.properties: {error.args[0].str()}") from error

    @property
    def health(self) -> Health:
        """State of the link to the brokers."""
        return self._faults.health

    def subscribe(self, topics: Sequence[str], *, on_assign: OnAssign, on_revoke: OnRevoke) -> None:
        """See :meth:`pipeline.ingest.lane.Lane.subscribe`."""
        self._members.listen(on_assign, on_revoke)
        try:
            self._client().subscribe(
                list(topics),
                on_assign=self._assign,
                on_revoke=self._revoke,
                on_lost=self._lose,
            )
        except KafkaException as error:
            raise ConfigurationError(f"topics {list(topics)}: {_text(error)}") from error

    def assign(self, starts: Mapping[TopicPartition, Position]) -> None:
        """See :meth:`pipeline.ingest.lane.Lane.assign`."""
        consumer = self._client()
        self._messages = []
        self._members.chosen(starts)
        offsets = {source: start_offset(source, at.offset) for source, at in starts.items()}
        try:
            consumer.assign(_listed(offsets))
        except KafkaException as error:
            raise PipelineError(f"assignment: {_text(error)}") from error
        for source, start in starts.items():
            if start.leader_epoch >= 0:
                self._seek(consumer, source, start)

    def poll(self, max_records: int, timeout_ms: int) -> list[BinaryBatch]:
        """See :meth:`pipeline.ingest.lane.Lane.poll`."""
        self._client()
        self._faults.raise_pending()
        self._fill(max_records, timeout_ms)
        if self._members.failed:
            self._leave()
        messages, self._messages = self._messages, []
        batches = self._gather(messages)
        if messages:
            self._faults.alive()
        if not batches:
            self._faults.raise_pending()
        return batches

    def _fill(self, max_records: int, timeout_ms: int) -> None:
        self._messages = self._consume(min(_CHUNK, max_records), 0)
        if not self._messages and timeout_ms > 0:
            self._messages = self._consume(1, timeout_ms / 1000)
        size = sum(len(m) for m in self._messages)
        while self._messages and len(self._messages) < max_records and size < self._max_batch_bytes:
            more = self._consume(min(_CHUNK, max_records - len(self._messages)), 0)
            if not more:
                break
            size += sum(len(m) for m in more)
            self._messages += more

    def _consume(self, count: int, timeout_s: float) -> list[Any]:
        try:
            found: list[Any] = self._consumer.consume(count, timeout_s)
        except KafkaException as error:
            cause = error.args[0]
            self._faults.seen(cause.code(), cause.name(), cause.str())
            return []
        return found

    def _gather(self, messages: list[Any]) -> list[BinaryBatch]:
        owned = self._members.owned
        records: dict[TopicPartition, list[Any]] = {}
        ended: dict[TopicPartition | None, int] = {}
        for (topic, partition), run in groupby(messages, _origin):
            if topic is None or partition < 0:
                self._errors(run, None, ended)
                continue
            source = TopicPartition(topic, partition)
            found = list(run)
            good = [m for m in found if m.error() is None]
            if good and source in owned:
                records.setdefault(source, []).extend(good)
                ended.pop(source, None)
            if len(good) < len(found):
                self._errors(found, source, ended)
        for source in records:
            self._members.arrived(source)
            self._faults.arrived(source)
        for last, offset in ended.items():
            if last is not None:
                self._members.reached_end(last, offset)
        return [_batch(source, found, self._max_value_bytes) for source, found in records.items()]

    def _errors(
        self,
        messages: Iterable[Any],
        source: TopicPartition | None,
        ended: dict[TopicPartition | None, int],
    ) -> None:
        for message in messages:
            error = message.error()
            offset = -1 if message.offset() is None else message.offset()
            if error is None:
                ended.pop(source, None)
            elif error.code() != PARTITION_EOF:
                self._faults.seen(error.code(), error.name(), error.str(), source, offset)
            else:
                ended[source] = offset

    def seek(self, source: TopicPartition, offset: int, leader_epoch: int = -1) -> None:
        """See :meth:`pipeline.ingest.lane.Lane.seek`."""
        self._members.require([source])
        self._seek(self._client(), source, Position(start_offset(source, offset), leader_epoch))
        self._members.arrived(source)

    def _seek(self, consumer: Any, source: TopicPartition, to: Position) -> None:
        known: dict[str, Any] = {"leader_epoch": to.leader_epoch} if to.leader_epoch >= 0 else {}
        target = confluent_kafka.TopicPartition(source.topic, source.partition, to.offset, **known)
        deadline = time.monotonic() + _QUERY_TIMEOUT_S
        while True:
            try:
                consumer.seek(target)
            except KafkaException as error:
                if error.args[0].code() not in _NOT_YET or time.monotonic() > deadline:
                    raise BrokerUnavailableError(
                        f"{source}: cannot seek to {to.offset}: {_text(error)}"
                    ) from error
                time.sleep(0.005)
            else:
                return

    def pause(self, sources: Iterable[TopicPartition]) -> None:
        """See :meth:`pipeline.ingest.lane.Lane.pause`."""
        self._switch(self._client().pause, sources)

    def resume(self, sources: Iterable[TopicPartition]) -> None:
        """See :meth:`pipeline.ingest.lane.Lane.resume`."""
        self._switch(self._client().resume, sources)

    def _switch(
        self, function: Callable[[list[Any]], None], sources: Iterable[TopicPartition]
    ) -> None:
        wanted = list(sources)
        self._members.require(wanted)
        try:
            function([confluent_kafka.TopicPartition(s.topic, s.partition) for s in wanted])
        except KafkaException as error:
            raise PipelineError(f"{', '.join(map(str, wanted))}: {_text(error)}") from error

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """See :meth:`pipeline.ingest.lane.Lane.commit`; a failure shows in :attr:`health`."""
        if not offsets:
            return
        try:
            self._client().commit(offsets=_listed(offsets), asynchronous=True)
        except KafkaException as error:
            self._on_commit(error.args[0], [])

    def committed(self, source: TopicPartition) -> int:
        """See :meth:`pipeline.ingest.lane.Lane.committed`.

        Raises ``BrokerUnavailableError`` if the group's coordinator does not answer.
        """
        where = confluent_kafka.TopicPartition(source.topic, source.partition)
        try:
            (found,) = self._client().committed([where], timeout=_QUERY_TIMEOUT_S)
        except KafkaException as error:
            raise BrokerUnavailableError(f"{source}: group offset: {_text(error)}") from error
        if found.error is not None:
            raise BrokerUnavailableError(f"{source}: group offset: {found.error.str()}")
        return max(int(found.offset), -1)

    def watermarks(self, source: TopicPartition) -> tuple[int, int]:
        """See :meth:`pipeline.ingest.lane.Lane.watermarks`.

        Raises ``BrokerUnavailableError`` if the broker must be asked and does not answer.
        """
        where = confluent_kafka.TopicPartition(source.topic, source.partition)
        try:
            low, high = self._client().get_watermark_offsets(where, cached=True) or (-1, -1)
            low = low if low >= 0 else self._log_starts.get(source, -1)
            if low >= 0 and high >= 0:
                return low, high
            found = self._client().get_watermark_offsets(where, timeout=_QUERY_TIMEOUT_S)
        except KafkaException as error:
            raise BrokerUnavailableError(f"{source}: watermarks: {_text(error)}") from error
        if found is None:
            raise BrokerUnavailableError(f"{source}: watermarks: no answer in time")
        self._log_starts[source] = found[0]
        return found[0], found[1]

    def generation(self) -> int:
        """Return -1: unknown to the Python API."""
        return -1

    def at_end(self, source: TopicPartition) -> bool:
        """Whether the end of the partition was seen since its last record."""
        return source in self._members.ended

    def held_back(self, source: TopicPartition) -> tuple[int, int] | None:
        """See :meth:`pipeline.ingest.lane.Lane.held_back`."""
        where = confluent_kafka.TopicPartition(source.topic, source.partition)
        found = self._client().get_watermark_offsets(where, cached=True)
        return None if found is None else self._members.held_back(source, found[1])

    def close(self) -> None:
        """See :meth:`pipeline.ingest.lane.Lane.close`; again is nothing."""
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        self._messages = []
        self._closing = consumer
        consumer.close()
        failure = self._members.take_failure()
        if failure is not None:
            raise failure

    # ---- confluent-kafka's calls, on the polling thread; one that raises loses a message ------

    def _assign(self, consumer: Any, partitions: list[Any]) -> None:
        starts = self._members.assigned(_sources(partitions))
        for source in starts:
            self._log_starts.pop(source, None)
        start = _listed({source: position.offset for source, position in starts.items()})
        self._hand_over(
            consumer.incremental_assign if self._cooperative else consumer.assign, start
        )
        # In librdkafka a pause outlives its assignment: a partition that comes back would be deaf.
        self._hand_over(consumer.resume, start)
        for source, position in starts.items():
            if position.leader_epoch >= 0:
                self._check_epoch(consumer, source, position)

    def _check_epoch(self, consumer: Any, source: TopicPartition, start: Position) -> None:
        """Seek to where it starts: librdkafka asks for the epoch in a seek, not when assigned."""
        try:
            self._seek(consumer, source, start)
        except PipelineError as error:
            self._members.fail(error)

    def _revoke(self, consumer: Any, partitions: list[Any]) -> None:
        self._give_back(consumer, partitions, lost=False)

    def _lose(self, consumer: Any, partitions: list[Any]) -> None:
        self._give_back(consumer, partitions, lost=True)

    def _give_back(self, consumer: Any, partitions: list[Any], *, lost: bool) -> None:
        sources = _sources(partitions)
        self._members.revoked(sources, lost=lost)
        # Records of earlier calls of this poll would stand before those of a new assignment.
        gone = {(s.topic, s.partition) for s in sources}
        self._messages = [m for m in self._messages if (m.topic(), m.partition()) not in gone]
        if self._cooperative:
            self._hand_over(consumer.incremental_unassign, partitions)
        else:
            self._hand_over(lambda _: consumer.unassign(), partitions)

    def _hand_over(self, function: Callable[[list[Any]], None], partitions: list[Any]) -> None:
        try:
            function(partitions)
        except KafkaException as error:
            self._members.fail(PipelineError(f"rebalance: {_text(error)}"))

    def _on_error(self, error: KafkaError) -> None:
        self._faults.seen(error.code(), error.name(), error.str())

    def _on_stats(self, json: str) -> None:
        if '"state":"UP"' in json:
            self._faults.alive()

    def _on_commit(self, error: KafkaError | None, _partitions: list[Any]) -> None:
        if error is not None:
            text = f"commit of group offsets: {error.str()}"
            self._faults.seen(error.code(), error.name(), text)

    # ---- within ------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Give every partition back after a failure in a callback, then raise it."""
        self._messages = []
        self._client().unsubscribe()
        deadline = time.monotonic() + _LEAVE_TIMEOUT_S
        while self._members.held and time.monotonic() < deadline:
            self._consume(1, 0.05)
        failure = self._members.take_failure()
        if failure is not None:
            raise failure

    def _client(self) -> Any:
        if self._consumer is None:
            raise PipelineError("the lane is closed")
        return self._consumer


def _origin(message: Any) -> tuple[str | None, int]:
    return message.topic(), message.partition()


def _sources(partitions: list[Any]) -> list[TopicPartition]:
    return [TopicPartition(p.topic, p.partition) for p in partitions]


def _listed(offsets: Mapping[TopicPartition, int]) -> list[Any]:
    return [
        confluent_kafka.TopicPartition(s.topic, s.partition, offset)
        for s, offset in offsets.items()
    ]


def _text(error: KafkaException) -> str:
    return str(error.args[0].str())


def _batch(source: TopicPartition, messages: list[Any], max_value_bytes: int) -> BinaryBatch:
    values = [m.value() for m in messages]
    keys = [m.key() for m in messages]
    sizes = np.array([len(v or b"") for v in values], np.int64)
    kept = [b"" if v is None or len(v) > max_value_bytes else v for v in values]
    epoch = messages[-1].leader_epoch()
    payload, value_offsets = _joined(kept)
    key_bytes, key_offsets = _joined([b"" if k is None else k for k in keys])
    return BinaryBatch(
        source=source,
        payload=payload,
        value_offsets=value_offsets,
        value_null=np.array([v is None for v in values], np.uint8),
        value_size=sizes,
        keys=key_bytes,
        key_offsets=key_offsets,
        key_null=np.array([k is None for k in keys], np.uint8),
        offsets=np.array([m.offset() for m in messages], np.int64),
        timestamps_ms=np.array([_timestamp(m) for m in messages], np.int64),
        leader_epoch=-1 if epoch is None else epoch,
    )


def _joined(parts: list[bytes]) -> tuple[Any, Any]:
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(p) for p in parts], out=offsets[1:])
    return np.frombuffer(b"".join(parts), np.uint8), offsets


def _timestamp(message: Any) -> int:
    kind, milliseconds = message.timestamp()
    return -1 if kind == confluent_kafka.TIMESTAMP_NOT_AVAILABLE else int(milliseconds)
