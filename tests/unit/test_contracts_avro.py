"""Avro contracts: what is understood, and that everything else is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.errors import DefinitionError


def load(field: Any, **attributes: Any) -> Contract:
    """A record named ``r`` with this field."""
    return Contract.load({"type": "record", "name": "r", "fields": [field], **attributes})


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("long", Field("a", FieldType.INT64)),
        ("int", Field("a", FieldType.INT64)),
        ("double", Field("a", FieldType.FLOAT64)),
        ("float", Field("a", FieldType.FLOAT64)),
        ("boolean", Field("a", FieldType.BOOL)),
        ("string", Field("a", FieldType.STRING)),
        ("bytes", Field("a", FieldType.BYTES)),
        ({"type": "string", "logicalType": "uuid"}, Field("a", FieldType.UUID)),
        (["null", "string"], Field("a", FieldType.STRING, nullable=True)),
        (
            {"type": "long", "logicalType": "timestamp-micros"},
            Field("a", FieldType.TIMESTAMP, unit="us"),
        ),
        (
            ["null", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}],
            Field("a", FieldType.DECIMAL, nullable=True, scale=2),
        ),
    ],
)
def test_types(kind: Any, field: Field) -> None:
    assert load({"name": "a", "type": kind}).fields == (field,)


def test_records_become_dotted_names_and_containers_no_columns() -> None:
    inner = {
        "type": "record",
        "name": "n",
        "fields": [
            {"name": "b", "type": {"type": "enum", "name": "e", "symbols": ["X"]}, "default": "X"},
            {"name": "c", "type": {"type": "map", "values": "long"}},
            {"name": "again", "type": ["null", "n"], "default": None},
            {"name": "d", "type": {"type": "fixed", "name": "f", "size": 16}},
        ],
    }
    given = load({"name": "a", "type": ["null", inner], "aliases": ["z"]})
    assert given.fields == (
        Field("a.b", FieldType.STRING, nullable=True),
        Field("a.d", FieldType.BYTES, nullable=True),
    )
    assert load({"name": "a", "type": inner}).names == ("a.b", "a.d")


def test_a_null_default_makes_a_field_optional() -> None:
    contract = load({"name": "a", "type": ["null", "long"], "default": None}, **{"x-version": 4})
    assert contract.fields == (Field("a", FieldType.INT64, nullable=True, required=False),)
    assert contract.version == 4


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ({"name": "a", "type": "fixed"}, "r.a.type"),
        ({"name": "a", "type": {"type": "bytes", "logicalType": "uuid"}}, "r.a.type"),
        ({"name": "a"}, "r.a.type"),
        ({"name": "a", "type": {"type": "array", "items": "long"}}, "r.fields"),
        ({"name": "a", "type": {"type": "array"}}, "r.a.type.items"),
        ({"name": "a", "type": {"type": "long", "logicalType": "uuid"}}, "r.a.type"),
        ({"name": "a", "type": {"type": "int", "logicalType": "date"}}, "r.a.type"),
        ({"name": "a", "type": ["long", "string"]}, "r.a.type"),
        ({"name": "a", "type": ["null", "long", "string"]}, "r.a.type"),
        ({"name": "a", "type": "long", "default": "0"}, "r.a.default"),
        ({"name": "a", "type": "long", "default": 2**63}, "r.a.default"),
        ({"name": "a", "type": "other"}, "r.a.type"),
        (
            {
                "name": "a",
                "type": {"type": "record", "name": "n", "fields": [{"name": "b", "type": "null"}]},
            },
            "r.a.b.type",
        ),
        ({"name": "a", "type": "long", "default": None}, "r.a.default"),
        ({"name": "a", "type": "long", "unit": "s"}, "r.a.unit"),
        ({"name": "a", "type": {"type": "long", "unit": "s"}}, "r.a.unit"),
        ({"name": "a b", "type": "long"}, "r.a b"),
        ({"type": "long"}, "r.fields[0]"),
        (
            {"name": "a", "type": {"type": "bytes", "logicalType": "decimal", "precision": 38}},
            "r.a.precision",
        ),
        (
            {
                "name": "a",
                "type": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 5},
            },
            "r.a.scale",
        ),
    ],
)
def test_a_wrong_field_is_named(field: Any, named: str) -> None:
    with pytest.raises(DefinitionError) as error:
        load(field)
    assert error.value.field == named


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"fields": []}, "r.fields"),
        ({"name": ""}, "contract.name"),
        ({"x-version": None}, "r.x-version"),
        ({"extra": 1}, "r.extra"),
    ],
)
def test_a_wrong_record_is_named(attributes: dict[str, Any], named: str) -> None:
    with pytest.raises(DefinitionError) as error:
        load({"name": "a", "type": "long"}, **attributes)
    assert error.value.field == named
