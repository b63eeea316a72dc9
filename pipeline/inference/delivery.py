"""What leaves the inference worker: predictions, dead letters, and the numbers of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.inference.manifest import ModelManifest
from pipeline.inference.pending import Answered
from pipeline.inference.prediction import Outcome, encode_predictions
from pipeline.ingest.batch import TopicPartition
from pipeline.produce.messages import Outbox

__all__ = ["InferenceSettings", "Step", "count", "publish"]

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """How a worker works. ``slo_ms`` counts from a row's ``requested_at``.

    ``micro_batch`` is the most rows that are run or given up together; ``max_queued_rows``
    pauses the lane. A message is read whole, so one message may go beyond it. ``under_way`` is how
    many runs may wait for their acknowledgement and commit while the model is busy.
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
    under_way: int = 3
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
    publisher: Outbox,
    settings: InferenceSettings,
    manifest: ModelManifest,
    source: TopicPartition,
    messages: Sequence[Answered],
) -> None:
    """Queue predictions and dead letters of answered messages."""
    for part in messages:
        pending, span = part.pending, part.span
        if pending.letter is not None:
            letter = pending.letter
            publisher.publish(settings.dead_letter_topic, letter.value, key=letter.key)
        elif pending.requests is not None and span.stop > span.start:
            for value in encode_predictions(
                pending.requests,
                part.rows,
                pending.outcome[span],
                pending.score[span],
                manifest,
                pending.predicted_at_ms[span],
            ):
                publisher.publish(settings.predictions_topic, value, partition=source.partition)


def count(step: Step, part: Answered, slo_ms: int) -> None:
    """Add committed messages to what the step did."""
    step.messages += part.messages
    step.duplicates += part.duplicates
    pending, span = part.pending, part.span
    if pending.letter is not None:
        reason = pending.letter.reason.name.lower()
        step.refused[reason] = step.refused.get(reason, 0) + 1
    counts = part.counts()
    for outcome in Outcome:
        step.rows[outcome] += int(counts[outcome])
    if counts[Outcome.PREDICTED]:
        taken = pending.predicted_at_ms[span] - pending.requested_at_ms(span)
        taken = taken[pending.outcome[span] == Outcome.PREDICTED].astype(np.float64)
        step.on_time += int((taken <= slo_ms).sum())
        step.latency_ms.append(taken)
