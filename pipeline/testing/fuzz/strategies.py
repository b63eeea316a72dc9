"""Hypothesis strategies for logs, views and cases (extra ``testing``).

Raises MissingExtraError where Hypothesis is not installed.
"""

from __future__ import annotations

from random import Random

from pipeline.errors import MissingExtraError
from pipeline.features.stream import EventStream
from pipeline.features.view import FeatureView
from pipeline.testing.fuzz.cases import Case, drawn
from pipeline.testing.fuzz.events import EventFuzzer, Message, Shape
from pipeline.testing.fuzz.views import fuzz_view

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as missing:
    raise MissingExtraError("hypothesis", "testing") from missing

__all__ = ["cases", "messages", "views"]


def _randoms() -> st.SearchStrategy[Random]:
    """A source of choices that Hypothesis makes, and can make smaller."""
    return st.randoms(use_true_random=False)


def cases(
    *, max_events: int = 60, partitions: int = 2, shape: Shape | None = None
) -> st.SearchStrategy[Case]:
    """Views with logs of up to ``max_events`` records."""
    return st.builds(
        lambda rng, n: drawn(rng, n, partitions, shape),
        _randoms(),
        st.integers(1, max_events),
    )


def views(stream: EventStream) -> st.SearchStrategy[FeatureView]:
    """Views over ``stream``."""
    return st.builds(lambda rng: fuzz_view(stream, rng), _randoms())


def messages(
    stream: EventStream, *, max_size: int = 60, shape: Shape | None = None
) -> st.SearchStrategy[list[Message]]:
    """Messages of ``stream``, to be appended to a log."""
    return st.builds(
        lambda rng, n: EventFuzzer(stream, rng, shape=shape).messages(n),
        _randoms(),
        st.integers(1, max_size),
    )
