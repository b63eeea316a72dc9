"""Message keys of entities, written from the documentation of the store's layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["entity_of", "key_of"]


def entity_of(names: Sequence[str], fields: Mapping[str, Any]) -> Any:
    """The value of one field; of several, all their values."""
    return fields[names[0]] if len(names) == 1 else tuple(fields[name] for name in names)


def key_of(entity: Any) -> bytes:
    """The message key of an integer, text, bytes, or several of them; uuids come as text."""
    if not isinstance(entity, tuple):
        return entity if isinstance(entity, bytes) else str(entity).encode()
    parts = [part.hex() if isinstance(part, bytes) else str(part) for part in entity]
    return "|".join(p.replace("\\", "\\\\").replace("|", "\\|") for p in parts).encode()
