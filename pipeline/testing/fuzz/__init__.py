"""Events and views that look for trouble: from a seed, or as Hypothesis strategies.

``case(seed)`` is a view and a log; its text says the seed. :mod:`pipeline.testing.fuzz.strategies`
(extra ``testing``) draws the same from Hypothesis, which shrinks what fails.
"""

from __future__ import annotations

from pipeline.testing.fuzz.cases import Case, case
from pipeline.testing.fuzz.events import EventFuzzer, Shape
from pipeline.testing.fuzz.views import fuzz_stream, fuzz_view

__all__ = ["Case", "EventFuzzer", "Shape", "case", "fuzz_stream", "fuzz_view"]
