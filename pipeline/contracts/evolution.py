"""Which changes of a contract keep the log readable.

A view is replayed from old events, so a new version must accept every event that the old one
accepted, and its columns must mean the same:

    may be added      a field that is not required
    may be removed    any field, where unknown fields are skipped
    may be relaxed    required -> optional, not null -> nullable, closed -> open,
                      date-time -> date-time with x-timezone
    may be widened    integer -> float64, decimal -> float64
    else              incompatible: publish to a new topic
"""

from __future__ import annotations

from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.errors import DefinitionError

__all__ = ["incompatibilities", "require_compatible"]

_WIDER = {
    (FieldType.INT64, FieldType.FLOAT64),
    (FieldType.DECIMAL, FieldType.FLOAT64),
}


def incompatibilities(old: Contract, new: Contract) -> list[DefinitionError]:
    """Everything in ``new`` that refuses or reinterprets events of ``old``; empty if compatible.

    Each names its field as ``<contract>.<field>``.
    """
    found: list[DefinitionError] = []
    if old.name != new.name:
        found.append(DefinitionError(f"{new.name}.name", f"was {old.name!r}"))
    if new != old and new.version <= old.version:
        found.append(
            DefinitionError(f"{new.name}.version", f"the contract changed: raise {old.version}")
        )
    if old.additional and not new.additional:
        found.append(DefinitionError(f"{new.name}.additional", "unknown fields were accepted"))
    before = {field.name: field for field in old.fields}
    after = {field.name: field for field in new.fields}
    for name, field in after.items():
        problem = _problem(before.get(name), field)
        if problem:
            found.append(DefinitionError(f"{new.name}.{name}", problem))
    if not new.additional:
        found.extend(
            DefinitionError(f"{new.name}.{name}", "was removed, but unknown fields are refused")
            for name in before
            if name not in after
        )
    return found


def require_compatible(old: Contract, new: Contract) -> None:
    """Raise the first of :func:`incompatibilities`."""
    for error in incompatibilities(old, new):
        raise error


def _problem(old: Field | None, new: Field) -> str:
    if old is None:
        return "a new field must not be required" if new.required else ""
    if old.type is not new.type and (old.type, new.type) not in _WIDER:
        return f"the type {old.type.value} became {new.type.value}"
    if new.type is FieldType.DECIMAL and old.scale != new.scale:
        return f"the scale {old.scale} became {new.scale}"
    if old.unit != new.unit and (old.unit, new.unit) != ("iso", "iso-utc"):
        return f"the unit {old.unit!r} became {new.unit!r}"
    if new.required and not old.required:
        return "became required"
    if old.nullable and not new.nullable:
        return "may no longer be null"
    return ""
