"""The entity of each event as the bytes of its message key.

one field     int64: ASCII decimal; string: UTF-8; uuid: 36 lower-case characters; bytes: as
              they are
more fields   these forms joined by |, with \\ before every \\ and | inside a part; bytes in
              lower-case hexadecimal
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts.contract import FieldType
from pipeline.errors import DefinitionError, UnknownNameError
from pipeline.ingest.batch import EventBatch
from pipeline.kernels import entity as kernel
from pipeline.kernels.checks import MAX_KEY_BYTES

__all__ = ["KEY_TYPES", "EntityKeys", "KeyPart", "entity_keys", "join_keys"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

KEY_TYPES = {
    FieldType.INT64: "int64",
    FieldType.STRING: "string",
    FieldType.UUID: "uuid",
    FieldType.BYTES: "bytes",
}
_NO_BYTES = np.empty(0, dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class EntityKeys:
    """Keys of ``n`` records.

    ``keys``     uint8[..]  back to back
    ``offsets``  int64[n+1]
    ``valid``    uint8[n]   0 where there is no entity, and then no bytes: a rejected record, a null
                            part, a key of 0 bytes or of more than 64 KiB
    """

    keys: U8
    offsets: I64
    valid: U8

    def __len__(self) -> int:
        return len(self.valid)

    def key(self, i: int) -> bytes:
        """Key ``i`` as bytes; for messages and tests, not for the hot path."""
        return self.keys[self.offsets[i] : self.offsets[i + 1]].tobytes()


@dataclass(frozen=True, slots=True)
class KeyPart:
    """One field of a key in columns: ``values`` int64[n] of an int64, else ``data[start:+length]``.

    ``type`` is one of the values of :data:`KEY_TYPES`; ``valid`` uint8[n].
    """

    type: str
    values: I64
    data: U8
    start: I64
    length: I64
    valid: U8


def entity_keys(events: EventBatch, fields: Sequence[str]) -> EntityKeys:
    """The keys of all ``n`` records of ``events`` by the named fields, in that order.

    Raises UnknownNameError for a name that is no field, DefinitionError for a type that no key has.
    """
    return join_keys([_part(events, name) for name in fields], (events.reason == 0).view(np.uint8))


def join_keys(parts: Sequence[KeyPart], wanted: U8) -> EntityKeys:
    """Keys of the parts, one at least; ``wanted`` uint8[n] is 0 for rows that get none."""
    ok = wanted.copy()
    sizes = np.zeros(len(ok), dtype=np.int64)
    kinds = [_kind(part.type, len(parts) > 1) for part in parts]
    columns = [
        (_frozen(p.values), _frozen(p.data), _frozen(p.start), _frozen(p.length)) for p in parts
    ]
    for i, part in enumerate(parts):
        kernel.measure(kinds[i], int(i > 0), *columns[i], _frozen(part.valid), sizes, ok)
    offsets = np.empty(len(ok) + 1, dtype=np.int64)
    kernel.place(sizes, MAX_KEY_BYTES, ok, offsets)
    keys = np.empty(int(offsets[-1]), dtype=np.uint8)
    cursor = offsets[:-1].copy()
    for i, column in enumerate(columns):
        kernel.write(kinds[i], int(i > 0), *column, ok, cursor, keys)
    return EntityKeys(keys, offsets, ok)


def _part(events: EventBatch, name: str) -> KeyPart:
    field = events.fields.get(name)
    if field is None:
        raise UnknownNameError(
            f"there is no field {name!r} among the events of {events.source}; "
            f"there are: {', '.join(events.fields)}"
        )
    if field.type not in KEY_TYPES:
        known = ", ".join(KEY_TYPES.values())
        raise DefinitionError(name, f"is {field.type.value}; a key is made of {known}")
    values, valid = events.columns[name].view(np.int64), events.valid[name]
    if field.type is FieldType.INT64:
        return KeyPart("int64", values, _NO_BYTES, values, values, valid)
    return KeyPart(KEY_TYPES[field.type], values, *events.strings[name], valid)


def _kind(type_: str, composite: bool) -> int:
    if type_ == "int64":
        return kernel.INTEGER
    if not composite:
        return kernel.RAW
    return kernel.HEX if type_ == "bytes" else kernel.ESCAPED


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A read-only, contiguous view: the kernels compile once, whoever owns the buffers."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
