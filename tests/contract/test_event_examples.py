"""The golden records in schemas/examples: exactly these bytes give exactly this."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.contracts.contract import Contract, FieldType
from pipeline.ingest.arrowipc import write_message
from pipeline.ingest.batch import Reason, Rejects, TopicPartition
from pipeline.ingest.deadletter import dead_letters
from pipeline.ingest.decode import JsonDecoder
from pipeline.ingest.envelope import Decoder, Envelope
from pipeline.ingest.formats import make_decoder
from tests.reference.records import binary_batch, row

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"
EXAMPLES: list[dict[str, Any]] = [
    json.loads(line) for line in (SCHEMAS / "examples" / "purchase.jsonl").read_text().splitlines()
]


def _decoder() -> JsonDecoder:
    with np.errstate(over="ignore"):
        contract = Contract.load(SCHEMAS / "events" / "purchase.json")
        return JsonDecoder(contract, "household_id", "transaction_timestamp", 1)


@pytest.mark.parametrize("example", EXAMPLES, ids=[e["note"] for e in EXAMPLES])
def test_record(example: dict[str, Any]) -> None:
    batch = binary_batch(
        [example["value"].encode()], [example["key"].encode()], example.get("timestamp_ms", -1)
    )
    with np.errstate(over="ignore"):
        events = _decoder().decode(batch)
    assert Reason(events.reason[0]).name.lower() == example["reason"]
    if example["reason"] == "ok":
        assert row(events, 0) == example["columns"]


BINARY = [
    (name, example)
    for name in ("avro", "protobuf")
    for example in map(
        json.loads, (SCHEMAS / "examples" / f"purchase-{name}.jsonl").read_text().splitlines()
    )
]
SUFFIX = {"avro": "avsc", "protobuf": "proto"}


@cache
def _binary_decoder(name: str) -> Decoder:
    contract = Contract.load(SCHEMAS / "events" / f"purchase.{SUFFIX[name]}")
    envelope = Envelope(contract, "household_id", "transaction_timestamp", 1)
    return make_decoder(contract.language, contract, envelope)


@pytest.mark.parametrize(("name", "example"), BINARY, ids=[f"{n}: {e['note']}" for n, e in BINARY])
def test_binary_record(name: str, example: dict[str, Any]) -> None:
    value = base64.b64decode(example["value_base64"])
    batch = binary_batch([value], [example["key"].encode()], example.get("timestamp_ms", -1))
    with np.errstate(over="ignore"):
        events = _binary_decoder(name).decode(batch)
    assert Reason(events.reason[0]).name.lower() == example["reason"]
    if example["reason"] == "ok":
        assert row(events, 0) == example["columns"]


def test_a_bad_record_does_not_touch_its_neighbours() -> None:
    values = [e["value"].encode() for e in EXAMPLES]
    keys = [e["key"].encode() for e in EXAMPLES]
    times = [e.get("timestamp_ms", -1) for e in EXAMPLES]
    with np.errstate(over="ignore"):
        events = _decoder().decode(binary_batch(values, keys, times))
    assert [Reason(r).name.lower() for r in events.reason] == [e["reason"] for e in EXAMPLES]
    for i, example in enumerate(EXAMPLES):
        if example["reason"] == "ok":
            assert row(events, i) == example["columns"]


def test_all_languages_define_the_same_columns() -> None:
    json_schema = Contract.load(SCHEMAS / "events" / "purchase.json")
    for suffix in SUFFIX.values():
        other = Contract.load(SCHEMAS / "events" / f"purchase.{suffix}")
        assert other.arrow_schema == json_schema.arrow_schema
        assert (other.name, other.version) == (json_schema.name, json_schema.version)


def test_an_event_is_the_same_columns_in_every_format() -> None:
    """The first golden record of each format, and the same event as an Arrow message."""
    wanted = EXAMPLES[0]["columns"]
    contract = Contract.load(SCHEMAS / "events" / "purchase.json")
    scaled = {f.name: f.scale for f in contract.fields if f.type is FieldType.DECIMAL}
    values = {
        name: [Decimal(value).scaleb(-scaled[name])] if name in scaled else [value]
        for name, value in wanted.items()
    }
    times: Any = pa.timestamp("ns", tz="UTC")
    values["transaction_timestamp"] = pa.array([wanted["transaction_timestamp"]], times)
    message = write_message(pa.record_batch(values))
    envelope = Envelope(contract, "household_id", "transaction_timestamp", 1)
    with np.errstate(over="ignore"):
        arrow = make_decoder("arrow", contract, envelope).decode(binary_batch([message], [None]))
    assert row(arrow, 0) == wanted
    firsts = dict(reversed(BINARY))
    assert all(example["columns"] == wanted for example in firsts.values())
    assert firsts.keys() == SUFFIX.keys()


def test_dead_letter() -> None:
    golden = json.loads((SCHEMAS / "examples" / "dead-letter.json").read_text())
    batch = binary_batch(
        [b'{"household_id": "seven"}'],
        [b"7"],
        1700000000000,
        source=TopicPartition("purchases", 3),
        first_offset=1234,
    )
    rejects = Rejects(np.array([0]), np.array([Reason.SCHEMA], dtype=np.uint8))
    [(key, value)] = dead_letters(batch, rejects, topic_id="mIDJ9bpJQJ2PZ0d2xUOe8Q")
    assert key == golden["key"].encode()
    assert value == json.dumps(golden["value"], separators=(",", ":")).encode()
