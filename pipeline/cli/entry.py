"""From the words of a command line to an exit code.

=====  ==============================================================================
0      done
1      something failed while running
2      nothing was started: a wrong argument, configuration or definition, or a server
       that does not answer
130    stopped by Ctrl-C
141    the reader of our output went away
=====  ==============================================================================
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipeline.cli.execute import execute
from pipeline.cli.parser import parse

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command (default: of this process) and return its exit code.

    Errors of the package become one line on standard error, with a traceback only under
    ``--debug``.
    """
    arguments = parse(sys.argv[1:] if argv is None else argv)
    return execute(arguments, arguments.command)
