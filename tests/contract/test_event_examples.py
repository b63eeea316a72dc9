"""The golden records in schemas/examples: exactly these bytes give exactly this."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.contracts.contract import Contract
from pipeline.ingest.batch import Reason, Rejects, TopicPartition
from pipeline.ingest.deadletter import dead_letters
from pipeline.ingest.decode import JsonDecoder
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


def test_both_languages_define_the_same_columns() -> None:
    avro = Contract.load(SCHEMAS / "events" / "purchase.avsc")
    assert avro.arrow_schema == Contract.load(SCHEMAS / "events" / "purchase.json").arrow_schema


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
