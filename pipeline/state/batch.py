"""What goes into and comes out of a :class:`~pipeline.state.table.StateTable`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

__all__ = [
    "Applied",
    "EncodedRows",
    "Finalized",
    "Fired",
    "Leaving",
    "Lookup",
    "Outcome",
    "PackedRows",
    "TriggerKind",
    "TriggerTables",
]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


class Outcome(IntEnum):
    """What became of an event in one view."""

    SKIPPED = 0  # not selected by the caller
    APPLIED = 1  # a tombstone always is
    LATE = 2  # refused by every ring and list; the row is untouched
    FILTERED = 3  # the view's filter is false
    DUPLICATE = 4  # its id is one that the row keeps; the row is untouched


class TriggerKind(IntEnum):
    """When a trigger fires; always only for applied events."""

    EVERY = 0
    MASK = 1  # mask ``argument`` is true
    CHANGED = 2  # the value of LAST list ``argument`` differs from the newest one before the event


@dataclass(frozen=True, slots=True)
class TriggerTables:
    """``table`` int64[t, 3]: :class:`TriggerKind`, argument (mask or list index), reserved."""

    table: I64


@dataclass(frozen=True, slots=True)
class Lookup:
    """Keys as slots.

    ``slots``    int32[n]
    ``missing``  int64[m]  positions of the first occurrence of each key whose row is not loaded,
                           increasing
    """

    slots: I32
    missing: I64


@dataclass(frozen=True, slots=True)
class Fired:
    """Rows of features right after the events that fired triggers, by offset, then trigger.

    ``event``    int64[t]     position of the event in the batch
    ``trigger``  int32[t]     row of the :class:`TriggerTables`
    ``cells``    int64[t, C]  bit patterns, as of the row's newest event
    ``valid``    uint8[t, C]  0 where null
    ``status``   uint8[t, F]  a :class:`~pipeline.state.status.Status`
    """

    event: I64
    trigger: I32
    cells: I64
    valid: U8
    status: U8

    @classmethod
    def room(cls, capacity: int, cells: int, features: int) -> Fired:
        """Rows to be filled."""
        return cls(
            np.empty(capacity, dtype=np.int64),
            np.empty(capacity, dtype=np.int32),
            np.empty((capacity, cells), dtype=np.int64),
            np.empty((capacity, cells), dtype=np.uint8),
            np.empty((capacity, features), dtype=np.uint8),
        )

    def __len__(self) -> int:
        return len(self.event)

    def first(self, n: int) -> Fired:
        """Its first ``n`` rows."""
        return Fired(
            self.event[:n], self.trigger[:n], self.cells[:n], self.valid[:n], self.status[:n]
        )

    @classmethod
    def joined(cls, parts: Sequence[Fired]) -> Fired:
        """The rows of at least one part, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([p.event for p in parts]),
            np.concatenate([p.trigger for p in parts]),
            np.concatenate([p.cells for p in parts]),
            np.concatenate([p.valid for p in parts]),
            np.concatenate([p.status for p in parts]),
        )


@dataclass(frozen=True, slots=True)
class Finalized:
    """Features of n rows.

    ``cells``   int64[n, C]  bit patterns (float64 bits where the feature is one)
    ``valid``   uint8[n, C]  0 where null
    ``status``  uint8[n, F]  a :class:`~pipeline.state.status.Status` per feature
    """

    cells: I64
    valid: U8
    status: U8


@dataclass(frozen=True, slots=True)
class Applied:
    """What a batch did.

    ``outcome``  uint8[n]  an :class:`Outcome`
    ``dirty``    int32[d]  slots with an applied event, in the order of their first one
    ``fired``    empty without triggers
    ``watched``  features of every event's row right after it, whatever became of the event, as of
                 its time or the row's newest event, whichever is later; None if none were asked for
    """

    outcome: U8
    dirty: I32
    fired: Fired
    watched: Finalized | None = None


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Packed rows (``docs/row-layout.md``) and their keys, back to back.

    Row ``i`` is ``rows[row_offsets[i]:row_offsets[i + 1]]``, key ``i`` likewise.
    """

    keys: U8
    key_offsets: I64
    rows: U8
    row_offsets: I64

    def __len__(self) -> int:
        return len(self.row_offsets) - 1

    def row(self, i: int) -> bytes:
        """Row ``i`` as bytes; not for the hot path."""
        return self.rows[self.row_offsets[i] : self.row_offsets[i + 1]].tobytes()

    def key(self, i: int) -> bytes:
        """Key ``i`` as bytes; not for the hot path."""
        return self.keys[self.key_offsets[i] : self.key_offsets[i + 1]].tobytes()


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Packed rows as they came from a store, back to back.

    Row ``i`` is ``data[offsets[i]:offsets[i + 1]]``; there is none where ``absent`` uint8[n] is 1.
    """

    data: U8 = field(repr=False)
    offsets: I64 = field(repr=False)
    absent: U8 = field(repr=False)

    @classmethod
    def of(cls, rows: Sequence[bytes | None]) -> PackedRows:
        """Of rows one by one, None where there is none."""
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row or b"") for row in rows], out=offsets[1:])
        data = np.frombuffer(bytearray(b"".join(row or b"" for row in rows)), dtype=np.uint8)
        return cls(data, offsets, np.array([row is None for row in rows], dtype=np.uint8))

    @classmethod
    def joined(cls, parts: Sequence[PackedRows]) -> PackedRows:
        """Rows of several, one after the other."""
        if len(parts) == 1:
            return parts[0]
        sizes = [np.diff(part.offsets) for part in parts]
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), *sizes])
        data = [part.data for part in parts] or [np.empty(0, dtype=np.uint8)]
        absent = [part.absent for part in parts] or [np.empty(0, dtype=np.uint8)]
        return cls(np.concatenate(data), np.cumsum(offsets), np.concatenate(absent))

    def after(self, n: int) -> PackedRows:
        """All rows but the first ``n``."""
        start = int(self.offsets[n])
        return PackedRows(self.data[start:], self.offsets[n:] - start, self.absent[n:])

    def __len__(self) -> int:
        return len(self.absent)

    def __getitem__(self, i: int) -> bytes | None:
        """Row ``i`` as bytes; not for the hot path."""
        if self.absent[i]:
            return None
        return self.data[self.offsets[i] : self.offsets[i + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes | None]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True, slots=True)
class Leaving:
    """Stored rows that leave the cache, or may: their keys and what their headers say.

    ``event_time``  int64[n]  newest event, ns
    ``known_time``  int64[n]  largest broker time, ms
    """

    keys: U8
    key_offsets: I64
    event_time: I64
    known_time: I64

    def __len__(self) -> int:
        return len(self.event_time)
