"""The ids of a row's recent events: an event whose id is among them came before.

An IDS section is an EVENTS section of ids (:mod:`pipeline.kernels.events`): ``[time, offset, id]``
ascending by (time, offset), the newest ``bound`` of those later than the newest event less the
horizon. It takes every applied event that has an id and is young enough, and makes none join.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.events import first_counted
from pipeline.kernels.integers import minus
from pipeline.kernels.jit import Int, bare, inlined
from pipeline.kernels.lists import IDS, LIST_BOUND, LIST_HORIZON, LIST_INPUT, LIST_KIND
from pipeline.kernels.table import EVENT_TIME, PRESENT, SECTION, STATE

__all__ = ["came_before", "ids_list"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


@inlined
def ids_list(lists: I64) -> Int:
    """The list of ids, -1 if there is none."""
    for i in range(len(lists)):
        if lists[i, LIST_KIND] == IDS:
            return np.int64(i)
    return np.int64(-1)


@bare
def came_before(
    slots: I64, arena: I64, slot: Int, rings: I64, lists: I64, i: Int, inputs: I64, valid: U8,
    e: Int,
) -> bool:  # fmt: skip
    """Whether list ``i`` holds the id of event ``e``; a null id never came before. O(ids kept)."""
    source = lists[i, LIST_INPUT]
    if valid[source, e] == 0 or (slots[slot, STATE] & PRESENT) == 0:
        return False
    column = SECTION + 3 * (len(rings) + i)
    block, count = slots[slot, column], slots[slot, column + 1]
    oldest = minus(slots[slot, EVENT_TIME], lists[i, LIST_HORIZON])
    first = first_counted(arena, block, count, np.int64(3), lists[i, LIST_BOUND], oldest)
    for k in range(count - 1, first - 1, -1):
        if arena[block + 3 * k + 2] == inputs[source, e]:
            return True
    return False
