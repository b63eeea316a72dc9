"""``pipeline read``: features by key."""

from __future__ import annotations

import argparse

__all__ = ["DESCRIPTION", "EXAMPLES", "HELP", "add_arguments", "command"]

HELP = "read features by key"
DESCRIPTION = HELP
EXAMPLES = "  pipeline read\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None yet."""


def command(arguments: argparse.Namespace) -> int:
    """Run."""
    return 0
