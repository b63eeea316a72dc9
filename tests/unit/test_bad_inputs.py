"""Bad inputs, each by its number: a dead letter with its reason, or the stated refusal.

====  =========================================================================================
B1    here; tombstones: test_app_tombstones
B2    here
B3    here
B4    here; test_app_keys: test_braces_of_a_key_do_not_move_its_slot
B5    here
B6    test_ingest_arrow: test_offsets_beyond_the_buffer_and_text_that_is_none
B7    test_ingest_arrow: the same, with dictionaries and other malformed buffers
B8    test_ingest_arrow: test_compressed_bodies_are_refused_unless_allowed
B9    test_ingest_arrow: test_malformed_files_of_arrows_own_fuzzers (the 135 files)
B10   test_ingest_arrow: test_a_stream_must_end_or_say_its_rows
B11   here for JSON; test_ingest_arrow, test_kernels_avro, test_kernels_protobuf for the others
B12   test_ingest_registry
B13   test_ingest_membership: test_an_offset_that_gives_one_error_again_and_again_is_named
B14   here; test_engine_cases 24
B15   test_engine_cases: test_24_a_nan_is_a_null_and_an_infinity_a_number
B16   test_engine_cases 23, test_state_*: null columns, batches of 0, 1 and 2^16 + 1 rows
B17   here
B18   here
B19   test_engine_cases: 2, 3; test_state_windows
B20   test_engine_cases 8; test_app_dedup
B21   test_engine_cases: test_19_gaps_in_offsets_are_no_records_and_nothing_waits_for_them
B22   faults/test_app_broker: recreated and truncated topics
B23   test_engine_cases 1; integration/test_card_payments
B24   faults/test_cardinality; test_engine_cases 20
B25   here for the portable way of records; contract/test_lanes: headers are not looked at
B26   test_features_*, test_config: test_a_wrong_setting_names_key_origin_and_what_is_right
B27   no rule text is taken: expressions are polars', and what looks beyond a row is refused
B28   there is no HTTP interface
B29   test_inference_model: pickles, external data, wrong names and shapes, NaN
B30   integration/test_dirty_data
====  =========================================================================================
"""

from __future__ import annotations

import json
import random
import struct
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import pipeline as pp
from pipeline.ingest.batch import TopicPartition
from pipeline.ingest.deadletter import DeadLetter
from pipeline.testing.driver import Driver
from pipeline.testing.log import MemoryLog

NOW_MS = 1_700_000_000_000
LIMIT = 64 << 10
CONTRACT = pp.Contract.load(
    {
        "title": "payment",
        "type": "object",
        "properties": {
            "user": {"type": "string"},
            "amount": {"type": ["number", "null"], "x-decimal": 2},
            "count": {"type": ["integer", "null"]},
            "score": {"type": ["number", "null"]},
            "flag": {"type": ["boolean", "null"]},
            "at": {"type": "integer", "x-unix-time": "ms"},
        },
        "required": ["user", "at"],
    }
)


def driver(**options: Any) -> Driver:
    stream = pp.EventStream(
        "payments", contract=CONTRACT, key="user", time="at", max_value_bytes=LIMIT,
        earliest=datetime(2020, 1, 1, tzinfo=UTC), **options,
    )  # fmt: skip
    view = pp.FeatureView(
        "spending", source=stream, entity="user",
        features={
            "n": pp.count().over("1h", slide="1m"),
            "amount": pp.sum("amount").over("1h", slide="1m"),
            "count": pp.sum("count").over("1h", slide="1m"),
            "score": pp.sum("score").over("1h", slide="1m"),
        },
    )  # fmt: skip
    log = MemoryLog()
    log.create("payments", 1)
    return Driver([view], log=log)


def event(**fields: Any) -> dict[str, Any]:
    return {"user": "ada", "amount": 1.25, "count": 1, "at": NOW_MS, **fields}


def good() -> bytes:
    return json.dumps(event()).encode()


