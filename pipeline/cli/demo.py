"""``pipeline demo``: everything at once, on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.errors import ConfigurationError

__all__ = ["DESCRIPTION", "EXAMPLES", "HELP", "SETTINGS", "USAGE", "add_arguments", "command"]

HELP = "servers, a year of purchases, features, predictions, a report"
SETTINGS = False  # its servers are its own: an address given here would be ignored
USAGE = "pipeline demo [--events N] [--json FILE] [--html FILE] [--keep]"
DESCRIPTION = """\
Start an embedded broker and Redis, publish a year of grocery purchases, keep
features of 2,469 households, predict at each new basket, and compare every
number with DuckDB. Nothing is left behind. Exits with 1 if a number was wrong."""
EXAMPLES = """\
  pipeline demo
  pipeline demo --events 100000
  pipeline demo --keep                 leave the servers up, to look around
  pipeline demo --html report.html     the report as a page
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--events, --max-lag, --json, --html, --keep."""
    parser.add_argument("--events", type=int, metavar="N", help="the first N purchases (all)")
    parser.add_argument(
        "--max-lag",
        type=int,
        default=100_000,
        metavar="N",
        help="publish no further than N events ahead (100000)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report as a page")
    parser.add_argument("--keep", action="store_true", help="leave the servers up until Ctrl-C")


def command(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    for option, least in (("events", 1), ("max_lag", 0)):
        given = getattr(arguments, option)
        if given is not None and given < least:
            name = option.replace("_", "-")
            raise ConfigurationError(f"--{name}: must be at least {least}, got {given}")
    from pipeline.demo.run import main

    return main(arguments)
