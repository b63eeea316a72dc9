"""The lane: how records of assigned partitions come into the process, as columns.

Two implementations: :class:`pipeline.ingest.native.NativeLane` on librdkafka's C API and
:class:`pipeline.ingest.portable.PortableLane` on ``confluent_kafka.Consumer``. One contract
suite runs on both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pipeline.errors import ConfigurationError
from pipeline.ingest.batch import BinaryBatch, TopicPartition

__all__ = ["BEGINNING", "END", "Health", "Lane", "LaneConfig", "OnAssign", "OnRevoke", "Position"]

BEGINNING = -2  # start offset: the first record that the log still holds
END = -1  # start offset: after the last record at the time of the assignment


class Position(NamedTuple):
    """Where to read on, and the leader epoch of the record before it (-1: unknown, not checked)."""

    offset: int
    leader_epoch: int = -1


OnAssign = Callable[[list[TopicPartition]], Mapping[TopicPartition, int | Position]]
OnRevoke = Callable[[list[TopicPartition], bool], None]

# What the offsets, the commit order and `at_end` rely on: never overridden.
_FIXED = {
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
    "auto.offset.reset": "error",
    "enable.partition.eof": "true",
    "log.queue": "true",
}
_NAMED_BY_CONFIG = {
    "bootstrap.servers": "brokers",
    "metadata.broker.list": "brokers",
    "group.id": "group",
    "client.id": "client_id",
}
_DEFAULTS = {
    "partition.assignment.strategy": "cooperative-sticky",
    # The client's default of 1000 ms leaves the queue empty for most of a second once a fast
    # reader caught up with a full one.
    "fetch.queue.backoff.ms": "5",
    # A seek or a new partition waits for the fetch that is under way at its broker.
    "fetch.wait.max.ms": "100",
    "queued.min.messages": "100000",
    "queued.max.messages.kbytes": "65536",
    "statistics.interval.ms": "5000",  # the only sign of life of a broker with quiet partitions
    "socket.keepalive.enable": "true",
}


@dataclass(frozen=True)
class LaneConfig:
    """Settings of a lane.

    ``brokers``          ``host:port,host:port``
    ``max_value_bytes``  longer values are not copied; their ``value_size`` tells
    ``max_batch_bytes``  one ``poll`` stops taking more once it holds this many value bytes
    ``properties``       librdkafka properties by name; they win over the lane's defaults, but not
                         over what safety depends on
    """

    brokers: str
    group: str
    client_id: str = "pipeline"
    max_value_bytes: int = 1 << 20
    max_batch_bytes: int = 64 << 20
    properties: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("brokers", "group", "client_id"):
            if not getattr(self, name):
                raise ConfigurationError(f"lane.{name}: must not be empty")
        for name in ("max_value_bytes", "max_batch_bytes"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"lane.{name}: must be at least 1")
        for name, value in self.properties.items():
            if name in _FIXED or name in _NAMED_BY_CONFIG:
                right = _NAMED_BY_CONFIG.get(name) or f"always {_FIXED[name]!r}"
                raise ConfigurationError(
                    f"lane.properties.{name}: cannot be set here, the lane sets it ({right})"
                )
            if not isinstance(value, str):
                raise ConfigurationError(f"lane.properties.{name}: must be a string")

    def settings(self) -> dict[str, str]:
        """Every librdkafka property that the consumer is created with."""
        merged = {**_DEFAULTS, **self.properties, **_FIXED}
        if merged.get("group.protocol") == "consumer" and (
            "partition.assignment.strategy" not in self.properties
        ):
            del merged["partition.assignment.strategy"]  # refused beside the new group protocol
        merged["bootstrap.servers"] = self.brokers
        merged["group.id"] = self.group
        merged["client.id"] = self.client_id
        return merged

    @property
    def cooperative(self) -> bool:
        """Whether rebalances move single partitions instead of all of them."""
        strategy = self.settings().get("partition.assignment.strategy")
        return strategy is None or "cooperative" in strategy


@dataclass(frozen=True)
class Health:
    """What a lane knows of its link to the brokers.

    ``connected``   False after every broker was reported down, until one answers again
    ``last_error``  text of the last error that was not raised, empty if there was none
    ``errors``      number of such errors by librdkafka's name (``_TRANSPORT``)
    ``stuck``       offsets that gave the same error again and again (a batch that cannot be
                    unpacked), by partition
    """

    connected: bool
    last_error: str
    errors: Mapping[str, int]
    stuck: Mapping[TopicPartition, int] = field(default_factory=dict)


class Lane(Protocol):
    """Records of the partitions that the consumer group assigned to this process.

    Not thread-safe: one thread polls, seeks, pauses and closes. ``health`` may be read anywhere.
    """

    @property
    def health(self) -> Health:
        """State of the link to the brokers; transport errors are counted here, not raised."""

    def subscribe(self, topics: Sequence[str], *, on_assign: OnAssign, on_revoke: OnRevoke) -> None:
        """Join the group for ``topics``.

        ``on_assign(partitions)`` returns the offset to start at for each: 0 and up,
        :data:`BEGINNING` or :data:`END`; or a :class:`Position`, as :meth:`seek` takes it.
        ``on_revoke(partitions, lost)`` is called while the
        partitions are still ours unless ``lost``; records not yet returned are dropped. Both run
        inside :meth:`poll` or :meth:`close`, never with an empty list. An exception raised in
        one makes the lane give every partition back and leave the group, then :meth:`poll`
        raises it; ``subscribe`` may be called again after that.
        """

    def assign(self, starts: Mapping[TopicPartition, Position]) -> None:
        """Read exactly these partitions, from there on; instead of :meth:`subscribe`, in no group.

        Called again, it replaces what it said before: partitions that stay begin anew too. Raises
        ``BrokerUnavailableError`` where the broker cannot be asked about a leader epoch.
        """

    def poll(self, max_records: int, timeout_ms: int) -> list[BinaryBatch]:
        """Return what has arrived, one batch a partition; wait only while there is nothing.

        At most ``max_records`` records over all batches; empty after ``timeout_ms`` without any.
        Raises :class:`~pipeline.errors.LogTruncatedError` where the log does not hold the offset
        to read next (that partition stays stopped until its next assignment, and cannot be
        sought), and other errors of the tree for what waiting cannot mend. If the same poll also
        brought records, they are returned first and the next poll raises.
        """

    def seek(self, source: TopicPartition, offset: int, leader_epoch: int = -1) -> None:
        """Continue an assigned partition at ``offset`` (or :data:`BEGINNING`, :data:`END`).

        ``leader_epoch``, unless -1, is that of the record before ``offset``. The broker is then
        asked where that epoch ended (KIP-320): before ``offset`` means that the log was truncated
        and has grown again since, and :meth:`poll` raises
        :class:`~pipeline.errors.LogTruncatedError`. A broker that cannot tell is not asked.
        """

    def pause(self, sources: Iterable[TopicPartition]) -> None:
        """Stop fetching; lasts until :meth:`resume` or the partition's next assignment."""

    def resume(self, sources: Iterable[TopicPartition]) -> None:
        """Fetch again, from the first record that :meth:`poll` has not returned."""

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Store next offsets in the consumer group, asynchronously; for lag tools only."""

    def committed(self, source: TopicPartition) -> int:
        """Return what :meth:`commit` last stored in the group, by any member; -1 for nothing."""

    def watermarks(self, source: TopicPartition) -> tuple[int, int]:
        """Return (log start, high watermark): as last heard by the client, asked if unknown."""

    def generation(self) -> int:
        """Return the consumer group's generation, -1 where unknown."""

    def at_end(self, source: TopicPartition) -> bool:
        """Whether the end of the partition was seen since its last record."""

    def held_back(self, source: TopicPartition) -> tuple[int, int] | None:
        """Return (last stable offset, high watermark) where an open transaction holds reading back.

        The first record of the oldest open transaction has the last stable offset; readers of
        committed records get nothing from there on, whoever wrote it. None where everything was
        read, or where records before that offset are left to be read. As last heard by the client.
        """

    def close(self) -> None:
        """Give the partitions back (``on_revoke``), leave the group, free everything."""
