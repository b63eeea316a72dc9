"""What is printed: results on standard output, errors and progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.errors import (
    PipelineError,
    StoreFullError,
    UnavailableError,
)

__all__ = ["Hints", "console", "error_console", "plain", "print_error", "print_warning", "table"]

Hints = Mapping[type[PipelineError], str]

_PIPED_WIDTH = 240  # nobody is looking: do not cut columns for a file or another program
_HINTS: Hints = {
    StoreFullError: "give the store more memory, or keep fewer or shorter windows",
    UnavailableError: "'pipeline doctor' checks every server and setting, one line each",
}


class _Console(Console):
    """Leaves a closed pipe to :func:`pipeline.cli.main`, as ``print`` does."""

    def on_broken_pipe(self) -> None:
        """Called where a write fails because nobody reads any more."""
        raise BrokenPipeError


def console() -> Console:
    """Standard output; full width and no colour where it is not a terminal."""
    return _Console(soft_wrap=False, highlight=False, width=_width(sys.stdout.isatty()))


def error_console() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table without outer lines; columns named in ``right`` are aligned right."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        made.add_column(plain(name), justify="right" if name in right else "left", overflow="fold")
    return made


def plain(text: str, style: str = "") -> Text:
    """``text`` as it is: square brackets in names and messages are not markup."""
    return Text(text, style=style)


def print_error(error: PipelineError, hints: Hints) -> None:
    """``error: ...`` and the first of ``hints``, then of ours, for an error of its kind."""
    out = error_console()
    out.print(f"[bold red]error:[/] {escape(_one_line(str(error) or type(error).__name__))}")
    if "did you mean" in str(error):
        return
    for kind, hint in (*hints.items(), *_HINTS.items()):
        if isinstance(error, kind):
            out.print(f"[dim]hint:[/]  {escape(hint)}")
            return


def print_warning(message: str) -> None:
    """``warning: ...`` on standard error."""
    error_console().print(f"[yellow]warning:[/] {escape(_one_line(message))}")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _width(terminal: bool) -> int | None:
    return None if terminal else _PIPED_WIDTH
