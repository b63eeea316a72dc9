"""The entity of a view: the field or fields that name it, and their types.

A plan holds both as text, the names of several fields joined by ``|`` and so their types: the plan
of a view with one field reads as it always did.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.contracts.contract import Contract
from pipeline.errors import DefinitionError
from pipeline.ingest.entity import KEY_TYPES, KeyPart, join_keys

__all__ = ["SEPARATOR", "entity_fields", "entity_name", "entity_type", "event_key"]

SEPARATOR = "|"  # no part of a field's name


def entity_fields(where: str, entity: str | Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple; :class:`DefinitionError` for none, one twice, or no names."""
    fields = (entity,) if isinstance(entity, str) else tuple(entity)
    if not fields or not all(isinstance(name, str) for name in fields):
        raise DefinitionError(where, f"{entity!r} is no field name, nor several")
    for name in fields:
        if fields.count(name) > 1:
            raise DefinitionError(where, f"names {name!r} twice")
    return fields


def entity_name(fields: Sequence[str]) -> str:
    """The fields as :attr:`Plan.entity` holds them."""
    return SEPARATOR.join(fields)


def entity_type(where: str, contract: Contract, fields: Sequence[str]) -> str:
    """The types of fields that the contract has, as :attr:`Plan.entity_type` holds them."""
    types = {field.name: field.type for field in contract.fields}
    for name in fields:
        if types[name] not in KEY_TYPES:
            raise DefinitionError(
                where,
                f"{name!r} is {types[name].value}; a key is an integer, a string, a uuid or bytes",
            )
    return SEPARATOR.join(KEY_TYPES[types[name]] for name in fields)


def event_key(contract: Contract, fields: Sequence[str], event: Mapping[str, Any]) -> bytes:
    """The message key of one event as JSON has it; for tools and tests, not for many."""
    parts = []
    for name in fields:
        kind, value = KEY_TYPES[contract.field(name).type], event[name]
        number = np.array([value if kind == "int64" else 0], dtype=np.int64)
        text = b"" if kind == "int64" else _BYTES[kind](value)
        data, start = np.frombuffer(text, dtype=np.uint8), np.zeros(1, dtype=np.int64)
        length, valid = np.array([len(text)], dtype=np.int64), np.ones(1, dtype=np.uint8)
        parts.append(KeyPart(kind, number, data, start, length, valid))
    return join_keys(parts, np.ones(1, dtype=np.uint8)).key(0)


_BYTES: dict[str, Callable[[str], bytes]] = {
    "string": str.encode,
    "uuid": lambda text: text.lower().encode(),
    "bytes": base64.b64decode,
}
