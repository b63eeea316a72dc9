from __future__ import annotations

import json
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.errors import DefinitionError
from pipeline.produce.encode import conform, encode_json, encode_keys
from tests.reference.entity import entity_key

NOON = datetime(2017, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)


def contract(*fields: Field, additional: bool = True) -> Contract:
    return Contract("event", 1, fields, additional)


def encoded(made: Contract, frame: pl.DataFrame) -> list[str]:
    return [value.decode() for value in encode_json(conform(made, frame)).to_list()]


def one(field: Field, values: pl.Series) -> list[object]:
    made = contract(field)
    return [json.loads(row)["x"] for row in encoded(made, values.alias("x").to_frame())]


def refusal(field: Field, values: pl.Series) -> str:
    with pytest.raises(DefinitionError) as caught:
        conform(contract(field), values.alias("x").to_frame())
    return str(caught.value)


INT = Field("x", FieldType.INT64)
FLOAT = Field("x", FieldType.FLOAT64)
CENTS = Field("x", FieldType.DECIMAL, scale=2)
TEXT = Field("x", FieldType.STRING)
BOOL = Field("x", FieldType.BOOL)


def time(unit: str) -> Field:
    return Field("x", FieldType.TIMESTAMP, unit=unit)


def test_values_become_json_in_the_contracts_order() -> None:
    made = contract(
        Field("id", FieldType.INT64),
        Field("name", FieldType.STRING, nullable=True),
        Field("at", FieldType.TIMESTAMP, unit="iso"),
    )
    frame = pl.DataFrame({"at": [NOON, NOON], "name": ['a"é\n', None], "id": [-1, 2**62]})
    assert encoded(made, frame) == [
        '{"id":-1,"name":"a\\"é\\n","at":"2017-01-01T12:00:00.250Z"}',
        f'{{"id":{2**62},"name":null,"at":"2017-01-01T12:00:00.250Z"}}',
    ]


def test_integers() -> None:
    assert one(INT, pl.Series([1, 255], dtype=pl.UInt8)) == [1, 255]
    assert "row 1 does not fit 64 bits" in refusal(INT, pl.Series([1, 2**63], dtype=pl.UInt64))
    assert "the contract says int64, the data is Float64" in refusal(INT, pl.Series([1.0]))
    assert "the data is String" in refusal(INT, pl.Series(["1"]))


def test_floats_that_json_cannot_carry_are_refused() -> None:
    assert one(FLOAT, pl.Series([0.1, 1e300, -0.0])) == [0.1, 1e300, -0.0]
    assert one(FLOAT, pl.Series([1, 2])) == [1, 2]
    assert "row 1 is NaN or infinite" in refusal(FLOAT, pl.Series([0.0, float("nan")]))
    assert "row 0 (and 1 more)" in refusal(FLOAT, pl.Series([float("inf"), -float("inf")]))


def test_decimals_keep_their_digits() -> None:
    exact = pl.Series([Decimal("12345678901234567.89"), Decimal("-0.10")], dtype=pl.Decimal(20, 2))
    rows = encoded(contract(CENTS), exact.alias("x").to_frame())
    assert rows == ['{"x":12345678901234567.89}', '{"x":-0.10}']
    assert one(CENTS, pl.Series([0.5, 19.99, 3])) == [0.5, 19.99, 3.0]
    assert one(CENTS, pl.Series([1, 2])) == [1, 2]


def test_float_noise_is_rounded_away_and_more_is_refused() -> None:
    assert one(CENTS, pl.Series([0.1 + 0.2, 1.776357e-15])) == [0.3, 0.0]
    assert "row 1 has more than the 2 digits" in refusal(CENTS, pl.Series([0.5, 0.505]))
    assert "row 0 has more than the 2 digits" in refusal(CENTS, pl.Series([0.50001]))
    assert "give a decimal column" in refusal(CENTS, pl.Series([1e15]))
    many = pl.Series([Decimal("0.125")], dtype=pl.Decimal(10, 3))
    assert "row 0 has more than the 2 digits" in refusal(CENTS, many)


def test_decimals_beside_other_columns_and_nulls() -> None:
    made = contract(
        Field("id", FieldType.INT64), Field("x", FieldType.DECIMAL, nullable=True, scale=1)
    )
    values = pl.Series([Decimal("1.5"), None], dtype=pl.Decimal(5, 1))
    frame = pl.DataFrame({"x": values, "id": [1, 2]})
    assert encoded(made, frame) == ['{"id":1,"x":1.5}', '{"id":2,"x":null}']


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("iso", "2017-01-01T12:00:00.250Z"),
        ("iso-utc", "2017-01-01T12:00:00.250Z"),
        ("ms", 1_483_272_000_250),
        ("us", 1_483_272_000_250_000),
        ("ns", 1_483_272_000_250_000_000),
    ],
)
@pytest.mark.parametrize("resolution", ["ms", "us", "ns"])
def test_times_in_the_contracts_unit(unit: str, value: object, resolution: str) -> None:
    utc = pl.Series([NOON]).dt.cast_time_unit(resolution)  # type: ignore[arg-type]
    berlin = utc.dt.convert_time_zone("Europe/Berlin")
    assert one(time(unit), utc) == [value]
    assert one(time(unit), berlin) == [value]


def test_times_that_would_lose_or_guess_something_are_refused() -> None:
    assert "row 0 is finer than the contract's unit 's'" in refusal(time("s"), pl.Series([NOON]))
    whole = pl.Series([NOON - timedelta(milliseconds=250)])
    assert one(time("s"), whole) == [1_483_272_000]
    naive = pl.Series([NOON.replace(tzinfo=None)])
    assert "without a time zone" in refusal(time("ms"), naive)
    assert "without a time zone" in refusal(time("iso"), naive)
    assert one(time("iso-utc"), naive) == ["2017-01-01T12:00:00.250Z"]
    assert one(time("ms"), pl.Series([5])) == [5]
    assert "the data is Int64" in refusal(time("iso"), pl.Series([5]))
    assert "the data is Date" in refusal(time("iso"), pl.Series([date(2017, 1, 1)]))


