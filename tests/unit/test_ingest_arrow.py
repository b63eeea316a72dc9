"""ArrowDecoder: rows of messages, all or none of each; keys, times, reasons, places."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest

from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.ingest.arrow import ArrowDecoder
from pipeline.ingest.arrowipc import write_message
from pipeline.ingest.batch import EventBatch, Reason, TopicPartition
from pipeline.ingest.envelope import Envelope
from tests.reference.records import binary_batch, row

CONTRACT = Contract(
    "c",
    1,
    (
        Field("id", FieldType.STRING),
        Field("at", FieldType.TIMESTAMP, unit="ms"),
        Field("x", FieldType.FLOAT64, nullable=True, required=False),
        Field("d", FieldType.DECIMAL, nullable=True, scale=2, required=False),
        Field("ok", FieldType.BOOL, nullable=True, required=False),
        Field("u", FieldType.UUID, nullable=True, required=False),
        Field("raw", FieldType.BYTES, nullable=True, required=False),
    ),
)
ID = UUID("0123ABCD-0000-1111-2222-333344445555")


@pytest.fixture(autouse=True)
def plain_kernels_may_overflow() -> Any:
    with np.errstate(over="ignore"):
        yield


def message(**columns: Any) -> bytes:
    n = max(len(values) for values in columns.values())
    columns.setdefault("at", pa.array([5] * n))
    return write_message(pa.record_batch(columns))


def decode(
    values: list[bytes | None], keys: list[bytes | None] | None = None, times: Any = -1,
    partition: int = 0, partitions: int = 1, **options: Any,
) -> EventBatch:  # fmt: skip
    envelope = Envelope(CONTRACT, "id", "at", partitions, 1000, 0, 10_000)
    batch = binary_batch(
        values, keys or [None] * len(values), times, source=TopicPartition("t", partition),
        first_offset=7,
    )  # fmt: skip
    return ArrowDecoder(CONTRACT, envelope, **options).decode(batch)


def reasons(events: EventBatch) -> list[str]:
    return [Reason(int(r)).name.lower() for r in events.reason]


def test_rows_become_events_of_every_type() -> None:
    events = decode(
        [
            message(
                id=["a", "é"],
                at=pa.array([1, 2], pa.int32()),
                x=pa.array([1.5, None], pa.float32()),
                d=[Decimal("-1.5"), None],
                ok=[True, None],
                u=pa.array([ID.bytes, None], pa.uuid()),
                raw=[b"\xff", None],
            ),
            message(id=["b"], u=[str(ID).upper()], at=[datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)]),
        ]
    )
    nothing = dict.fromkeys(["x", "d", "ok", "u", "raw"])
    assert [row(events, i) for i in range(3)] == [
        {"id": "a", "at": 10**6, "x": 1.5, "d": -150, "ok": True, "u": str(ID), "raw": b"\xff"},
        {"id": "é", "at": 2 * 10**6, **nothing},
        {"id": "b", "at": 10**9, **nothing, "u": str(ID)},
    ]
    assert reasons(events) == ["ok"] * 3
    assert [events.binary.key(i) for i in range(3)] == [b"a", "é".encode(), b"b"]
    assert events.binary.offsets.tolist() == [7 << 20, (7 << 20) + 1, 8 << 20]
    assert events.log_offsets.tolist() == [7, 7, 8]
    assert events.next_offset == 9


def test_a_message_is_taken_or_refused_whole() -> None:
    good = message(id=["a", "b"])
    bad_uuid = message(id=["a", "b"], u=[str(ID), "no"])
    late = message(id=["a", "b", "c"], at=[1, 2, 10**9])
    events = decode(
        [good, bad_uuid, late, b"noise", good[:-20], None, b"", message(id=["", "b"]), good],
        keys=[b"k"] * 9,
        times=[0, 0, 0, 0, 0, -1, 0, 0, 0],
    )
    assert reasons(events) == [
        "ok", "ok", "schema", "ts_future", "decode", "decode", "tombstone", "empty", "no_key",
        "ok", "ok",
    ]  # fmt: skip
    assert events.log_offsets.tolist() == [7, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15]
    rejects = events.rejects()
    assert [events.binary.key(int(i)) for i in rejects.index] == [b"k"] * 7
    assert events.binary.value(2) == bad_uuid
    assert events.binary.value(0) == good
    assert events.binary.value(1) == b""
    assert row(events, 10)["id"] == "b"


def test_the_first_reason_of_its_rows_is_the_messages() -> None:
    both = message(id=["a", "a", "a"], at=[10**9, 5, 5], u=[None, "no", None])
    assert reasons(decode([both], times=0)) == ["schema"]


def test_no_rows_and_too_many_bytes() -> None:
    none = write_message(
        pa.record_batch({"id": pa.array([], pa.string()), "at": pa.array([], pa.int64())})
    )
    events = decode([none, message(id=["x" * 20_000]), none])
    assert reasons(events) == ["empty", "too_large", "empty"]
    assert len(decode([])) == 0


def test_each_row_belongs_to_the_partition() -> None:
    names = [f"k{i}" for i in range(50)]
    events = [decode([message(id=[name])], partition=1, partitions=3) for name in names]
    here = [name for name, e in zip(names, events, strict=True) if reasons(e) == ["ok"]]
    away = [n for n in names if n not in here]
    assert here
    assert away
    assert {r for n, e in zip(names, events, strict=True) if n in away for r in reasons(e)} == {
        "misrouted"
    }
    assert reasons(decode([message(id=here)], partition=1, partitions=3)) == ["ok"] * len(here)
    mixed = decode([message(id=[*here, away[0]])], partition=1, partitions=3)
    assert reasons(mixed) == ["misrouted"]


def test_a_tombstone_deletes_the_entity_of_its_key() -> None:
    events = decode([None, message(id=["a"]), None], keys=[b"a", None, None], times=[3, 0, 3])
    assert reasons(events) == ["ok", "ok", "no_key"]
    assert events.tombstones.tolist() == [1, 0, 0]
    assert events.event_time[0] == 3_000_000


def test_decimals_beyond_int64_and_compressed_bodies() -> None:
    assert reasons(decode([message(id=["a"], d=[Decimal("92233720368547758.08")])])) == ["range"]
    fits = decode([message(id=["a"], d=[Decimal("-92233720368547758.08")])])
    assert row(fits, 0)["d"] == -(2**63)
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"id": ["a"] * 100, "at": [5] * 100})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    data = sink.getvalue().to_pybytes()
    assert reasons(decode([data])) == ["decode"]
    assert reasons(decode([data], compressed=True)) == ["ok"] * 100


def test_batch_cuts_do_not_show() -> None:
    values: list[bytes | None] = [message(id=[f"a{i}", "b"][: 1 + i % 2]) for i in range(9)]
    values[4] = b"x"
    whole = decode(values)
    batch = binary_batch(values, [None] * 9, source=TopicPartition("t", 0), first_offset=7)
    decoder = ArrowDecoder(CONTRACT, Envelope(CONTRACT, "id", "at", 1))
    parts = []
    for i in range(9):
        one = binary_batch([values[i]], [None], source=batch.source, first_offset=7 + i)
        parts.append(decoder.decode(one))
    assert [o for p in parts for o in p.binary.offsets.tolist()] == whole.binary.offsets.tolist()
    assert [r for p in parts for r in p.reason.tolist()] == whole.reason.tolist()
