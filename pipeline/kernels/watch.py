"""Events into slots, and features right after every one of them: what look-ups read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.apply import DONE, EVENT, STOPPED, apply_events
from pipeline.kernels.finalize import finalize_row
from pipeline.kernels.jit import Int, bare
from pipeline.kernels.table import EVENT_TIME, PRESENT, STATE

__all__ = ["apply_watched"]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


@bare
def apply_watched(
    slots: I64, arena: I64, heads: I64, need: Int, sequence: Int,
    rings: I64, accumulators: I64, lists: I64, features: I64, defaults: F64, ttl_ns: Int,
    selecting: Int, real: U8,
    chosen: I32, offsets: I64, timestamps_ms: I64, event_time: I64, select: U8,
    inputs: I64, valid: U8, masks: U8, triggers: I64,
    outcome: U8, dirty: I32, progress: I64,
    fired_event: I64, fired_trigger: I32, fired_cells: I64, fired_valid: U8, fired_status: U8,
    values: I64, usable: U8, passed: U8, joined: U8, fires: U8, scratch: I64,
    watched: I64, watched_defaults: F64, seen_cells: I64, seen_valid: U8, seen_status: U8,
) -> None:  # fmt: skip
    """As :func:`apply_events`; the features ``watched`` of the event's slot after each event ``e``,
    whatever became of it, go to row ``e`` of ``seen_cells`` int64[n, C], ``seen_valid`` and
    ``seen_status``.

    They are as of the event's time, or of the row's newest event where that is later.
    """
    for e in range(progress[EVENT], len(chosen)):
        apply_events(
            slots, arena, heads, need, sequence, rings, accumulators, lists, features, defaults,
            ttl_ns, selecting, real, chosen[: e + 1], offsets, timestamps_ms, event_time, select,
            inputs, valid, masks, triggers, outcome, dirty, progress,
            fired_event, fired_trigger, fired_cells, fired_valid, fired_status,
            values, usable, passed, joined, fires, scratch,
        )  # fmt: skip
        if progress[STOPPED] != DONE:
            return
        slot, time = chosen[e], event_time[e]
        if (slots[slot, STATE] & PRESENT) != 0:
            time = max(time, slots[slot, EVENT_TIME])
        finalize_row(
            slots, arena, slot, rings, accumulators, lists, watched, watched_defaults, ttl_ns,
            time, scratch, seen_cells[e], seen_valid[e], seen_status[e],
        )  # fmt: skip
