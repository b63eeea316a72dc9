"""Features that are told right after every event: what a look-up reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.features.plan import Plan
from pipeline.kernels.feature import F_CELL, F_WIDTH
from pipeline.state.batch import Finalized

__all__ = ["Watch"]

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Watch:
    """Some features of a plan for :meth:`StateTable.apply`, their cells one after the other.

    ``features`` and ``defaults`` are rows of the plan's tables; ``cells`` is how many there are.
    """

    features: I64
    defaults: npt.NDArray[np.float64]
    cells: int

    @classmethod
    def of(cls, plan: Plan, positions: Sequence[int]) -> Watch:
        """The features at these positions of the plan, in this order."""
        tables = plan.tables()
        features = tables.features[list(positions)]
        widths = features[:, F_WIDTH]
        features[:, F_CELL] = np.cumsum(widths) - widths
        return cls(features, tables.defaults[list(positions)], int(widths.sum()))

    def room(self, n: int) -> Finalized:
        """Space for n events."""
        return Finalized(
            np.empty((n, self.cells), dtype=np.int64),
            np.empty((n, self.cells), dtype=np.uint8),
            np.empty((n, len(self.features)), dtype=np.uint8),
        )
