"""Request messages: encode and decode, refusals, row ids, packed predictions and progress."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import CorruptRowError
from pipeline.inference.ipc import RefusedError, read_batch, write_batch
from pipeline.inference.prediction import Outcome, Prediction, pack_predictions
from pipeline.inference.progress import Progress, fresh_rows
from pipeline.inference.request import (
    COLUMNS,
    RequestBatch,
    RequestOrigin,
    decode_requests,
    encode_requests,
)
from pipeline.ingest.batch import Reason

ORIGIN = RequestOrigin("view", (1 << 64) - 1, "app", "topic", "AAAAAAAAAAAAAAAAAAAAAA")
NAMES = ("a", "b")


@pytest.fixture(autouse=True)
def _wrapping() -> Iterator[None]:
    """Hashes wrap around; NumPy's scalars, used with JIT off, warn of it."""
    with np.errstate(over="ignore"):
        yield


def message(n: int = 3, **changes: Any) -> bytes:
    keys = [f"k{i}".encode() for i in range(n)]
    chosen: dict[str, Any] = {
        "keys": np.frombuffer(b"".join(keys), dtype=np.uint8),
        "key_offsets": np.cumsum([0] + [len(k) for k in keys]).astype(np.int64),
        "source_partition": 4,
        "source_offset": np.arange(n, dtype=np.int64) + 10,
        "trigger": "t",
        "event_time": np.arange(n, dtype=np.int64) - 5,
        "requested_at_ms": 1234,
        "names": NAMES,
        "features": np.arange(2 * n, dtype=np.float64).reshape(n, 2),
        **changes,
    }
    return encode_requests(ORIGIN, **chosen)


def test_round_trip() -> None:
    valid = np.array([[1, 1], [0, 1], [1, 0]], dtype=np.uint8)
    requests = decode_requests(message(valid=valid, trigger=["x", "y", "x"]), NAMES)
    assert requests.origin == ORIGIN
    assert requests.keys.tobytes() == b"k0k1k2"
    assert requests.key_offsets.tolist() == [0, 2, 4, 6]
    assert requests.source_partition.tolist() == [4, 4, 4]
    assert requests.source_offset.tolist() == [10, 11, 12]
    assert [requests.triggers[i] for i in requests.trigger] == ["x", "y", "x"]
    assert requests.event_time.tolist() == [-5, -4, -3]
    assert requests.requested_at_ms.tolist() == [1234] * 3
    assert requests.features == {"a", "b"}
    assert requests.block(("b", "a"), -1.0).tolist() == [[1, 0], [3, -1], [-1, 4]]
    assert math.isnan(requests.block(NAMES, math.nan)[1, 0])
    keys, offsets = requests.keys_of(np.array([0, 2]))
    assert (keys.tobytes(), offsets.tolist()) == (b"k0k2", [0, 2, 4])


@pytest.mark.parametrize("n", [0, 1, 65_537])
def test_sizes(n: int) -> None:
    requests = decode_requests(message(n), NAMES)
    assert len(requests) == n
    assert requests.block(NAMES, 0.0).shape == (n, 2)


def test_values_that_float32_does_not_hold() -> None:
    features = np.array([[1e300, -0.0], [math.inf, 5e-324], [math.nan, -1e300]])
    block = decode_requests(message(features=features), NAMES).block(NAMES, -1.0)
    assert block[0, 0] == math.inf
    assert block[1].tolist() == [math.inf, 0]
    assert block[2].tolist() == [-1, -math.inf]


def table(data: bytes) -> pa.RecordBatch:
    return pa.ipc.open_stream(data).read_next_batch()


def rewritten(data: bytes, **options: Any) -> bytes:
    batch = table(data)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(**options)) as out:
        out.write_batch(batch)
    return sink.getvalue().to_pybytes()


def changed(name: str, column: pa.Array[Any], position: int | None = None) -> bytes:
    batch = table(message())
    columns = {n: batch.column(n) for n in batch.schema.names}
    columns[name] = column
    metadata = {k.decode(): v.decode() for k, v in batch.schema.metadata.items()}
    return write_batch(columns, metadata)


