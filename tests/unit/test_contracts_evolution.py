"""Which changes of a contract are compatible."""

from __future__ import annotations

import dataclasses

import pytest

from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.contracts.evolution import incompatibilities, require_compatible
from pipeline.errors import DefinitionError

INT, FLOAT, DECIMAL = FieldType.INT64, FieldType.FLOAT64, FieldType.DECIMAL
TIME, TEXT = FieldType.TIMESTAMP, FieldType.STRING
OLD = Contract(
    "c",
    1,
    (
        Field("a", INT),
        Field("n", TEXT, nullable=True),
        Field("o", INT, nullable=True, required=False),
        Field("d", DECIMAL, scale=2),
        Field("t", TIME, unit="iso"),
        Field("u", TIME, unit="iso-utc"),
    ),
)


def changed(*fields: Field, version: int = 2, **changes: object) -> Contract:
    """OLD with these fields replaced or added."""
    merged = {f.name: f for f in (*OLD.fields, *fields)}
    return dataclasses.replace(OLD, version=version, fields=tuple(merged.values()), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "new",
    [
        OLD,
        changed(),
        changed(Field("z", INT, nullable=True, required=False)),
        changed(Field("a", FLOAT)),
        changed(Field("a", INT, nullable=True)),
        changed(Field("a", INT, nullable=True, required=False)),
        changed(Field("d", FLOAT)),
        changed(Field("t", TIME, unit="iso-utc")),
        dataclasses.replace(OLD, version=2, fields=OLD.fields[:1]),
        dataclasses.replace(OLD, version=2, fields=OLD.fields[::-1]),
    ],
)
def test_compatible(new: Contract) -> None:
    assert incompatibilities(OLD, new) == []
    require_compatible(OLD, new)


@pytest.mark.parametrize(
    ("new", "named"),
    [
        (changed(Field("z", INT, nullable=True)), "c.z"),
        (changed(Field("a", TEXT)), "c.a"),
        (changed(Field("a", DECIMAL, scale=2)), "c.a"),
        (changed(Field("d", DECIMAL, scale=3)), "c.d"),
        (changed(Field("n", TEXT)), "c.n"),
        (changed(Field("o", INT, nullable=True)), "c.o"),
        (changed(Field("t", TIME, unit="ms")), "c.t"),
        (changed(Field("u", TIME, unit="iso")), "c.u"),
        (changed(additional=False), "c.additional"),
        (changed(name="e"), "e.name"),
        (changed(Field("a", FLOAT), version=1), "c.version"),
    ],
)
def test_incompatible_changes_are_named(new: Contract, named: str) -> None:
    assert [error.field for error in incompatibilities(OLD, new)] == [named]
    with pytest.raises(DefinitionError, match=named):
        require_compatible(OLD, new)


def test_a_closed_contract_may_not_lose_a_field() -> None:
    closed = dataclasses.replace(OLD, additional=False)
    new = dataclasses.replace(closed, version=2, fields=OLD.fields[:-1])
    assert [error.field for error in incompatibilities(closed, new)] == ["c.u"]
