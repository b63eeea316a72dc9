"""Runs an application in this process until it is told to stop."""

from __future__ import annotations

import asyncio

import faust

from pipeline.app.application import App

__all__ = ["run_app"]


def run_app(app: App, *, log_level: str = "INFO", web_port: int | None = None) -> None:
    """Run a Faust worker for ``app``; returns after SIGTERM or Ctrl-C.

    Raises what stopped the data plane, such as :class:`StoreUnavailableError`, after the
    worker has shut down in order.
    """
    if web_port is not None:
        app.conf.web_port = web_port
    worker = faust.Worker(app, loglevel=log_level, redirect_stdouts=False)
    app.on_plane_failure = lambda: asyncio.ensure_future(worker.stop())
    try:
        worker.execute_from_commandline()
    except SystemExit as ended:
        if app.failure is None and ended.code not in (0, None):
            raise
    if app.failure is not None:
        raise app.failure
