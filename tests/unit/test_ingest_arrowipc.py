"""Arrow IPC messages from anybody: what is read, what is refused and why."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.ingest.arrowipc import Limits, read_message, write_message
from pipeline.ingest.batch import Reason

ID: Any = pa.field("id", pa.int64(), nullable=False)
ROWS = pa.schema([ID, pa.field("x", pa.float64())])


def stream(*batches: pa.RecordBatch, compression: Any = None) -> bytes:
    """A stream without a row count."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def batch(**columns: Any) -> pa.RecordBatch:
    return pa.record_batch(columns)


GOOD = batch(x=pa.array([1.5, None]), id=pa.array([1, 2], pa.int32()), more=pa.array(["a", "b"]))


def read(data: bytes, schema: pa.Schema = ROWS, **limits: Any) -> list[dict[str, Any]] | Reason:
    found = read_message(data, schema, Limits(**limits))
    return found if isinstance(found, Reason) else found.to_pylist()


def one(values: Any, wanted: pa.Field[Any]) -> Any:
    found = read(write_message(batch(v=values)), pa.schema([wanted]))
    return found if isinstance(found, Reason) else [row["v"] for row in found]


def test_columns_are_found_by_name_and_become_the_wanted_type() -> None:
    want = [{"id": 1, "x": 1.5}, {"id": 2, "x": None}]
    assert read(write_message(GOOD)) == want
    assert read(stream(GOOD, GOOD)) == want + want
    assert read_message(write_message(GOOD), ROWS, closed=True) is Reason.SCHEMA
    for shift in range(8):
        assert read(memoryview(b" " * shift + stream(GOOD))[shift:]) == want  # type: ignore[arg-type]


def test_a_stream_must_end_or_say_its_rows() -> None:
    data = stream(GOOD, GOOD)
    cuts = Counter(str(read(data[:n])) for n in range(1, len(data)))
    assert cuts == {str(Reason.DECODE): len(data) - 1}
    counted = write_message(GOOD)
    assert isinstance(read(counted[:-8]), list)
    assert (
        read(counted.replace(b"\x01\x00\x00\x002\x00", b"\x01\x00\x00\x003\x00")) is Reason.DECODE
    )
    assert read(data + b"\0") is Reason.DECODE
    assert read(b"") is Reason.EMPTY


def test_what_is_not_there_or_null() -> None:
    assert read(write_message(batch(id=pa.array([3])))) == [{"id": 3, "x": None}]
    assert read(write_message(batch(x=pa.array([3.0])))) is Reason.SCHEMA
    assert read(write_message(batch(id=pa.array([3, None])))) is Reason.SCHEMA
    twice = pa.RecordBatch.from_arrays([pa.array([1]), pa.array([1])], names=["id", "id"])
    assert read(write_message(twice)) is Reason.SCHEMA


def test_compressed_bodies_are_refused_unless_allowed() -> None:
    bomb = stream(batch(id=pa.array([0] * 100_000)), compression="zstd")
    assert len(bomb) < 1000
    assert read(bomb) is Reason.DECODE
    assert read(bomb, compressed=True, max_bytes=799_999) is Reason.TOO_LARGE
    assert len(read(bomb, compressed=True, max_bytes=800_000)) == 100_000  # type: ignore[arg-type]


def test_rows_text_and_metadata_are_bounded() -> None:
    nothing = pa.RecordBatch.from_arrays([pa.nulls(2**20 + 1)], names=["n"])
    anything = pa.schema([pa.field("x", pa.float64())])
    assert read(stream(nothing), anything) is Reason.TOO_LARGE
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int8()), ["y" * 1000])
    field = pa.field("v", pa.string())
    for values in (text, pa.array(["y" * 1000] * 1000, pa.string_view())):
        data = write_message(batch(v=values))
        assert read(data, pa.schema([field]), max_bytes=999_999) is Reason.TOO_LARGE
        assert len(read(data, pa.schema([field]))) == 1000  # type: ignore[arg-type]
    assert read(write_message(GOOD), max_metadata=64) is Reason.DECODE
    assert read(stream(*[GOOD] * 9), max_messages=9) is Reason.TOO_LARGE


def test_numbers_are_taken_where_nothing_is_lost() -> None:
    whole, real = pa.field("v", pa.int64()), pa.field("v", pa.float64())
    exact = pa.field("v", pa.decimal128(19, 2))
    assert one(pa.array([200], pa.uint8()), whole) == [200]
    assert one(pa.array([2**63], pa.uint64()), whole) is Reason.RANGE
    assert one(pa.array([1.0]), whole) is Reason.SCHEMA
    assert one(pa.array([2**53 + 1]), real) == [float(2**53)]
    assert one(pa.array([1.5], pa.float32()), real) == [1.5]
    assert one(pa.array([7], pa.int8()), exact) == [Decimal("7.00")]
    assert one(pa.array([Decimal("1.250")]), exact) == [Decimal("1.25")]
    assert one(pa.array([Decimal("1.255")]), exact) is Reason.RANGE
    assert one(pa.array([1.25]), exact) is Reason.SCHEMA
    assert one(pa.array([True]), whole) is Reason.SCHEMA


