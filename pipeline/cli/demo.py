"""``pipeline demo``: everything at once, on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["DESCRIPTION", "EXAMPLES", "HELP", "add_arguments", "command"]

HELP = "a broker, a store, a year of purchases, features, predictions, a report"
DESCRIPTION = """\
Start an embedded broker and an embedded Redis on free ports of this machine, publish 1.47 million
real purchases, compute features and predictions from them, then compare every stored row and 1,000
published ones with DuckDB. Ends with a report, and with exit code 1 if any number is wrong."""
EXAMPLES = """\
  pipeline demo
  pipeline demo --events 100000 --json report.json --html report.html
  pipeline demo --keep
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to run and where the report goes."""
    parser.add_argument(
        "--events", type=_positive, metavar="N", help="only the first N purchases (default: all)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write one self-contained page with plots"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave the servers up until Ctrl-C, to look around"
    )
    parser.add_argument(
        "--max-lag",
        type=_positive,
        default=50_000,
        metavar="N",
        help="the producer waits while more events than this are not applied (default: 50000)",
    )


def command(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    from pipeline.demo.run import main

    return main(arguments)


def _positive(text: str) -> int:
    try:
        number = int(text.replace("_", "").replace(",", ""))
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number
