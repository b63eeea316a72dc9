"""The check at start: passes here, and tells what differs where it must."""

from __future__ import annotations

import pytest

from pipeline.errors import NativeLaneError
from pipeline.ingest import rdkafka, selfcheck
from pipeline.kernels import gather


def test_passes_with_the_installed_library() -> None:
    selfcheck.self_check()


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rdkafka.library.cache_clear()
    monkeypatch.setattr(rdkafka, "MINIMUM_VERSION", 0x02_FF_00_FF)
    with pytest.raises(NativeLaneError, match="is not supported"):
        selfcheck.self_check()


def test_a_missing_function_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rdkafka.library.cache_clear()
    monkeypatch.setitem(rdkafka._PROTOTYPES, "rd_kafka_no_such_thing", (None, []))
    with pytest.raises(NativeLaneError, match="rd_kafka_no_such_thing"):
        selfcheck.self_check()


@pytest.mark.parametrize(
    "field", [gather.F_VALUE, gather.F_VALUE_SIZE, gather.F_KEY, gather.F_KEY_SIZE, gather.F_OFFSET]
)
def test_a_struct_read_wrongly_is_told_before_its_pointers_are_followed(
    monkeypatch: pytest.MonkeyPatch, field: int
) -> None:
    right = gather.index_messages

    def wrong(*arguments: object) -> object:
        counts = right(*arguments)  # type: ignore[arg-type]
        arguments[7][field, :] += 8  # type: ignore[index]
        return counts

    def follow(*_arguments: object) -> None:
        pytest.fail("a pointer was followed")

    monkeypatch.setattr(gather, "index_messages", wrong)
    monkeypatch.setattr(gather, "copy_messages", follow)
    with pytest.raises(NativeLaneError, match="struct layout differs: sent"):
        selfcheck.self_check()


def test_other_bytes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    right = gather.copy_messages

    def wrong(*arguments: object) -> None:
        right(*arguments)  # type: ignore[arg-type]
        arguments[6][:1] ^= 1  # type: ignore[index]

    monkeypatch.setattr(gather, "copy_messages", wrong)
    with pytest.raises(NativeLaneError, match="copied other bytes"):
        selfcheck.self_check()
