"""Keys as they are typed."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.cli.keys import key_columns
from pipeline.cli.produce import read_events
from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.errors import ConfigurationError, DefinitionError
from pipeline.produce.encode import conform
from tests.unit.test_app_keys import driver_of

SOME = uuid.UUID(int=3)


@pytest.mark.parametrize(
    ("types", "keys", "columns"),
    [
        (["int64"], ["-7", "0"], [[-7, 0]]),
        (["string"], ["a|b\\", ""], [["a|b\\", ""]]),
        (["uuid"], [str(SOME).upper(), SOME.hex], [[SOME, SOME]]),
        (["bytes"], ["00ff"], [[b"\0\xff"]]),
        (["string", "int64"], ["a\\|b\\\\|7", "|8"], [["a|b\\", ""], [7, 8]]),
        (["bytes", "string", "string"], ["|{|"], [[b""], ["{"], [""]]),
    ],
)
def test_keys_become_columns(types: list[str], keys: list[str], columns: list[Any]) -> None:
    names = [f"f{i}" for i in range(len(types))]
    found = key_columns(dict(zip(names, types, strict=True)), keys)
    assert found == dict(zip(names, columns, strict=True))


@pytest.mark.parametrize(
    ("types", "key", "says"),
    [
        (["int64"], "1.0", "f0 is a whole number, got '1.0'"),
        (["int64"], str(2**63), "f0 is 64 bits wide"),
        (["uuid"], "x", "f0 is a uuid, got 'x'"),
        (["bytes"], "0", "f0 is bytes in hexadecimal, got '0'"),
        (["string", "string"], "a", r"a key is f0\|f1, got 'a'"),
        (["string", "string"], "a|b|c", r"a key is f0\|f1"),
        (["string", "string"], "a\\b|c", r"a key is f0\|f1"),
        (["string", "string"], "a|b\\", r"a key is f0\|f1"),
        (["string", "int64"], "a|b", "f1 is a whole number"),
    ],
)
def test_a_wrong_key_is_refused(types: list[str], key: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        key_columns({f"f{i}": kind for i, kind in enumerate(types)}, [key])


def test_read_of_a_key_of_several_fields(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = driver_of(("src", "account", "token"))
    monkeypatch.setattr("pipeline.serve.client.open_store", lambda *_, **__: driver.store)
    key = "a\\|b|-1|7c"
    assert main(["read", "pairs:n", key, "--at", "event", "--json", "--store", "memory://x"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["src"], found["account"], found["token"]) == ("a|b", -1, "7c")
    assert (found["status"], found["n"]) == ("present", 3)
    assert main(["read", "pairs:n", key, "--at", "event", "--store", "memory://x"]) == 0
    assert "src|account|token" in capsys.readouterr().out.splitlines()[0]


def test_bytes_of_a_text_file_are_base64(tmp_path: Path) -> None:
    fields = (Field("src", FieldType.STRING), Field("token", FieldType.BYTES))
    contract, path = Contract("c", 1, fields), tmp_path / "some.jsonl"
    path.write_text('{"src":"a","token":"AHw="}\n{"src":"b","token":""}\n')
    assert read_events(path, contract)["token"].to_list() == [b"\0|", b""]
    path.write_text('{"src":"a","token":"A"}\n')
    with pytest.raises(ConfigurationError, match=r"some\.jsonl: token is not base64"):
        read_events(path, contract)


def test_a_field_that_lines_lack_is_null(tmp_path: Path) -> None:
    fields = (
        Field("src", FieldType.STRING),
        Field("n", FieldType.INT64),
        Field("note", FieldType.STRING, nullable=True, required=False),
        Field("price", FieldType.FLOAT64, nullable=True, required=False),
    )
    contract, path = Contract("c", 1, fields), tmp_path / "some.jsonl"
    path.write_text('{"src":"a","n":1}\n{"src":"b","n":2}\n')  # in no line: no column
    assert read_events(path, contract).to_dicts() == [
        {"src": "a", "n": 1}, {"src": "b", "n": 2},
    ]  # fmt: skip
    prepared = conform(contract, read_events(path, contract))
    assert prepared.columns == ["src", "n"]
    lines = [f'{{"src":"a","n":{i},"more":1}}' for i in range(300)]
    path.write_text("\n".join([*lines, '{"src":"b","n":300,"price":2}']))  # far down: one does
    events = read_events(path, contract)
    assert events["price"].to_list() == [None] * 300 + [2.0]
    assert events.columns == ["src", "n", "more", "price"]
    assert events["more"].null_count() == 1
    path.write_text('{"src":"a"}\n')
    with pytest.raises(DefinitionError, match="the contract requires it and the data has no"):
        conform(contract, read_events(path, contract))
    path.write_text('{"src":"a","n":[\n')
    with pytest.raises(ConfigurationError, match="cannot read"):
        read_events(path, contract)