def null_like(name: str) -> pa.Array[Any]:
    return pa.array([None] * 3, COLUMNS[name])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY),
        (b"noise" * 100, Reason.DECODE),
        (message()[:-8], Reason.DECODE),
        (message()[:-9], Reason.DECODE),
        (message() + b"more", Reason.DECODE),
        (message()[:300], Reason.DECODE),
        (rewritten(message(1_000), compression="zstd"), Reason.DECODE),
        (rewritten(message(1_000), compression="lz4"), Reason.DECODE),
        (changed("source_offset", pa.array([1, 2, 3], pa.int32())), Reason.SCHEMA),
        (changed("event_time", pa.array([1, 2, 3], pa.timestamp("us", "UTC"))), Reason.SCHEMA),
        (changed("event_time", pa.array([1, 2, 3], pa.timestamp("ns"))), Reason.SCHEMA),
        (changed("a", pa.array([1, 2, 3], pa.int64())), Reason.SCHEMA),
        (changed("source_offset", pa.array([-1, 2, 3], pa.int64())), Reason.RANGE),
        (changed("source_partition", pa.array([1, -2, 3], pa.int32())), Reason.RANGE),
        (changed("entity_key", pa.array([b"", b"a", b"b"], pa.binary())), Reason.NO_KEY),
        *[(changed(name, null_like(name)), Reason.SCHEMA) for name in COLUMNS],
        (write_batch({"x": pa.array([1])}, {}), Reason.SCHEMA),
    ],
)
def test_refusals_carry_their_reason(data: bytes, reason: Reason) -> None:
    with pytest.raises(RefusedError) as refused:
        decode_requests(data, NAMES)
    assert refused.value.reason is reason


def test_a_missing_feature_is_named_and_an_extra_one_is_not_minded() -> None:
    with pytest.raises(RefusedError, match="features c"):
        decode_requests(message(), ("a", "c"))
    assert len(decode_requests(message(), ("b",))) == 3


@pytest.mark.parametrize("name", ["view", "fingerprint", "app", "topic", "topic_id", "rows"])
def test_metadata_is_needed(name: str) -> None:
    batch = table(message())
    metadata = {k: v for k, v in batch.schema.metadata.items() if k != name.encode()}
    sink = pa.BufferOutputStream()
    batch = batch.replace_schema_metadata(metadata)
    with pa.ipc.new_stream(sink, batch.schema) as out:
        out.write_batch(batch)
    with pytest.raises(RefusedError):
        decode_requests(sink.getvalue().to_pybytes(), NAMES)


def test_string_offsets_out_of_the_buffer_are_refused() -> None:
    data = bytearray(message())
    at = bytes(data).find(b"k0k1k2")
    offsets = np.array([0, 2, 4, 6], dtype=np.int32).tobytes()
    where = bytes(data).rfind(offsets, 0, at)
    assert where > 0
    data[where + 12 : where + 16] = np.int32(2_000_000_000).tobytes()
    with pytest.raises(RefusedError):
        decode_requests(bytes(data), NAMES)


