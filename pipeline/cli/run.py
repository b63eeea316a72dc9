"""``pipeline run``: keep an application's features up to date."""

from __future__ import annotations

import argparse
import socket
from typing import TYPE_CHECKING

from pipeline.cli.options import APP_HELP, load_app, load_config, show_progress
from pipeline.cli.screen import error_console, plain, print_warning
from pipeline.cli.workers import supervise, worker_count
from pipeline.errors import ConfigurationError, UnknownNameError

if TYPE_CHECKING:
    from pipeline.app.application import App
    from pipeline.config import Config

__all__ = ["DESCRIPTION", "EXAMPLES", "HELP", "HINTS", "USAGE", "add_arguments", "command"]

HELP = "run an application: read its topics, keep its features"
USAGE = "pipeline run APP [--workers N] [--web-port PORT] [settings]"
DESCRIPTION = """\
Read the topics of an application and keep its features in the store, until
Ctrl-C or SIGTERM. Start it as often as there are partitions, here with --workers
or on other machines: the workers share them. Kill it at any time: the next start
goes on exactly where the last commit ended."""
EXAMPLES = """\
  pipeline run features.py:app
  pipeline run shop.features:app --brokers kafka:9092 --store redis://redis:6379
  pipeline run features.py:app --workers auto
  pipeline run features.py:app --web-port 6067 --set app.max_records=5000
"""
HINTS = {UnknownNameError: "'pipeline produce FILE --topic NAME --create N ...' creates a topic"}

WEB_PORT = 6066  # Faust's own default


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """APP, --workers, --web-port."""
    parser.add_argument("app", metavar="APP", help=APP_HELP)
    parser.add_argument(
        "--web-port",
        type=int,
        metavar="PORT",
        default=WEB_PORT,
        help=f"of /metrics and Faust's pages; the next worker has the next (default: {WEB_PORT})",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        default="1",
        help="processes on this machine, or 'auto' for one per core (default: 1)",
    )


def command(arguments: argparse.Namespace) -> int:
    """Run until stopped, in this process or in several."""
    from pipeline.app.limits import ensure_descriptors
    from pipeline.kernels.caching import is_warm

    ensure_descriptors(0)  # enough to ask the servers
    count = worker_count(arguments.workers)
    config = load_config(arguments)
    app = load_app(arguments.app)
    app.configure(config)
    ports = [arguments.web_port + i for i in range(count)]
    for port in ports:
        _check_port(port)
    ensure_descriptors(_check_servers(app, config, count))
    web = ", ".join(f"http://127.0.0.1:{port}/metrics" for port in ports)
    error_console().print(plain(f"metrics: {web}   Ctrl-C stops", "dim"))
    if not is_warm():
        error_console().print(plain("compiling kernels: half a minute, once per machine", "dim"))
    show_progress(arguments)
    if count == 1:
        return _run(app, arguments)
    runs = [argparse.Namespace(**{**vars(arguments), "web_port": port}) for port in ports]
    return supervise(_worker, runs)


def _worker(arguments: argparse.Namespace) -> int:
    """One worker, in a process of its own."""
    app = load_app(arguments.app)
    app.configure(load_config(arguments))
    show_progress(arguments)
    return _run(app, arguments)


def _run(app: App, arguments: argparse.Namespace) -> int:
    from pipeline.app.runner import run_app

    run_app(app, log_level=None, web_port=arguments.web_port)
    return 0


def _check_servers(app: App, config: Config, workers: int) -> int:
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
            if workers > topic.partitions:
                idle = workers - topic.partitions
                print_warning(f"{workers} workers: {idle} of them will have nothing of {name}")
    finally:
        store.close()
    return partitions


def _check_port(port: int) -> None:
    if not 1 <= port <= 65_535:
        raise ConfigurationError(f"--web-port: must be between 1 and 65535, got {port}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigurationError(
                f"--web-port {port}: {error.strerror}; each worker on a machine needs its own"
            ) from error
