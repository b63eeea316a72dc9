"""Commands and replies that belong together."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from pipeline.errors import PipelineError

__all__ = ["Whole"]


class Whole:
    """Broken off between a command and its reply, a connection is of no more use.

    Calls ``interrupted`` where the block ends with an exception that is none of this package's: the
    reply to what was sent may still be under way. Entered many times, so it is no generator.
    """

    __slots__ = ("_interrupted",)

    def __init__(self, interrupted: Callable[[], None]) -> None:
        self._interrupted = interrupted

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, PipelineError):
            self._interrupted()
