"""One command, with its errors as one line and an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable

from pipeline.cli.screen import print_error, print_warning
from pipeline.errors import PipelineError

__all__ = ["execute"]

INTERRUPTED = 130
PIPE_CLOSED = 141


def execute(
    arguments: argparse.Namespace, command: Callable[[argparse.Namespace], int], name: str = ""
) -> int:
    """Run ``command`` and return its exit code; ``name`` stands in every line of its log."""
    _set_up_logging(arguments.verbose, name)
    warnings.showwarning = lambda message, *_details, **_more: print_warning(str(message))
    try:
        code = command(arguments)
        sys.stdout.flush()
    except PipelineError as error:
        if arguments.debug:
            traceback.print_exc()
        print_error(error, arguments.hints)
        return error.exit_code
    except BrokenPipeError:
        # Python flushes standard output once more at exit; it must have somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:
        if error.filename is None:  # not a file of this machine: a bug of ours, shown whole
            raise
        if arguments.debug:
            traceback.print_exc()
        print_error(PipelineError(f"{error.filename}: {error.strerror}"), {})
        return PipelineError.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    return code


def _set_up_logging(verbose: int, name: str) -> None:
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    named = f"{name}: " if name else ""
    logging.basicConfig(level=level, format=f"%(asctime)s %(levelname)-7s {named}%(message)s")
