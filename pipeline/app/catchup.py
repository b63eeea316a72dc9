"""Reads for views that are far behind the others of their partition, which do not wait for them.

A new view begins where the log does. Were it read together with the views that are there already,
these would stand still until it is where they are. So it is read apart, by a consumer of its own
that is in no group, at a rate; its batches take the same way to the same fenced commit. Once its
marker has met the position of the others, every next record is read for all of them together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from pipeline.errors import UnavailableError
from pipeline.ingest.batch import BinaryBatch, TopicPartition
from pipeline.ingest.lane import Lane, Position

__all__ = ["CatchUp"]

log = logging.getLogger(__name__)

BURST_S = 0.1  # of the rate: how much of it may be read at once
AFTER_FAILURE_S = 1.0


class CatchUp:
    """Positions of partitions that are read apart, and their records, ``records_per_s`` at most.

    ``open_lane`` makes the consumer, when there is something to read; None: nothing is read apart.
    A rate of 0 is no limit.
    """

    def __init__(
        self,
        open_lane: Callable[[], Lane] | None,
        records_per_s: int,
        monotonic: Callable[[], float],
    ) -> None:
        self._open_lane = open_lane
        self._rate = records_per_s
        self._monotonic = monotonic
        self._lane: Lane | None = None
        self._positions: dict[TopicPartition, Position] = {}
        self._held: frozenset[str] = frozenset()
        self._changed = False
        self._tokens = 0.0
        self._counted_at = monotonic()
        self._retry_at = 0.0

    def ready(self) -> bool:
        """Whether there is something to read that the rate allows: a good part of a burst, so that
        commits are few."""
        least = max(1.0, self._rate * BURST_S / 2)
        waits = self._monotonic() < self._retry_at
        return bool(self._wanted()) and not waits and self._allowed() >= least

    def hold(self, topics: Collection[str]) -> None:
        """Until the next call, read nothing of these."""
        if self._held != frozenset(topics):
            self._held = frozenset(topics)
            self._changed = True

    def want(self, source: TopicPartition, position: Position | None) -> None:
        """Read a partition from here; None: no more."""
        if position is None:
            self.forget(source)
            return
        log.info("%s: a new view is read apart, from offset %d", source, position.offset)
        self._positions[source] = position
        self._changed = True

    def forget(self, source: TopicPartition) -> None:
        """Read it no more."""
        if self._positions.pop(source, None) is not None:
            self._changed = True

    def poll(self, max_records: int, timeout_ms: int) -> list[BinaryBatch]:
        """What has arrived, as :meth:`Lane.poll`; nothing while the rate is used up.

        Raises LogTruncatedError where the log does not hold what is to be read next.
        """
        if not self._positions or self._open_lane is None:
            self.close()
            return []
        if not self.ready():
            return []
        try:
            if self._lane is None:
                self._lane, self._changed = self._open_lane(), True
            if self._changed:
                self._lane.assign(self._wanted())
                self._changed = False
            batches = self._lane.poll(min(max_records, self._allowed()), timeout_ms)
        except UnavailableError as error:
            log.warning("reading apart waits: %s", error)
            self._retry_at = self._monotonic() + AFTER_FAILURE_S
            self.close()
            return []
        for batch in batches:
            self._positions[batch.source] = Position(batch.next_offset, batch.leader_epoch)
            self._tokens -= len(batch)
        return batches

    def close(self) -> None:
        """Close the consumer; it is made again when needed."""
        lane, self._lane = self._lane, None
        if lane is not None:
            lane.close()

    def _wanted(self) -> dict[TopicPartition, Position]:
        return {s: at for s, at in self._positions.items() if s.topic not in self._held}

    def _allowed(self) -> int:
        """Records that the rate allows now."""
        if not self._rate:
            return 1 << 31
        now = self._monotonic()
        earned = (now - self._counted_at) * self._rate
        self._counted_at = now
        self._tokens = min(self._tokens + earned, max(1.0, self._rate * BURST_S))
        return int(self._tokens)
