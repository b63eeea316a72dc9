"""Schemas by id: a registry over HTTP that answers, lags, fails, and is away; AvroDecoder on it."""

from __future__ import annotations

import builtins
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from pipeline.contracts.avroschema import read_schema
from pipeline.contracts.contract import Contract
from pipeline.errors import ConfigurationError, MissingExtraError, RegistryUnavailableError
from pipeline.ingest import registry as module
from pipeline.ingest.avro import AvroDecoder
from pipeline.ingest.batch import EventBatch, Reason
from pipeline.ingest.envelope import Envelope
from pipeline.ingest.registry import AvroSchemas, ConfluentRegistry
from tests.reference import avro as reference
from tests.reference.records import binary_batch, row

V1: dict[str, Any] = {
    "type": "record",
    "name": "event",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}
V2 = {
    **V1,
    "fields": [
        {"name": "note", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "number", "type": "int"},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
    ],
}
READER = {
    **V1,
    "fields": [
        {"name": "id", "type": "long", "aliases": ["number"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "note", "type": "string", "default": "none"},
    ],
}
OUTER = {"type": "record", "name": "event", "fields": [{"name": "inner", "type": "x.Inner"}]}
INNER = {"type": "record", "name": "Inner", "namespace": "x", "fields": V1["fields"]}


class Registry:
    """A schema registry on 127.0.0.1: ``schemas`` by id, or a status for everything."""

    def __init__(self) -> None:
        self.schemas: dict[int, dict[str, Any]] = {}
        self.versions: dict[tuple[str, int], str] = {}
        self.status = 200
        self.body: bytes | None = None
        self.delay_s = 0.0
        self.asked: list[str] = []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append(self.path)
                time.sleep(registry.delay_s)
                status, body = registry.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def answer(self, path: str) -> tuple[int, bytes]:
        if self.status != 200:
            return self.status, b'{"error_code": 50001, "message": "no"}'
        if self.body is not None:
            return 200, self.body
        parts = path.partition("?")[0].strip("/").split("/")
        if parts[0] == "schemas":
            found = self.schemas.get(int(parts[2]))
        else:
            text = self.versions.get((parts[1], int(parts[3])))
            entry = {"subject": parts[1], "version": int(parts[3]), "id": 77, "schema": text}
            found = entry if text else None
        if not found:
            return 404, b'{"error_code": 40403, "message": "Schema not found"}'
        return 200, json.dumps(found).encode()

    def add(self, number: int, schema: Any, **more: Any) -> None:
        self.schemas[number] = {"schema": json.dumps(schema), **more}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Clock:
    """Time that only sleeping advances."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def server() -> Iterator[Registry]:
    registry = Registry()
    yield registry
    registry.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def decoder(server: Registry, clock: Clock) -> AvroDecoder:
    contract = Contract.load(READER)
    source = ConfluentRegistry({"url": server.url, "timeout": 0.5})
    schemas = AvroSchemas(source, clock.monotonic, clock.sleep)
    with np.errstate(over="ignore"):
        return AvroDecoder(contract, Envelope(contract, "id", "at", 1), schemas)


def framed(number: int, schema: Any, *values: Any, magic: int = 0) -> bytes:
    body = reference.write(read_schema(schema, "w"), list(values))
    return bytes([magic]) + number.to_bytes(4, "big") + body


def decode(decoder: AvroDecoder, *values: bytes | None) -> EventBatch:
    with np.errstate(over="ignore"):
        return decoder.decode(binary_batch(values, [b"5"] * len(values)))


def reasons(events: EventBatch) -> list[str]:
    return [Reason(int(r)).name.lower() for r in events.reason]


def test_two_schemas_in_one_batch(server: Registry, decoder: AvroDecoder) -> None:
    server.add(1, V1)
    server.add(2**31 - 1, V2)
    old = framed(1, V1, 5, 7)
    new = framed(2**31 - 1, V2, b"hi", 7000, 5, [b"a", b"b"])
    events = decode(decoder, old, new, old, new[:-1], b"\x01" + old[1:], old[:4], None)
    assert reasons(events) == ["ok", "ok", "ok", "decode", "decode", "decode", "tombstone"]
    assert [row(events, i) for i in range(3)] == [
        {"id": 5, "at": 7_000_000, "note": "none"},
        {"id": 5, "at": 7_000_000, "note": "hi"},
        {"id": 5, "at": 7_000_000, "note": "none"},
    ]
    asked = len(server.asked)
    assert reasons(decode(decoder, new, old)) == ["ok", "ok"]
    assert len(server.asked) == asked


def test_an_unknown_id_is_asked_for_a_few_times_then_refused(
    server: Registry, decoder: AvroDecoder, clock: Clock
) -> None:
    server.add(1, V1)
    bad, good = framed(9, V1, 5, 7), framed(1, V1, 5, 7)
    assert reasons(decode(decoder, bad, good)) == ["schema", "ok"]
    assert sum("/9" in path for path in server.asked) == module.ASK_TIMES
    assert clock.slept == [module.ASK_PAUSE_S] * (module.ASK_TIMES - 1)
    assert reasons(decode(decoder, bad, bad)) == ["schema", "schema"]
    assert sum("/9" in path for path in server.asked) == module.ASK_TIMES
    clock.now += module.UNKNOWN_FOR_S
    server.add(9, V1)
    assert reasons(decode(decoder, bad)) == ["ok"]


def test_an_id_that_a_follower_learns_late_is_found(server: Registry, clock: Clock) -> None:
    class Late(Clock):
        def sleep(self, seconds: float) -> None:
            server.add(3, V1)
            super().sleep(seconds)

    late = Late()
    schemas = AvroSchemas(ConfluentRegistry(server.url), late.monotonic, late.sleep)
    assert schemas.find([3])[3] is not None
    assert len(late.slept) == 1


@pytest.mark.parametrize("how", ["500", "503", "429", "slow", "garbage", "away"])
def test_a_registry_that_cannot_serve_makes_the_batch_wait(
    server: Registry, decoder: AvroDecoder, clock: Clock, how: str
) -> None:
    server.add(1, V1)
    server.add(2, V2)
    known, other = framed(1, V1, 5, 7), framed(2, V2, b"hi", 7000, 5, [])
    assert reasons(decode(decoder, known)) == ["ok"]
    if how.isdigit():
        server.status = int(how)
    elif how == "slow":
        server.delay_s = 1.5
    elif how == "garbage":
        server.body = b"<html>"
    else:
        server.close()
    with pytest.raises(RegistryUnavailableError):
        decode(decoder, known, other)
    asked = len(server.asked)
    with pytest.raises(RegistryUnavailableError):  # at rest: it is not asked again so soon
        decode(decoder, other)
    assert len(server.asked) == asked
    assert reasons(decode(decoder, known, known)) == ["ok", "ok"]
    if how != "away":
        server.status, server.delay_s, server.body = 200, 0.0, None
        clock.now += module.REST_S
        assert reasons(decode(decoder, known, other)) == ["ok", "ok"]
    else:
        server.server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
        server.thread = threading.Thread(target=server.server.serve_forever, daemon=True)
        server.thread.start()


def test_wrong_credentials_are_a_configuration_error(
    server: Registry, decoder: AvroDecoder
) -> None:
    server.status = 401
    with pytest.raises(ConfigurationError, match="credentials"):
        decode(decoder, framed(1, V1, 5, 7))


@pytest.mark.parametrize(
    "entry",
    [
        {"schema": "{", "schemaType": "AVRO"},
        {"schema": '"long"'},
        {"schema": json.dumps(V1), "schemaType": "JSON"},
        {"schema": json.dumps({**V1, "fields": [{"name": "id", "type": "nowhere"}]})},
        {"schema": "[" * 100_000},
        {"schema": json.dumps({"type": "record", "name": "e", "fields": []})},
        {"schema": json.dumps(OUTER), "references": [{"name": "a", "subject": "s", "version": 9}]},
    ],
    ids=["no json", "no record", "other type", "no such name", "deep", "no fields", "reference"],
)
def test_a_schema_that_is_no_use_refuses_its_records(
    server: Registry, decoder: AvroDecoder, entry: dict[str, Any]
) -> None:
    server.schemas[4] = entry
    server.add(1, V1)
    bad = framed(4, V1, 5, 7)
    events = decode(decoder, bad, framed(1, V1, 5, 7))
    assert events.reason[0] in {Reason.SCHEMA, Reason.DECODE}
    assert events.reason[1] == Reason.OK


def test_schemas_may_refer_to_others(server: Registry) -> None:
    server.versions["inner-value", 2] = json.dumps(INNER)
    reference_ = {"name": "x.Inner", "subject": "inner-value", "version": 2}
    server.add(5, OUTER, references=[reference_])
    contract = Contract.load({**OUTER, "fields": [{"name": "inner", "type": INNER}]})
    with np.errstate(over="ignore"):
        decoder = AvroDecoder.registered(
            contract, Envelope(contract, "inner.id", "inner.at", 1), ConfluentRegistry(server.url)
        )
    events = decode(decoder, b"\x00\x00\x00\x00\x05" + reference.long(5) + reference.long(7))
    assert row(events, 0) == {"inner.id": 5, "inner.at": 7_000_000}


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("confluent_kafka.schema_registry"):
            raise ModuleNotFoundError("No module named 'httpx'", name="httpx")
        return whole(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtraError, match=r"pipeline\[registry\]"):
        ConfluentRegistry("http://127.0.0.1:1")


def test_an_address_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="schema registry"):
        ConfluentRegistry("nonsense")
