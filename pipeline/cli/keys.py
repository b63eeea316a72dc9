"""Entity keys as a person types them.

One argument a key. A key of several fields is their values joined by ``|``, with ``\\`` before a
``|`` or ``\\`` that belongs to a value, as in the message key. Bytes are hexadecimal.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence

from pipeline.errors import ConfigurationError

__all__ = ["key_columns"]

_PART = re.compile(r"(?:\A|\|)((?:[^\\|]|\\[\\|])*)")


def key_columns(entities: Mapping[str, str], keys: Sequence[str]) -> dict[str, list[object]]:
    """A column of keys for every field of ``entities`` (name -> type).

    Raises :class:`ConfigurationError` that names the field and what was wrong.
    """
    columns: dict[str, list[object]] = {name: [] for name in entities}
    for key in keys:
        parts = [key] if len(entities) == 1 else _parts(entities, key)
        for (name, kind), part in zip(entities.items(), parts, strict=True):
            columns[name].append(_READ[kind](name, part))
    return columns


def _parts(entities: Mapping[str, str], key: str) -> list[str]:
    parts = [match[1] for match in _PART.finditer(key)]
    if "|".join(parts) != key or len(parts) != len(entities):
        raise ConfigurationError(
            f"a key is {'|'.join(entities)}, got {key!r}; write \\| and \\\\ inside a value"
        )
    return [re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL) for part in parts]


def _integer(name: str, text: str) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise ConfigurationError(f"{name} is a whole number, got {text!r}") from error
    if not -(2**63) <= value < 2**63:
        raise ConfigurationError(f"{name} is 64 bits wide, {text} does not fit")
    return value


def _uuid(name: str, text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError as error:
        raise ConfigurationError(f"{name} is a uuid, got {text!r}") from error


def _bytes(name: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise ConfigurationError(f"{name} is bytes in hexadecimal, got {text!r}") from error


_READ: dict[str, Callable[[str, str], object]] = {
    "int64": _integer,
    "string": lambda name, text: text,
    "uuid": _uuid,
    "bytes": _bytes,
}
