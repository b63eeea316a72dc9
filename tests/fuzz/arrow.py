"""Arrow IPC messages: each is read or refused; what is read is valid and of the wanted types."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.ingest.arrow import ArrowDecoder
from pipeline.ingest.arrowipc import write_message
from pipeline.ingest.batch import Reason
from pipeline.ingest.columns import to_arrow
from pipeline.ingest.envelope import Envelope
from tests.fuzz.run import Target
from tests.reference.records import binary_batch

CONTRACT = Contract(
    "c",
    1,
    (
        Field("id", FieldType.INT64),
        Field("at", FieldType.TIMESTAMP, unit="ms"),
        Field("s", FieldType.STRING, nullable=True, required=False),
        Field("x", FieldType.FLOAT64, nullable=True, required=False),
        Field("d", FieldType.DECIMAL, nullable=True, scale=2, required=False),
        Field("ok", FieldType.BOOL, nullable=True, required=False),
        Field("u", FieldType.UUID, nullable=True, required=False),
        Field("raw", FieldType.BYTES, nullable=True, required=False),
    ),
)
UUID = "01234567-89ab-CDEF-0000-111122223333"


def seeds() -> list[bytes]:
    """Messages with columns of many types and layouts, compressed ones too."""
    ids, times = pa.array([1, 2, 3], pa.int32()), pa.array([1, 2, 3], pa.timestamp("us", "UTC"))
    texts = pa.array(["a", None, "é" * 20])
    batches = [
        pa.record_batch({"id": ids, "at": times, "s": texts, "x": pa.array([1.5, None, 0.0])}),
        pa.record_batch({"id": ids, "at": times, "s": texts.dictionary_encode(), "u": [UUID] * 3}),
        pa.record_batch(
            {"id": ids, "at": ids, "s": texts.cast(pa.string_view()), "ok": [True, None, False]}
        ),
        pa.record_batch(
            {
                "id": ids, "at": times, "d": [Decimal("1.2"), None, Decimal("-3")],
                "raw": pa.array([b"x", b"", None]), "u": pa.array([b"0" * 16] * 3, pa.uuid()),
                "more": [[1], [2, 3], None], "union": pa.array([{"a": 1}, None, {"a": 2}]),
            }
        ),
    ]  # fmt: skip
    found = [write_message(batch) for batch in batches]
    for codec in ("lz4", "zstd", None):
        sink = pa.BufferOutputStream()
        options: Any = pa.ipc.IpcWriteOptions(compression=codec)
        with pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
            writer.write_batch(batches[0])
            writer.write_batch(batches[0])
        found.append(sink.getvalue().to_pybytes())
    return found


def check(values: Sequence[bytes]) -> list[str]:
    """Decode, with and without compressed bodies, and touch every value."""
    envelope = Envelope(CONTRACT, "id", "at", 1, earliest_ns=-(2**63))
    batch = binary_batch(values, [None] * len(values))
    answers = [""] * len(values)
    for compressed in (False, True):
        events = ArrowDecoder(CONTRACT, envelope, compressed=compressed).decode(batch)
        frame = to_arrow(events, CONTRACT.names)
        frame.validate(full=True)
        number = events.log_offsets
        if not np.array_equal(np.unique(number), batch.offsets):
            raise AssertionError("a message is neither read nor refused")
        for i in range(len(values)):
            rows = np.flatnonzero(number == i)
            reasons = {Reason(int(r)).name.lower() for r in events.reason[rows]}
            if len(reasons) > 1 or (reasons != {"ok"} and len(rows) != 1):
                raise AssertionError(f"half a message: {reasons}, {len(rows)} rows")
            answers[i] += f"{reasons.pop()} {len(rows)} "
    return answers


def target() -> Target:
    return Target("arrow", seeds(), check)
