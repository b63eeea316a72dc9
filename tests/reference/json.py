"""The obvious twin of :mod:`pipeline.kernels.json`: Python's json, then one check per field."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.contracts.fields import EPOCH_UNITS
from pipeline.ingest.batch import Reason
from tests.reference import numbers, timestamps

MAX_DEPTH = 64
_SURROGATE = re.compile("[\ud800-\udfff]")
_MISSING = object()


class Number(str):
    """A number as it is written."""


def _refuse(token: str) -> NoReturn:
    raise ValueError(token)


def _checked(value: Any, depth: int) -> None:
    """Refuse what Python's json accepts beyond RFC 8259 with our limits."""
    if depth > MAX_DEPTH:
        raise ValueError("depth")
    if isinstance(value, str) and _SURROGATE.search(value):
        raise ValueError("lone surrogate")
    if isinstance(value, (list, tuple)):
        for item in value:
            if isinstance(value, tuple):
                _checked(item[0], depth)
                _checked(item[1], depth + isinstance(item[1], (list, tuple)))
            else:
                _checked(item, depth + isinstance(item, (list, tuple)))


def _document(value: bytes, names: tuple[str, ...]) -> dict[str, Any]:
    pairs = json.loads(
        value.decode("utf-8"),
        parse_float=Number,
        parse_int=Number,
        parse_constant=_refuse,
        object_pairs_hook=tuple,
    )
    if not isinstance(pairs, tuple):
        raise ValueError("not an object")
    _checked(pairs, 1)
    keys = [key for key, _ in pairs]
    if any(keys.count(name) > 1 for name in names):
        raise ValueError("duplicate")
    return dict(pairs)


def _number(field: Field, text: Number) -> Any:
    if field.type is FieldType.FLOAT64:
        value = float(text)
        return Reason.RANGE if math.isinf(value) else value
    scaled, status = numbers.scaled(text, field.scale)
    if status != "exact":
        decimal = field.type is FieldType.DECIMAL
        return Reason.SCHEMA if status == "inexact" and not decimal else Reason.RANGE
    if field.type is FieldType.TIMESTAMP:
        scaled *= EPOCH_UNITS[field.unit]
        if not -(2**63) <= scaled < 2**63:
            return Reason.RANGE
    return scaled


def _value(field: Field, value: Any) -> Any:
    """The column's value, None, or a Reason."""
    if value is _MISSING:
        return Reason.SCHEMA if field.required else None
    if value is None:
        return None if field.nullable else Reason.SCHEMA
    number = isinstance(value, Number)
    if field.type is FieldType.BOOL:
        return value if isinstance(value, bool) else Reason.SCHEMA
    if field.type is FieldType.STRING:
        return value if isinstance(value, str) and not number else Reason.SCHEMA
    if field.type is FieldType.TIMESTAMP and field.unit not in EPOCH_UNITS:
        if not isinstance(value, str) or number:
            return Reason.SCHEMA
        ns, status = timestamps.timestamp(value.encode(), field.unit == "iso-utc")
        return {"timed": ns, "untimely": Reason.SCHEMA}.get(status, Reason.RANGE)
    return _number(field, value) if number else Reason.SCHEMA


def parse(contract: Contract, value: bytes) -> tuple[Reason, dict[str, Any]]:
    """The reason, and the columns' values (scaled integers, ns; None is null) if it is OK."""
    try:
        document = _document(value, contract.names)
    except (ValueError, RecursionError):
        return Reason.DECODE, {}
    row = {f.name: _value(f, document.get(f.name, _MISSING)) for f in contract.fields}
    reasons = [item for item in row.values() if isinstance(item, Reason)]
    if not contract.additional and set(document) - set(contract.names):
        reasons.append(Reason.SCHEMA)
    return (min(reasons), {}) if reasons else (Reason.OK, row)
