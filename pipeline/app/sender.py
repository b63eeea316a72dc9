"""Sends a batch's outputs and waits until they are acknowledged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from pipeline.app.outputs import TopicNames, ipc_bytes
from pipeline.app.partition import Partition, StagedBatch, StagedView
from pipeline.inference.request import encode_requests
from pipeline.ingest.batch import Reason
from pipeline.ingest.deadletter import dead_letters
from pipeline.produce.publisher import Publisher
from pipeline.state.columns import feature_matrix

__all__ = ["Sender"]

LATE = "late"


class Sender:
    """Dead letters, late records, changed rows and requests of staged batches.

    ``clock_ms`` stamps requests with the wall time that their deadline is counted from.
    """

    def __init__(
        self,
        names: TopicNames,
        publisher: Publisher,
        clock_ms: Callable[[], int],
        flush_timeout_s: float,
    ) -> None:
        self._names = names
        self._publisher = publisher
        self._clock_ms = clock_ms
        self._flush_timeout_s = flush_timeout_s
        self._rejected: dict[str, Counter[str]] = {}

    def send(self, partition: Partition, batch: StagedBatch) -> None:
        """Hand every output of ``batch`` to the producer."""
        rejects = batch.events.rejects()
        if len(rejects):
            self._letters(batch, rejects.index, rejects.reason, None)
        for view in batch.views:
            if len(view.failed):
                reason = np.full(len(view.failed), Reason.EXPRESSION, dtype=np.uint8)
                self._letters(batch, view.failed, reason, view)
            if len(view.late):
                self._late(batch, view)
            if view.changes is not None:
                self._publisher.publish(
                    self._names.changes(view.plan.view.name),
                    ipc_bytes(view.changes),
                    partition=partition.source.partition,
                )
            if view.fired is not None and len(view.fired_rows):
                self._requests(partition, batch, view)

    def flush(self) -> Mapping[str, Mapping[str, int]]:
        """Wait until everything is acknowledged; dead letters sent by topic and reason.

        Raises what the publisher raises when a message was not taken: nothing may be committed.
        """
        self._publisher.flush(self._flush_timeout_s)
        sent, self._rejected = self._rejected, {}
        return sent
