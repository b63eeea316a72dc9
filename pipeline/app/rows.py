"""The stored rows of a batch's keys: found in the cache, or asked for and awaited."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.app.quarantine import Quarantine
from pipeline.state.table import StateTable
from pipeline.store.partition import PartitionStore, RowWrite

__all__ = ["Found", "Rows", "resident"]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Found = tuple[I32, npt.NDArray[np.bool_], RowWrite | None]
"""int32[n] slots of n keys; bool[n], true where the stored row is corrupt (it is read again for
every batch, so that one that was mended is noticed); what of these goes to quarantine."""


class Rows:
    """Rows of n keys in a table: :meth:`ask` once, then :meth:`take`."""

    def __init__(
        self, table: StateTable, quarantine: Quarantine, keys: U8, key_offsets: I64
    ) -> None:
        self._table = table
        self._quarantine = quarantine
        self._keys = keys
        self._key_offsets = key_offsets
        self._found = table.lookup(keys, key_offsets)
        self._read = 0

    def ask(self, store: PartitionStore) -> None:
        """Ask for those that are not cached; raises as ``store`` does."""
        if len(self._found.missing):
            fingerprint = self._table.plan.fingerprint
            self._read = store.begin_read(
                fingerprint, self._keys, self._key_offsets, self._found.missing
            )

    def take(self, store: PartitionStore) -> Found:
        """All of them, cached from here on; raises as ``store`` does."""
        slots, missing = self._found.slots, self._found.missing
        broken = np.zeros(len(slots), dtype=bool)
        if not len(missing):
            return slots, broken, None
        rows = store.finish_read(self._read)
        corrupt = self._table.load(slots[missing], rows)
        if not corrupt:
            return slots, broken, None
        index = missing[corrupt]
        broken = np.isin(slots, slots[index])
        bounds = self._key_offsets
        names = [self._keys[bounds[i] : bounds[i + 1]].tobytes() for i in index.tolist()]
        found = [(name, rows[i] or b"") for name, i in zip(names, corrupt, strict=True)]
        return slots, broken, self._quarantine.take(found)


def resident(
    store: PartitionStore, table: StateTable, quarantine: Quarantine, keys: U8, key_offsets: I64
) -> Found:
    """Rows of n keys, in one round trip."""
    rows = Rows(table, quarantine, keys, key_offsets)
    rows.ask(store)
    return rows.take(store)
