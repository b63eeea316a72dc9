"""JSON Schema contracts: what is understood, and that everything else is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.errors import DefinitionError, UnknownNameError


def load(properties: dict[str, Any], **keywords: Any) -> Contract:
    """A contract named ``t``."""
    return Contract.load({"title": "t", "type": "object", "properties": properties, **keywords})


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({"type": "integer"}, Field("a", FieldType.INT64)),
        ({"type": "number"}, Field("a", FieldType.FLOAT64)),
        ({"type": "number", "x-decimal": 3}, Field("a", FieldType.DECIMAL, scale=3)),
        ({"type": "boolean", "description": "?"}, Field("a", FieldType.BOOL)),
        ({"type": "string", "format": "email"}, Field("a", FieldType.STRING)),
        ({"type": "string", "format": "uuid"}, Field("a", FieldType.UUID)),
        ({"type": "string", "contentEncoding": "base64"}, Field("a", FieldType.BYTES)),
        ({"type": ["null", "string"]}, Field("a", FieldType.STRING, nullable=True)),
        ({"type": "string", "format": "date-time"}, Field("a", FieldType.TIMESTAMP, unit="iso")),
        (
            {"type": "string", "format": "date-time", "x-timezone": "UTC"},
            Field("a", FieldType.TIMESTAMP, unit="iso-utc"),
        ),
        ({"type": "integer", "x-unix-time": "us"}, Field("a", FieldType.TIMESTAMP, unit="us")),
    ],
)
def test_types(schema: dict[str, Any], field: Field) -> None:
    assert load({"a": schema}, required=["a"]).fields == (field,)


def test_what_is_not_required_is_nullable() -> None:
    contract = load({"a": {"type": "integer"}}, **{"x-version": 3, "additionalProperties": False})
    assert contract.fields == (Field("a", FieldType.INT64, nullable=True, required=False),)
    assert (contract.name, contract.version, contract.additional) == ("t", 3, False)


def test_arrow_schema() -> None:
    contract = load(
        {"a": {"type": "number", "x-decimal": 2}, "b": {"type": "integer", "x-unix-time": "s"}},
        required=["b"],
    )
    a, b = contract.arrow_schema
    assert a == pa.field("a", pa.decimal128(19, 2))
    assert b == pa.field("b", pa.timestamp("ns", tz="UTC"), nullable=False)


@pytest.mark.parametrize(
    ("schema", "named", "problem"),
    [
        ({}, "t.a.type", "missing"),
        ({"type": "int"}, "t.a.type", "unknown type 'int'"),
        ({"type": "object"}, "t.a.type", "nested"),
        ({"type": "array"}, "t.a.type", "nested"),
        ({"type": ["integer", "string"]}, "t.a.type", "one type"),
        ({"type": "null"}, "t.a.type", "one type"),
        ({"type": "integer", "minimum": 0}, "t.a.minimum", "not supported"),
        ({"type": "number", "x-decimals": 2}, "t.a.x-decimals", "not supported"),
        ({"type": "number", "x-decimal": 19}, "t.a", "19"),
        ({"type": "number", "x-decimal": "2"}, "t.a.x-decimal", "digits"),
        ({"type": "number", "x-decimal": True}, "t.a.x-decimal", "digits"),
        ({"type": "integer", "x-decimal": 2}, "t.a.x-decimal", "'number'"),
        ({"type": "integer", "x-unix-time": "m"}, "t.a.x-unix-time", "'m'"),
        ({"type": "string", "x-unix-time": "ms"}, "t.a.x-unix-time", "'integer'"),
        ({"type": "string", "format": "date"}, "t.a.format", "'date'"),
        ({"type": "integer", "format": "date-time"}, "t.a.format", "'string'"),
        ({"type": "integer", "format": "uuid"}, "t.a.format", "'string'"),
        ({"type": "string", "contentEncoding": "base16"}, "t.a.contentEncoding", "'base64'"),
        ({"type": "number", "contentEncoding": "base64"}, "t.a.contentEncoding", "'string'"),
        (
            {"type": "string", "format": "uuid", "contentEncoding": "base64"},
            "t.a.contentEncoding",
            "without a format",
        ),
        ({"type": "string", "x-timezone": "UTC"}, "t.a.x-timezone", "date-time only"),
        ({"type": "string", "format": "date-time", "x-timezone": "CET"}, "t.a.x-timezone", "'UTC'"),
        ("integer", "t.a", "object"),
    ],
)
def test_a_wrong_property_is_named(schema: Any, named: str, problem: str) -> None:
    with pytest.raises(DefinitionError) as error:
        load({"a": schema})
    assert error.value.field == named
    assert problem in error.value.problem


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"type": "object"}, "contract.title"),
        ({"title": "t", "type": "array"}, "t.type"),
        ({"title": "t", "type": "object", "properties": {}}, "t.properties"),
        ({"title": "t", "type": "object", "allOf": []}, "t.allOf"),
    ],
)
def test_a_wrong_document_is_named(document: dict[str, Any], named: str) -> None:
    with pytest.raises(DefinitionError) as error:
        Contract.load(document)
    assert error.value.field == named


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"required": ["b"]}, "t.required"),
        ({"required": ["a", "a"]}, "t.required"),
        ({"required": "a"}, "t.required"),
        ({"additionalProperties": {}}, "t.additionalProperties"),
        ({"x-version": "2"}, "t.x-version"),
        ({"x-version": 0}, "t.version"),
    ],
)
def test_a_wrong_keyword_is_named(keywords: dict[str, Any], named: str) -> None:
    with pytest.raises(DefinitionError) as error:
        load({"a": {"type": "integer"}}, **keywords)
    assert error.value.field == named


@pytest.mark.parametrize("name", ["", "1a", "a b", 'a"', "é", "a" * 129, "../a"])
def test_a_field_name_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match="field name"):
        load({name: {"type": "integer"}})


def test_files_are_read_and_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    text = json.dumps({"title": "t", "type": "object", "properties": {"a": {"type": "integer"}}})
    path.write_text(text)
    assert Contract.load(path).names == Contract.load(str(path)).names == ("a",)
    twice = text.replace('"a":', '"a": {"type": "string"}, "a":')
    for content, problem in {"{": "not JSON", "[]": "object", twice: "twice"}.items():
        path.write_text(content)
        with pytest.raises(DefinitionError, match=problem):
            Contract.load(path)
    with pytest.raises(DefinitionError, match="cannot be read"):
        Contract.load(tmp_path / "absent.json")
    with pytest.raises(DefinitionError, match="avsc"):
        Contract.load(tmp_path / "t.yaml")


def test_an_unknown_field_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"'b'.*: a$"):
        load({"a": {"type": "integer"}}).field("b")


def test_a_duplicate_field_is_named() -> None:
    with pytest.raises(DefinitionError, match=r"^c\.a: is defined twice"):
        Contract("c", 1, (Field("a", FieldType.INT64), Field("a", FieldType.BOOL)))