def test_times_as_text_are_checked() -> None:
    good = ["2017-01-01T12:00:00Z", "2017-01-01 12:00:00.123+01:00"]
    assert one(time("iso"), pl.Series(good)) == good
    assert one(time("iso-utc"), pl.Series(["2017-01-01T12:00:00"])) == ["2017-01-01T12:00:00"]
    assert "RFC 3339" in refusal(time("iso"), pl.Series(["2017-01-01T12:00:00"]))
    assert "row 1 is not an RFC 3339" in refusal(time("iso"), pl.Series([good[0], "1/2/2017"]))


def test_text_and_booleans() -> None:
    assert one(TEXT, pl.Series(["a", ""])) == ["a", ""]
    assert one(TEXT, pl.Series(["a", "b"], dtype=pl.Categorical)) == ["a", "b"]
    assert one(BOOL, pl.Series([True, False])) == [True, False]
    assert "the data is Int64" in refusal(TEXT, pl.Series([1]))
    assert "the data is Int64" in refusal(BOOL, pl.Series([1]))


def test_nulls_only_where_the_contract_allows_them() -> None:
    assert one(Field("x", FieldType.INT64, nullable=True), pl.Series([None, 1])) == [None, 1]
    assert "event.x: row 1 is null" in refusal(INT, pl.Series([1, None]))
    assert one(Field("x", FieldType.STRING, nullable=True), pl.Series([None])) == [None]


def test_columns_are_matched_by_name() -> None:
    made = contract(INT, Field("y", FieldType.INT64, nullable=True, required=False))
    assert encoded(made, pl.DataFrame({"x": [1]})) == ['{"x":1}']
    with pytest.raises(DefinitionError, match=r"event\.x: the contract requires it.*mean 'X'"):
        conform(contract(INT), pl.DataFrame({"X": [1]}))
    assert encoded(made, pl.DataFrame({"extra": [1], "x": [2]})) == ['{"x":2,"extra":1}']
    closed = contract(INT, additional=False)
    with pytest.raises(DefinitionError, match=r"event\.extra: the contract has no such field"):
        conform(closed, pl.DataFrame({"extra": [1], "x": [2]}))


KEYS = contract(
    Field("n", FieldType.INT64),
    Field("s", FieldType.STRING),
    Field("u", FieldType.UUID),
    Field("b", FieldType.BYTES),
)
KEY_VALUES: dict[str, Any] = {
    "n": st.integers(-(2**63), 2**63 - 1),
    "s": st.sampled_from(["", "|", "\\", "a|b", "{}", "\0", "NaN", "é"]) | st.text(max_size=5),
    "u": st.uuids(),
    "b": st.binary(max_size=5) | st.just(b"|\\"),
}


@given(
    st.lists(st.fixed_dictionaries(KEY_VALUES), min_size=1, max_size=5),
    st.lists(st.sampled_from("nsub"), min_size=1, unique=True),
)
def test_keys_equal_the_twin(rows: list[dict[str, Any]], key: list[str]) -> None:
    types = [KEYS.field(name).type.value for name in key]
    wanted = [entity_key([_plain(row[name]) for name in key], types) for row in rows]
    spellings = [
        pl.DataFrame(rows),
        pl.DataFrame([{**row, "u": str(row["u"]).upper()} for row in rows]),
        pl.DataFrame([{**row, "u": row["u"].bytes} for row in rows]),
    ]
    for frame in spellings:
        if None in wanted:
            with pytest.raises(DefinitionError, match="has no value, and it is the key"):
                encode_keys(KEYS, frame, key)
        else:
            assert encode_keys(KEYS, frame, key).to_list() == wanted


def _plain(value: Any) -> int | bytes:
    return value if isinstance(value, int | bytes) else str(value).encode()


def test_a_record_needs_a_key_of_at_most_64_kib() -> None:
    frame = pl.DataFrame({"n": [1, None], "s": ["", "x"]})
    with pytest.raises(DefinitionError, match=r"event\.n: row 1 has no value, and it is the key"):
        encode_keys(KEYS, frame, ["n"])
    with pytest.raises(DefinitionError, match=r"event\.s: row 0 has no value, and it is the key"):
        encode_keys(KEYS, frame, ["s"])
    assert encode_keys(KEYS, frame[:1], ["n", "s"]).to_list() == [b"1|"]
    long = pl.DataFrame({"s": ["x" * 65_536, "x" * 65_537]})
    with pytest.raises(DefinitionError, match=r"event\.s: row 1 has a key of more than 64 KiB"):
        encode_keys(KEYS, long, ["s"])


def test_uuids_and_bytes_are_text_in_json() -> None:
    made = contract(Field("u", FieldType.UUID), Field("b", FieldType.BYTES))
    some = uuid.UUID(int=10)
    for given_as in (some, str(some).upper(), some.bytes):
        frame = pl.DataFrame([{"u": given_as, "b": b"\0|"}])
        assert encoded(made, frame) == [f'{{"u":"{some}","b":"AHw="}}']
    with pytest.raises(DefinitionError, match=r"event\.u: row 0 is not a uuid"):
        conform(made, pl.DataFrame({"u": ["{" + str(some) + "}"], "b": [b""]}))
    with pytest.raises(DefinitionError, match=r"event\.b: the contract says bytes, .* base64"):
        conform(made, pl.DataFrame({"u": [str(some)], "b": ["AHw="]}))
