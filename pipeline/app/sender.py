"""Sends a batch's outputs and waits until they are acknowledged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.app.outputs import TopicNames, ipc_messages, select_bytes
from pipeline.app.partition import Partition, StagedBatch, StagedView
from pipeline.features.view import Trigger
from pipeline.inference.request import COLUMNS, RequestOrigin, encode_requests
from pipeline.ingest.batch import EventBatch, Reason, Rejects
from pipeline.ingest.deadletter import dead_letters
from pipeline.produce.messages import Outbox, message_slices
from pipeline.state.columns import feature_matrix

__all__ = ["Sender", "Sent"]

LATE = Reason.LATE.name.lower()
LETTERS = 1000  # made at a time: each may take 90 kB
REQUEST_COLUMNS = len(COLUMNS)  # of at most 8 bytes a row, but for the key
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sent:
    """Outputs that were handed to the outbox together, and the dead letters among them."""

    ticket: Any
    rejected: Mapping[str, Mapping[str, int]]


class Sender:
    """Dead letters, late records, changed rows, requests and repartitioned rows of staged batches.

    ``clock_ms`` stamps requests with the wall time that their deadline is counted from.
    """

    def __init__(
        self,
        names: TopicNames,
        publisher: Outbox,
        clock_ms: Callable[[], int],
    ) -> None:
        self._names = names
        self._publisher = publisher
        self._clock_ms = clock_ms
        self._rejected: dict[str, Counter[str]] = {}

    def send(self, partition: Partition, batch: StagedBatch) -> None:
        """Hand every output of ``batch`` to the producer."""
        rejects = _unreported(batch)
        if len(rejects):
            self._letters(partition, batch.events, rejects, None)
        for route in batch.routes:
            if len(route.refused):
                self._letters(partition, route.events, route.refused, route.route.topic)
            for target, message in route.messages:
                self._publisher.publish(route.route.topic, message, partition=target)
        for view in batch.views:
            name = view.plan.view.name
            if len(view.refused):
                self._letters(partition, view.events, view.refused, name)
            for rows, reason in (
                (view.failed, Reason.EXPRESSION),
                (view.nulls, Reason.NULL_VALUE),
                (view.long, Reason.TEXT_TOO_LONG),
                (view.corrupt, Reason.CORRUPT_ROW),
                (view.late, Reason.LATE),
            ):
                if len(rows):
                    rejects = Rejects(rows, np.full(len(rows), reason, dtype=np.uint8))
                    self._letters(partition, view.events, rejects, name)
            if view.changes is not None and view.plan.view.publish_changes:
                topic = self._names.changes(name)
                for message in ipc_messages(view.changes):
                    self._publisher.publish(topic, message, partition=partition.source.partition)
            if len(view.fired_rows):
                self._requests(partition, view)

    def seal(self) -> Sent:
        """What was handed over since the last call."""
        rejected, self._rejected = self._rejected, {}
        return Sent(self._publisher.ticket(), rejected)

    def acknowledged(self, sent: Sent) -> bool:
        """Whether :meth:`wait` would return at once; raises as it does."""
        return self._publisher.acknowledged(sent.ticket)

    def wait(self, sent: Sent) -> Mapping[str, Mapping[str, int]]:
        """Wait until all of it is acknowledged; dead letters sent by topic and reason.

        Raises what the publisher raises when a message was not taken: nothing may be committed.
        """
        self._publisher.wait(sent.ticket)
        return sent.rejected

    def drop(self) -> None:
        """Forget what was handed over: the batches will come again."""
        self._rejected = {}

    def _letters(
        self, partition: Partition, events: EventBatch, rejects: Rejects, view: str | None
    ) -> None:
        """Rejects of the stream (``view`` None: once for all views), of one view or route."""
        counts = rejects.counts()
        late = LATE in counts
        topic = self._names.late if late else self._names.dead_letters
        for first in range(0, len(rejects), LETTERS):
            letters = dead_letters(
                events.binary,
                rejects.part(first, first + LETTERS),
                view=view,
                topic_id=partition.topic_id,
                origin=events.origin,
                message=events.message,
            )
            keys, values = zip(*letters, strict=True)
            self._publisher.publish_many(topic, values, keys)
        if not late:
            self._rejected.setdefault(partition.source.topic, Counter()).update(counts)

    def _requests(self, partition: Partition, view: StagedView) -> None:
        """The fired rows of every trigger in offset order, features as of each event."""
        fired, binary = view.fired, view.events.binary
        for number, trigger in enumerate(view.plan.triggers):
            picked = np.flatnonzero(fired.trigger == number)
            keys = np.diff(binary.key_offsets)[view.fired_rows[picked]]
            for part in message_slices(keys + 8 * (len(trigger.sent) + REQUEST_COLUMNS)):
                self._request(partition, view, trigger, picked[part])

    def _request(
        self, partition: Partition, view: StagedView, trigger: Trigger, picked: I64
    ) -> None:
        fired, binary, plan = view.fired, view.events.binary, view.plan.view.plan
        rows = view.fired_rows[picked]
        keys, key_offsets = select_bytes(binary.keys, binary.key_offsets, rows)
        features = np.empty((len(picked), len(trigger.sent)), dtype=np.float64)
        feature_matrix(plan, fired.cells[picked], fired.valid[picked], trigger.sent, features)
        message = encode_requests(
            RequestOrigin(
                view=plan.view, fingerprint=plan.fingerprint, app=self._names.app,
                topic=partition.source.topic, topic_id=partition.topic_id,
            ),
            keys=keys,
            key_offsets=key_offsets,
            source_partition=partition.source.partition,
            source_offset=binary.offsets[rows],
            trigger=trigger.name,
            event_time=view.events.event_time[rows],
            requested_at_ms=self._clock_ms(),
            names=trigger.sent,
            features=features,
        )  # fmt: skip
        self._publisher.publish(
            self._names.requests(trigger.name), message, partition=partition.source.partition
        )


def _unreported(batch: StagedBatch) -> Rejects:
    """Rejects of the stream that no view has come past before."""
    rejects = batch.events.rejects()
    if not len(rejects):
        return rejects
    new = batch.events.log_offsets[rejects.index] >= batch.reported
    return Rejects(rejects.index[new], rejects.reason[new])
