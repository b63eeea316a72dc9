"""The command line: ``pipeline COMMAND ...``, one module per command."""

from __future__ import annotations

from pipeline.cli.entry import main

__all__ = ["main"]
