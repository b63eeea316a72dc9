"""Field values as JSON text: ordinary ones, and those at the edges of their type."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from pipeline.contracts.contract import Field, FieldType

__all__ = ["EDGE_FLOATS", "entity", "number", "time_text", "value"]

EDGE_FLOATS = ("-0.0", "0.1", "1e17", "-1e17", "1e308", "-1e308", "5e-324", "1e-300", "3", "1E2")
EDGE_INTS = (0, 1, -1, 2**53 + 1, 2**62, -(2**62), 2**63 - 1, -(2**63))
STRINGS = ("a", "b", "ab", "", "é", "\U0001f600", 'q"q', "back\\slash", "tab\tnew\n", "0", "x" * 40)
NS_OF = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


def value(rng: Random, field: Field, edges: float, nulls: float) -> str | None:
    """JSON text of a value; None where the field is to be left out.

    ``edges`` is the share of values at the edges of the type, ``nulls`` of nulls and absences.
    """
    if field.nullable and rng.random() < nulls:
        return None if not field.required and rng.random() < 0.5 else "null"
    if field.type is FieldType.BOOL:
        return rng.choice(("true", "false"))
    if field.type is FieldType.STRING:
        return json.dumps(rng.choice(STRINGS if rng.random() < edges else STRINGS[:3]))
    if field.type is FieldType.TIMESTAMP:
        return time_text(field, rng.randint(0, 10**12))
    if field.type is FieldType.UUID:
        text = str(UUID(int=rng.randint(0, 3)))
        return json.dumps(text.upper() if rng.random() < edges else text)
    if field.type is FieldType.BYTES:
        return json.dumps(
            base64.b64encode(bytes(rng.choices(b"\0a|", k=rng.randint(1, 2)))).decode()
        )
    return number(rng, field, edges)


def entity(field: Field, number: int) -> tuple[Any, str]:
    """Key value number ``number`` of a field, and its JSON text."""
    if field.type is FieldType.INT64:
        return number - 2, str(number - 2)
    if field.type is FieldType.UUID:
        uuid = str(UUID(int=0xAB << 120 | number))
        return uuid, json.dumps(uuid if number % 2 else uuid.upper())
    if field.type is FieldType.BYTES:
        raw = b"\xff|\\\0"[: 1 + number % 4] + b"%d" % number
        return raw, json.dumps(base64.b64encode(raw).decode())
    text = ("k", "|", "\\", "\u00e9")[number % 4] + str(number)
    return text, json.dumps(text)


def number(rng: Random, field: Field, edges: float) -> str:
    """JSON text of an INT64, DECIMAL or FLOAT64."""
    edge = rng.random() < edges
    if field.type is FieldType.FLOAT64:
        return rng.choice(EDGE_FLOATS) if edge else repr(rng.randint(-1000, 1000) / 8)
    scaled = rng.choice(EDGE_INTS) if edge else rng.randint(-5, 100)
    if field.type is FieldType.INT64 or not field.scale:
        return str(scaled)
    whole, part = divmod(abs(scaled), 10**field.scale)
    return f"{'-' if scaled < 0 else ''}{whole}.{part:0{field.scale}d}"


def time_text(field: Field, ns: int) -> str:
    """JSON text of a time, as exact as the field's unit allows."""
    if field.unit in NS_OF:
        return str(ns // NS_OF[field.unit])
    seconds, fraction = divmod(ns, 10**9)
    shown = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return f'"{shown:%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"'
