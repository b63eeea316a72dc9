"""Versions of views from the command line: listed, activated, retired."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import pipeline as pp
from pipeline.app.partition import view_plans
from pipeline.app.topic import Topic, view_record
from pipeline.app.versions import look, retire
from pipeline.cli import main
from pipeline.features.lookups import row_plans
from pipeline.features.view import FeatureView
from pipeline.ingest.batch import TopicPartition
from pipeline.state.batch import EncodedRows
from pipeline.store.keys import marker_key, partition_tag, quarantine_key, row_key
from pipeline.store.marker import Marker
from pipeline.store.open import open_store
from pipeline.store.partition import RowWrite, Store
from pipeline.store.registry import Registry

TOPIC, PARTITIONS = "sales", 3
CONTRACT = {
    "title": "sale",
    "type": "object",
    "properties": {
        "user": {"type": "integer"},
        "cents": {"type": "integer"},
        "at": {"type": "integer", "x-unix-time": "ms"},
    },
    "required": ["user", "cents", "at"],
}
STREAM = pp.EventStream(TOPIC, pp.Contract.load(CONTRACT), key="user", time="at")
TOTAL = FeatureView(
    "total", source=STREAM, entity="user", features={"cents": pp.sum("cents").over("1d")}
)
OLD = FeatureView(
    "users", source=STREAM, entity="user", features={"n": pp.count().over("1h", slide="1m")}
)
NEW = FeatureView(
    "users",
    source=STREAM,
    entity="user",
    lookups={"so_far": TOTAL["cents"]},
    features={"n": pp.count().over("2h", slide="1m"), "most": pp.max("so_far").over("1d")},
)


@pytest.fixture(params=["memory", "redis"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A store with both versions of a view; readers get the old one."""
    if request.param == "memory":
        yield f"memory://views-{time.monotonic_ns()}"
    else:
        yield request.getfixturevalue("redis_url")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """The same, open."""
    opened = open_store(url)
    for view in (OLD, NEW):
        plans = view_plans([view], [])
        topic = Topic(STREAM, "", PARTITIONS, tuple(plans))
        opened.registry.register(view_record("shop", topic, plans[0]), at_ms=1_700_000_000_000)
    yield opened
    opened.close()


def commit(store: Store, view: FeatureView, offsets: list[int]) -> None:
    """Markers at these offsets, and a row, a row of a look-up and a quarantined one beside each."""
    for number, offset in enumerate(offsets):
        partition = store.open_partition("shop", TopicPartition(TOPIC, number))
        partition.acquire(-1)
        partition.markers([view.plan.fingerprint])
        key = np.frombuffer(bytearray(b"7"), dtype=np.uint8)
        at = np.array([0, 1], dtype=np.int64)
        rows = EncodedRows(key, at, key, at)
        owner = view.plan.fingerprint
        writes = [
            RowWrite(plan.fingerprint, rows, quarantined=bad, owner=owner)
            for plan in row_plans(view.plan)
            for bad in (False, True)
        ]
        marker = Marker(
            owner, "", number, offset, processed_through_ms=1_700_000_000_000 + offset,
            consumed=offset, applied=offset,
        )  # fmt: skip
        partition.commit(writes, [marker])
        partition.close()


def fingerprint(view: FeatureView) -> str:
    return f"{view.plan.fingerprint:016x}"


