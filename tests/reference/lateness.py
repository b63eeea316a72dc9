"""Which events a row takes, and its windows then: recomputed per entity over the whole log."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Arrivals"]

Bools = npt.NDArray[np.bool_]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Arrivals:
    """Event times int64[n] of one entity, ns, in the order of their arrival.

    A late event is never newer than what came before it, so the newest time of all events before
    an event is that of the row.
    """

    times: I64

    @property
    def before(self) -> I64:
        """Newest time before each event; that of the first is lower than any."""
        newest = np.maximum.accumulate(self.times)
        return np.concatenate([[np.iinfo(np.int64).min // 4], newest[:-1]])

    def in_ring(self, width: int, tiles: int) -> Bools:
        """Whether a ring of ``tiles`` tiles, tile ``k`` being ``(k*width, (k+1)*width]``, still
        holds the tile of the event."""
        tile, newest = -(-self.times // width) - 1, -(-self.before // width) - 1
        return np.asarray((self.times > self.before) | (tile > newest - tiles))

    def in_horizon(self, horizon: int) -> Bools:
        """Whether the event is later than the newest one less ``horizon``."""
        return np.asarray(self.times > self.before - horizon)

    def window(self, i: int, joined: Bools, length: int, slide: int) -> I64:
        """The events up to the ``i``-th that a read right after it finds in the window."""
        end = self.times[: i + 1].max()
        start = (end // slide * slide if slide else end) - length
        seen = self.times[: i + 1]
        return np.flatnonzero(joined[: i + 1] & (seen > start) & (seen <= end))
