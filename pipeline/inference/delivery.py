"""What leaves the inference worker: predictions, dead letters, and the numbers of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.inference.manifest import ModelManifest
from pipeline.inference.pending import Pending
from pipeline.inference.prediction import Outcome, encode_predictions
from pipeline.ingest.batch import TopicPartition

__all__ = ["InferenceSettings", "Publisher", "Step", "count", "publish"]

F64 = npt.NDArray[np.float64]


class Publisher(Protocol):
    """Sends messages; :class:`pipeline.produce.publisher.Publisher` is one."""

    def publish(
        self, topic: str, value: bytes, *, key: bytes | None = None, partition: int | None = None
    ) -> None:
        """Queue one message, by ``key`` or to ``partition``."""

    def flush(self) -> None:
        """Wait until everything queued is acknowledged; raises UnavailableError if it is not."""


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """How a worker works. ``slo_ms`` counts from a row's ``requested_at``.

    ``micro_batch`` is the most rows that are run or given up together; ``max_queued_rows``
    pauses the lane. A message is read whole, so one message may go beyond it.
    """

    predictions_topic: str
    dead_letter_topic: str
    slo_ms: int = 20
    max_batch: int = 4096
    micro_batch: int = 64
    z: float = 3.0
    defer: float = 0.0
    max_queued_rows: int = 65_536
    max_messages: int = 256
    max_wait_ms: int = 10
    check_interval_ms: int = 1_000
    model_timeout_ms: int = 10_000


@dataclass(slots=True)
class Step:
    """What one step did, for whoever reports it; rows count when they are committed.

    ``runs`` are (rows, service time in ns) of the model's calls, ``latency_ms`` from request to
    outcome of each predicted row, ``on_time`` those within the SLO.
    """

    rows: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    duplicates: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    messages: int = 0
    resets: int = 0
    on_time: int = 0
    runs: list[tuple[int, int]] = field(default_factory=list)
    latency_ms: list[F64] = field(default_factory=list)


def publish(
    publisher: Publisher,
    settings: InferenceSettings,
    manifest: ModelManifest,
    source: TopicPartition,
    messages: Sequence[Pending],
) -> None:
    """Queue predictions and dead letters of answered messages that were not published yet."""
    for message in messages:
        if message.published:
            continue
        if message.letter is not None:
            letter = message.letter
            publisher.publish(settings.dead_letter_topic, letter.value, key=letter.key)
        elif message.requests is not None and len(message.rows):
            value = encode_predictions(
                message.requests,
                message.rows,
                message.outcome,
                message.score,
                manifest,
                message.predicted_at_ms,
            )
            publisher.publish(settings.predictions_topic, value, partition=source.partition)


def count(step: Step, message: Pending, slo_ms: int) -> None:
    """Add a committed message to what the step did."""
    step.messages += 1
    step.duplicates += message.duplicates
    if message.letter is not None:
        reason = message.letter.reason.name.lower()
        step.refused[reason] = step.refused.get(reason, 0) + 1
    counts = message.counts()
    for outcome in Outcome:
        step.rows[outcome] += int(counts[outcome])
    if counts[Outcome.PREDICTED]:
        taken = message.predicted_at_ms - message.requested_at_ms(slice(None))
        taken = taken[message.outcome == Outcome.PREDICTED].astype(np.float64)
        step.on_time += int((taken <= slo_ms).sum())
        step.latency_ms.append(taken)
