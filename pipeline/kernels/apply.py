"""Events into slots, one by one in offset order; and triggers right after their event."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.arena import has_room
from pipeline.kernels.counts import add_counted
from pipeline.kernels.decay import add_decayed
from pipeline.kernels.distinct import add_distinct
from pipeline.kernels.events import add_event, event_words
from pipeline.kernels.finalize import finalize_row
from pipeline.kernels.ids import add_id, came_before, ids_list
from pipeline.kernels.integers import minus
from pipeline.kernels.jit import Int, bare, inlined, prefetch
from pipeline.kernels.lists import (
    DECAYED,
    DISTINCT,
    EVENTS,
    IDS,
    LAST,
    LIST_BOUND,
    LIST_HORIZON,
    LIST_INPUT,
    LIST_KIND,
    LIST_RING,
    LIST_TYPE,
    add_last,
    one_zero,
    takes_value,
)
from pipeline.kernels.load import clear_slot
from pipeline.kernels.rings import add_to_ring, section_of
from pipeline.kernels.rows import first_held
from pipeline.kernels.table import (
    DIRTY,
    EVENT_TIME,
    KNOWN_TIME,
    LOADED,
    PRESENT,
    SECTION,
    SOURCE_OFFSET,
    STATE,
    USED,
    prefetch_slot,
)
from pipeline.kernels.tiles import (
    RING_END,
    RING_FIRST,
    RING_HALVES,
    RING_TILES,
    RING_WIDTH,
    is_nan,
    tile_of,
)
from pipeline.kernels.tombstones import DELETE, delete_entity, was_deleted

__all__ = ["APPLIED", "DUPLICATE", "FILTERED", "LATE", "SKIPPED", "apply_events"]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

SKIPPED, APPLIED, LATE, FILTERED, DUPLICATE = range(5)
EVERY, MASK, CHANGED = range(3)
DONE, NO_ROOM, NO_FIRED_ROOM, NOT_LOADED = range(4)

AHEAD = 4  # events, while which are applied the next ones' tiles are on their way

# progress int64[4]: what a call hands to the next one
EVENT, N_DIRTY, N_FIRED, STOPPED = range(4)


@inlined
def _gather(
    e: Int, inputs: I64, valid: U8, masks: U8, real: U8, values: I64, usable: U8, passed: U8
) -> None:
    """The event's column of inputs and masks; a NaN counts as null."""
    for k in range(len(values)):
        values[k] = inputs[k, e]
        usable[k] = valid[k, e]
        if real[k] != 0 and is_nan(values[k]):
            usable[k] = 0
    for k in range(len(passed)):
        passed[k] = masks[k, e]


@inlined
def _obstacle(
    slots: I64, arena: I64, heads: I64, slot: Int, need: Int, fired_room: Int, triggers: I64
) -> Int:
    """Why the next event cannot be applied now, or DONE."""
    if not has_room(arena, heads, need):
        return np.int64(NO_ROOM)
    if fired_room < len(triggers):
        return np.int64(NO_FIRED_ROOM)
    if (slots[slot, STATE] & LOADED) == 0:
        return np.int64(NOT_LOADED)
    return np.int64(DONE)


@inlined
def _expire(
    slots: I64, arena: I64, heads: I64, slot: Int, lists: Int, ttl_ns: Int, time: Int
) -> None:
    """Empty the row if the event is more than the ttl newer than it."""
    newest = slots[slot, EVENT_TIME]
    if (slots[slot, STATE] & PRESENT) != 0 and time > newest and minus(time, newest) > ttl_ns:
        clear_slot(arena, heads, slots, slot, lists)
        slots[slot, STATE] -= PRESENT


@inlined
def _joins(
    slots: I64, arena: I64, heads: I64, slot: Int, rings: I64, lists: I64,
    ttl_ns: Int, time: Int, joined: U8,
) -> bool:  # fmt: skip
    """Which rings, then lists, hold the event's time into ``joined``; whether any does.

    None does if the entity was deleted at that time or later.
    """
    if was_deleted(slots, slot, time):
        return False
    if ttl_ns > 0:
        _expire(slots, arena, heads, slot, len(lists), ttl_ns, time)
    newest = slots[slot, EVENT_TIME]
    early = (slots[slot, STATE] & PRESENT) == 0 or time > newest
    some = False
    for r in range(len(rings)):
        width = rings[r, RING_WIDTH]
        joins = early or tile_of(time, width) >= first_held(rings, r, newest)
        joined[r] = 1 if joins else 0
        some = some or joins
    for i in range(len(lists)):
        if lists[i, LIST_RING] >= 0:
            joined[len(rings) + i] = joined[lists[i, LIST_RING]]
            continue
        horizon = lists[i, LIST_HORIZON]
        joins = early or horizon == 0 or time > minus(newest, horizon)
        joins = joins or lists[i, LIST_KIND] == DECAYED
        joined[len(rings) + i] = 1 if joins else 0
        some = some or (joins and lists[i, LIST_KIND] != IDS)
    return bool(some)


