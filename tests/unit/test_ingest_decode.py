"""JsonDecoder: the order of the checks, keys, times, and independence of batch cuts."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.errors import DefinitionError, UnknownNameError
from pipeline.ingest.batch import EventBatch, Reason, TopicPartition
from pipeline.ingest.decode import JsonDecoder
from pipeline.kernels.checks import is_decimal
from tests.reference import checks as reference
from tests.reference.hash import partition_of
from tests.reference.records import binary_batch, row

AT = Field("at", FieldType.TIMESTAMP, unit="ns")
INTEGERS = Contract("c", 1, (Field("id", FieldType.INT64), AT))
STRINGS = Contract("c", 1, (Field("id", FieldType.STRING), AT))
MAX_BYTES, PARTITIONS, FUTURE_MS, EARLIEST = 60, 3, 1000, 500
SOURCE = TopicPartition("events", 1)


def decode(contract: Contract, *args: Any, **kwargs: Any) -> EventBatch:
    """A batch through a decoder with small limits."""
    with np.errstate(over="ignore"):
        decoder = JsonDecoder(contract, "id", "at", PARTITIONS, FUTURE_MS, EARLIEST, MAX_BYTES)
        return decoder.decode(binary_batch(*args, source=SOURCE, **kwargs))


_integers = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.integers(-200, 200), st.sampled_from([0, -(2**63), -1])
)
_times = st.one_of(_integers, st.sampled_from([499, 500, 501, 10**9, 10**9 + 1, 2 * 10**9 + 1]))
_brokers = st.sampled_from([-1, 0, 1, 1000, 2**62, 2**63 - 1, 9_223_372_036_854])


@st.composite
def records(draw: st.DrawFn, entities: st.SearchStrategy[int | str]) -> tuple[Any, ...]:
    """(key, value, size, broker time, entity, event time), each sometimes wrong."""
    entity, time = draw(entities), draw(_times)
    key = draw(st.sampled_from([None, b"", b"0", str(entity).encode(), str(entity).encode()]))
    value = draw(
        st.sampled_from([None, b"", b"{}", json.dumps({"id": entity, "at": time}).encode()])
    )
    size = draw(st.sampled_from([0, 0, 0, 100])) + len(value or b"")
    return key, value, size, draw(_brokers), entity, time


def _expected(record: tuple[Any, ...]) -> Reason:
    key, value, size, broker, entity, time = record
    reason = reference.admit(key, value, size, SOURCE.partition, PARTITIONS, MAX_BYTES)
    if reason is Reason.TOMBSTONE:
        return reference.settle_tombstone(
            key, ["int64" if isinstance(entity, int) else "string"], broker
        )
    if reason is Reason.OK and value == b"{}":
        return Reason.SCHEMA
    return reason or reference.settle(key, entity, time, broker, FUTURE_MS, EARLIEST)


@pytest.mark.parametrize("contract", [INTEGERS, STRINGS], ids=["integers", "strings"])
@given(data=st.data())
def test_the_first_reason_in_order_counts(contract: Contract, data: st.DataObject) -> None:
    entities = _integers if contract is INTEGERS else st.text(max_size=4)
    rows = data.draw(st.lists(records(entities), min_size=1, max_size=10))
    events = decode(
        contract, [r[1] for r in rows], [r[0] for r in rows], [r[3] for r in rows],
        sizes=[r[2] for r in rows],
    )  # fmt: skip
    assert [Reason(r) for r in events.reason] == [_expected(r) for r in rows]
    assert len(events.rejects()) == sum(_expected(r) is not Reason.OK for r in rows)


@given(_integers, st.one_of(_integers.map(str), st.from_regex(r"-?[0-9 +]{0,20}", fullmatch=True)))
def test_is_decimal_is_equality_with_the_written_integer(value: int, text: str) -> None:
    for candidate in (text, str(value), "0" + str(value), str(value) + "0", str(value)[1:]):
        data = np.frombuffer(b"9" + candidate.encode() + b"9", dtype=np.uint8)
        got = is_decimal(data, 1, len(data) - 1, np.int64(value))
        assert bool(got) == (candidate == str(value)), candidate


def test_reasons_of_the_whole_order() -> None:
    assert _reasons() == list(Reason)[: Reason.TS_PAST + 1]


def _reasons() -> list[Reason]:
    good = _key_here()
    other = next(i for i in range(1, 100) if partition_of(str(i).encode(), PARTITIONS) == 0)
    key, text = str(good).encode(), '{{"id":{},"at":{}}}'
    rows: list[tuple[bytes | None, bytes | None, int]] = [
        (key, text.format(good, 600).encode(), -1),
        (key, b" " * 61, -1),
        (key, None, -1),
        (key, b"", -1),
        (None, b"{}", -1),
        (str(other).encode(), b"{}", -1),
        (key, b"{", -1),
        (key, b"{}", -1),
        (key, text.format(good, 2**63).encode(), -1),
        (key, text.format(other, 600).encode(), -1),
        (key, text.format(good, 1_000_000_001).encode(), 0),
        (key, text.format(good, 499).encode(), -1),
    ]
    events = decode(INTEGERS, [r[1] for r in rows], [r[0] for r in rows], [r[2] for r in rows])
    return [Reason(r) for r in events.reason]


def test_the_bounds_themselves_are_accepted() -> None:
    key = _key_here()
    rows = [(1_001_000_000, 1), (1_001_000_001, 1), (10**18, -1), (500, -1), (499, -1)]
    values = [f'{{"id":{key},"at":{at}}}'.encode() for at, _ in rows]
    events = decode(INTEGERS, values, [str(key).encode()] * 5, [broker for _, broker in rows])
    ok, future, past = Reason.OK, Reason.TS_FUTURE, Reason.TS_PAST
    assert events.reason.tolist() == [ok, future, ok, ok, past]


def test_a_value_at_the_limit_is_accepted_and_one_left_out_never() -> None:
    key = _key_here()
    value = f'{{"id":{key},"at":600}}'.encode()
    values = [value.ljust(MAX_BYTES), value.ljust(MAX_BYTES + 1), value, b""]
    sizes = [MAX_BYTES, MAX_BYTES + 1, len(value) + 1, 5]
    events = decode(INTEGERS, values, [str(key).encode()] * 4, sizes=sizes)
    large = Reason.TOO_LARGE
    assert events.reason.tolist() == [Reason.OK, large, large, large]


def _key_here() -> int:
    return next(i for i in range(1, 100) if partition_of(str(i).encode(), PARTITIONS) == 1)


def test_batch_cuts_do_not_show() -> None:
    rng = np.random.default_rng(11)
    values, keys = [], []
    for t in rng.integers(0, 20, 60).tolist():
        event = {"at": t, "id": f"é{t}\n", "z": [1]} if t % 3 else {"id": f"a{t}", "at": t}
        values.append(json.dumps(event).encode() if t else b"{")
        keys.append(str(event["id"]).encode())
    with np.errstate(over="ignore"):
        decoder = JsonDecoder(STRINGS, "id", "at", 1, earliest_ns=2)
        whole = decoder.decode(binary_batch(values, keys))
        cut = [
            decoder.decode(binary_batch(values[i : i + 7], keys[i : i + 7]))
            for i in range(0, 60, 7)
        ]
    assert whole.reason.tolist() == [reason for e in cut for reason in e.reason.tolist()]
    assert whole.rejects().counts().keys() == {"decode", "ts_past"}
    assert [row(whole, i) for i in range(60)] == [row(e, i) for e in cut for i in range(len(e))]


def test_an_empty_batch_is_a_batch() -> None:
    events = decode(INTEGERS, [], [])
    assert len(events) == 0
    assert events.rejects().counts() == {}


def test_writable_and_read_only_buffers_decode_alike() -> None:
    batch = binary_batch([b'{"id":1,"at":600}'], [b"1"])
    writable = dataclasses.replace(batch, payload=batch.payload.copy(), keys=batch.keys.copy())
    with np.errstate(over="ignore"):
        decoder = JsonDecoder(INTEGERS, "id", "at", 1)
        assert (
            row(decoder.decode(batch), 0)
            == row(decoder.decode(writable), 0)
            == {"id": 1, "at": 600}
        )


@pytest.mark.parametrize(
    ("key", "time", "partitions", "named"),
    [
        ("at", "at", 1, "c.at"),
        ("id", "id", 1, "c.id"),
        ("n", "at", 1, "c.n"),
        ("id", "at", 0, "c.p"),
    ],
)
def test_a_key_or_time_that_cannot_be_is_refused(
    key: str, time: str, partitions: int, named: str
) -> None:
    contract = Contract("c", 1, (*INTEGERS.fields, Field("n", FieldType.INT64, nullable=True)))
    with pytest.raises(DefinitionError, match=f"^{named}"):
        JsonDecoder(contract, key, time, partitions)


def test_an_unknown_key_field_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"'idd'.*id, at"):
        JsonDecoder(INTEGERS, "idd", "at", 1)
