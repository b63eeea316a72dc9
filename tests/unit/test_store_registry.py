"""Names of views: added, moved from version to version, looked up, refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pipeline.errors import (
    CorruptRowError,
    DefinitionError,
    LogTruncatedError,
    UnknownNameError,
    ViewVersionError,
)
from pipeline.store.keys import ALIASES
from pipeline.store.memory import MemoryStore
from pipeline.store.redis import RedisStore
from pipeline.store.registry import Registry, Retired, ViewRecord

RECORD = ViewRecord("spend", "shop", "orders", 12, '{"view": "spend"}', 0xFEDCBA9876543210)


@pytest.fixture(params=["memory", "redis"])
def registry(request: pytest.FixtureRequest) -> Iterator[Registry]:
    if request.param == "memory":
        yield MemoryStore().registry
        return
    store = RedisStore(request.getfixturevalue("redis_url"))
    yield store.registry
    store.close()


def test_registered_view_is_found(registry: Registry) -> None:
    assert registry.views() == []
    assert registry.register(RECORD) == RECORD.fingerprint
    assert registry.register(RECORD) == RECORD.fingerprint
    assert registry.resolve("spend") == registry.resolve("spend", "shop") == RECORD
    assert registry.views() == registry.views("shop") == ["spend"]
    assert registry.views("bank") == []


def test_changed_view_is_read_only_after_it_is_activated(registry: Registry) -> None:
    registry.register(RECORD)
    changed = replace(RECORD, fingerprint=2, plan='{"view": "spend", "ttl_ns": 1}')
    assert registry.register(changed) == RECORD.fingerprint
    assert registry.resolve("spend") == RECORD
    assert registry.versions("shop", "spend") == [changed, RECORD]
    registry.activate("shop", "spend", 2)
    assert registry.resolve("spend") == changed
    registry.activate("shop", "spend", RECORD.fingerprint)
    assert registry.resolve("spend") == RECORD
    with pytest.raises(UnknownNameError, match="0000000000000003"):
        registry.activate("shop", "spend", 3)


def test_name_of_another_application_is_refused(registry: Registry) -> None:
    registry.register(RECORD)
    with pytest.raises(DefinitionError, match=r"spend: application 'shop'"):
        registry.register(replace(RECORD, app="bank"))
    assert registry.resolve("spend") == RECORD
    with pytest.raises(UnknownNameError):
        registry.resolve("spend", "bank")


def test_other_number_of_partitions_is_refused(registry: Registry) -> None:
    registry.register(RECORD)
    with pytest.raises(DefinitionError, match=r"orders\.partitions.*24 partitions.*for 12"):
        registry.register(replace(RECORD, name="other", partitions=24))
    assert registry.views() == ["spend"]


def test_unknown_name_lists_what_is_like_it(registry: Registry) -> None:
    registry.register(RECORD)
    with pytest.raises(UnknownNameError, match="no view 'spent'; did you mean 'spend'"):
        registry.resolve("spent")
    with pytest.raises(UnknownNameError, match="known: spend"):
        registry.resolve("zzz")


def test_what_is_not_a_record_is_named() -> None:
    store = MemoryStore()
    store.registry.register(RECORD)
    fields = store.registry._fields
    for wrong in (b"", b"[]", b'{"format": 2}', RECORD.to_json().replace(b"12", b'"x"')):
        fields.set(b"pipeline:shop", "view:spend:fedcba9876543210", wrong)
        with pytest.raises(CorruptRowError, match="pipeline:shop view:spend"):
            store.registry.resolve("spend")
    fields.set(ALIASES, "spend", b"nonsense")
    with pytest.raises(CorruptRowError, match="pipeline:views spend"):
        store.registry.resolve("spend")


def test_topic_of_another_kafka_is_refused_before_anything_is_taken(registry: Registry) -> None:
    registry.register(RECORD, "first-id")
    registry.register(RECORD, "first-id")
    registry.register(RECORD)  # a broker that does not tell
    with pytest.raises(LogTruncatedError, match=r"second-id.*first-id.*another Kafka"):
        registry.register(RECORD, "second-id")


def test_a_retired_version_counts_for_nothing_until_it_is_defined_again(
    registry: Registry,
) -> None:
    registry.register(RECORD, at_ms=5)
    changed = replace(RECORD, fingerprint=2)
    registry.register(changed)
    assert registry.active("spend") == ("shop", RECORD.fingerprint, 5)
    with pytest.raises(ViewVersionError, match="spend fedcba9876543210 is what readers get"):
        registry.retire("shop", "spend", RECORD.fingerprint, 7)
    retired = registry.retire("shop", "spend", 2, 7)
    assert retired == registry.retire("shop", "spend", 2, 8) == Retired(changed, 7, erased=False)
    assert registry.versions("shop") == [RECORD]
    with pytest.raises(UnknownNameError, match="was it removed"):
        registry.activate("shop", "spend", 2)

    registry.register(changed, again=True)  # a worker that believes the store lost it
    assert registry.versions("shop") == [RECORD]
    with pytest.raises(ViewVersionError, match="is being erased: wait until 'pipeline views"):
        registry.register(changed)
    registry.erased(retired)
    registry.register(changed, again=True)
    assert registry.versions("shop") == [RECORD]
    registry.register(changed)
    assert registry.versions("shop") == [changed, RECORD]
    assert registry.retired("shop", "spend", 2) is None


def test_activated_and_retired_at_the_same_time_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    store.registry.register(RECORD)
    store.registry.register(replace(RECORD, fingerprint=2))
    fields = store.registry._fields
    written = fields.set

    def interrupted(key: bytes, name: str, value: bytes) -> None:
        monkeypatch.setattr(fields, "set", written)
        if key == ALIASES:
            store.registry.retire("shop", "spend", 2, 7)
        else:
            store.registry.activate("shop", "spend", 2)
        written(key, name, value)

    monkeypatch.setattr(fields, "set", interrupted)
    with pytest.raises(ViewVersionError, match="spend 0000000000000002 was retired meanwhile"):
        store.registry.activate("shop", "spend", 2)
    assert store.registry.resolve("spend") == RECORD
    store.registry.erased(store.registry.retire("shop", "spend", 2, 7))
    store.registry.register(replace(RECORD, fingerprint=2))
    monkeypatch.setattr(fields, "set", interrupted)
    with pytest.raises(ViewVersionError, match="spend 0000000000000002 is what readers get"):
        store.registry.retire("shop", "spend", 2, 7)
    assert store.registry.retired("shop", "spend", 2) is None
    assert store.registry.resolve("spend").fingerprint == 2
