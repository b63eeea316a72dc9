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
from pipeline.kernels.checks import MAX_KEY_BYTES, match_integer_keys, match_text_keys

__all__ = [
    "KEY_TYPES",
    "EntityKeys",
    "KeyPart",
    "entity_keys",
    "join_keys",
    "match_keys",
    "split_keys",
]

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


def match_keys(events: EventBatch, fields: Sequence[str]) -> None:
    """KEY_MISMATCH where a good record's message key is not its entity by the named fields."""
    batch = events.binary
    given = _frozen(batch.keys), _frozen(batch.key_offsets), events.reason
    if len(fields) > 1:
        wanted = entity_keys(events, fields)
        text = _frozen(wanted.keys), wanted.offsets[:-1], np.diff(wanted.offsets)
        match_text_keys(*text, *given)
        return
    part = _part(events, fields[0])
    if part.type == "int64":
        match_integer_keys(part.values, *given)
    else:
        match_text_keys(_frozen(part.data), part.start, part.length, *given)


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


def split_keys(keys: U8, offsets: I64, types: Sequence[str]) -> list[tuple[U8, I64]]:
    """The parts of keys that :func:`join_keys` made: (bytes, offsets int64[n+1]) for each type.

    An int64 stays ASCII decimal; the others are UTF-8, 36 characters, the bytes themselves.
    """
    if len(types) == 1:
        return [(keys, offsets)]
    keys, offsets = _frozen(keys), _frozen(offsets)
    sizes = np.empty((len(types), len(offsets) - 1), dtype=np.int64)
    kernel.split_sizes(keys, offsets, sizes)
    found = []
    for number, type_ in enumerate(types):
        bounds = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes[number])])
        part = np.empty(int(bounds[-1]), dtype=np.uint8)
        kernel.split(keys, offsets, number, part)
        if type_ == "bytes":
            digits, part = part, np.empty(len(part) // 2, dtype=np.uint8)
            kernel.unhex(digits, part)
            bounds //= 2
        found.append((part, bounds))
    return found


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
