"""``pipeline compile``: have every kernel ready before a worker starts."""

from __future__ import annotations

import argparse
import time

from pipeline.cli.options import APP_HELP, load_app, show_progress
from pipeline.cli.screen import error_console, plain

__all__ = ["DESCRIPTION", "EXAMPLES", "HELP", "SETTINGS", "USAGE", "add_arguments", "command"]

SETTINGS = False
HELP = "compile the kernels ahead, as when an image is built"
USAGE = "pipeline compile [APP]"
DESCRIPTION = """\
Compile every kernel that a worker of APP needs (default: one that reads JSON)
into the directory that workers look in, $PIPELINE_CACHE or the user's cache.
Needs no server. A worker compiles what it misses itself, in half a minute; in an
image that was built with this it starts at once.

Kernels are compiled for the processor of this machine. For an image that runs on
others, set NUMBA_CPU_NAME=generic and NUMBA_CPU_FEATURES, here and there alike."""
EXAMPLES = """\
  pipeline compile
  pipeline compile shop/features.py:app
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """APP."""
    parser.add_argument("app", metavar="APP", nargs="?", help=APP_HELP)


def command(arguments: argparse.Namespace) -> int:
    """Compile, and say where the kernels are."""
    from pipeline.app.ahead import small_view
    from pipeline.app.partition import view_plans
    from pipeline.app.topic import arrange
    from pipeline.app.warm import warm_up
    from pipeline.inference.warm import warm_up as warm_up_inference
    from pipeline.ingest.selfcheck import self_check
    from pipeline.kernels.caching import cache_directory
    from pipeline.store.transaction import warm_up as warm_up_store

    show_progress(arguments)
    views, triggers, name = [small_view()], [], "warm-up"
    if arguments.app is not None:
        app = load_app(arguments.app)
        views, triggers, name = list(app.views), list(app.triggers), str(app.conf.id)
    began = time.monotonic()
    plans = view_plans(views, triggers)
    warm_up(arrange(name, plans, lambda _: ("", 1), lambda *_: ("", 1)), answers=True)
    warm_up_store()
    if triggers:
        warm_up_inference()
    self_check()
    took_s = time.monotonic() - began
    error_console().print(plain(f"kernels in {cache_directory()}, ready after {took_s:.1f} s"))
    return 0
