"""JSON documents, against Python's json."""

from __future__ import annotations

from pipeline.contracts.contract import Contract
from pipeline.ingest.decode import JsonDecoder
from tests.fuzz.events import Verdict, checker
from tests.fuzz.run import Target
from tests.reference import json as reference

CONTRACT = {
    "title": "mixed",
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "when": {"type": "integer", "x-unix-time": "ns"},
        "n": {"type": ["integer", "null"]},
        "amount": {"type": "number", "x-decimal": 2},
        "x": {"type": "number"},
        "ok": {"type": "boolean"},
        "text": {"type": "string"},
        "at": {"type": "string", "format": "date-time"},
        "ms": {"type": "integer", "x-unix-time": "ms"},
    },
    "required": ["id", "when", "amount"],
}
SEEDS = [
    b'{"id":1,"when":2,"n":null,"amount":1.25,"x":1e-7,"ok":true,"text":"a\\u00e9\\n",'
    b'"at":"2017-01-01T11:53:26.5+01:00","ms":-5}',
    b'{"amount":-0.5e1, "id": -9223372036854775808,"when":9223372036854775807,"deep":[[{"a":[]}]]}',
    '{"text":"é\\ud83d\\ude00","id":0,"when":0,"amount":0,"x":179769313486231570000e289}'.encode(),
]


def target() -> Target:
    contract = Contract.load(CONTRACT)

    def twin(value: bytes) -> Verdict:
        reason, columns = reference.parse(contract, value)
        return reason.name.lower(), columns

    decoder = JsonDecoder(contract, "id", "when", 1, earliest_ns=-(2**63))
    return Target("json", SEEDS, checker(decoder, twin))
