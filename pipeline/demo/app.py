"""The demo's application: ``pipeline run pipeline.demo.app:app``."""

from __future__ import annotations

import pipeline as pp
from pipeline.demo.views import household, new_basket, purchases

__all__ = ["app"]

_view = household(purchases())

app = pp.App("grocery", views=[_view], triggers=[new_basket(_view)])
