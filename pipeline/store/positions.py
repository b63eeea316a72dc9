"""Which rows of a repartition topic came before: by the highest offset seen of each source."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.positions import mark_repeated
from pipeline.store.marker import POSITION

__all__ = ["repeated_rows"]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

_NOTHING = -1  # below every offset


def repeated_rows(
    positions: bytes, topic: I32, partition: I32, offset: I64, select: U8
) -> tuple[U8, bytes]:
    """Which selected rows, in the order of the log, are repetitions; the positions after them.

    ``topic`` (place of the source topic), ``partition`` int32[n] and ``offset`` int64[n] are a
    row's source; ``select`` uint8[n]. ``positions`` are those of a
    :class:`~pipeline.store.marker.Marker`. A row at or below the highest offset of its source is a
    repetition: a sender that starts again starts at its marker and sends in order.
    """
    known = np.frombuffer(positions, dtype=POSITION)
    places = topic.astype(np.int64) << 32 | partition
    chosen = select.view(np.bool_)
    old = known["topic"].astype(np.int64) << 32 | known["partition"]
    every = np.union1d(old, places[chosen])
    highest = np.full(len(every), _NOTHING, dtype=np.int64)
    highest[np.searchsorted(every, old)] = known["offset"]
    source = np.zeros(len(places), dtype=np.int64)
    source[chosen] = np.searchsorted(every, places[chosen])
    repeated = np.empty(len(places), dtype=np.uint8)
    mark_repeated(source, np.ascontiguousarray(offset), select, highest, repeated)
    after = np.empty(len(every), dtype=POSITION)
    after["topic"], after["partition"] = every >> 32, every & 0xFFFFFFFF
    after["offset"] = highest
    return repeated, after.tobytes()
