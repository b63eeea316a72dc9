"""Runs an application in this process until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import faust
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from mode.threads import WorkerThread

from pipeline.app.application import App

__all__ = ["run_app"]

THREAD_STOP_S = 3.0
_LOOP_CLOSED = "Event loop is closed"


class _EndsWithTheProcess(WorkerThread):
    """Faust's consumer thread, which carries nothing of ours. A worker that is stopped while this
    one starts either forgets it or waits for it, and it for the worker: both for ever."""

    def __init__(self, service: Any, **options: Any) -> None:
        super().__init__(service, **options)
        self.daemon = True

    def stop(self) -> None:
        """Wait for its end, not for ever."""
        if self.is_stopped.wait(THREAD_STOP_S):
            self.join(THREAD_STOP_S)


def run_app(app: App, *, log_level: str | None = "INFO", web_port: int | None = None) -> None:
    """Run a Faust worker for ``app``; returns after SIGTERM or Ctrl-C.

    ``log_level`` None leaves logging as the caller has set it up.
    Raises what stopped the data plane, such as :class:`StoreUnavailableError`, after the
    worker has shut down in order.
    """
    if web_port is not None:
        app.conf.web_port = web_port
    worker = faust.Worker(
        app,
        loglevel=log_level,
        redirect_stdouts=False,
        override_logging=log_level is not None,
        quiet=True,
    )
    worker.spinner = None  # it draws on a pipe too
    AIOKafkaConsumerThread.Worker = _EndsWithTheProcess
    AIOKafkaConsumerThread.shutdown_timeout = THREAD_STOP_S
    app.on_plane_failure = lambda: asyncio.ensure_future(worker.stop())
    try:
        worker.execute_from_commandline()
    except SystemExit as ended:
        if app.failure is None and ended.code not in (0, None):
            raise
    finally:
        _ignore_closed_loop()
    if app.failure is not None:
        raise app.failure


def _ignore_closed_loop() -> None:
    """A worker that stops while it joins its group leaves a thread of Faust's that finds the event
    loop closed, and says so with three tracebacks. Nothing of ours runs there."""
    report = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if str(failed.exc_value) != _LOOP_CLOSED:
            report(failed)

    def keep(record: logging.LogRecord) -> bool:
        return not (record.exc_info and str(record.exc_info[1]) == _LOOP_CLOSED)

    threading.excepthook = hook
    for handler in logging.root.handlers:
        handler.addFilter(keep)
