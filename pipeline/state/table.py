"""The rows of one view and partition, in columns: state and cache at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.features.plan import CellType, Plan
from pipeline.kernels import apply as applying
from pipeline.kernels.arena import HEADS, LIVE, TOP
from pipeline.kernels.evict import compact_arena, evict_slots, evictable, settle_slots
from pipeline.kernels.finalize import finalize_slots
from pipeline.kernels.hash import hash_keys
from pipeline.kernels.load import load_slots
from pipeline.kernels.rows import encode_slots
from pipeline.kernels.table import (
    EVENT_TIME,
    FREE_SLOT,
    KEY_BYTES,
    KEY_LIVE,
    KEY_SIZE,
    KNOWN_TIME,
    NEXT_SLOT,
    PRESENT,
    ROWS,
    SECTION,
    SOURCE_OFFSET,
    STATE,
    TOTALS,
    compact_keys,
    copy_keys,
    find_slots,
    rebuild_index,
)
from pipeline.kernels.watch import apply_watched
from pipeline.state.arrays import empty, flags, grown, longer, memory, plain, words
from pipeline.state.batch import (
    Applied,
    EncodedRows,
    Finalized,
    Fired,
    Leaving,
    Lookup,
    PackedRows,
    TriggerTables,
)
from pipeline.state.leaving import NOBODY, leaving
from pipeline.state.room import scratch_needed, words_needed
from pipeline.state.watch import Watch

__all__ = ["StateTable"]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

EVICT_TO = 0.9  # an eviction frees a tenth, so that its sort is paid by many batches
FIRED_ROWS = 4096
FREE = 8  # part of the blocks in use that may be free when the arena is full
INDEX_BYTES = 16  # of the hash index per slot: at most half full


class StateTable:
    """A bounded, columnar cache of rows; the only place where a row is more than bytes.

    Use per batch: :meth:`lookup`, :meth:`load` the missing, :meth:`apply`, :meth:`encode` what is
    dirty, and once the store has acknowledged that, :meth:`settle` and :meth:`evict`. A row stays
    from the event that changes it until each of its encodings was settled.

    Slots are valid until the next :meth:`evict` or :meth:`clear`. Not thread-safe; kernels release
    the GIL. ``max_bytes`` bounds rows in use; pinned rows may exceed it.
    """

    def __init__(self, plan: Plan, *, max_bytes: int = 256 << 20) -> None:
        self.plan = plan
        self.max_bytes = max_bytes
        self._tables = plan.tables()
        self._layout_hash = np.uint64(plan.fingerprint).view(np.int64)
        self._real = np.array([t is CellType.FLOAT for t in plan.input_types], dtype=np.uint8)
        self._need = words_needed(plan)
        self._scratch: I64 = np.empty(scratch_needed(plan), dtype=np.int64)
        self._width = SECTION + 3 * plan.sections + len(plan.lists)
        self._row_bytes = 256
        self._sequence = 0
        self._slots: I64 = np.empty((1024, self._width), dtype=np.int64)
        self._index: I64 = np.zeros(4096, dtype=np.int64)
        self._keys: U8 = np.empty(16384, dtype=np.uint8)
        self._totals: I64 = np.zeros(TOTALS, dtype=np.int64)
        self._arena: I64 = words(max(16384, 2 * self._need))
        self._heads: I64 = np.empty(HEADS, dtype=np.int64)
        self.clear()

    def clear(self) -> None:
        """Forget every row, pinned ones too; keeps the memory for the next ones."""
        self._index.fill(0)
        self._totals.fill(0)
        self._totals[FREE_SLOT] = -1
        empty(self._heads)

    @property
    def rows(self) -> int:
        """Number of keys in the table."""
        return int(self._totals[ROWS])

    @property
    def nbytes(self) -> int:
        """Bytes in use by keys, slots and their tiles and lists."""
        slots = int(self._totals[ROWS]) * self._slot_bytes
        return slots + int(self._totals[KEY_LIVE]) + 8 * int(self._heads[LIVE])

    @property
    def _slot_bytes(self) -> int:
        return 8 * self._width + INDEX_BYTES

    def lookup(self, keys: U8, key_offsets: I64) -> Lookup:
        """Slots of n keys, made for those not seen before. O(n)."""
        keys, key_offsets = plain(keys, np.uint8), plain(key_offsets, np.int64)
        n = len(key_offsets) - 1
        self._reserve(n, int(key_offsets[-1] - key_offsets[0]))
        self._sequence += 1
        hashes = np.empty(n, dtype=np.uint64)
        hash_keys(keys, key_offsets, hashes)
        slots = np.empty(n, dtype=np.int32)
        missing = np.empty(n, dtype=np.int64)
        m = find_slots(
            self._slots, self._keys, self._totals, self._index, len(self.plan.lists),
            self._sequence, keys, key_offsets, hashes.view(np.int64), slots, missing,
        )  # fmt: skip
        return Lookup(slots, missing[:m].copy())

    def load(self, slots: I32, rows: PackedRows | Sequence[bytes | None]) -> list[int]:
        """Fill slots with stored rows (absent or None: there is none).

        Returns the positions of rows that cannot be trusted: cut short, another format or layout,
        wrong checksum, malformed body. Their slots stay unloaded; :meth:`apply` refuses them.
        """
        slots = plain(slots, np.int32)
        if not len(slots):
            return []
        found = rows if isinstance(rows, PackedRows) else PackedRows.of(rows)
        data = found.data.copy()  # the kernel blanks each checksum while it takes the sum
        errors = np.zeros(len(rows), dtype=np.uint8)
        done = 0
        while True:
            done = load_slots(
                self._arena, self._heads, self._slots, slots, done, self._need,
                self._tables.rings, self._tables.accumulators, self._tables.lists,
                self._layout_hash, data, found.offsets, found.absent, errors,
            )  # fmt: skip
            if done == len(slots):
                return [int(i) for i in np.flatnonzero(errors)]
            self._grow_arena()

    def apply(
        self, slots: I32, offsets: I64, timestamps_ms: I64, event_time: I64, select: U8,
        inputs: I64, valid: U8, masks: U8, triggers: TriggerTables | None = None,
        watch: Watch | None = None,
    ) -> Applied:  # fmt: skip
        """Apply n events in offset order to loaded slots.

        ``select`` uint8[n] (0: skip, 1: apply, 2: a tombstone of ``event_time``), ``inputs``
        int64[k, n], ``valid`` uint8[k, n], ``masks`` uint8[m, n] with the plan's masks first.
        ``watch`` are features to be told after every event.
        ``ValueError`` if a slot was not loaded; the events before it are then applied, so the
        table has to be cleared.
        """
        n = len(slots)
        table = triggers.table if triggers is not None else np.empty((0, 3), dtype=np.int64)
        outcome = np.zeros(n, dtype=np.uint8)
        dirty = np.empty(n, dtype=np.int32)
        progress = np.zeros(4, dtype=np.int64)
        capacity = max(min(n, FIRED_ROWS) * len(table), 1) if len(table) else 0
        chunks: list[Fired] = []
        slots = plain(slots, np.int32)
        offsets, timestamps_ms = plain(offsets, np.int64), plain(timestamps_ms, np.int64)
        event_time, select = plain(event_time, np.int64), plain(select, np.uint8)
        inputs, valid = plain(inputs, np.int64), plain(valid, np.uint8)
        masks = plain(masks, np.uint8)
        event = np.zeros(len(inputs), dtype=np.int64)
        usable, passed = flags(len(inputs)), flags(len(masks))
        joined, fires = flags(self.plan.sections), flags(len(table))
        t, watched = self._tables, None if watch is None else watch.room(n)
        self._sequence += 1
        while True:
            fired = Fired.room(capacity, self.plan.cells, len(t.features))
            arguments = (
                self._slots, self._arena, self._heads, self._need, self._sequence,
                t.rings, t.accumulators, t.lists, t.features, t.defaults, t.ttl_ns,
                t.filter, self._real,
                slots, offsets, timestamps_ms, event_time, select,
                inputs, valid, masks, table,
                outcome, dirty, progress,
                fired.event, fired.trigger, fired.cells, fired.valid, fired.status,
                event, usable, passed, joined, fires, self._scratch,
            )  # fmt: skip
            if watch is None or watched is None:
                applying.apply_events(*arguments)
            else:
                seen = (watched.cells, watched.valid, watched.status)
                apply_watched(*arguments, watch.features, watch.defaults, *seen)
            chunks.append(fired.first(int(progress[applying.N_FIRED])))
            progress[applying.N_FIRED] = 0
            stopped = progress[applying.STOPPED]
            if stopped == applying.DONE:
                break
            if stopped == applying.NO_ROOM:
                self._grow_arena()
            if stopped == applying.NOT_LOADED:
                raise ValueError(f"slot {slots[progress[applying.EVENT]]} was not loaded")
        touched = dirty[: progress[applying.N_DIRTY]].copy()
        sent = Fired.joined(chunks)
        own = self._own(sent.status)
        sent = Fired(sent.event, sent.trigger, sent.cells, sent.valid, own)
        return Applied(outcome, touched, sent, watched)

    def encode(self, slots: I32) -> EncodedRows:
        """Rows (layout v2) and keys of slots; one without events or deletion gives 0 bytes.

        A dirty slot stays pinned until a :meth:`settle` for this encoding.
        """
        slots = plain(slots, np.int32)
        offsets = np.zeros(len(slots) + 1, dtype=np.int64)
        out = np.empty(len(slots) * self._row_bytes + 4096, dtype=np.uint8)
        done = 0
        while True:
            done = encode_slots(
                self._slots, self._arena, slots, done, self._tables.rings,
                self._tables.accumulators, self._tables.lists, self._layout_hash, out, offsets,
            )  # fmt: skip
            if done == len(slots):
                break
            bigger = np.empty(2 * len(out), dtype=np.uint8)
            bigger[: offsets[done]] = out[: offsets[done]]
            out = bigger
        used = int(offsets[-1])
        self._row_bytes = max(self._row_bytes, used // max(len(slots), 1) * 5 // 4)
        return EncodedRows(*self.keys(slots), out[:used], offsets)

    def finalize(self, slots: I32, at: I64 | Literal["event"]) -> Finalized:
        """Features of slots as of ``at`` int64[n] ns, or each of its own newest event."""
        n, plan, t = len(slots), self.plan, self._tables
        times = np.empty(0, dtype=np.int64) if isinstance(at, str) else plain(at, np.int64)
        result = Finalized(
            np.empty((n, plan.cells), dtype=np.int64),
            np.empty((n, plan.cells), dtype=np.uint8),
            np.empty((n, len(t.features)), dtype=np.uint8),
        )
        finalize_slots(
            self._slots, self._arena, plain(slots, np.int32), t.rings, t.accumulators, t.lists,
            t.features, t.defaults, t.ttl_ns, times, int(isinstance(at, str)), self._scratch,
            result.cells, result.valid, result.status,
        )  # fmt: skip
        return replace(result, status=self._own(result.status))

    def _own(self, status: U8) -> U8:
        """Status of features, without that of the words of strings, which is the same."""
        return status[:, : len(self.plan.features)]

    def keys(self, slots: I32) -> tuple[U8, I64]:
        """Key bytes of slots back to back, and their n + 1 offsets."""
        slots = plain(slots, np.int32)
        offsets = np.zeros(len(slots) + 1, dtype=np.int64)
        np.cumsum(self._slots[slots, KEY_SIZE], out=offsets[1:])
        out = np.empty(int(offsets[-1]), dtype=np.uint8)
        copy_keys(self._slots, self._keys, slots, offsets, out)
        return out, offsets

    def present(self, slots: I32) -> npt.NDArray[np.bool_]:
        """Whether each slot holds events: loaded, and neither without a row nor deleted."""
        return np.asarray(self._column(slots, STATE) & PRESENT, dtype=np.bool_)

    def event_time(self, slots: I32) -> I64:
        """Newest event time of each slot, ns; without events the deletion time, or 0."""
        return self._column(slots, EVENT_TIME)

    def known_time(self, slots: I32) -> I64:
        """Largest broker time applied to each slot, ms; the lowest int64 without events."""
        return self._column(slots, KNOWN_TIME)

    def source_offset(self, slots: I32) -> I64:
        """Offset of the last event applied to each slot; 0 where none was."""
        return self._column(slots, SOURCE_OFFSET)

    def settle(self, slots: I32) -> None:
        """The store has acknowledged one encoding of each of these slots."""
        settle_slots(self._slots, plain(slots, np.int32))

    def evict(self) -> int:
        """Drop settled rows, first those unused for longest; returns how many.

        The time since its last use counts an eighth for a row that more than one batch used.

        Nothing happens up to ``max_bytes``; beyond, a tenth more is dropped. O(rows log rows).
        """
        before = self.rows
        self.evict_rows()
        return before - self.rows

    def evict_rows(self) -> Leaving:
        """As :meth:`evict`; returns the dropped rows that may expire, none if the plan's do not."""
        if self.nbytes <= self.max_bytes:
            return NOBODY
        order = self._by_age()
        known = self._slots[order if self.plan.ttl_ns else order[:0], :SECTION]
        removed = evict_slots(
            self._slots, self._arena, self._heads, self._keys, self._totals, self._index,
            len(self.plan.lists), order, self._slot_bytes, int(EVICT_TO * self.max_bytes),
        )  # fmt: skip
        gone = leaving(known[:removed], self._keys)
        self._compact_sparse()
        return gone

    def settled(self, most: int) -> Leaving:
        """Up to ``most`` rows that the store holds as they are, first those that leave first."""
        return leaving(self._slots[self._by_age()[:most], :SECTION], self._keys)

    def compact(self) -> None:
        """Move keys, tiles and lists together and give back what was between; O(bytes)."""
        self._compact_keys()
        self._compact_arena()

    def _by_age(self) -> I32:
        """Slots of settled rows in the order in which they may leave."""
        slots = np.empty(self.rows, dtype=np.int32)
        worth = np.empty(self.rows, dtype=np.int64)
        n = evictable(self._slots, self._totals, self._sequence, slots, worth)
        return slots[:n][np.argsort(worth[:n], kind="stable")]

    def _column(self, slots: I32, column: int) -> I64:
        return np.take(self._slots[:, column], slots)

    def _reserve(self, new: int, key_bytes: int) -> None:
        """Room for ``new`` more keys of ``key_bytes`` together."""
        slots = int(self._totals[NEXT_SLOT]) + new
        if slots > len(self._slots):
            self._slots = grown(self._slots, slots)
        if int(self._totals[KEY_BYTES]) + key_bytes > len(self._keys):
            self._keys = grown(self._keys, int(self._totals[KEY_BYTES]) + key_bytes)
        size = len(self._index)
        while size < 2 * (self.rows + new):
            size *= 2
        if size > len(self._index):
            index = np.zeros(size, dtype=np.int64)
            rebuild_index(self._index, index)
            self._index = index

    def _grow_arena(self) -> None:
        """Room for one event or row more; what is free between blocks goes if it is much."""
        live, top = int(self._heads[LIVE]), int(self._heads[TOP])
        if top - live > live // FREE:
            self._compact_arena()
        else:
            self._arena = grown(self._arena, len(self._arena) + self._need)

    def _compact_sparse(self) -> None:
        """Compact what is mostly free, so that it pays."""
        if self._totals[KEY_BYTES] > 2 * self._totals[KEY_LIVE] + 65536:
            self._compact_keys()
        if self._heads[TOP] > 2 * self._heads[LIVE] + 131072:
            self._compact_arena()

    def _compact_keys(self) -> None:
        keys = memory(longer(int(self._totals[KEY_LIVE]), 1) + 16384)
        compact_keys(self._slots, self._totals, self._keys, keys)
        self._keys = keys

    def _compact_arena(self) -> None:
        live = int(self._heads[LIVE])
        arena = words(max(longer(live, 8), live + 2 * self._need) + 16384)
        heads = np.empty(HEADS, dtype=np.int64)
        empty(heads)
        lists = len(self.plan.lists)
        compact_arena(self._slots, self._totals, lists, self._arena, arena, heads)
        self._arena, self._heads = arena, heads