def with_text(field: str, text: bytes) -> bytes:
    """A payment in which the text of one value is exactly this."""
    named = json.dumps(event(**{field: "@@"})).encode()
    return named.replace(b'"@@"', text)


def noise(size: int) -> bytes:
    return random.Random(3).randbytes(size)


DEEP = b'{"user":"ada","at":1700000000000,"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
CASES: dict[str, tuple[bytes | None, bytes | None, str | None]] = {
    "B1 empty": (b"ada", b"", "empty"),
    "B1 tombstone": (b"ada", None, None),
    "B2 null key": (None, good(), "no_key"),
    "B2 empty key": (b"", good(), "no_key"),
    "B2 another key": (b"bob", good(), "key_mismatch"),
    "B3 noise": (b"ada", noise(500), "decode"),
    "B3 truncated": (b"ada", good()[:-5], "decode"),
    "B3 truncated in a text": (b"ada", good()[:10], "decode"),
    "B3 two documents": (b"ada", good() + good(), "decode"),
    "B3 deep": (b"ada", DEEP, "decode"),
    "B3 scalar": (b"ada", b"17", "decode"),
    "B3 array": (b"ada", b"[1, 2]", "decode"),
    "B3 null": (b"ada", b"null", "decode"),
    "B3 a name twice": (b"ada", b'{"user":"ada","count":1,"count":5,"at":1700000000000}', "decode"),
    "B3 long number": (b"ada", with_text("amount", b"9" * 5_000), "range"),
    "B4 bad utf-8": (b"ada", with_text("user", b'"\xff\xfe"'), "decode"),
    "B4 lone surrogate": (b"ada", with_text("user", rb'"\ud800"'), "decode"),
    "B4 overlong utf-8": (b"ada", with_text("user", b'"\xc0\xaf"'), "decode"),
    "B4 raw control": (b"ada", with_text("user", b'"a\x00"'), "decode"),
    "B4 key too long": (b"k" * (64 * 1024 + 1), good(), "too_large"),
    "B5 too large": (b"ada", b" " * (LIMIT + 1), "too_large"),
    "B11 missing": (b"ada", b'{"amount":1,"at":1700000000000}', "schema"),
    "B11 required null": (b"ada", with_text("at", b"null"), "schema"),
    "B11 text for a number": (b"ada", with_text("count", b'"7"'), "schema"),
    "B11 number for a text": (b"ada", with_text("user", b"7"), "schema"),
    "B11 number for a bool": (b"ada", json.dumps(event(flag=1)).encode(), "schema"),
    "B11 object for a number": (b"ada", with_text("amount", b'{"a":1}'), "schema"),
    "B11 fraction for an integer": (b"ada", with_text("count", b"1.5"), "schema"),
    "B14 bare NaN": (b"ada", with_text("score", b"NaN"), "decode"),
    "B14 bare Infinity": (b"ada", with_text("score", b"-Infinity"), "decode"),
    "B14 beyond int64": (b"ada", with_text("count", b"9223372036854775808"), "range"),
    "B14 beyond float64": (b"ada", with_text("score", b"1e400"), "range"),
    "B14 more digits than the decimal": (b"ada", with_text("amount", b"0.001"), "range"),
    "B17 next century": (b"ada", with_text("at", b"3726000000000"), "ts_future"),
    "B17 year 9999": (b"ada", with_text("at", b"253402300799000"), "range"),
    "B17 last int64": (b"ada", with_text("at", b"9223372036854775807"), "range"),
    "B17 seconds as ms": (b"ada", with_text("at", b"1700000000"), "ts_past"),
    "B18 zero": (b"ada", with_text("at", b"0"), "ts_past"),
    "B18 negative": (b"ada", with_text("at", b"-1"), "ts_past"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_record_is_refused_and_all_others_are_applied(name: str) -> None:
    key, value, reason = CASES[name]
    run = driver()
    run.log.append("payments", b"ada", good(), NOW_MS)
    run.log.append("payments", key, value, NOW_MS, partition=0)
    run.log.append("payments", b"ada", good(), NOW_MS)
    began = time.thread_time()
    run.run()
    assert time.thread_time() - began < 60  # compilation included; nothing is quadratic
    (marker,) = run.markers("spending")
    letters = [
        DeadLetter.from_message(k or b"", v)
        for _, k, v in run.publisher.sent.get("test-dead-letter", [])
    ]
    refused = 0 if reason is None else 1
    assert (marker.next_offset, marker.consumed, marker.dead_lettered) == (3, 3, refused)
    assert marker.applied + marker.late == 3 - refused
    assert [letter.reason for letter in letters] == ([] if reason is None else [reason])
    for letter in letters:
        assert (letter.topic, letter.partition, letter.offset) == ("payments", 0, 1)
        assert letter.size == len(value or b"")
        assert letter.value == (value or b"")[:1024]
    if reason is not None:
        assert answers(run) == pytest.approx({"n": 2, "amount": 2.5, "count": 2, "score": 0.0})


def answers(run: Driver) -> dict[str, Any]:
    """Features of ada as of the events."""
    names = ("n", "amount", "count", "score")
    with pp.FeatureClient(run.store, "test") as client:
        query = client.prepare([f"spending:{name}" for name in names])
        (row,) = query.read({"user": ["ada"]}, at="event").to_pylist()
    found = [row.get(name, row.get(f"spending:{name}")) for name in names]
    return {n: None if v is None else float(v) for n, v in zip(names, found, strict=True)}


def test_b14_extremes_that_fit_are_numbers() -> None:
    run = driver()
    for text in (b"5e-324", b"-0.0", b"1e308"):
        run.log.append("payments", b"ada", with_text("score", text), NOW_MS)
    run.log.append("payments", b"ada", with_text("count", b"-9223372036854775808"), NOW_MS)
    run.run()
    (marker,) = run.markers("spending")
    assert (marker.applied, marker.dead_lettered) == (4, 0)
    found = answers(run)
    assert struct.pack("<d", found["score"]) == struct.pack("<d", 5e-324 + -0.0 + 1e308)


def test_b17_a_time_from_the_future_changes_nothing_else() -> None:
    quiet, run = driver(), driver()
    for each in (quiet, run):
        each.log.append("payments", b"ada", good(), NOW_MS)
    run.log.append("payments", b"ada", with_text("at", b"3726000000000"), NOW_MS)
    for each in (quiet, run):
        each.run()
    assert run.rows("spending") == quiet.rows("spending")
    (before,), (after,) = quiet.markers("spending"), run.markers("spending")
    assert after.processed_through_ms == before.processed_through_ms


def test_a_batch_of_every_bad_record_at_once() -> None:
    run = driver()
    wanted: dict[str, int] = {}
    for key, value, reason in CASES.values():
        if reason is not None:
            wanted[reason] = wanted.get(reason, 0) + 1
            run.log.append("payments", key, value, NOW_MS, partition=0)
            run.log.append("payments", b"ada", good(), NOW_MS, partition=0)
    run.run()
    letters = [
        DeadLetter.from_message(k or b"", v) for _, k, v in run.publisher.sent["test-dead-letter"]
    ]
    found: dict[str, int] = {}
    for letter in letters:
        found[letter.reason] = found.get(letter.reason, 0) + 1
    assert found == wanted
    total = sum(wanted.values())
    (marker,) = run.markers("spending")
    assert (marker.consumed, marker.applied, marker.dead_lettered) == (2 * total, total, total)
    assert run.lane.at_end(TopicPartition("payments", 0))


def test_every_test_that_is_named_is_there() -> None:
    root = Path(__file__).parents[1]
    places = {p.stem: p for p in root.rglob("test_*.py")}
    text = (__doc__ or "").replace("\n", " ")
    named = {word.strip(".,;:()").split("/")[-1] for word in text.split() if "test_" in word}
    functions = {name for name in named if name not in places and "*" not in name}
    sources = "".join(path.read_text() for path in places.values())
    assert {name for name in functions if f"def {name}(" not in sources} == set()
