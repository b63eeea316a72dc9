"""Deletion of an entity: what a tombstone does to a slot, and what it refuses from then on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.jit import Int, inlined
from pipeline.kernels.load import clear_slot
from pipeline.kernels.table import (
    DELETED,
    DIRTY,
    EVENT_TIME,
    KNOWN_TIME,
    NOTHING,
    PRESENT,
    SOURCE_OFFSET,
    STATE,
)

__all__ = ["DELETE", "delete_entity", "was_deleted"]

I64 = npt.NDArray[np.int64]

DELETE = 2  # value of ``select``: the record is a tombstone, its event time that of the deletion


@inlined
def delete_entity(
    slots: I64, arena: I64, heads: I64, slot: Int, lists: Int, time: Int, timestamp_ms: Int,
    offset: Int,
) -> None:  # fmt: skip
    """Empty the slot and remember the newest time it was deleted at."""
    clear_slot(arena, heads, slots, slot, lists)
    deleted = slots[slot, DELETED]
    if deleted == NOTHING or time > deleted:
        deleted = np.int64(time)
    slots[slot, DELETED] = deleted
    slots[slot, EVENT_TIME] = deleted
    slots[slot, KNOWN_TIME] = max(slots[slot, KNOWN_TIME], timestamp_ms)
    slots[slot, SOURCE_OFFSET] = offset
    slots[slot, STATE] = (slots[slot, STATE] & ~PRESENT) | DIRTY


@inlined
def was_deleted(slots: I64, slot: Int, time: Int) -> bool:
    """Whether the entity was deleted at ``time`` or later: an event of then must not revive it."""
    deleted = slots[slot, DELETED]
    return bool(deleted != NOTHING and time <= deleted)
