"""Batches being computed: decoded and applied to the cached rows of their partitions.

The kernels release the GIL, so while a poll brings much, threads compute what it brought and the
plane's own thread fetches the next. A partition has one batch in here at a time, and nobody else
touches its rows until :meth:`Computing.take` has given it back: results do not depend on threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from pipeline.app.partition import Partition, StagedBatch
from pipeline.app.topic import Topic
from pipeline.errors import FencedError, PipelineError, UnavailableError
from pipeline.ingest.batch import BinaryBatch
from pipeline.ingest.envelope import Decoder

__all__ = ["Computing"]

Result = StagedBatch | PipelineError


@dataclass(frozen=True, slots=True)
class _Decoders:
    """Of one topic: how most of its views read it, and the ways of others."""

    usual: Decoder
    others: Mapping[str, Decoder]


class _OfThread(threading.local):
    """Decoders may remember what they looked up, so every thread has its own."""

    def __init__(self) -> None:
        self.topics: dict[str, _Decoders] = {}


class Computing:
    """``threads`` beside the caller's, which are started when first needed (0: none).

    ``clock_ms`` is wall time when a batch begins. Raises what a decoder of ``topics`` does that
    cannot be made.
    """

    def __init__(
        self, topics: Mapping[str, Topic], clock_ms: Callable[[], int], threads: int
    ) -> None:
        self._topics = topics
        self._clock_ms = clock_ms
        self._pool = ThreadPoolExecutor(threads, "compute") if threads else None
        self._decoders = _OfThread()
        self._begun: list[tuple[Partition, Future[Result]]] = []
        for topic in topics:
            self._decoders_of(topic)

    def begin(
        self,
        work: Iterable[tuple[Partition, BinaryBatch]],
        *,
        behind: bool = False,
        beside: bool = False,
    ) -> None:
        """Apply batches to the views that are ``behind``, or to the others; :meth:`take` what was
        begun before. ``beside``: by threads, if there are any; else it is done on return."""
        now_ms = self._clock_ms()
        for partition, batch in work:
            if beside and self._pool is not None:
                done = self._pool.submit(self._compute, partition, batch, now_ms, behind)
            else:
                done = Future()
                done.set_result(self._compute(partition, batch, now_ms, behind))
            self._begun.append((partition, done))

    def take(self) -> list[tuple[Partition, Result]]:
        """What became of everything that was begun: batches ready to be committed, or why one has
        to be read again. Waits for it; raises what else went wrong."""
        wait([done for _, done in self._begun])
        begun, self._begun = self._begun, []
        return [(partition, done.result()) for partition, done in begun]

    def close(self) -> None:
        """End the threads; what they compute is lost."""
        self._begun = []
        if self._pool is not None:
            self._pool.shutdown(wait=True)

    def _compute(
        self, partition: Partition, batch: BinaryBatch, now_ms: int, behind: bool
    ) -> Result:
        try:
            decoders = self._decoders_of(batch.source.topic)
            events = decoders.usual.decode(batch)
            others = {reads: other.decode(batch) for reads, other in decoders.others.items()}
            return partition.stage(events, now_ms, others, behind=behind)
        except (UnavailableError, FencedError) as error:
            return error

    def _decoders_of(self, topic: str) -> _Decoders:
        known = self._decoders.topics
        if topic not in known:
            found = self._topics[topic]
            known[topic] = _Decoders(found.decoder(), found.other_decoders())
        return known[topic]