def test_a_scale_that_no_decimal_has_does_not_crash() -> None:
    exact = pa.field("v", pa.decimal128(19, 2))
    for scale in (3, 77, 7_691_265, 2**31 - 1, -1, -77, -(2**31)):
        kind: Any = pa.decimal128(2, scale)
        bits = [None, pa.py_buffer(b"\x01".ljust(16, b"\0"))]
        values: Any = pa.Array.from_buffers(kind, 1, bits)
        assert one(values, exact) is Reason.SCHEMA


def test_the_unit_of_a_time_is_never_guessed() -> None:
    instant: Any = pa.timestamp("ns", tz="UTC")
    when = [datetime(2017, 1, 1, tzinfo=UTC)]
    units: tuple[Any, ...] = ("s", "ms", "us", "ns")
    for unit in units:
        shown = pa.array(when, pa.timestamp(unit, tz="Nowhere/Land"))
        assert one(shown, pa.field("v", instant)) == when
        naive = pa.array([when[0].replace(tzinfo=None)], pa.timestamp(unit))
        assert one(naive, pa.field("v", instant)) is Reason.SCHEMA
        assert one(naive, pa.field("v", instant, metadata={"unit": "iso-utc"})) == when
        count = naive.cast(pa.int64())
        assert one(count, pa.field("v", instant)) is Reason.SCHEMA
        assert one(count, pa.field("v", instant, metadata={"unit": unit})) == when
    far = pa.array([2**60], pa.timestamp("s", tz="UTC"))
    assert one(far, pa.field("v", instant)) is Reason.RANGE


def test_nested_and_other_types_are_no_columns_of_ours() -> None:
    for values in (pa.array([[1]]), pa.array([{"a": 1}]), pa.array([b"x"]), pa.array([None])):
        assert one(values, pa.field("v", pa.string())) is Reason.SCHEMA
    assert one(pa.array(["x"]).dictionary_encode(), pa.field("v", pa.string())) == ["x"]
    assert one(pa.array(["x"], pa.large_string()), pa.field("v", pa.string())) == ["x"]
    codes = pa.DictionaryArray.from_arrays(pa.array([1, None, 0]), pa.array([7, 8]))
    assert one(codes, pa.field("v", pa.int64())) == [8, None, 7]


def test_offsets_beyond_the_buffer_and_text_that_is_none() -> None:
    good = write_message(batch(v=pa.array(["abcd", "e"])))
    where = good.index(b"\x04\x00\x00\x00\x05\x00\x00\x00")
    field = pa.schema([pa.field("v", pa.string())])
    assert isinstance(read(good, field), list)
    for bad in (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x06\x00\x00\x00"):
        assert read(good[:where] + bad + good[where + 4 :], field) is Reason.DECODE
    assert read(good.replace(b"abcde", b"\xff\xfe\xff\xfe\xff"), field) is Reason.DECODE


CHILD = """
import sys
from pathlib import Path
import pyarrow as pa
from pipeline.ingest.arrowipc import Limits, read_message
wanted = pa.schema([pa.field(n, t) for n, t in [("f0", pa.string()), ("a", pa.int64())]])
large = Limits(max_rows=1 << 40, max_bytes=1 << 26, compressed=True)
for name in sys.stdin.read().split("\\n"):
    data = Path(name).read_bytes()
    for schema in (None, wanted):
        for limits in (Limits(), large):
            found = read_message(data, schema, limits)
            word = getattr(found, "name", "READ")
            if word == "READ" and schema is None:
                found.equals(found.slice(0))  # touches every value
    print(word, flush=True)
"""


def test_malformed_files_of_arrows_own_fuzzers(data_dir: Path) -> None:
    folder = data_dir / "arrow_ipc_fuzz"
    if not folder.is_dir():
        pytest.skip(f"no fuzz files: {folder} is not there")
    files = [str(f) for f in sorted(folder.rglob("*")) if f.is_file()]
    assert len(files) >= 135
    child = subprocess.run(
        [sys.executable, "-c", CHILD], input="\n".join(files), text=True, capture_output=True,
        timeout=120, check=False,
    )  # fmt: skip
    seen = child.stdout.split()
    assert child.returncode == 0, (files[len(seen)], child.stderr[-2000:])
    counts = Counter(seen)
    assert sum(counts.values()) == len(files)
    assert counts.keys() <= {"READ", "DECODE", "SCHEMA", "TOO_LARGE", "RANGE"}
