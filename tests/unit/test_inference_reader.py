"""Reading many request messages at a time equals reading each in full, whatever the bytes are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import pipeline.inference.reader as reader_module
from pipeline.inference.reader import Read, Refused, RequestReader
from pipeline.inference.request import RequestOrigin, decode_requests, encode_requests
from pipeline.ingest.batch import BinaryBatch, TopicPartition
from pipeline.testing.log import LoggedRecord, binary_batch
from tests.reference.requests import Message, read_each

NAMES = ("b", "a")
SENT = ("a", "extra", "b")


@pytest.fixture(autouse=True)
def _wrapping() -> Iterator[None]:
    """Hashes wrap around; NumPy's scalars, used with JIT off, warn of it."""
    with np.errstate(over="ignore"):
        yield


def batch_of(values: Sequence[bytes | None]) -> BinaryBatch:
    records = [LoggedRecord(i, None, value, 0) for i, value in enumerate(values)]
    return binary_batch(TopicPartition("requests", 0), records)


def message(rng: np.random.Generator, n: int, **changes: Any) -> bytes:
    keys = [bytes(rng.integers(0, 256, int(rng.integers(1, 12)), dtype=np.uint8)) for _ in range(n)]
    features = rng.normal(size=(n, len(SENT)))
    features[rng.random(features.shape) < 0.2] = rng.choice([math.nan, math.inf, -0.0, 1e300])
    valid = (rng.random(features.shape) < 0.8).astype(np.uint8) if rng.random() < 0.5 else None
    chosen: dict[str, Any] = {
        "origin": RequestOrigin("view", 7, "app", "topic", ""),
        "keys": np.frombuffer(b"".join(keys), dtype=np.uint8),
        "key_offsets": np.cumsum([0, *map(len, keys)]).astype(np.int64),
        "source_partition": int(rng.integers(3)),
        "source_offset": rng.integers(0, 2**62, n),
        "trigger": "t" if rng.random() < 0.7 else [str(t) for t in rng.choice(["x", "y"], n)],
        "event_time": rng.integers(-(2**62), 2**62, n),
        "requested_at_ms": rng.integers(0, 2**40, n),
        "names": SENT,
        "features": features,
        "valid": valid,
        **changes,
    }
    return encode_requests(chosen.pop("origin"), **chosen)


def read(reader: RequestReader, batch: BinaryBatch, first: int = 0) -> list[Message]:
    """What the reader says, message by message."""
    told: list[Message] = []
    for found in reader.read(batch, first):
        assert found.first == first
        if isinstance(found, Refused):
            told.append(found.reason)
            first += 1
            continue
        requests, ends = found.requests, found.ends.tolist()
        assert len(ends) == found.last - found.first + 1
        assert ends[-1] == len(requests) == len(found.block)
        for begin, end in pairwise(ends):
            rows = []
            for k in range(begin, end):
                start, stop = requests.key_offsets[k : k + 2]
                rows.append((
                    requests.keys[start:stop].tobytes(), int(requests.source_partition[k]),
                    int(requests.source_offset[k]), requests.triggers[requests.trigger[k]],
                    int(requests.event_time[k]), int(requests.requested_at_ms[k]),
                ))  # fmt: skip
            told.append((requests.origin, rows, found.block[begin:end].tobytes()))
        first = found.last
    return told


def flipped(rng: np.random.Generator, value: bytes) -> bytes:
    data = bytearray(value)
    for _ in range(int(rng.integers(1, 4))):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    return bytes(data)


def cut(rng: np.random.Generator, value: bytes) -> bytes:
    return value[: int(rng.integers(len(value)))]


