"""The native lane: one librdkafka consumer driven through its C API, no object per record."""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.errors import BrokerUnavailableError, ConfigurationError, PipelineError
from pipeline.ingest import rdkafka as rd
from pipeline.ingest.batch import BinaryBatch, TopicPartition
from pipeline.ingest.faults import PARTITION_EOF, Faults
from pipeline.ingest.fetch import Fetch
from pipeline.ingest.lane import Health, LaneConfig, OnAssign, OnRevoke, Position
from pipeline.ingest.membership import Membership, start_offset

__all__ = ["NativeLane"]

logger = logging.getLogger(__name__)

_QUERY_TIMEOUT_MS = 10_000
_LEAVE_TIMEOUT_S = 10.0
_NOT_YET = (-172, -177)  # _STATE, _PREV_IN_PROGRESS: the partition's fetcher is still starting
_UNKNOWN_OFFSET = -1
# syslog levels of librdkafka's log lines
_LEVELS = (
    logging.CRITICAL,
    logging.CRITICAL,
    logging.CRITICAL,
    logging.ERROR,
    logging.WARNING,
    logging.INFO,
    logging.INFO,
    logging.DEBUG,
)


class NativeLane:
    """A :class:`~pipeline.ingest.lane.Lane` on librdkafka's C API.

    Raises ``NativeLaneError`` if the library is not one it knows and ``ConfigurationError`` if
    librdkafka refuses a property. Connecting happens in the background.
    """

    def __init__(self, config: LaneConfig) -> None:
        self._rdkafka = rd.library()
        self._members = Membership()
        self._faults = Faults()
        self._log_starts: dict[TopicPartition, int] = {}
        self._fetch = Fetch(self._rdkafka, config.max_value_bytes, config.max_batch_bytes)
        self._callbacks: tuple[Any, ...] = (
            rd.RebalanceCallback(self._rebalance),
            rd.ErrorCallback(self._on_error),
            rd.LogCallback(self._on_log),
            rd.StatsCallback(self._on_stats),
            rd.CommitCallback(self._on_commit),
        )
        self._client: int | None = rd.new_client(
            self._rdkafka, rd.CONSUMER, config.settings(), self._listen
        )
        self._rdkafka.rd_kafka_poll_set_consumer(self._client)
        self._rdkafka.rd_kafka_set_log_queue(self._client, None)
        self._queue = int(self._rdkafka.rd_kafka_queue_get_consumer(self._client))

    def _listen(self, conf: int) -> None:
        rebalance, error, log, stats, commit = self._callbacks
        self._rdkafka.rd_kafka_conf_set_rebalance_cb(conf, rebalance)
        self._rdkafka.rd_kafka_conf_set_error_cb(conf, error)
        self._rdkafka.rd_kafka_conf_set_log_cb(conf, log)
        self._rdkafka.rd_kafka_conf_set_stats_cb(conf, stats)
        self._rdkafka.rd_kafka_conf_set_offset_commit_cb(conf, commit)

    # ---- the application's calls -------------------------------------------------------------

    @property
    def health(self) -> Health:
        """State of the link to the brokers."""
        return self._faults.health

    def subscribe(self, topics: Sequence[str], *, on_assign: OnAssign, on_revoke: OnRevoke) -> None:
        """See :meth:`pipeline.ingest.lane.Lane.subscribe`."""
        self._members.listen(on_assign, on_revoke)
        wanted = {TopicPartition(topic, -1): rd.OFFSET_INVALID for topic in topics}
        with rd.partition_list(self._rdkafka, wanted) as partitions:
            code = self._rdkafka.rd_kafka_subscribe(self._open_client(), partitions)
        if code:
            raise ConfigurationError(f"topics {list(topics)}: {self._describe(code)}")

    def assign(self, starts: Mapping[TopicPartition, Position]) -> None:
        """See :meth:`pipeline.ingest.lane.Lane.assign`."""
        client = self._open_client()
        self._fetch.release()
        self._members.chosen(starts)
        offsets = {source: start_offset(source, at.offset) for source, at in starts.items()}
        with rd.partition_list(self._rdkafka, offsets) as partitions:
            code = self._rdkafka.rd_kafka_assign(client, partitions)
        if code:
            raise PipelineError(f"assignment: {self._describe(code)}")
        for source, start in starts.items():
            if start.leader_epoch >= 0:
                self._seek(source, start)

    def poll(self, max_records: int, timeout_ms: int) -> list[BinaryBatch]:
        """See :meth:`pipeline.ingest.lane.Lane.poll`."""
        self._open_client()
        self._faults.raise_pending()
        self._fetch.fill(self._queue, max_records, timeout_ms)
        if self._members.failed:
            self._leave()
        gathered = self._fetch.gather(self._members.owned)
        for batch in gathered.batches:
            self._members.arrived(batch.source)
            self._faults.arrived(batch.source)
        for error in gathered.errors:
            if error.code != PARTITION_EOF:
                self._faults.seen(error.code, error.name, error.text, error.source, error.offset)
            elif error.source is not None and error.after_records:
                self._members.reached_end(error.source, error.offset)
        if gathered.batches or any(e.code == PARTITION_EOF for e in gathered.errors):
            self._faults.alive()
        if not gathered.batches:
            self._faults.raise_pending()
        return gathered.batches

    def seek(self, source: TopicPartition, offset: int, leader_epoch: int = -1) -> None:
        """See :meth:`pipeline.ingest.lane.Lane.seek`."""
        self._members.require([source])
        self._seek(source, Position(start_offset(source, offset), leader_epoch))
        self._members.arrived(source)

    def _seek(self, source: TopicPartition, to: Position) -> None:
        deadline = time.monotonic() + _QUERY_TIMEOUT_MS / 1000
        while True:
            code, text = self._try_seek(source, to)
            if code == 0:
                return
            if code not in _NOT_YET or time.monotonic() > deadline:
                raise BrokerUnavailableError(f"{source}: cannot seek to {to.offset}: {text}")
            time.sleep(0.005)

    def _try_seek(self, source: TopicPartition, to: Position) -> tuple[int, str]:
        with rd.partition_list(self._rdkafka, {source: to.offset}) as partitions:
            self._rdkafka.rd_kafka_topic_partition_set_leader_epoch(
                partitions.contents.elems, to.leader_epoch
            )
            error = self._rdkafka.rd_kafka_seek_partitions(
                self._open_client(), partitions, _QUERY_TIMEOUT_MS
            )
            failed = rd.take_error(self._rdkafka, error)
            if failed is not None:
                return failed
            ((_, _, code),) = rd.read_partitions(partitions)
            return code, self._describe(code)

    def pause(self, sources: Iterable[TopicPartition]) -> None:
        """See :meth:`pipeline.ingest.lane.Lane.pause`."""
        self._switch(self._rdkafka.rd_kafka_pause_partitions, sources)

    def resume(self, sources: Iterable[TopicPartition]) -> None:
        """See :meth:`pipeline.ingest.lane.Lane.resume`."""
        self._switch(self._rdkafka.rd_kafka_resume_partitions, sources)

    def _switch(self, function: Any, sources: Iterable[TopicPartition]) -> None:
        wanted = dict.fromkeys(sources, rd.OFFSET_INVALID)
        self._members.require(wanted)
        with rd.partition_list(self._rdkafka, wanted) as partitions:
            function(self._open_client(), partitions)
            for source, _, code in rd.read_partitions(partitions):
                if code:
                    raise PipelineError(f"{source}: {self._describe(code)}")

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """See :meth:`pipeline.ingest.lane.Lane.commit`; a failure shows in :attr:`health`."""
        if not offsets:
            return
        with rd.partition_list(self._rdkafka, offsets) as partitions:
            code = self._rdkafka.rd_kafka_commit(self._open_client(), partitions, 1)
        if code:
            self._note(code, "commit of group offsets")

    def committed(self, source: TopicPartition) -> int:
        """See :meth:`pipeline.ingest.lane.Lane.committed`.

        Raises ``BrokerUnavailableError`` if the group's coordinator does not answer.
        """
        with rd.partition_list(self._rdkafka, {source: rd.OFFSET_INVALID}) as partitions:
            code = self._rdkafka.rd_kafka_committed(
                self._open_client(), partitions, _QUERY_TIMEOUT_MS
            )
            ((_, offset, failed),) = rd.read_partitions(partitions)
        if code or failed:
            raise BrokerUnavailableError(
                f"{source}: group offset: {self._describe(code or failed)}"
            )
        return max(offset, -1)

    def watermarks(self, source: TopicPartition) -> tuple[int, int]:
        """See :meth:`pipeline.ingest.lane.Lane.watermarks`.

        Raises ``BrokerUnavailableError`` if the broker must be asked and does not answer.
        """
        low, high = ctypes.c_int64(), ctypes.c_int64()
        where = (self._open_client(), source.topic.encode(), source.partition)
        out = (ctypes.byref(low), ctypes.byref(high))
        self._rdkafka.rd_kafka_get_watermark_offsets(*where, *out)
        if low.value < 0:
            low.value = self._log_starts.get(source, _UNKNOWN_OFFSET)
        if low.value >= 0 and high.value >= 0:
            return low.value, high.value
        code = self._rdkafka.rd_kafka_query_watermark_offsets(*where, *out, _QUERY_TIMEOUT_MS)
        if code:
            raise BrokerUnavailableError(f"{source}: watermarks: {self._describe(code)}")
        self._log_starts[source] = low.value
        return low.value, high.value

    def generation(self) -> int:
        """Return the consumer group's generation, -1 before the first assignment."""
        metadata = self._rdkafka.rd_kafka_consumer_group_metadata(self._open_client())
        if not metadata:
            return -1
        generation = self._rdkafka.rd_kafka_consumer_group_metadata_generation_id(metadata)
        self._rdkafka.rd_kafka_consumer_group_metadata_destroy(metadata)
        return int(generation)

    def at_end(self, source: TopicPartition) -> bool:
        """Whether the end of the partition was seen since its last record."""
        return source in self._members.ended

    def held_back(self, source: TopicPartition) -> tuple[int, int] | None:
        """See :meth:`pipeline.ingest.lane.Lane.held_back`."""
        low, high = ctypes.c_int64(-1), ctypes.c_int64(-1)
        where = (self._open_client(), source.topic.encode(), source.partition)
        self._rdkafka.rd_kafka_get_watermark_offsets(*where, ctypes.byref(low), ctypes.byref(high))
        return self._members.held_back(source, high.value)

    def close(self) -> None:
        """See :meth:`pipeline.ingest.lane.Lane.close`; again is nothing."""
        client, self._client = self._client, None
        if client is None:
            return
        self._fetch.release()
        self._rdkafka.rd_kafka_consumer_close(client)
        self._rdkafka.rd_kafka_queue_destroy(self._queue)
        self._rdkafka.rd_kafka_destroy(client)
        self._callbacks = ()
        failure = self._members.take_failure()
        if failure is not None:
            raise failure

    # ---- librdkafka's calls, all on the polling thread ---------------------------------------

    def _rebalance(self, client: int, code: int, partitions: Any, _opaque: Any) -> None:
        sources = [source for source, _, _ in rd.read_partitions(partitions)]
        if code == rd.ASSIGN_PARTITIONS:
            self._assign(client, sources, partitions)
        else:
            self._revoke(client, sources, partitions)

    def _assign(self, client: int, sources: list[TopicPartition], partitions: Any) -> None:
        starts = self._members.assigned(sources)
        for i, source in enumerate(sources):
            partitions.contents.elems[i].offset = starts[source].offset
            self._log_starts.pop(source, None)
        if self._cooperative(client):
            self._check(self._rdkafka.rd_kafka_incremental_assign(client, partitions))
        else:
            self._rdkafka.rd_kafka_assign(client, partitions)
        # In librdkafka a pause outlives its assignment: a partition that comes back would be deaf.
        self._rdkafka.rd_kafka_resume_partitions(client, partitions)
        for source, start in starts.items():
            if start.leader_epoch >= 0:
                self._check_epoch(source, start)

    def _check_epoch(self, source: TopicPartition, start: Position) -> None:
        """Seek to where it starts: librdkafka asks for the epoch in a seek, not when assigned."""
        try:
            self._seek(source, start)
        except PipelineError as error:
            self._members.fail(error)

    def _revoke(self, client: int, sources: list[TopicPartition], partitions: Any) -> None:
        lost = bool(self._rdkafka.rd_kafka_assignment_lost(client))
        self._members.revoked(sources, lost=lost)
        self._fetch.discard(set(sources))
        if self._cooperative(client):
            self._check(self._rdkafka.rd_kafka_incremental_unassign(client, partitions))
        else:
            self._rdkafka.rd_kafka_assign(client, None)

    def _cooperative(self, client: int) -> bool:
        return bool(self._rdkafka.rd_kafka_rebalance_protocol(client) == b"COOPERATIVE")

    def _check(self, error: int | None) -> None:
        failed = rd.take_error(self._rdkafka, error)
        if failed is not None:
            self._members.fail(PipelineError(f"rebalance: {failed[1]}"))

    def _on_error(self, client: int, code: int, text: bytes, _opaque: Any) -> None:
        self._faults.seen(code, rd.code_name(self._rdkafka, code), text.decode(errors="replace"))

    def _on_log(self, _client: int, level: int, facility: bytes, text: bytes) -> None:
        logger.log(
            _LEVELS[level],
            "librdkafka %s: %s",
            facility.decode(errors="replace"),
            text.decode(errors="replace"),
        )

    def _on_stats(self, _client: int, json: int, size: int, _opaque: Any) -> int:
        if b'"state":"UP"' in ctypes.string_at(json, size):
            self._faults.alive()
        return 0

    def _on_commit(self, _client: int, code: int, _offsets: Any, _opaque: Any) -> None:
        if code:
            self._note(code, "commit of group offsets")

    # ---- within ------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Give every partition back after a failure in a callback, then raise it."""
        client = self._open_client()
        self._fetch.release()
        self._rdkafka.rd_kafka_unsubscribe(client)
        deadline = time.monotonic() + _LEAVE_TIMEOUT_S
        while self._members.held and time.monotonic() < deadline:
            self._fetch.fill(self._queue, 1, 50)
            self._fetch.release()
        failure = self._members.take_failure()
        if failure is not None:
            raise failure

    def _open_client(self) -> int:
        if self._client is None:
            raise PipelineError("the lane is closed")
        return self._client

    def _note(self, code: int, what: str) -> None:
        name = rd.code_name(self._rdkafka, code)
        self._faults.seen(code, name, f"{what}: {self._describe(code)}")

    def _describe(self, code: int) -> str:
        return rd.code_text(self._rdkafka, code)