def listed(url: str, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    assert main(["views", "list", "--json", "--pause", "0", "--store", url]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {line["fingerprint"]: line for line in lines}


def test_readers_move_only_to_a_version_that_is_where_the_active_one_is(
    url: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(store, OLD, [10, 20, 30])
    commit(store, NEW, [10, 20])
    words = ["views", "activate", "users", fingerprint(NEW), "--store", url]
    assert main(words) == 1
    assert f"users {fingerprint(NEW)} is not caught up: 1 of 3 partitions" in (
        capsys.readouterr().err
    )
    commit(store, NEW, [10, 15, 29])
    assert main(words) == 1
    assert "it has 6 records to read until it is where" in capsys.readouterr().err
    assert store.registry.resolve("users").fingerprint == OLD.plan.fingerprint
    found = listed(url, capsys)
    assert [found[fingerprint(v)]["active"] for v in (OLD, NEW)] == [True, False]
    assert [found[fingerprint(v)]["behind"] for v in (OLD, NEW)] == [0, 6]
    assert found[fingerprint(OLD)]["since_ms"] == 1_700_000_000_000
    assert found[fingerprint(NEW)]["through_ms"] == 1_700_000_000_010
    assert not any(line["kept_up"] for line in found.values())

    assert main([*words, "--force"]) == 0
    assert f"before it {fingerprint(OLD)}" in capsys.readouterr().out
    assert store.registry.resolve("users").fingerprint == NEW.plan.fingerprint
    back = ["views", "activate", "users", fingerprint(OLD)[:6], "--store", url]
    assert main(back) == 0
    assert store.registry.resolve("users").fingerprint == OLD.plan.fingerprint
    commit(store, NEW, [10, 25, 30])
    capsys.readouterr()
    assert main(words) == 0
    assert main(words) == 0
    assert "already" in capsys.readouterr().out
    found = listed(url, capsys)
    assert [found[fingerprint(v)]["active"] for v in (OLD, NEW)] == [False, True]
    assert abs(found[fingerprint(NEW)]["since_ms"] / 1000 - time.time()) < 60
    assert main(["views", "list", "--pause", "0", "--store", url]) == 0
    assert f"users  {fingerprint(OLD)}  -" in capsys.readouterr().out


def test_retired_is_gone_with_everything_and_nothing_else_is(
    url: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(store, OLD, [10, 20, 30])
    commit(store, NEW, [10, 20, 30])
    words = ["views", "retire", "users", fingerprint(NEW), "--store", url]
    assert main(["views", "retire", "users", fingerprint(OLD), "--store", url]) == 1
    assert "is what readers get: activate another version first" in capsys.readouterr().err
    before = {key for page in store.scan(b"*", 7) for key in page}
    assert main(words) == 0
    assert "3 markers, 12 rows removed" in capsys.readouterr().out
    left = {key for page in store.scan(b"*", 7) for key in page}
    old = OLD.plan.fingerprint
    for number in range(PARTITIONS):
        tag = partition_tag("shop", TopicPartition(TOPIC, number))
        assert {
            marker_key(tag, old), row_key(tag, old, b"7"), quarantine_key(tag, old, b"7")
        } <= left  # fmt: skip
    assert len(before - left) == 3 + 12
    assert list(listed(url, capsys)) == [fingerprint(OLD)]
    assert main(words) == 0  # once more changes nothing
    assert "0 markers, 0 rows" in capsys.readouterr().out


def test_a_view_is_taken_away(url: str, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    commit(store, OLD, [1, 1, 1])
    words = ["views", "retire", "users", fingerprint(OLD), "--force", "--store", url]
    assert main(words) == 0
    assert store.registry.views() == []
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "no view 'users'" in said
    assert "--app APP" in said
    assert main([*words, "--app", "shop"]) == 0
    assert "0 markers, 0 rows" in capsys.readouterr().out


@pytest.mark.parametrize("action", ["activate", "retire"])
def test_versions_that_are_left_of_a_view_are_found_by_its_application(
    url: str, store: Store, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    commit(store, NEW, [1, 1, 1])
    at = ["--store", url]
    assert main(["views", "retire", "users", fingerprint(OLD), "--force", *at]) == 0
    capsys.readouterr()
    assert listed(url, capsys) == {}
    assert main(["views", "list", "--json", "--pause", "0", "--app", "shop", *at]) == 0
    (line,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (line["fingerprint"], line["active"]) == (fingerprint(NEW), False)
    words = ["views", action, "users", fingerprint(NEW), *at]
    assert main(words) == 2
    assert "--app APP" in capsys.readouterr().err
    assert main([*words, "--app", "bank"]) == 2
    assert main([*words, "--app", "shop"]) == 0
    assert store.registry.views() == (["users"] if action == "activate" else [])
    assert len(store.registry.versions("shop")) == (action == "activate")


def test_what_was_interrupted_goes_on_when_it_is_called_again(
    url: str, store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store, OLD, [1, 1, 1])
    commit(store, NEW, [1, 1, 1])
    words = ["views", "retire", "users", fingerprint(NEW)[:5], "--store", url]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "erased", interrupted)
        assert main(words) == 130
    assert main([*words[:3], "ffffffffffffffff", *words[4:]]) == 2
    capsys.readouterr()
    assert main(words) == 0
    assert f"retired users {fingerprint(NEW)}: 0 markers" in capsys.readouterr().out
    assert store.registry.unerased("shop", "users") == []
    assert list(listed(url, capsys)) == [fingerprint(OLD)]


def test_a_worker_that_has_not_heard_is_waited_for(url: str, store: Store) -> None:
    commit(store, OLD, [1, 1, 1])
    commit(store, NEW, [1, 1, 1])
    late = 3

    def works_on(_: float) -> None:
        nonlocal late
        if late:
            late -= 1
            commit(store, NEW, [late + 2])

    gone = retire(
        store, "shop", "users", NEW.plan.fingerprint, keys_per_s=10**9,
        clock_ms=lambda: 5, sleep=works_on,
    )  # fmt: skip
    assert gone.done
    assert late == 0
    print_ = b"%016x" % NEW.plan.fingerprint
    assert not [key for page in store.scan(b"*", 7) for key in page if print_ in key]


def test_a_worker_that_never_hears_is_told_of(url: str, store: Store) -> None:
    commit(store, OLD, [1, 1, 1])
    gone = retire(
        store, "shop", "users", NEW.plan.fingerprint, keys_per_s=10**9,
        clock_ms=lambda: 5, sleep=lambda _: commit(store, NEW, [9]),
    )  # fmt: skip
    assert not gone.done
    retired = store.registry.retired("shop", "users", NEW.plan.fingerprint)
    assert retired is not None
    assert not retired.erased


def test_what_is_wrong_with_the_words(
    url: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--store", url]
    assert main(["views", "activate", "users", *at]) == 2
    assert "write 'pipeline views activate NAME FINGERPRINT'" in capsys.readouterr().err
    assert main(["views", "list", "users", "a", *at]) == 2
    assert main(["views", "activate", "user", "a", *at]) == 2
    assert "did you mean 'users'" in capsys.readouterr().err
    assert main(["views", "activate", "users", "x", *at]) == 2
    assert "has no version 'x'; it has: " in capsys.readouterr().err
    assert main(["views", "retire", "users", "", *at]) == 2
    assert "has several versions ''" in capsys.readouterr().err
    assert main(["views", "retire", "users", "a", "--rate", "0", *at]) == 2
    assert main(["views", "list", "--app", "bank", "--pause", "0", *at]) == 0
    assert "no views" in capsys.readouterr().out
    assert look(store, "users", "shop") != []
    assert main(["views", "list", "users", "--app", "bank", "--pause", "0", *at]) == 2