@inlined
def _stamp(slots: I64, slot: Int, time: Int, timestamp_ms: Int, offset: Int) -> None:
    """Count the event into the row's header."""
    state = slots[slot, STATE]
    if (state & PRESENT) == 0 or time > slots[slot, EVENT_TIME]:
        slots[slot, EVENT_TIME] = time
    slots[slot, KNOWN_TIME] = max(slots[slot, KNOWN_TIME], timestamp_ms)
    slots[slot, SOURCE_OFFSET] = offset
    slots[slot, STATE] = state | PRESENT | DIRTY


@inlined
def _changes(
    slots: I64, arena: I64, slot: Int, rings: I64, lists: I64, i: Int,
    values: I64, usable: U8, passed: U8,
) -> bool:  # fmt: skip
    """Whether the event's value differs from the newest of LAST list ``i``, or that is empty."""
    if not takes_value(lists, i, usable, passed):
        return False
    column = SECTION + 3 * (len(rings) + i)
    count = slots[slot, column + 1]
    if (slots[slot, STATE] & PRESENT) == 0 or count == 0:
        return True
    p = slots[slot, column] + 3 * (count - 1)
    horizon = lists[i, LIST_HORIZON]
    if horizon != 0 and arena[p] <= minus(slots[slot, EVENT_TIME], horizon):
        return True
    kind = lists[i, LIST_TYPE]
    return bool(one_zero(arena[p + 2], kind) != one_zero(values[lists[i, LIST_INPUT]], kind))


@inlined
def _judge(
    triggers: I64, slots: I64, arena: I64, slot: Int, rings: I64, lists: I64,
    values: I64, usable: U8, passed: U8, fires: U8,
) -> bool:  # fmt: skip
    """Which triggers the event sets off, judged on the row before it; whether any."""
    some = False
    for t in range(len(triggers)):
        kind, argument = triggers[t, 0], triggers[t, 1]
        if kind == EVERY:
            fire = True
        elif kind == MASK:
            fire = passed[argument] != 0
        else:
            fire = _changes(slots, arena, slot, rings, lists, argument, values, usable, passed)
        fires[t] = 1 if fire else 0
        some = some or fire
    return some


@inlined
def _include(
    slots: I64, arena: I64, heads: I64, slot: Int, rings: I64, accumulators: I64, lists: I64,
    time: Int, offset: Int, joined: U8, values: I64, usable: U8, passed: U8,
) -> None:  # fmt: skip
    """Fold the event, which the header counts in, into every ring and list that it joins."""
    newest = slots[slot, EVENT_TIME]
    for r in range(len(rings)):
        if joined[r] != 0:
            tile = tile_of(time, rings[r, RING_WIDTH])
            # Mostly the event is the newest, and a division can be spared.
            first = (
                minus(tile, rings[r, RING_TILES]) + 1
                if time == newest
                else first_held(rings, r, newest)
            )
            add_to_ring(
                arena, heads, slots, slot, r, accumulators, rings[r, RING_FIRST],
                rings[r, RING_END], rings[r, RING_HALVES], time, rings[r, RING_WIDTH], tile, first,
                values, usable, passed,
            )  # fmt: skip
    evicted = slots.shape[1] - len(lists)
    for i in range(len(lists)):
        s = len(rings) + i
        if joined[s] == 0 or not takes_value(lists, i, usable, passed):
            continue
        source = lists[i, LIST_INPUT]
        value = values[source] if source >= 0 else np.int64(0)
        if lists[i, LIST_KIND] == IDS:
            add_id(
                arena, heads, slots, slot, s, evicted + i, lists[i, LIST_BOUND],
                minus(newest, lists[i, LIST_HORIZON]), time, offset, value,
            )  # fmt: skip
            continue
        if lists[i, LIST_KIND] == EVENTS:
            add_event(
                arena, heads, slots, slot, s, evicted + i, lists[i, LIST_BOUND],
                minus(newest, lists[i, LIST_HORIZON]), event_words(lists, i), time, offset, value,
            )  # fmt: skip
            continue
        if lists[i, LIST_KIND] == DECAYED:
            add_decayed(arena, heads, slots, slot, s, lists, i, time, value)
            continue
        if lists[i, LIST_KIND] == LAST:
            add_last(arena, heads, slots, slot, s, lists[i, LIST_BOUND], time, offset, value)
            continue
        ring = lists[i, LIST_RING]
        tile, first = tile_of(time, rings[ring, RING_WIDTH]), first_held(rings, ring, newest)
        if lists[i, LIST_KIND] == DISTINCT:
            add_distinct(
                arena, heads, slots, slot, s, evicted + i, lists[i, LIST_BOUND],
                lists[i, LIST_TYPE], value, tile, first, tile_of(newest, rings[ring, RING_WIDTH]),
            )  # fmt: skip
        else:
            add_counted(arena, heads, slots, slot, s, evicted + i, lists, i, value, tile, first)


