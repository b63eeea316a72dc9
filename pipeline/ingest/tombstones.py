"""Tombstones: records with a key and a null value, which delete the key's entity.

Every decoder leaves them out of its parsing and calls :func:`accept` in the end. A tombstone that
is accepted has reason OK, :attr:`EventBatch.tombstones` marks it, its event time is its broker time
and its columns mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.ingest.batch import EventBatch
from pipeline.kernels import spelling

__all__ = ["accept"]

_ALONE = {
    "int64": spelling.INTEGER,
    "string": spelling.TEXT,
    "uuid": spelling.UUID,
    "bytes": spelling.RAW,
}


def accept(events: EventBatch, key_types: Sequence[str]) -> None:
    """Settle what the checks of the envelope left as ``Reason.TOMBSTONE``.

    ``key_types`` are the types of the key's parts, as in :mod:`pipeline.ingest.entity`. A key that
    no event of the stream could have is KEY_MISMATCH. Without broker time nobody knows which events
    are older: the reason stays TOMBSTONE.
    """
    batch = events.binary
    if not batch.value_null.any():
        return
    forms = [_ALONE[type_] for type_ in key_types]
    if len(forms) > 1:
        forms = [spelling.HEX if form == spelling.RAW else form for form in forms]
    spelling.accept_tombstones(
        np.require(batch.keys, np.uint8, ["C", "W"]),
        np.require(batch.key_offsets, np.int64, ["C", "W"]),
        np.array(forms, dtype=np.int64),
        np.require(batch.timestamps_ms, np.int64, ["C", "W"]),
        events.reason,
        events.event_time,
    )
