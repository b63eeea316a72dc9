"""Runs the data plane on a thread of its own, as a service of the Faust application."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import mode
import pyarrow as pa

from pipeline import metrics
from pipeline.app.freshness import FreshnessGoal
from pipeline.app.handover import HandOver
from pipeline.app.plane import DataPlane, Step
from pipeline.app.transactions import OpenTransactions
from pipeline.errors import PipelineError

__all__ = ["PlaneService"]

log = logging.getLogger(__name__)

LAG_INTERVAL_S = 1.0
REFUSED_INTERVAL_S = 10.0
STOP_TIMEOUT_S = 10.0
PATIENCE_S = 0.2  # a channel that is full for longer makes the plane hold its view's topic back
PAUSE_S = 0.02  # between looks at a full channel while there is nothing else to do


class PlaneService(mode.Service):
    """Starts a thread with the data plane, stops it, and reports what it does.

    An agent that does not keep up holds back the topics of its view, and nothing else: the plane
    goes on polling, beating and reading the other topics.

    ``build`` makes the plane (on the thread: it waits for servers), and another where a version
    of a view was retired; ``deliver`` takes (view name, changed rows) on the event loop. An error
    of the plane is kept in ``failure``; then ``on_failure`` is called on the event loop or, without
    one, the application crashes. Events older than ``freshness_ms`` at their commit are reported.
    """

    def __init__(
        self,
        build: Callable[[], DataPlane],
        deliver: Mapping[str, Callable[[pa.RecordBatch], Coroutine[Any, Any, object]]],
        registry: metrics.Registry,
        clock_ms: Callable[[], int],
        on_failure: Callable[[], object] | None,
        freshness_ms: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._build = build
        self._deliver = deliver
        self._registry = registry
        self._clock_ms = clock_ms
        self._on_failure = on_failure
        self._freshness = FreshnessGoal(freshness_ms, registry, time.monotonic)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._working = False
        self._refused: Counter[str] = Counter()
        self._refused_at = 0.0
        self._transactions = OpenTransactions(registry)
        self.failure: BaseException | None = None

    async def on_start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._main, name="data-plane", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._fail(
                PipelineError(
                    f"the data plane got no thread ({error}): raise the limit on processes "
                    "(ulimit -u, TasksMax=, pids.max of a container)"
                )
            )
        else:
            self._thread = thread

    async def on_stop(self) -> None:
        """Finish the running batch, leave the group."""
        self._stopping.set()
        if self._thread is not None and not self._working:
            log.info("stopped before the data plane was ready")  # a compilation cannot be stopped
        elif self._thread is not None:
            await asyncio.to_thread(self._thread.join, STOP_TIMEOUT_S)
            if self._thread.is_alive():
                log.error("the data plane did not stop within %g s", STOP_TIMEOUT_S)

    def _main(self) -> None:
        try:
            while not self._keep_up():
                log.info("a version of a view was retired: building the data plane again")
        except PipelineError as error:
            self._fail(error)
        except BaseException as error:  # the thread is the last to see it: tell the application
            log.exception("the data plane failed")
            self._fail(error)
            raise

    def _keep_up(self) -> bool:
        """Build a plane and run it until the service stops; False where another is needed."""
        plane = self._build()
        agents = HandOver(self._deliver, self._running_loop())
        self._working = True
        try:
            plane.start()
            return self._work(plane, agents)
        finally:
            agents.close()
            plane.close()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise PipelineError("the data plane's service was not started")
        return self._loop

    def _fail(self, error: BaseException) -> None:
        """Stop the application, which then raises ``failure`` to whoever runs it."""
        self.failure = error
        if self._loop is None or self._stopping.is_set():
            return
        if self._on_failure is not None:
            self._loop.call_soon_threadsafe(self._on_failure)
        else:
            asyncio.run_coroutine_threadsafe(self.crash(error), self._loop)

    def _work(self, plane: DataPlane, agents: HandOver) -> bool:
        lag_at, full = 0.0, False
        while not self._stopping.is_set():
            step = plane.step()
            self._observe(step)
            for batch in step.batches:
                for view in batch.views:
                    if view.changes is not None and not view.plan.stored:
                        agents.give(view.plan.view.name, view.changes)
            patience_s = PATIENCE_S if not full else 0.0 if step.batches else PAUSE_S
            behind = agents.wait(patience_s)
            full = bool(behind)
            if step.outdated:
                return False
            plane.hold(behind)
            if time.monotonic() >= lag_at:
                lag_at = time.monotonic() + LAG_INTERVAL_S
                self._observe_lag(plane)
                self._transactions.observe(plane.held_back(), time.monotonic())
        return True

    def _observe(self, step: Step) -> None:
        """Count what a step did; never per event."""
        counted = self._registry
        if step.resets:
            counted.counter(metrics.REWINDS, "reset").add(step.resets)
        for (view_name, cause), rows in step.expiring.items():
            counted.counter(metrics.EXPIRING, view_name, cause).add(rows)
        self._tell_refused(step)
        self._freshness.tell()
        for topic, reasons in step.rejected.items():
            for reason, records in reasons.items():
                counted.counter(metrics.DEAD_LETTERED, topic, reason).add(records)
        for batch in step.batches:
            source = batch.events.source
            counted.counter(metrics.CONSUMED, source.topic, str(source.partition)).add(
                len(batch.events)
            )
            counted.counter(metrics.CONSUMED_BYTES, source.topic).add(
                len(batch.events.binary.payload)
            )
            counted.histogram(metrics.BATCH_RECORDS, source.topic).observe(len(batch.events))
            age_s = (self._clock_ms() - batch.events.binary.timestamps_ms) / 1000
            for view in batch.views:
                name = view.plan.label
                counted.histogram(metrics.FRESHNESS, name).observe(age_s)
                if not batch.behind:
                    self._freshness.observe(name, age_s)
                counted.counter(metrics.ROWS_WRITTEN, name).add(len(view.slots))
                counted.counter(metrics.BYTES_WRITTEN, name).add(len(view.write.rows.rows))
                if view.quarantined is not None:
                    counted.counter(metrics.CORRUPT_ROWS, name).add(len(view.quarantined.rows))
                for outcome, records in view.outcomes.items():
                    counted.counter(metrics.OUTCOMES, name, outcome).add(records)
            for route in batch.routes:
                for outcome, records in route.outcomes.items():
                    counted.counter(metrics.OUTCOMES, route.route.topic, outcome).add(records)

    def _tell_refused(self, step: Step) -> None:
        """A line about dead letters, at most every ten seconds."""
        for reasons in step.rejected.values():
            self._refused.update(reasons)
        now = time.monotonic()
        if self._refused and now >= self._refused_at:
            told = ", ".join(f"{reason} {n:,}" for reason, n in self._refused.most_common())
            log.warning("records went to the dead-letter topic: %s", told)
            self._refused.clear()
            self._refused_at = now + REFUSED_INTERVAL_S

    def _observe_lag(self, plane: DataPlane) -> None:
        lag = plane.lag()
        self._registry.gauge(metrics.PARTITIONS).set(len(lag))
        for source, records in lag.items():
            self._registry.gauge(metrics.LAG, source.topic, str(source.partition)).set(records)
