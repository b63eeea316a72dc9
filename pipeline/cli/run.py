"""``pipeline run``: keep an application's features up to date."""

from __future__ import annotations

import argparse
import socket
from typing import TYPE_CHECKING

from pipeline.cli.options import APP_HELP, load_app, load_config, show_progress
from pipeline.cli.screen import error_console, plain
from pipeline.errors import ConfigurationError, UnknownNameError

if TYPE_CHECKING:
    from pipeline.app.application import App
    from pipeline.config import Config

__all__ = ["DESCRIPTION", "EXAMPLES", "HELP", "HINTS", "USAGE", "add_arguments", "command"]

HELP = "run an application: read its topics, keep its features"
USAGE = "pipeline run APP [--web-port PORT] [settings]"
DESCRIPTION = """\
Read the topics of an application and keep its features in the store, until
Ctrl-C or SIGTERM. Start it as often as there are partitions: the workers share
them. Kill it at any time: the next start goes on exactly where the last commit
ended."""
EXAMPLES = """\
  pipeline run features.py:app
  pipeline run shop.features:app --brokers kafka:9092 --store redis://redis:6379
  pipeline run features.py:app --web-port 6067 --set app.max_records=5000
"""
HINTS = {UnknownNameError: "'pipeline produce FILE --topic NAME --create N ...' creates a topic"}

WEB_PORT = 6066  # Faust's own default


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """APP, --web-port."""
    parser.add_argument("app", metavar="APP", help=APP_HELP)
    parser.add_argument(
        "--web-port",
        type=int,
        metavar="PORT",
        default=WEB_PORT,
        help=f"of /metrics and Faust's pages; one per worker (default: {WEB_PORT})",
    )


def command(arguments: argparse.Namespace) -> int:
    """Run until stopped."""
    from pipeline.app.limits import ensure_descriptors
    from pipeline.app.runner import run_app
    from pipeline.kernels.caching import is_warm

    ensure_descriptors(0)  # enough to ask the servers
    config = load_config(arguments)
    app = load_app(arguments.app)
    app.configure(config)
    _check_port(arguments.web_port)
    ensure_descriptors(_check_servers(app, config))
    web = f"http://127.0.0.1:{arguments.web_port}/metrics"
    error_console().print(plain(f"metrics: {web}   Ctrl-C stops", "dim"))
    if not is_warm():
        error_console().print(plain("compiling kernels: half a minute, once per machine", "dim"))
    show_progress(arguments)
    run_app(app, log_level=None, web_port=arguments.web_port)
    return 0


def _check_servers(app: App, config: Config) -> int:
    """One line about a server that is away, instead of a worker that starts and then fails.

    Returns how many partitions there are to be read.
    """
    from pipeline.produce.topics import describe
    from pipeline.store.open import open_store

    screen, partitions = error_console(), 0
    store = open_store(config.store.url, timeout_ms=config.store.timeout_ms)
    try:
        store.verify()
        for name in dict.fromkeys(s.topic for view in app.views for s in view.sources):
            topic = describe(config.broker, name)
            partitions += topic.partitions
            over = [v.name for v in app.views if name in {s.topic for s in v.sources}]
            views = ", ".join(over)
            where = f"{name} ({topic.partitions} partitions) at {config.broker.brokers}"
            screen.print(plain(f"{app.conf.id}: {views} from {where}, kept in {store.address}"))
    finally:
        store.close()
    return partitions


def _check_port(port: int) -> None:
    if not 0 <= port <= 65_535:
        raise ConfigurationError(f"--web-port: must be between 0 and 65535, got {port}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigurationError(
                f"--web-port {port}: {error.strerror}; each worker on a machine needs its own"
            ) from error
