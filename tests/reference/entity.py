"""Entity keys as the documentation has them, one value at a time."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["entity_key", "key_parts"]

MAX_KEY_BYTES = 65_536


def entity_key(parts: Sequence[int | bytes | None], types: Sequence[str]) -> bytes | None:
    """The message key of an entity; None where there is none. Text comes as its UTF-8."""
    if any(part is None for part in parts):
        return None
    if len(parts) == 1:
        key = _plain(parts[0])
    else:
        key = b"|".join(_escaped(part, type_) for part, type_ in zip(parts, types, strict=True))
    return key if 0 < len(key) <= MAX_KEY_BYTES else None


def key_parts(key: bytes) -> list[bytes]:
    """The parts of a composite key, unescaped; bytes still in hexadecimal."""
    parts = re.findall(rb"(?:\A|\|)((?:[^\\|]|\\.)*)", key, re.DOTALL)
    return [re.sub(rb"\\(.)", rb"\1", part, flags=re.DOTALL) for part in parts]


def _plain(part: int | bytes | None) -> bytes:
    if isinstance(part, bytes):
        return part
    return str(part).encode()


def _escaped(part: int | bytes | None, type_: str) -> bytes:
    if isinstance(part, bytes):
        if type_ == "bytes":
            return part.hex().encode()
        return part.replace(b"\\", b"\\\\").replace(b"|", b"\\|")
    return str(part).encode()
