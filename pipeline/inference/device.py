"""Runs a model on a thread of its own, one batch at a time, out of one preallocated block."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.inference.model import Model
from pipeline.inference.prediction import Outcome

__all__ = ["MAX_HANGS", "Device", "Run"]

log = logging.getLogger(__name__)

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]

MAX_HANGS = 3  # each leaves a thread that cannot be stopped behind


@dataclass(frozen=True, slots=True)
class Run:
    """What a run came to: an outcome and a score for each of ``rows`` rows.

    ``score`` is NaN wherever the outcome is not PREDICTED. ``service_ns`` is None where the
    time says nothing about the model (it failed or did not answer).
    """

    rows: int
    bucket: int
    outcome: U8
    score: F64
    service_ns: int | None


@dataclass(frozen=True, slots=True)
class _Call:
    block: F32
    out: F32


@dataclass(frozen=True, slots=True)
class _Answer:
    call: _Call
    made: int
    error: Exception | None
    service_ns: int


class Device:
    """A model with its thread.

    ``start`` gathers rows and returns at once; ``finished`` gives the run when it is over.
    A run that takes longer than ``timeout_ns`` is given up with outcome MODEL_ERROR, and its
    thread is left behind; the third such run in a row is a :class:`ModelError`.
    """

    def __init__(
        self,
        model: Model,
        *,
        max_batch: int,
        null_value: float,
        timeout_ns: int,
        monotonic_ns: Callable[[], int],
    ) -> None:
        self._model = model
        self._shape = (max_batch, len(model.input_names))
        self._null_value = null_value
        self._timeout_ns = timeout_ns
        self._monotonic_ns = monotonic_ns
        self._hangs = 0
        self._running: tuple[int, int, int] | None = None  # rows, bucket, started
        self._open()

    @property
    def busy(self) -> bool:
        """Whether a run is under way."""
        return self._running is not None

    def start(self, parts: Sequence[F32], bucket: int) -> None:
        """Run the rows of ``parts`` (each float32[n, F]), padded with nulls to ``bucket`` rows.

        Raises :class:`ModelError` while busy.
        """
        if self.busy:
            raise ModelError("the device is busy: wait for finished()")
        rows = 0
        for part in parts:
            self._block[rows : rows + len(part)] = part
            rows += len(part)
        self._block[rows:bucket] = self._null_value
        self._running = (rows, bucket, self._monotonic_ns())
        self._calls.put(_Call(self._block[:bucket], self._out[:bucket]))

    def finished(self, wait_s: float) -> Run | None:
        """The run that is over, None while it is not (or there is none); waits up to ``wait_s``."""
        if self._running is None:
            return None
        rows, bucket, started = self._running
        try:
            answer = self._answers.get(timeout=wait_s) if wait_s > 0 else self._answers.get_nowait()
        except Empty:
            if self._monotonic_ns() - started <= self._timeout_ns:
                return None
            self._abandon()
            return _failed(rows, bucket, Outcome.MODEL_ERROR)
        self._running = None
        self._hangs = 0
        return _run(rows, bucket, answer)

    def close(self) -> None:
        """Stop the thread after the run under way; does not wait for it."""
        self._calls.put(None)

    def _open(self) -> None:
        self._block: F32 = np.empty(self._shape, dtype=np.float32)
        self._out: F32 = np.empty(self._shape[0], dtype=np.float32)
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._answers: SimpleQueue[_Answer] = SimpleQueue()
        arguments = (self._model, self._calls, self._answers, self._monotonic_ns)
        threading.Thread(target=_serve, args=arguments, name="model", daemon=True).start()

    def _abandon(self) -> None:
        """Leave the stuck thread its block, queue and all; go on with new ones."""
        self._running = None
        self._hangs += 1
        log.error("the model did not answer within %g s", self._timeout_ns / 1e9)
        if self._hangs >= MAX_HANGS:
            raise ModelError(f"the model did not answer {MAX_HANGS} times in a row")
        self._calls.put(None)
        self._open()


def _serve(
    model: Model,
    calls: SimpleQueue[_Call | None],
    answers: SimpleQueue[_Answer],
    monotonic_ns: Callable[[], int],
) -> None:
    while (call := calls.get()) is not None:
        started = monotonic_ns()
        made, failure = 0, None
        try:
            made = model.predict(call.block, call.out)
        except Exception as error:  # noqa: BLE001 - whatever a model raises is its rows' outcome
            failure = error
        answers.put(_Answer(call, made, failure, monotonic_ns() - started))


def _run(rows: int, bucket: int, answer: _Answer) -> Run:
    if answer.error is not None:
        log.error("the model failed on %d rows: %s", rows, answer.error)
        return _failed(rows, bucket, Outcome.MODEL_ERROR)
    if answer.made != bucket:
        log.error("the model made %d scores for %d rows", answer.made, bucket)
        return _failed(rows, bucket, Outcome.SHAPE)
    score = answer.call.out[:rows].astype(np.float64)
    finite = np.isfinite(score)
    score[~finite] = np.nan
    outcome = np.where(finite, np.uint8(Outcome.PREDICTED), np.uint8(Outcome.NAN))
    return Run(rows, bucket, outcome, score, answer.service_ns)


def _failed(rows: int, bucket: int, outcome: Outcome) -> Run:
    return Run(rows, bucket, np.full(rows, outcome, dtype=np.uint8), np.full(rows, np.nan), None)
