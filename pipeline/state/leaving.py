"""Which rows of a table may be given an expiry when they leave it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.table import (
    DELETED,
    EVENT_TIME,
    KEY_SIZE,
    KNOWN_TIME,
    NOTHING,
    PRESENT,
    STATE,
    copy_keys,
)
from pipeline.state.batch import Leaving

__all__ = ["NOBODY", "Leaving", "leaving"]

_NONE = np.empty(0, dtype=np.int64)
NOBODY = Leaving(np.empty(0, dtype=np.uint8), np.zeros(1, dtype=np.int64), _NONE, _NONE)


def leaving(slots: npt.NDArray[np.int64], keys: npt.NDArray[np.uint8]) -> Leaving:
    """Rows with events among ``slots`` int64[n, SECTION], copied before they were freed.

    Left out are those that know of a deletion: even emptied they say more than an absent row.
    """
    held = (slots[:, STATE] & PRESENT) != 0
    chosen = np.ascontiguousarray(slots[held & (slots[:, DELETED] == NOTHING)])
    offsets = np.zeros(len(chosen) + 1, dtype=np.int64)
    np.cumsum(chosen[:, KEY_SIZE], out=offsets[1:])
    names = np.empty(int(offsets[-1]), dtype=np.uint8)
    copy_keys(chosen, keys, np.arange(len(chosen), dtype=np.int32), offsets, names)
    return Leaving(names, offsets, chosen[:, EVENT_TIME].copy(), chosen[:, KNOWN_TIME].copy())
