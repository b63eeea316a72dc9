"""Batches being computed: decoded and applied to the cached rows of their partitions.

The kernels release the GIL, so while a poll brings much, threads compute what it brought and the
plane's own thread fetches the next. A partition has one batch in here at a time, and nobody else
touches its rows until :meth:`Computing.take` has given it back: results do not depend on threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

from pipeline.app.partition import AskedBatch, Partition, StagedBatch
from pipeline.app.topic import Topic
from pipeline.errors import ConfigurationError, FencedError, PipelineError, UnavailableError
from pipeline.ingest.batch import BinaryBatch
from pipeline.ingest.envelope import Decoder

__all__ = ["Computing"]

Result = StagedBatch | PipelineError
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Task:
    """A batch of a partition, for the views that are ``behind`` or for the others."""

    partition: Partition
    batch: BinaryBatch
    now_ms: int
    behind: bool
    done: Future[Result]


class Computing:
    """``threads`` beside the caller's; 0: none.

    ``clock_ms`` is wall time when a batch begins. Raises what a decoder of ``topics`` does that
    cannot be made, and :class:`ConfigurationError` where the system gives no such threads.
    """

    def __init__(
        self, topics: Mapping[str, Topic], clock_ms: Callable[[], int], threads: int
    ) -> None:
        self._clock_ms = clock_ms
        self._decoders: dict[str, tuple[Decoder, Mapping[str, Decoder]]] = {
            name: (topic.decoder(), topic.other_decoders()) for name, topic in topics.items()
        }
        self._begun: list[_Task] = []
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        # A process that was told to end does not wait for what a thread is busy with.
        self._threads = [
            Thread(target=self._work, name=f"compute-{number}", daemon=True)
            for number in range(threads)
        ]
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError as refused:
            self.close()
            raise ConfigurationError(
                f"app.compute_threads: the system refuses {threads} threads more ({refused}); "
                "set fewer, or raise its limit (ulimit -u)"
            ) from refused

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
        tasks = [_Task(partition, batch, now_ms, behind, Future()) for partition, batch in work]
        if beside and self._threads:
            for task in tasks:
                self._begun.append(task)
                self._tasks.put(task)
        else:
            self._run(tasks)
            self._begun += tasks  # not before: nobody would end what was broken off here

    def take(self) -> list[tuple[Partition, Result]]:
        """What became of everything that was begun: batches ready to be committed, or why one has
        to be read again. Waits for it; raises what else went wrong."""
        wait([task.done for task in self._begun])
        begun, self._begun = self._begun, []
        return [(task.partition, task.done.result()) for task in begun]

    def close(self) -> None:
        """End the threads, after what they are computing; it is lost."""
        self._begun = []
        started = [thread for thread in self._threads if thread.ident is not None]
        for _ in started:
            self._tasks.put(None)
        for thread in started:
            thread.join()
        self._threads = []

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._run([task])

    def _run(self, tasks: Sequence[_Task]) -> None:
        """The rows that all of them need are asked for before the first are awaited."""
        asked = [(task, _tried(task, partial(self._ask, task))) for task in tasks]
        for task, batch in asked:
            if batch is not None:
                staged = _tried(task, partial(task.partition.stage, batch, task.now_ms))
                if staged is not None:
                    task.done.set_result(staged)

    def _ask(self, task: _Task) -> AskedBatch:
        batch = task.batch
        usual, others = self._decoders[batch.source.topic]
        events = usual.decode(batch)
        apart = {reads: other.decode(batch) for reads, other in others.items()}
        return task.partition.ask(events, apart, behind=task.behind)


def _tried(task: _Task, compute: Callable[[], T]) -> T | None:
    """What ``compute`` gives; None where it raises, which is then what became of the task."""
    try:
        return compute()
    except (UnavailableError, FencedError) as error:
        task.done.set_result(error)
    except BaseException as error:  # noqa: BLE001 raised to whoever takes it
        task.done.set_exception(error)
    return None