@pytest.mark.parametrize("null_value", [-1.0, math.nan])
@pytest.mark.parametrize("seed", range(40))
def test_it_equals_reading_each(seed: int, null_value: float) -> None:
    rng = np.random.default_rng(seed)
    reader = RequestReader(NAMES, null_value)
    for _ in range(4):  # what is known from the batches before is used
        values: list[bytes | None] = []
        for _ in range(int(rng.integers(1, 25))):
            origin = RequestOrigin("view", int(rng.integers(2)), "app", "topic", "")
            value = message(rng, int(rng.choice([0, 1, 2, 9])), origin=origin)
            kind = rng.random()
            if kind < 0.15:
                value = flipped(rng, value)
            elif kind < 0.2:
                value = cut(rng, value)
            values.append(None if kind > 0.97 else value)
        batch = batch_of(values)
        expected = read_each(batch, NAMES, null_value)
        assert read(reader, batch) == expected, seed
        first = int(rng.integers(len(values) + 1))
        assert read(reader, batch, first) == expected[first:], seed


@pytest.mark.parametrize("seed", range(60))
def test_changes_behind_the_prefix_are_read_as_before(seed: int) -> None:
    """The bytes that only the kernels look at: metadata, keys, indices and bits of validity."""
    rng = np.random.default_rng(seed)
    reader = RequestReader(NAMES, 0.0)
    n = int(rng.choice([1, 3, 9]))
    good = message(rng, n, trigger=rng.choice(["x", "y"], n).tolist())
    list(reader.read(batch_of([good])))
    (prefix,) = reader._layouts
    values: list[bytes | None] = []
    for _ in range(30):
        data = bytearray(good)
        last = min(len(data) - 4, len(prefix) + int(rng.choice([40, 700, len(data)])))
        at, kind = int(rng.integers(len(prefix), last)), rng.random()
        if kind < 0.3:
            data[at] = int(rng.integers(256))
        elif kind < 0.5:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind < 0.8:
            data[at] = (data[at] + int(rng.choice([1, -1, 8, -8]))) % 256
        else:
            extreme = int(rng.choice([0, -1, 2**31 - 1, -(2**31), 1 << 30]))
            data[at : at + 4] = extreme.to_bytes(4, "little", signed=True)
        values.append(bytes(data) if kind < 0.97 else bytes(data[:at]))
    batch = batch_of(values)
    assert read(reader, batch) == read_each(batch, NAMES, 0.0), seed


def test_only_the_first_of_a_layout_is_read_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, whole = np.random.default_rng(1), []

    def spied(data: bytes, needed: Sequence[str]) -> Any:
        whole.append(data)
        return decode_requests(data, needed)

    monkeypatch.setattr(reader_module, "decode_requests", spied)
    values = [message(rng, n, trigger="t") for n in (5, 5, 7, 5, 7, 7)]
    reader = RequestReader(NAMES, 0.0)
    found = list(reader.read(batch_of(values)))
    assert whole == [values[0], values[2]]
    assert [(f.first, f.last) for f in found] == [(0, 1), (1, 2), (2, 3), (3, 6)]
    (together,) = reader.read(batch_of(values))
    assert isinstance(together, Read)
    assert together.ends.tolist() == [0, 5, 10, 17, 22, 29, 36]
    assert len(whole) == 2


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    values = [message(rng, n, trigger="t") for n in range(1, 30)]
    monkeypatch.setattr(reader_module, "LAYOUT_BYTES", 4 * len(values[0]))
    reader = RequestReader(NAMES, 0.0)
    batch = batch_of(values * 2)
    assert read(reader, batch) == read_each(batch, NAMES, 0.0)
    assert 0 < sum(map(len, reader._layouts)) <= 4 * len(values[0])


def test_a_trigger_that_is_twice_in_its_dictionary_is_read_alone() -> None:
    """Its rows are of one stream: whether one was seen depends on the message before."""
    table = pa.ipc.open_stream(message(np.random.default_rng(3), 2, trigger="t")).read_next_batch()
    indices: Any = pa.array([0, 1], pa.int16())
    twice = pa.DictionaryArray.from_arrays(indices, pa.array(["t", "t"]))
    columns = [twice if n == "trigger" else table.column(n) for n in table.schema.names]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=table.schema))
    batch = batch_of([sink.getvalue().to_pybytes()] * 3)
    found = list(RequestReader(NAMES, 0.0).read(batch))
    assert [f.last - f.first for f in found] == [1, 1, 1]
