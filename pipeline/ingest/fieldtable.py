"""A contract as the integer tables that :mod:`pipeline.kernels.json` interprets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.contracts.fields import EPOCH_UNITS
from pipeline.kernels import json as kernel
from pipeline.kernels.hash import hash_keys

__all__ = ["FieldTable"]

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_KINDS = {
    FieldType.INT64: kernel.INTEGER,
    FieldType.DECIMAL: kernel.DECIMAL,
    FieldType.FLOAT64: kernel.REAL,
    FieldType.BOOL: kernel.BOOLEAN,
    FieldType.STRING: kernel.STRING,
    FieldType.UUID: kernel.STRING,
    FieldType.BYTES: kernel.STRING,
}
_TEXTS = {FieldType.STRING, FieldType.UUID, FieldType.BYTES}


@dataclass(frozen=True, slots=True)
class FieldTable:
    """The arguments ``table`` to ``slots`` of :func:`pipeline.kernels.json.parse`."""

    table: I64
    keys: U64
    names: U8
    slots: I64
    texts: tuple[str, ...]  # fields of text, in the order of their rows in start and length

    @classmethod
    def of(cls, contract: Contract) -> FieldTable:
        """Compile the fields of a contract."""
        encoded = [field.name.encode() for field in contract.fields]
        offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
        names = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        texts = tuple(f.name for f in contract.fields if f.type in _TEXTS)
        table = np.zeros((len(encoded), kernel.COLUMNS), dtype=np.int64)
        for row, field in zip(table, contract.fields, strict=True):
            row[kernel.KIND], row[kernel.FACTOR] = _kind(field)
            row[kernel.LIMIT] = (2**63 - 1) // max(1, row[kernel.FACTOR])
            row[kernel.NULLABLE], row[kernel.REQUIRED] = field.nullable, field.required
            row[kernel.TEXT] = texts.index(field.name) if field.name in texts else -1
        table[:, kernel.KEY_LENGTH] = np.diff(offsets) + len('"":')
        table[:, kernel.NAME_START], table[:, kernel.NAME_END] = offsets[:-1], offsets[1:]
        keys = _keys(encoded)
        table[:, kernel.KEY] = np.arange(len(encoded)) * (len(keys) // len(encoded))
        slots = _slots(names, offsets)
        table.flags.writeable = slots.flags.writeable = False
        return cls(table.reshape(-1), keys, names, slots, texts)


def _kind(field: Field) -> tuple[int, int]:
    if field.type is FieldType.TIMESTAMP:
        if field.unit in EPOCH_UNITS:
            return kernel.EPOCH, EPOCH_UNITS[field.unit]
        return kernel.TIME, int(field.unit == "iso-utc")
    return _KINDS[field.type], field.scale


def _keys(encoded: list[bytes]) -> U64:
    """Each ``"name":`` as zero-padded little-endian words, each followed by its bytes' mask."""
    keys = [b'"' + name + b'":' for name in encoded]
    width = -(-max(map(len, keys)) // 8) * 8
    text = b"".join(key.ljust(width, b"\0") for key in keys)
    mask = b"".join((b"\xff" * len(key)).ljust(width, b"\0") for key in keys)
    pairs = [np.frombuffer(part, dtype="<u8") for part in (text, mask)]
    return np.stack(pairs, axis=1).reshape(-1)


def _slots(names: U8, offsets: I64) -> I64:
    """Open-addressing hash table of field indexes, at most half full."""
    n = len(offsets) - 1
    hashes = np.empty(n, dtype=np.uint64)
    hash_keys(names, offsets, hashes)
    size = 1 << (2 * n).bit_length()
    slots = np.full(size, -1, dtype=np.int64)
    for index, value in enumerate(hashes.tolist()):
        slot = value % size
        while slots[slot] >= 0:
            slot = (slot + 1) % size
        slots[slot] = index
    return slots