@inlined
def _expect(slots: I64, arena: I64, chosen: I32, rings: I64, e: Int) -> None:
    """Have the slots of events after ``e`` brought, and of nearer ones their newest tiles."""
    if e + 2 * AHEAD < len(chosen):
        prefetch_slot(slots, chosen[e + 2 * AHEAD])
    if e + AHEAD < len(chosen):
        slot = chosen[e + AHEAD]
        for r in range(len(rings)):
            cells = rings[r, RING_END] - rings[r, RING_FIRST]
            base, entry, count, _ = section_of(
                slots, slot, SECTION + 3 * r, cells, rings[r, RING_HALVES]
            )
            behind = base + count * entry
            prefetch(arena, (behind - entry) >> 1)
            prefetch(arena, (behind - 1) >> 1)


@inlined
def _touch(slots: I64, slot: Int, sequence: Int, dirty: I32, touched: Int) -> Int:
    """Append the slot to ``dirty`` where this is its first event; returns how many were added."""
    if slots[slot, USED] == sequence:
        return np.int64(0)
    slots[slot, USED] = sequence
    dirty[touched] = slot
    return np.int64(1)


@bare
def apply_events(
    slots: I64, arena: I64, heads: I64, need: Int, sequence: Int,
    rings: I64, accumulators: I64, lists: I64, features: I64, defaults: F64, ttl_ns: Int,
    selecting: Int, real: U8,
    chosen: I32, offsets: I64, timestamps_ms: I64, event_time: I64, select: U8,
    inputs: I64, valid: U8, masks: U8, triggers: I64,
    outcome: U8, dirty: I32, progress: I64,
    fired_event: I64, fired_trigger: I32, fired_cells: I64, fired_valid: U8, fired_status: U8,
    values: I64, usable: U8, passed: U8, joined: U8, fires: U8, scratch: I64,
) -> None:  # fmt: skip
    """Apply the events from ``progress[EVENT]`` on; resumable.

    Event ``e`` belongs to slot ``chosen[e]``; ``inputs`` int64[k, n], ``valid`` uint8[k, n] and
    ``masks`` uint8[m, n] are its values, mask ``selecting`` (-1: none) filters, ``real`` uint8[k]
    marks float inputs. ``select`` is 0 to skip, 1, or DELETE for a tombstone. Writes ``outcome``
    uint8[n], the touched slots to ``dirty`` int32[n], and a row of features per fired trigger.
    Stops before an event that might need more than ``need`` words of the arena, or more rows of
    ``fired_event`` than there are, or whose slot is not loaded, with the reason in
    ``progress[STOPPED]``; else DONE.
    """
    touched, fired = progress[N_DIRTY], progress[N_FIRED]
    stopped, ids = np.int64(DONE), ids_list(lists)
    e = progress[EVENT]
    while e < len(chosen):
        slot = chosen[e]
        _expect(slots, arena, chosen, rings, e)
        deleting = select[e] == DELETE
        if select[e] == 0 or (not deleting and selecting >= 0 and masks[selecting, e] == 0):
            outcome[e] = SKIPPED if select[e] == 0 else FILTERED
            e += 1
            continue
        stopped = _obstacle(slots, arena, heads, slot, need, len(fired_event) - fired, triggers)
        if stopped != DONE:
            break
        if deleting:
            delete_entity(
                slots, arena, heads, slot, len(lists), event_time[e], timestamps_ms[e], offsets[e]
            )
            touched += _touch(slots, slot, sequence, dirty, touched)
            outcome[e] = APPLIED
            e += 1
            continue
        if ids >= 0 and came_before(slots, arena, slot, rings, lists, ids, inputs, valid, e):
            outcome[e] = DUPLICATE
            e += 1
            continue
        if not _joins(slots, arena, heads, slot, rings, lists, ttl_ns, event_time[e], joined):
            outcome[e] = LATE
            e += 1
            continue
        outcome[e] = APPLIED
        _gather(e, inputs, valid, masks, real, values, usable, passed)
        firing = len(triggers) > 0 and _judge(
            triggers, slots, arena, slot, rings, lists, values, usable, passed, fires
        )
        _stamp(slots, slot, event_time[e], timestamps_ms[e], offsets[e])
        _include(
            slots, arena, heads, slot, rings, accumulators, lists,
            event_time[e], offsets[e], joined, values, usable, passed,
        )  # fmt: skip
        touched += _touch(slots, slot, sequence, dirty, touched)
        for t in range(len(triggers)):
            if firing and fires[t] != 0:
                fired_event[fired] = e
                fired_trigger[fired] = t
                finalize_row(
                    slots, arena, slot, rings, accumulators, lists, features, defaults, ttl_ns,
                    slots[slot, EVENT_TIME], scratch, fired_cells[fired], fired_valid[fired],
                    fired_status[fired],
                )  # fmt: skip
                fired += 1
        e += 1
    progress[EVENT], progress[N_DIRTY], progress[N_FIRED] = e, touched, fired
    progress[STOPPED] = stopped
