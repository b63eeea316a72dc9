"""``pipeline run``: keep an application's features up to date."""

from __future__ import annotations

import argparse

from pipeline.cli.options import APP_HELP, load_app, load_config

__all__ = ["DESCRIPTION", "EXAMPLES", "HELP", "add_arguments", "command"]

HELP = "run an application: read its topics, keep its features"
DESCRIPTION = """\
Read the topics of an application and keep its features in the store, until Ctrl-C or SIGTERM.
Start it as often as there are partitions: the workers share them. Kill it at any time: the next
start continues exactly where the last commit ended."""
EXAMPLES = """\
  pipeline run features.py:app
  pipeline run shop.features:app --brokers kafka:9092 --store redis://redis:6379/0
  pipeline run features.py:app --set app.max_records=5000 --web-port 6070
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """APP, --web-port."""
    parser.add_argument("app", metavar="APP", help=APP_HELP)
    parser.add_argument(
        "--web-port", type=int, metavar="PORT", help="of /metrics and Faust's pages (default: 6066)"
    )


def command(arguments: argparse.Namespace) -> int:
    """Run until stopped."""
    from pipeline.app.runner import run_app

    config = load_config(arguments)
    app = load_app(arguments.app)
    app.configure(config)
    level = ("WARNING", "INFO", "DEBUG")[min(arguments.verbose + 1, 2)]
    run_app(app, log_level=level, web_port=arguments.web_port)
    return 0
