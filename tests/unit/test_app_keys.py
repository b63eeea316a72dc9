"""Every type of key, and several at once, from the event to the reader."""

from __future__ import annotations

import base64
import json
import uuid
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest

import pipeline as pp
from pipeline.errors import DefinitionError
from pipeline.inference.request import RequestBatch, decode_requests
from pipeline.serve.client import FeatureClient
from pipeline.testing.driver import Driver
from pipeline.testing.fuzz import case
from tests.reference.entity import entity_key

SECOND = 10**9
CONTRACT = pp.Contract.load(
    {
        "title": "transfer",
        "type": "object",
        "properties": {
            "src": {"type": "string"},
            "dst": {"type": "string"},
            "account": {"type": "integer"},
            "device": {"type": "string", "format": "uuid"},
            "token": {"type": "string", "contentEncoding": "base64"},
            "at": {"type": "integer", "x-unix-time": "s"},
        },
        "required": ["src", "dst", "account", "device", "token", "at"],
    }
)
TYPES = {f.name: f.type.value for f in CONTRACT.fields}
TEXTS = ["ann", "a|b", "a\\", "{x}", "{", "}", "\0", "NaN", "null", "é", "x" * 30_000, " "]
NUMBERS = [0, -1, 7, 2**63 - 1, -(2**63)]
TOKENS = [b"\0", b"|", b"\\", b"\xff\xfe{}", b"plain"]
KEYS: list[tuple[str, ...]] = [
    ("src",), ("account",), ("device",), ("token",),
    ("src", "dst"), ("dst", "src"), ("account", "token"), ("device", "account", "src", "token"),
]  # fmt: skip


def rows() -> list[dict[str, Any]]:
    """Entities as Python values; each comes three times."""
    some = [
        {
            "src": TEXTS[i % len(TEXTS)],
            "dst": TEXTS[(i * 5 + 1) % len(TEXTS)],
            "account": NUMBERS[i % len(NUMBERS)],
            "device": uuid.UUID(int=i << 100 | i),
            "token": TOKENS[i % len(TOKENS)],
        }
        for i in range(20)
    ]
    return some * 3


def as_json(row: dict[str, Any], at: int) -> dict[str, Any]:
    token = base64.b64encode(row["token"]).decode()
    return {**row, "device": str(row["device"]).upper(), "token": token, "at": at}


def plain(row: dict[str, Any], name: str) -> int | bytes:
    value = row[name]
    return value if isinstance(value, int | bytes) else str(value).encode()


def key_of(row: dict[str, Any], key: tuple[str, ...]) -> bytes:
    found = entity_key([plain(row, name) for name in key], [TYPES[name] for name in key])
    assert found is not None
    return found


def driver_of(key: tuple[str, ...], max_records: int = 7) -> Driver:
    stream = pp.EventStream("transfers", contract=CONTRACT, key=key, time="at")
    view = pp.FeatureView(
        "pairs",
        source=stream,
        entity=list(key),
        features={
            "n": pp.count().over("1h", slide="1m"),
            "devices": pp.distinct("device").over("1h", slide="1m"),
            "tokens": pp.distinct("token").over("1h", slide="1m"),
        },
    )
    driver = Driver([view], [pp.Trigger("ask", view)], app="bank", max_records=max_records)
    for at, row in enumerate(rows()):
        driver.pipe("transfers", as_json(row, at))
    driver.run()
    return driver


@pytest.mark.parametrize("key", KEYS, ids="-".join)
def test_rows_changes_and_requests_carry_the_entity(key: tuple[str, ...]) -> None:
    driver = driver_of(key)
    wanted = {key_of(row, key) for row in rows()}
    assert set(driver.rows("pairs")) == wanted
    assert all(m.dead_lettered == 0 for m in driver.markers("pairs"))
    changes = driver.changes("pairs")
    assert changes.column_names[: len(key)] == list(key)
    entities = {entity_of(row, key) for row in changes.select(list(key)).to_pylist()}
    assert entities == {entity_of(row, key) for row in rows()}
    messages = driver.publisher.sent[driver.names.requests("ask")]
    asked = [decode_requests(value) for _, _, value in messages]
    named = [key for batch in asked for key in keys_of(batch)]
    assert sorted(named) == sorted(key_of(row, key) for row in rows())


def keys_of(batch: RequestBatch) -> list[bytes]:
    bounds = batch.key_offsets.tolist()
    return [batch.keys[a:b].tobytes() for a, b in pairwise(bounds)]


