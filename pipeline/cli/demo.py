"""``pipeline demo``: everything at once, on this machine."""

from __future__ import annotations

import argparse
import importlib

__all__ = ["DESCRIPTION", "EXAMPLES", "HELP", "add_arguments", "command"]

HELP = "a broker, a store, a year of purchases, features, predictions, a report"
DESCRIPTION = HELP
EXAMPLES = "  pipeline demo\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None yet."""


def command(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    # The demo lies above the command line in the order of imports, so it is looked up by name.
    run = importlib.import_module("pipeline.demo.run")
    code: int = run.main(arguments)
    return code
