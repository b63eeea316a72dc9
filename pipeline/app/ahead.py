"""A second process that compiles the largest kernel while the first one compiles the others.

Numba compiles one kernel at a time in a process. The processes meet in the kept kernels. The second
ends with the first, however that ends: it reads a pipe that nobody else holds open.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from pipeline.contracts.contract import Contract
from pipeline.features.aggregations import count
from pipeline.features.stream import EventStream
from pipeline.features.view import FeatureView
from pipeline.kernels.caching import is_warm
from pipeline.kernels.jit import JIT_ENABLED
from pipeline.state.warm import compile_answers, compile_apply, compile_rows

__all__ = ["compiling_ahead", "small_view"]

ANSWERS = "--answers"

_log = logging.getLogger(__name__)


def small_view() -> FeatureView:
    """A view; kernels are the same for all of them."""
    contract = {
        "type": "object",
        "title": "made_up",
        "properties": {"key": {"type": "string"}, "time": {"type": "integer", "x-unix-time": "ms"}},
        "required": ["key", "time"],
    }
    stream = EventStream("made-up", Contract.load(contract), key="key", time="time")
    return FeatureView(
        "made_up", source=stream, entity="key", features={"n": count().over("1h", slide="1m")}
    )


@contextmanager
def compiling_ahead(*, answers: bool = True) -> Iterator[None]:
    """Compile in a second process meanwhile, where nothing is compiled and a core is free;
    ``answers``: also what makes features of rows."""
    if not JIT_ENABLED or is_warm() or (os.cpu_count() or 1) < 2:
        yield
        return
    command = [sys.executable, "-m", "pipeline.app.ahead", *([ANSWERS] if answers else [])]
    theirs, ours = os.pipe()
    try:
        try:
            process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.DEVNULL)
        finally:
            os.close(theirs)
        with process:
            try:
                yield
            except BaseException:
                process.kill()
                raise
    finally:
        os.close(ours)
    if process.returncode:
        _log.warning("the process that compiles kernels ended with %d", process.returncode)


def _end_with_parent() -> None:
    """End once the other end of the pipe is closed: it is never written to."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def main() -> None:
    """Compile the largest kernel, then whatever the first process has not come to, from its end."""
    Thread(target=_end_with_parent, daemon=True).start()
    plan = small_view().plan
    compile_apply(plan)
    if ANSWERS in sys.argv[1:]:
        compile_answers(plan)
    compile_rows(plan)


if __name__ == "__main__":
    main()