def entity_of(row: dict[str, Any], key: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(str(v) if isinstance(v := row[name], uuid.UUID) else v for name in key)


@pytest.mark.parametrize("key", KEYS, ids="-".join)
def test_reads_find_the_entity_however_it_is_spelled(key: tuple[str, ...]) -> None:
    driver = driver_of(key)
    query = FeatureClient(driver.store).prepare(["pairs"])
    assert query.entities == {name: TYPES[name] for name in key}
    distinct = {key_of(row, key): row for row in rows()}
    counts = [sum(key_of(r, key) == k for r in rows()) for k in distinct]
    columns = {name: [row[name] for row in distinct.values()] for name in key}
    spellings = [
        columns,
        {n: [str(v).upper() if n == "device" else v for v in c] for n, c in columns.items()},
        {n: as_arrow(n, c) for n, c in columns.items()},
    ]
    for given in spellings:
        table = query.read(given, at="event")
        assert table["n"].to_pylist() == counts
        assert set(table["pairs__status"].to_pylist()) == {"present"}
        assert [entity_of(r, key) for r in table.select(list(key)).to_pylist()] == [
            entity_of(r, key) for r in distinct.values()
        ]
    if len(key) == 1:
        assert query.read(columns[key[0]], at="event")["n"].to_pylist() == counts


def as_arrow(name: str, values: list[Any]) -> Any:
    if name == "device":
        return pa.array([v.bytes for v in values], pa.uuid())
    kinds = {"token": pa.large_binary(), "src": pa.string_view(), "dst": pa.large_string()}
    return pa.array(values, kinds.get(name, pa.int64()))


def test_rows_do_not_depend_on_the_batch_size() -> None:
    key = ("device", "account", "src", "token")
    assert driver_of(key, 1).rows("pairs") == driver_of(key, 1000).rows("pairs")


@pytest.mark.parametrize("wrong", [
    b"ann|7|", b"ann", b"7|ann", b"ann|07", b"ann|\\7", b"ann\\|7", b"", None, b"x" * 65_537
])  # fmt: skip
def test_a_message_key_that_is_not_the_entity_is_a_dead_letter(wrong: bytes | None) -> None:
    stream = pp.EventStream("transfers", contract=CONTRACT, key=["src", "account"], time="at")
    features = {"n": pp.count().over("1h", slide="1m")}
    view = pp.FeatureView("pairs", source=stream, entity=("src", "account"), features=features)
    driver = Driver([view], app="bank", partitions=1)
    row = {**rows()[0], "src": "ann", "account": 7}
    value = json.dumps(as_json(row, 0)).encode()
    driver.log.append("transfers", wrong, value, -1)
    driver.log.append("transfers", b"ann|7", value, -1)
    driver.run()
    (marker,) = driver.markers("pairs")
    assert (marker.applied, marker.dead_lettered) == (1, 1)
    (letter,) = driver.publisher.sent[driver.names.dead_letters]
    reason = json.loads(letter[2])["reason"]
    assert reason == {b"": "no_key", None: "no_key"}.get(
        wrong, "too_large" if wrong and len(wrong) > 65_536 else "key_mismatch"
    )


def test_braces_of_a_key_do_not_move_its_slot() -> None:
    """A cluster hashes what is between the first { and the next }, if that is not empty."""
    driver = driver_of(("src", "dst"))
    rows_stored = [key for key in driver.store.values if b":r:" in key]
    assert any(b"{x}" in key.partition(b":r:")[2] for key in rows_stored)
    for key in rows_stored:
        assert key[key.index(b"{") + 1 : key.index(b"}")] == b"bank:transfers:0"


def test_keys_that_no_record_has_are_missing() -> None:
    query = FeatureClient(driver_of(("src", "dst")).store).prepare(["pairs:n"])
    table = query.read({"src": ["", "x" * 70_000, "nobody"], "dst": ["", "y", "ann"]})
    assert table["pairs__status"].to_pylist() == ["missing"] * 3


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ([("ann", 1)], "name their entity, as this query has src, account, device, token"),
        ({"src": ["ann"]}, "account: keys of this entity are missing"),
        ({"src": ["a"], "account": [1, 2], "device": [], "token": []}, "differ in length"),
        ({"src": ["a"], "account": ["1"], "device": [], "token": []}, "account: keys are integers"),
        ({"src": [1], "account": [1], "device": [], "token": []}, "src: keys are strings"),
        ({"src": ["a"], "account": [1], "device": ["a"], "token": [b""]}, "device: 'a' is no uuid"),
        ({"src": ["a"], "account": [1], "device": [b""], "token": [b""]}, "device: keys are uuids"),
        ({"src": ["a"], "account": [1], "device": [uuid.UUID(int=1)], "token": ["a"]},
         "token: keys are bytes, got string"),
        ({"src": [None], "account": [1], "device": [], "token": []}, "src: 1 of 1 keys are null"),
        ({"src": ["\ud800"], "account": [1], "device": [], "token": []}, "src: not a column"),
        ({"other": [1]}, "other: no view of this query has it"),
    ],
)  # fmt: skip
def test_wrong_keys_name_the_field(keys: Any, says: str) -> None:
    driver = driver_of(("src", "account", "device", "token"))
    with pytest.raises(TypeError, match=says):
        FeatureClient(driver.store).prepare(["pairs"]).read(keys)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ((), r"EventStream\('t'\)\.key: .* no field name"),
        (("src", "src"), r"EventStream\('t'\)\.key: names 'src' twice"),
        (("src", "dest"), r"EventStream\('t'\)\.key: the contract has no field 'dest'"),
        (("src", "at"), r"EventStream\('t'\)\.key: 'at' is timestamp; a key is an integer"),
        ((1,), r"EventStream\('t'\)\.key: .* no field name"),
    ],
)
def test_a_wrong_key_is_named(key: Any, says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        pp.EventStream("t", contract=CONTRACT, key=key, time="at")


def test_one_field_is_the_same_alone_and_in_a_list() -> None:
    alone, listed = (pp.EventStream("t", CONTRACT, key, "at") for key in ("src", ["src"]))
    assert alone == listed
    features = {"n": pp.count().over("1h", slide="1m")}
    plans = [pp.FeatureView("v", alone, entity, features).plan for entity in ("src", ("src",))]
    assert plans[0] == plans[1]
    assert plans[0].fingerprint == 15759118412830912774  # as ever


@pytest.mark.parametrize("key", KEYS, ids="-".join)
@pytest.mark.parametrize("seed", range(3))
def test_views_of_any_key_agree_with_the_oracle(key: tuple[str, ...], seed: int) -> None:
    stream = pp.EventStream("transfers", contract=CONTRACT, key=key, time="at")
    made = case(seed, events=120, partitions=3, stream=stream)
    assert made.problems(max_records=13) == []
    assert len(made.oracle().entities) > 1
