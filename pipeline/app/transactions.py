"""Transactions of others that nobody ends: they hold back whoever reads committed records only.

A producer that was killed or hangs before it commits leaves its transaction open. Up to the
producer's ``transaction.timeout.ms`` (at most the broker's ``transaction.max.timeout.ms``) nothing
behind its first record, the last stable offset, is given to us, though others go on writing there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline import metrics
from pipeline.ingest.batch import TopicPartition

__all__ = ["AGAIN_S", "PATIENCE_S", "OpenTransactions"]

log = logging.getLogger(__name__)

PATIENCE_S = 5.0  # transactions in order last milliseconds to seconds
AGAIN_S = 60.0


@dataclass
class _Open:
    """A transaction that holds a partition back: where, since when, when to tell of it."""

    offset: int
    since_s: float
    tell_at_s: float
    told: bool = False


class OpenTransactions:
    """Counts them in ``registry``, and tells of those that last, at first and once a minute."""

    def __init__(self, registry: metrics.Registry) -> None:
        self._registry = registry
        self._open: dict[TopicPartition, _Open] = {}

    def observe(self, held: Mapping[TopicPartition, tuple[int, int]], now_s: float) -> None:
        """``held`` has (last stable offset, end) of each partition held back now, at a monotonic
        time."""
        for source in self._open.keys() - held.keys():
            self._over(source, now_s)
            self._set(source, -1, 0, 0.0)
        for source, (offset, high) in held.items():
            found = self._open.get(source)
            if found is None or found.offset != offset:
                self._over(source, now_s)
                found = self._open[source] = _Open(offset, now_s, now_s + PATIENCE_S)
            lasted_s = now_s - found.since_s
            self._set(source, offset, high - offset, lasted_s)
            if now_s >= found.tell_at_s:
                found.tell_at_s, found.told = now_s + AGAIN_S, True
                log.warning(
                    "%s: an open transaction at last stable offset %d has held back the %d offsets "
                    "up to %d for %.0f s; it ends by its producer, by transaction.timeout.ms, or "
                    "by kafka-transactions.sh abort",
                    source, offset, high - offset, high, lasted_s,
                )  # fmt: skip

    def _over(self, source: TopicPartition, now_s: float) -> None:
        ended = self._open.pop(source, None)
        if ended is not None and ended.told:
            log.info(
                "%s: the transaction at offset %d is over after %.0f s, reading on",
                source, ended.offset, now_s - ended.since_s,
            )  # fmt: skip

    def _set(self, source: TopicPartition, offset: int, records: int, seconds: float) -> None:
        where = (source.topic, str(source.partition))
        self._registry.gauge(metrics.LAST_STABLE_OFFSET, *where).set(offset)
        self._registry.gauge(metrics.HELD_BACK_RECORDS, *where).set(records)
        self._registry.gauge(metrics.HELD_BACK_SECONDS, *where).set(seconds)
