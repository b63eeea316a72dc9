"""Requests that were read and not yet committed, and the partition that they are of.

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
from pipeline.inference.manifest import ModelManifest
from pipeline.inference.prediction import Outcome, pack_predictions
from pipeline.inference.progress import PROGRESS_KEY, Highest, Progress, advance, fresh_rows
from pipeline.inference.reader import Read, Refused, RequestReader
from pipeline.inference.request import RequestRows
from pipeline.ingest.batch import BinaryBatch, Reason, Rejects, TopicPartition
from pipeline.ingest.deadletter import dead_letters
from pipeline.state.batch import EncodedRows
from pipeline.store.marker import Marker
from pipeline.store.partition import PartitionStore, RowWrite

__all__ = ["Answered", "Letter", "Pending", "RequestPartition"]

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
    """Request messages that were read together, in offset order.

    ``offsets``, ``timestamps_ms`` int64[m]. Message ``i`` brought the rows ``asked[i]`` to
    ``asked[i + 1]`` of ``requests``; ``rows`` are those that want an answer, of message ``i``
    ``rows[ends[i]:ends[i + 1]]``. ``block`` float32[len(rows), F]; ``outcome`` 255 while open.
    A message that was refused is alone: ``requests`` is None, ``letter`` its dead letter.

    The first ``taken`` messages are on their way, the first ``committed`` of them are through.
    """

    offsets: I64
    timestamps_ms: I64
    leader_epoch: int
    requests: RequestRows | None = None
    asked: I64 = field(default_factory=lambda: np.zeros(2, dtype=np.int64))
    rows: I64 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    block: F32 = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    letter: Letter | None = None
    taken: int = 0
    committed: int = 0

    def __post_init__(self) -> None:
        self.ends: I64 = np.searchsorted(self.rows, self.asked).astype(np.int64)
        self.outcome: U8 = np.full(len(self.rows), _OPEN, dtype=np.uint8)
        self.score: F64 = np.full(len(self.rows), np.nan)
        self.predicted_at_ms: I64 = np.zeros(len(self.rows), dtype=np.int64)
        self._open = len(self.rows)
        self._closed = 0  # rows from the first on that have an outcome

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def waiting(self) -> int:
        """Rows whose outcome is not committed."""
        return len(self.rows) - int(self.ends[self.committed])

    @property
    def answered(self) -> int:
        """Messages, from the first on, of which every row has its outcome."""
        if not self._open:
            return len(self)
        self._closed += int(np.argmax(self.outcome[self._closed :] == _OPEN))
        return int(np.searchsorted(self.ends, self._closed, side="right")) - 1

    def requested_at_ms(self, span: slice) -> I64:
        """When these rows were asked for; empty for a refused message."""
        if self.requests is None:
            return np.zeros(0, dtype=np.int64)
        return self.requests.requested_at_ms[self.rows[span]]

    def answer(self, span: slice, outcome: U8 | Outcome, score: F64 | float, now_ms: int) -> None:
        """Give the rows of ``span`` their outcome; each row gets exactly one."""
        if (self.outcome[span] != _OPEN).any():
            first, last = self.offsets[[0, -1]].tolist()
            raise ValueError(f"a row of offsets {first} to {last} would get a second outcome")
        self.outcome[span] = outcome
        self.score[span] = score
        self.predicted_at_ms[span] = now_ms
        self._open -= len(self.outcome[span])


@dataclass(frozen=True, slots=True)
class Answered:
    """The messages ``first`` to ``last`` of what was read together: each row has its outcome."""

    pending: Pending
    first: int
    last: int

    @property
    def messages(self) -> int:
        """How many."""
        return self.last - self.first

    @property
    def span(self) -> slice:
        """Their rows, of those that wanted an answer."""
        return slice(int(self.pending.ends[self.first]), int(self.pending.ends[self.last]))

    @property
    def rows(self) -> I64:
        """The same rows, of the request batch."""
        return self.pending.rows[self.span]

    @property
    def duplicates(self) -> int:
        """Rows that were answered before."""
        pending = self.pending
        asked = int(pending.asked[self.last] - pending.asked[self.first])
        return asked - len(self.rows)

    def counts(self) -> I64:
        """Rows by :class:`Outcome`."""
        found = np.bincount(self.pending.outcome[self.span], minlength=len(Outcome))
        return found.astype(np.int64)


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
        self._reader = RequestReader(manifest.input_names, manifest.null_value)

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
        first = int(np.searchsorted(batch.offsets, self.marker.next_offset))
        accepted = [self._pending(batch, found) for found in self._reader.read(batch, first)]
        self.pending.extend(accepted)
        return accepted

    def take(self, max_rows: int) -> list[Answered]:
        """The longest run of answered messages that are not on their way, oldest first, cut after
        ``max_rows`` rows. They are on their way now."""
        found: list[Answered] = []
        for pending in self.pending:
            first, last = pending.taken, pending.answered
            if last > first and max_rows > 0:
                most = int(pending.ends[first]) + max_rows
                last = min(last, max(int(np.searchsorted(pending.ends, most)), first + 1))
                found.append(Answered(pending, first, last))
                max_rows -= int(pending.ends[last] - pending.ends[first])
                pending.taken = last
            if last < len(pending):
                break
        return found

    def untake(self) -> None:
        """What is not committed is not on its way any more; it keeps its outcomes."""
        for pending in self.pending:
            pending.taken = pending.committed

    @property
    def takeable(self) -> bool:
        """Whether :meth:`take` would find something."""
        for pending in self.pending:
            if pending.taken < len(pending):
                return pending.answered > pending.taken
        return False

    def staged(self, ready: Sequence[Answered]) -> tuple[RowWrite, Marker, Progress]:
        """What one transaction writes for these messages."""
        marker = self.marker
        progress = Progress(dict(self._progress.highest), list(self._progress.outcomes))
        counts = np.array(progress.outcomes, dtype=np.int64)
        duplicate = refused = 0
        for part in ready:
            pending = part.pending
            if pending.requests is not None:
                asked = pending.asked[[part.first, part.last]].tolist()
                advance(progress.highest, pending.requests, *asked)
            counts += part.counts()
            duplicate += part.duplicates
            refused += pending.letter is not None
        added = (counts - np.array(progress.outcomes, dtype=np.int64)).tolist()
        progress.outcomes = counts.tolist()
        fallback = added[Outcome.MODEL_ERROR] + added[Outcome.NAN] + added[Outcome.SHAPE]
        newest = [part.pending.timestamps_ms[part.first : part.last].max() for part in ready]
        last = ready[-1]
        after = dataclasses.replace(
            marker,
            next_offset=int(last.pending.offsets[last.last - 1]) + 1,
            leader_epoch=last.pending.leader_epoch,
            processed_through_ms=max(marker.processed_through_ms, int(max(newest))),
            consumed=marker.consumed + sum(added) + duplicate + refused,
            applied=marker.applied + added[Outcome.PREDICTED],
            late=marker.late + added[Outcome.DEADLINE],
            filtered=marker.filtered + fallback,
            duplicate=marker.duplicate + duplicate,
            dead_lettered=marker.dead_lettered + refused,
        )
        rows = self._rows(ready, progress)
        return RowWrite(self._manifest.fingerprint, rows), after, progress

    def committed(self, ready: Sequence[Answered], marker: Marker, progress: Progress) -> None:
        """The transaction of these messages was applied."""
        for part in ready:
            part.pending.committed = part.last
        while self.pending and self.pending[0].committed == len(self.pending[0]):
            self.pending.popleft()
        self._marker, self._progress = marker, progress

    def _pending(self, batch: BinaryBatch, found: Read | Refused) -> Pending:
        if isinstance(found, Refused):
            at = found.first
            log.warning("%s: offset %d: %s", self.source, batch.offsets[at], found.problem)
            place = slice(at, at + 1)
            letter = self._letter(batch, at, found.reason)
            return Pending(
                batch.offsets[place], batch.timestamps_ms[place], batch.leader_epoch, letter=letter
            )
        rows, highest = fresh_rows(found.requests, self._seen)
        self._seen.update(highest)
        block = found.block if len(rows) == len(found.requests) else found.block[rows]
        place = slice(found.first, found.last)
        return Pending(
            batch.offsets[place], batch.timestamps_ms[place], batch.leader_epoch,
            requests=found.requests, asked=found.ends, rows=rows, block=block,
        )  # fmt: skip

    def _letter(self, batch: BinaryBatch, i: int, reason: Reason) -> Letter:
        index, why = np.array([i], dtype=np.int64), np.array([reason], dtype=np.uint8)
        ((key, value),) = dead_letters(batch, Rejects(index, why), topic_id=self._topic_id)
        return Letter(reason, key, value)

    def _rows(self, ready: Sequence[Answered], progress: Progress) -> EncodedRows:
        """Prediction rows in request order (the last of an entity stays), then the progress row."""
        keys: list[U8] = []
        lengths: list[I64] = []
        rows: list[U8] = []
        for part in ready:
            pending, span = part.pending, part.span
            if pending.requests is None or span.start == span.stop:
                continue
            taken, offsets = pending.requests.keys_of(part.rows)
            keys.append(taken)
            lengths.append(np.diff(offsets))
            outcome = pending.outcome[span]
            # The manifest's fallback score where there is none.
            missing = outcome != Outcome.PREDICTED
            score = np.where(missing, self._manifest.fallback_score, pending.score[span])
            rows.append(
                pack_predictions(
                    pending.requests, part.rows, outcome, score, self._manifest.fingerprint,
                    pending.predicted_at_ms[span],
                )
            )  # fmt: skip
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

    def _read_progress(self, marker: Marker | None) -> Progress:
        key = np.frombuffer(PROGRESS_KEY, dtype=np.uint8)
        ends = np.array([0, len(key)], dtype=np.int64)
        index = np.zeros(1, dtype=np.int64)
        (data,) = self.store.read(self._manifest.fingerprint, key, ends, index)
        name = f"{self.source}: progress of model {self._manifest.name}"
        if (data is None) != (marker is None):
            raise CorruptRowError(f"{name}: there is a marker without it, or it has no marker")
        return Progress() if data is None else Progress.unpack(data, name)
