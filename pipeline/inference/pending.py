"""Requests that were read and not yet answered: one message, one partition.

Accounting. A row of a request message counts once in the marker of its partition, as::

    consumed = applied (predicted) + late (fallback: deadline)
             + filtered (fallback: model_error, nan, shape) + duplicate + dead_lettered

A message that cannot be read counts as one row, dead-lettered, for nobody knows how many it held.
The marker moves only over messages of which every row has an outcome, in offset order.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.errors import CorruptRowError
from pipeline.inference.ipc import RefusedError
from pipeline.inference.manifest import ModelManifest
from pipeline.inference.prediction import Outcome, pack_predictions
from pipeline.inference.progress import PROGRESS_KEY, Highest, Progress, fresh_rows
from pipeline.inference.request import RequestBatch, decode_requests
from pipeline.ingest.batch import BinaryBatch, Reason, Rejects, TopicPartition
from pipeline.ingest.deadletter import dead_letters
from pipeline.state.batch import EncodedRows
from pipeline.store.marker import Marker
from pipeline.store.partition import PartitionStore, RowWrite

__all__ = ["Letter", "Pending", "RequestPartition"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_OPEN = 255

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Letter:
    """The dead letter of a message that was refused."""

    reason: Reason
    key: bytes
    value: bytes


@dataclass(eq=False)
class Pending:
    """One request message: ``rows`` are those of its rows that want an answer.

    ``requests`` is None where the message was refused; then ``letter`` is its dead letter.
    ``block`` float32[len(rows), F]; ``outcome`` 255 while open.
    """

    offset: int
    timestamp_ms: int
    leader_epoch: int
    requests: RequestBatch | None = None
    rows: I64 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    block: F32 = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    highest: Highest = field(default_factory=dict)
    letter: Letter | None = None
    published: bool = False

    def __post_init__(self) -> None:
        self.outcome: U8 = np.full(len(self.rows), _OPEN, dtype=np.uint8)
        self.score: F64 = np.full(len(self.rows), np.nan)
        self.predicted_at_ms: I64 = np.zeros(len(self.rows), dtype=np.int64)
        self.open = len(self.rows)

    @property
    def duplicates(self) -> int:
        """Rows that were answered before."""
        return 0 if self.requests is None else len(self.requests) - len(self.rows)

    def requested_at_ms(self, span: slice) -> I64:
        """When these rows were asked for; empty for a refused message."""
        if self.requests is None:
            return np.zeros(0, dtype=np.int64)
        return self.requests.requested_at_ms[self.rows[span]]

    def answer(self, span: slice, outcome: U8 | Outcome, score: F64 | float, now_ms: int) -> None:
        """Give the rows of ``span`` their outcome; each row gets exactly one."""
        if (self.outcome[span] != _OPEN).any():
            raise ValueError(f"a row of offset {self.offset} would get a second outcome")
        self.outcome[span] = outcome
        self.score[span] = score
        self.predicted_at_ms[span] = now_ms
        self.open -= len(self.outcome[span])

    def counts(self) -> I64:
        """Rows by :class:`Outcome`."""
        return np.bincount(self.outcome, minlength=len(Outcome)).astype(np.int64)


class RequestPartition:
    """One partition of the request topic: lease, marker, progress, and what is unanswered."""

    def __init__(
        self, source: TopicPartition, topic_id: str, store: PartitionStore, manifest: ModelManifest
    ) -> None:
        self.source = source
        self.store = store
        self.pending: deque[Pending] = deque()
        self._topic_id = topic_id
        self._manifest = manifest
        self._marker: Marker | None = None
        self._progress = Progress()
        self._seen: Highest = {}

    def open(self, generation: int, log_start: int) -> int:
        """Take the lease, then read marker and progress; the offset to read from.

        Everything unanswered is dropped: it will be read again. Raises what the store raises, and
        :class:`CorruptRowError` where marker and progress do not belong together.
        """
        self.drop()
        self.store.acquire(generation)
        model = self._manifest.fingerprint
        (marker,) = self.store.markers([model])
        self._progress = self._read_progress(marker)
        if marker is None:
            marker = Marker(model, self._topic_id, self.source.partition, log_start)
        self._marker = marker
        self._seen = dict(self._progress.highest)
        return marker.next_offset

    @property
    def marker(self) -> Marker:
        """The last marker committed or read."""
        if self._marker is None:
            raise CorruptRowError(f"{self.source}: is not open")
        return self._marker

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """Rows by outcome since ever, as committed."""
        return {outcome: self._progress.outcomes[outcome] for outcome in Outcome}

    def drop(self) -> None:
        """Forget what is unanswered or not committed."""
        self.pending.clear()

    def accept(self, batch: BinaryBatch) -> list[Pending]:
        """The messages of a batch; those at or below the marker are left out."""
        accepted = []
        for i in range(len(batch)):
            offset = int(batch.offsets[i])
            if offset < self.marker.next_offset:
                continue
            message = self._read(batch, i, offset)
            self._seen.update(message.highest)
            self.pending.append(message)
            accepted.append(message)
        return accepted

    def ready(self, max_rows: int) -> list[Pending]:
        """The longest run of answered messages from the oldest on, cut after ``max_rows`` rows."""
        found: list[Pending] = []
        rows = 0
        for message in self.pending:
            if message.open or rows >= max_rows:
                break
            found.append(message)
            rows += len(message.rows)
        return found

    def staged(self, ready: Sequence[Pending]) -> tuple[RowWrite, Marker, Progress]:
        """What one transaction writes for these messages."""
        marker = self.marker
        progress = Progress(dict(self._progress.highest), list(self._progress.outcomes))
        counts = np.array(progress.outcomes, dtype=np.int64)
        duplicate = refused = 0
        for message in ready:
            progress.highest.update(message.highest)
            counts += message.counts()
            duplicate += message.duplicates
            refused += message.letter is not None
        added = (counts - np.array(progress.outcomes, dtype=np.int64)).tolist()
        progress.outcomes = counts.tolist()
        fallback = added[Outcome.MODEL_ERROR] + added[Outcome.NAN] + added[Outcome.SHAPE]
        after = dataclasses.replace(
            marker,
            next_offset=ready[-1].offset + 1,
            leader_epoch=ready[-1].leader_epoch,
            processed_through_ms=max(
                marker.processed_through_ms, *(message.timestamp_ms for message in ready)
            ),
            consumed=marker.consumed + sum(added) + duplicate + refused,
            applied=marker.applied + added[Outcome.PREDICTED],
            late=marker.late + added[Outcome.DEADLINE],
            filtered=marker.filtered + fallback,
            duplicate=marker.duplicate + duplicate,
            dead_lettered=marker.dead_lettered + refused,
        )
        rows = self._rows(ready, progress)
        return RowWrite(self._manifest.fingerprint, rows), after, progress

    def committed(self, ready: Sequence[Pending], marker: Marker, progress: Progress) -> None:
        """The transaction of these messages was applied."""
        for _ in ready:
            self.pending.popleft()
        self._marker, self._progress = marker, progress

    def _read(self, batch: BinaryBatch, i: int, offset: int) -> Pending:
        where = (offset, int(batch.timestamps_ms[i]), batch.leader_epoch)
        value = batch.value(i)
        try:
            if value is None:
                raise RefusedError(Reason.TOMBSTONE, "a null value")
            if int(batch.value_size[i]) > len(value):
                raise RefusedError(Reason.TOO_LARGE, f"{int(batch.value_size[i])} bytes")
            requests = decode_requests(value, self._manifest.input_names)
        except RefusedError as refused:
            log.warning("%s: offset %d: %s", self.source, offset, refused)
            return Pending(*where, letter=self._letter(batch, i, refused.reason))
        rows, highest = fresh_rows(requests, self._seen)
        block = requests.block(self._manifest.input_names, self._manifest.null_value)
        if len(rows) != len(requests):
            block = block[rows]
        return Pending(*where, requests=requests, rows=rows, block=block, highest=highest)

    def _letter(self, batch: BinaryBatch, i: int, reason: Reason) -> Letter:
        index, why = np.array([i], dtype=np.int64), np.array([reason], dtype=np.uint8)
        ((key, value),) = dead_letters(batch, Rejects(index, why), topic_id=self._topic_id)
        return Letter(reason, key, value)

    def _rows(self, ready: Sequence[Pending], progress: Progress) -> EncodedRows:
        """Prediction rows in request order (the last of an entity stays), then the progress row."""
        keys: list[U8] = []
        lengths: list[I64] = []
        rows: list[U8] = []
        for message in ready:
            if message.requests is None or not len(message.rows):
                continue
            taken, offsets = message.requests.keys_of(message.rows)
            keys.append(taken)
            lengths.append(np.diff(offsets))
            rows.append(
                pack_predictions(
                    message.requests,
                    message.rows,
                    message.outcome,
                    self._scores(message),
                    self._manifest.fingerprint,
                    message.predicted_at_ms,
                )
            )
        packed = np.frombuffer(progress.pack(), dtype=np.uint8)
        count = sum(len(part) for part in lengths)
        size = sum(len(part) for part in rows) // max(count, 1)
        row_offsets = np.arange(count + 2, dtype=np.int64) * size
        row_offsets[-1] = row_offsets[-2] + len(packed)
        ends = np.cumsum(np.concatenate([np.zeros(1, np.int64), *lengths, [len(PROGRESS_KEY)]]))
        progress_key = np.frombuffer(PROGRESS_KEY, dtype=np.uint8)
        return EncodedRows(
            np.concatenate([*keys, progress_key]),
            ends.astype(np.int64),
            np.concatenate([*rows, packed]),
            row_offsets,
        )

    def _scores(self, message: Pending) -> F64:
        """Scores, with the manifest's fallback score where there is none."""
        missing = message.outcome != Outcome.PREDICTED
        return np.where(missing, self._manifest.fallback_score, message.score)

    def _read_progress(self, marker: Marker | None) -> Progress:
        key = np.frombuffer(PROGRESS_KEY, dtype=np.uint8)
        ends = np.array([0, len(key)], dtype=np.int64)
        index = np.zeros(1, dtype=np.int64)
        (data,) = self.store.read(self._manifest.fingerprint, key, ends, index)
        name = f"{self.source}: progress of model {self._manifest.name}"
        if (data is None) != (marker is None):
            raise CorruptRowError(f"{name}: there is a marker without it, or it has no marker")
        return Progress() if data is None else Progress.unpack(data, name)
