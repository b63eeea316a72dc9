"""A :class:`Plan` as JSON and back, exactly.

What a reader in any language needs of a view. Integers are JSON integers (a fingerprint is 16 hex
digits, since many readers of JSON keep 53 bits), floats are written so that they read back the
same, and a default of NaN, which means none, is null.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from pipeline.errors import DefinitionError
from pipeline.features.plan import (
    AccOp,
    Accumulator,
    CellType,
    Feature,
    FeatureOp,
    ListKind,
    ListState,
    Lookup,
    Plan,
    Ring,
    plan_fields,
)

__all__ = ["fingerprint_of", "from_json", "to_json"]

T = TypeVar("T")

_FORMAT = 1
_ROW_FORMAT = 1


def to_json(plan: Plan) -> str:
    """The plan as one line of JSON with sorted keys; equal plans give equal text."""
    fields = _plan_out(plan_fields(plan))
    fields["format"] = _FORMAT
    return json.dumps(fields, sort_keys=True, allow_nan=False, separators=(",", ":"))


def from_json(text: str | bytes) -> Plan:
    """The plan that :func:`to_json` wrote.

    Raises DefinitionError for a later format, a missing or unknown field, or a wrong value. A
    default of none becomes ``math.nan`` itself, so that plans made with it compare equal.
    """
    try:
        fields = json.loads(text)
    except ValueError as problem:
        raise DefinitionError("plan", f"not JSON: {problem}") from problem
    if not isinstance(fields, dict) or fields.pop("format", None) != _FORMAT:
        raise DefinitionError("plan.format", f"this program knows format {_FORMAT} only")
    return _plan(fields)


def fingerprint_of(plan: Plan) -> int:
    """First 8 bytes of the SHA-256 of the plan and the row format: equal plans, equal rows."""
    value = plan_fields(dataclasses.replace(plan, fingerprint=0))
    value["row_format"] = _ROW_FORMAT
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _plan_out(fields: dict[str, Any]) -> dict[str, Any]:
    fields["fingerprint"] = f"{fields['fingerprint']:016x}"
    for feature in fields["features"]:
        feature["default"] = _float_out(feature["default"])
    for lookup in fields.get("lookups", ()):
        _plan_out(lookup["plan"])
    return fields


def _plan(given: Mapping[str, Any]) -> Plan:
    fields = {"lookups": (), **given}
    fields["fingerprint"] = _read("plan.fingerprint", lambda: int(fields["fingerprint"], 16))
    for name, build in _PARTS.items():
        fields[name] = _read(f"plan.{name}", partial(_tuple, fields, name, build))
    return _build(Plan, "plan", fields)


def _tuple(fields: Mapping[str, Any], name: str, build: Callable[[Any], Any]) -> tuple[Any, ...]:
    return tuple(map(build, fields[name]))


def _feature(fields: Mapping[str, Any]) -> Feature:
    return _build(
        Feature,
        "plan.features",
        {
            **fields,
            "op": FeatureOp(fields["op"]),
            "type": CellType(fields["type"]),
            "default": _float_in(fields["default"]),
            "words": _tuple({"words": (), **fields}, "words", int),
        },
    )


def _list(fields: Mapping[str, Any]) -> ListState:
    kind, cell = ListKind(fields["kind"]), CellType(fields["type"])
    return _build(ListState, "plan.lists", {**fields, "kind": kind, "type": cell})


def _accumulator(fields: Mapping[str, Any]) -> Accumulator:
    return _build(Accumulator, "plan.accumulators", {**fields, "op": AccOp(fields["op"])})


def _ring(fields: Mapping[str, Any]) -> Ring:
    return _build(Ring, "plan.rings", fields)


def _lookup(fields: Mapping[str, Any]) -> Lookup:
    names = _tuple(fields, "columns", str)
    positions = _tuple(fields, "features", int)
    plan = _plan(fields["plan"])
    parts = {**fields, "plan": plan, "columns": names, "features": positions}
    if len(names) != len(positions) or not all(0 <= p < len(plan.features) for p in positions):
        raise DefinitionError("plan.lookups", "columns and features do not fit the plan")
    return _build(Lookup, "plan.lookups", parts)


_PARTS: dict[str, Callable[[Any], Any]] = {
    "inputs": str,
    "input_types": CellType,
    "input_scales": int,
    "masks": str,
    "rings": _ring,
    "accumulators": _accumulator,
    "lists": _list,
    "features": _feature,
    "lookups": _lookup,
}


def _build(kind: Callable[..., T], where: str, fields: Mapping[str, Any]) -> T:
    return _read(where, lambda: kind(**fields))


def _read(where: str, value: Callable[[], T]) -> T:
    try:
        return value()
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise DefinitionError(where, f"{type(problem).__name__}: {problem}") from problem


def _float_out(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else repr(value)


def _float_in(value: float | str | None) -> float:
    return math.nan if value is None else float(value)
