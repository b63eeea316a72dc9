"""Message keys of entities, by the words of ``docs/store-layout.md`` and the contract's types."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["entity_from", "entity_of", "key_bytes", "partition_of"]


def entity_of(fields: Sequence[str], event: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values that name the entity of an event."""
    return tuple(event[name] for name in fields)


def key_bytes(entity: Sequence[Any]) -> bytes:
    """The message key of an entity of one value or more.

    int: ASCII decimal, text (a uuid is 36 lower-case characters): UTF-8, bytes: as they are. Of
    several values these are joined by ``|``, bytes then in hexadecimal, ``|`` and backslash inside
    a part after a backslash.
    """
    if len(entity) == 1:
        return entity[0] if isinstance(entity[0], bytes) else str(entity[0]).encode()
    parts = [v.hex() if isinstance(v, bytes) else str(v) for v in entity]
    return "|".join(p.replace("\\", "\\\\").replace("|", "\\|") for p in parts).encode()


def entity_from(key: bytes, types: Sequence[str]) -> tuple[Any, ...] | None:
    """The entity of a message key; None where no entity of these types has that key."""
    parts = [key]
    if len(types) > 1:
        found = re.findall(rb"((?:\\.|[^\\|])*)(\||$)", key, re.DOTALL)[: len(types)]
        parts = [re.sub(rb"\\(.)", rb"\1", part, flags=re.DOTALL) for part, _ in found]
    if len(parts) != len(types):
        return None
    try:
        entity = tuple(
            _part(part, kind, len(types) > 1) for part, kind in zip(parts, types, strict=True)
        )
    except ValueError:
        return None
    return entity if key_bytes(entity) == key else None


def _part(text: bytes, kind: str, joined: bool) -> Any:
    if kind == "bytes":
        return bytes.fromhex(text.decode("ascii")) if joined else text
    if kind == "int64":
        number = int(text)
        if not -(2**63) <= number < 2**63:
            raise ValueError(number)
        return number
    if kind == "uuid" and not re.fullmatch(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text):
        raise ValueError(text)
    return text.decode("utf-8")


def partition_of(key: bytes, partitions: int) -> int:
    """Partition of a key as the Java client chooses it: murmur2 (Appleby), its sign dropped."""
    word, multiplier = (1 << 32) - 1, 0x5BD1E995
    h = 0x9747B28C ^ len(key)
    whole = len(key) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * multiplier & word
        k = (k ^ k >> 24) * multiplier & word
        h = (h * multiplier & word) ^ k
    if key[whole:]:
        h = (h ^ int.from_bytes(key[whole:], "little")) * multiplier & word
    h = (h ^ h >> 13) * multiplier & word
    return ((h ^ h >> 15) & 0x7FFFFFFF) % partitions