@pytest.mark.parametrize("seed", range(200))
def test_flipped_bytes_never_escape(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(message(20, trigger=["a", "b"] * 10))
    for _ in range(int(rng.integers(1, 6))):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    try:
        requests = decode_requests(bytes(data), NAMES)
        requests.block(NAMES, 0.0)
        fresh_rows(requests, {})
    except RefusedError:
        pass  # a flip in a value leaves a good message


@pytest.mark.data
def test_the_arrow_fuzz_files_never_escape(data_dir: Path) -> None:
    files = sorted((data_dir / "arrow_ipc_fuzz").rglob("*"))
    seen = 0
    for path in files:
        if path.is_file():
            seen += 1
            with pytest.raises(RefusedError):
                decode_requests(path.read_bytes(), NAMES)
    assert seen > 100


def test_ipc_round_trip_counts_rows() -> None:
    batch = read_batch(write_batch({"x": pa.array([1, 2])}, {"k": "v"}))
    assert batch.schema.metadata == {b"k": b"v", b"rows": b"2"}


def batch_of(offsets: list[int], partitions: list[int], triggers: list[str]) -> RequestBatch:
    data = message(
        len(offsets),
        source_offset=np.array(offsets, dtype=np.int64),
        source_partition=np.array(partitions, dtype=np.int32),
        trigger=triggers,
    )
    return decode_requests(data, NAMES)


@pytest.mark.parametrize("seed", range(20))
def test_fresh_rows_equal_a_set_of_seen_ids(seed: int) -> None:
    """Twin: a set of ids, for senders that repeat from an earlier offset on, in order."""
    rng = np.random.default_rng(seed)
    highest: dict[tuple[int, int], int] = {}
    seen: set[tuple[int, str, int]] = set()
    position: dict[tuple[int, str], int] = {}
    for _ in range(20):
        rows: list[tuple[int, str, int]] = []
        for _ in range(int(rng.integers(1, 30))):
            stream = (int(rng.integers(2)), "xy"[int(rng.integers(2))])
            back = int(rng.integers(0, 3)) if rng.random() < 0.2 else 0
            at = max(position.get(stream, 0) - back, 0)
            rows.append((*stream, at))
            position[stream] = at + 1
        requests = batch_of([r[2] for r in rows], [r[0] for r in rows], [r[1] for r in rows])
        fresh, update = fresh_rows(requests, highest)
        expected = []
        for i, row in enumerate(rows):
            if row not in seen:
                expected.append(i)
            seen.add(row)
        assert fresh.tolist() == expected, seed
        highest.update(update)


def test_streams_differ_by_trigger_view_and_topic() -> None:
    others = [
        ORIGIN.stream("a"),
        ORIGIN.stream("b"),
        RequestOrigin("view", 1, "app", "topic", ORIGIN.topic_id).stream("a"),
        RequestOrigin("view", ORIGIN.fingerprint, "app", "topic2", ORIGIN.topic_id).stream("a"),
        RequestOrigin("view", ORIGIN.fingerprint, "app", "topic", "").stream("a"),
    ]
    assert len(set(others)) == len(others)


def test_progress_round_trip_and_corruption() -> None:
    progress = Progress({((1 << 64) - 1, 3): 5, (1, 0): 2**62}, [1, 2, 3, 4, 5])
    data = progress.pack()
    assert Progress.unpack(data) == progress
    assert len(Progress().pack()) == 52
    for i in range(len(data)):
        bad = bytearray(data)
        bad[i] ^= 0x10
        with pytest.raises(CorruptRowError, match="mine"):
            Progress.unpack(bytes(bad), "mine")
    with pytest.raises(CorruptRowError):
        Progress.unpack(b"")


def packed(outcome: Outcome = Outcome.PREDICTED, score: float = 12.5) -> bytes:
    requests = decode_requests(message(), NAMES)
    row = pack_predictions(
        requests,
        np.array([1]),
        np.array([outcome], dtype=np.uint8),
        np.array([score]),
        0x0123456789ABCDEF,
        np.array([1_700_000_000_000]),
    )
    return row.tobytes()


def test_prediction_golden_bytes() -> None:
    expected = (
        "5052" "01" "00" "04000000" "0000000000002940" "fcffffffffffffff" "0b00000000000000"
        "efcdab8967452301" "0068e5cf8b010000"
    )  # fmt: skip
    data = packed()
    assert len(data) == 56
    assert data[:48].hex() == expected
    assert Prediction.unpack(data) == Prediction(
        Outcome.PREDICTED, 12.5, -4, 4, 11, 0x0123456789ABCDEF, 1_700_000_000_000
    )


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_round_trips(outcome: Outcome) -> None:
    assert Prediction.unpack(packed(outcome, math.nan)).outcome is outcome


def test_a_flipped_bit_is_found() -> None:
    data = packed()
    for i in range(len(data)):
        bad = bytearray(data)
        bad[i] ^= 1
        with pytest.raises(CorruptRowError, match="mine"):
            Prediction.unpack(bytes(bad), "mine")
    with pytest.raises(CorruptRowError):
        Prediction.unpack(data[:-1])
