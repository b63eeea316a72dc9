"""Avro records of one writer's schema, read by another's, against the recursive twin."""

from __future__ import annotations

from typing import Any

from pipeline.contracts.avroschema import read_schema
from pipeline.contracts.contract import Contract
from pipeline.ingest.avro import AvroDecoder
from pipeline.ingest.envelope import Envelope
from tests.fuzz.events import Verdict, checker
from tests.fuzz.run import Target
from tests.reference import avro as reference

INNER: dict[str, Any] = {
    "type": "record",
    "name": "inner",
    "fields": [
        {"name": "f", "type": "float"},
        {"name": "u", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "b", "type": ["bytes", "null", "string"]},
    ],
}
WRITER: dict[str, Any] = {
    "type": "record",
    "name": "event",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "skip", "type": {"type": "array", "items": {"type": "map", "values": "string"}}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "n", "type": ["null", "int", "long"]},
        {"name": "tree", "type": ["null", {
            "type": "record", "name": "tree", "fields": [
                {"name": "v", "type": "double"}, {"name": "left", "type": ["null", "tree"]},
            ],
        }]},
        {"name": "amount", "type": {
            "type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 3,
        }},
        {"name": "fixed", "type": {
            "type": "fixed", "name": "f16", "size": 16, "logicalType": "uuid",
        }},
        {"name": "color", "type": {"type": "enum", "name": "c", "symbols": ["R", "G", "B"]}},
        {"name": "inner", "type": ["null", INNER]},
        {"name": "ok", "type": "boolean"},
        {"name": "text", "type": "string"},
    ],
}  # fmt: skip
READER: dict[str, Any] = {
    **WRITER,
    "fields": [
        {"name": "text", "type": "string"},
        {"name": "id", "type": "long"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "n", "type": ["null", "long"]},
        {"name": "money", "aliases": ["amount"], "type": {
            "type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 2,
        }},
        {"name": "fixed", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "color", "type": {
            "type": "enum", "name": "c", "symbols": ["B", "G"],
        }},
        {"name": "inner", "type": ["null", {**INNER, "fields": [
            {"name": "f", "type": "double"},
            {"name": "u", "type": ["null", {"type": "string", "logicalType": "uuid"}]},
            {"name": "b", "type": ["null", "bytes"]},
            {"name": "added", "type": "string", "default": "dé"},
        ]}]},
        {"name": "ok", "type": "boolean"},
        {"name": "extra", "type": "double", "default": 1.5},
    ],
}  # fmt: skip


def seeds() -> list[bytes]:
    """Records of the writer."""
    schema = read_schema(WRITER, "w")
    uuid = b"01234567-89ab-CDEF-0000-111122223333"
    inner = (1, [1.5, uuid, (0, b"\xff\x00")])
    tree = (1, [2.5, (1, [0.5, (0, None)])])
    records = [
        [1, [], 5, (0, None), (0, None), b"\x00\x0a", b"x" * 16, 2, (0, None), 1, b"a"],
        [-1, [[(b"k", b"v")], []], -5, (1, 7), tree, b"", b"\xff" * 16, 1, inner, 0, "é".encode()],
        [2**63 - 1, [], 0, (2, -(2**63)), (0, None), b"\x27\x10", b"0" * 16, 1, inner, 1, b""],
    ]
    return [reference.write(schema, record) for record in records]


def target() -> Target:
    contract, schema = Contract.load(READER), read_schema(WRITER, "w")
    envelope = Envelope(contract, "id", "at", 1, earliest_ns=-(2**63))
    decoder = AvroDecoder.of_writer(contract, envelope, schema)

    def twin(value: bytes) -> Verdict:
        return reference.decode(value, schema, contract)

    return Target("avro", seeds(), checker(decoder, twin))
