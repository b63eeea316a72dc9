"""Batches that threads compute while the next ones are fetched."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

import pipeline as pp
from pipeline.app import computing
from pipeline.app.partition import Partition, StagedBatch
from pipeline.errors import (
    ConfigurationError,
    PipelineError,
    RegistryUnavailableError,
    StoreUnavailableError,
)
from pipeline.ingest.batch import TopicPartition
from pipeline.state.batch import PackedRows
from pipeline.store.memory import MemoryPartition
from pipeline.testing.driver import Driver
from tests.unit.test_app_plane import PARTITIONS, drive, expected, identity_holds, logged

__all__ = ["expected"]

LONGEST_S = 30.0
AVRO = {
    "type": "record",
    "name": "payment",
    "fields": [
        {"name": "user", "type": "long"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}


class Registry:
    """Has one schema, and may be down."""

    def __init__(self) -> None:
        self.down = False
        self.asked = 0

    def by_id(self, number: int) -> SimpleNamespace:
        self.asked += 1
        if self.down:
            raise RegistryUnavailableError("down, says the test")
        return SimpleNamespace(schema_type="AVRO", schema_str=json.dumps(AVRO), references=())


def encode_long(value: int) -> bytes:
    """Avro's variable-length zig-zag."""
    left, out = value << 1, b""
    while left > 127:
        out, left = out + bytes([left & 127 | 128]), left >> 7
    return out + bytes([left])


@contextmanager
def staging(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[Partition], None]
) -> Iterator[list[str]]:
    """Names of the threads that staged a batch; ``before`` is called first."""
    threads: list[str] = []
    stage = Partition.stage

    def told(partition: Partition, *arguments: Any, **options: Any) -> StagedBatch:
        threads.append(threading.current_thread().name)
        before(partition)
        return stage(partition, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Partition, "stage", told)
        yield threads


def consumed(driver: Driver) -> int:
    return sum(m.consumed for m in driver.markers("spending"))


def fail(partition: Partition) -> None:
    raise PipelineError("broken, says the test")


def under_way(**options: Any) -> Driver:
    """A driver after its first step, which compares markers with nothing under way."""
    driver = drive(logged(), **{"max_records": 100, "under_way": 2, "threads": 2, **options})
    driver.plane.step()
    assert consumed(driver) == 100
    return driver


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("max_records", [7, 100, 700])
@pytest.mark.parametrize("cache_bytes", [1, 1 << 24])
def test_the_stored_bytes_do_not_depend_on_threads(
    expected: dict[bytes, bytes], threads: int, max_records: int, cache_bytes: int
) -> None:
    driver = drive(
        logged(), max_records=max_records, under_way=2, threads=threads, cache_bytes=cache_bytes
    )
    driver.run()
    assert driver.rows("spending") == expected
    identity_holds(driver, 1500)


def test_full_batches_are_computed_beside_the_thread_that_fetches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = drive(logged(), max_records=480, under_way=2, threads=2)
    with staging(monkeypatch, lambda _: None) as threads:
        driver.run()
    assert sum(name.startswith("compute") for name in threads) >= 3
    assert threads[-1] == threading.current_thread().name  # what is not full is not handed over


def test_a_step_does_not_wait_for_what_is_being_computed(
    monkeypatch: pytest.MonkeyPatch, expected: dict[bytes, bytes]
) -> None:
    driver = under_way(threads=1)
    go_on = threading.Event()

    def held(_: Partition) -> None:
        assert go_on.wait(LONGEST_S)

    with staging(monkeypatch, held) as threads:
        assert driver.plane.step().polled == 100  # returns though nothing was computed
        assert consumed(driver) == 100
        go_on.set()
        driver.run()
    assert threads[0].startswith("compute")
    assert driver.rows("spending") == expected


def test_what_is_being_computed_is_committed_before_partitions_go(
    expected: dict[bytes, bytes],
) -> None:
    driver = under_way()
    driver.plane.step()
    driver.plane.close()
    assert consumed(driver) == 200
    after = drive(driver.log, store=driver.store)
    after.run()
    assert after.rows("spending") == expected


def test_what_is_being_computed_of_lost_partitions_is_not_committed() -> None:
    driver = under_way()
    driver.plane.step()
    driver.plane._revoked([TopicPartition("payments", n) for n in range(PARTITIONS)], True)
    assert consumed(driver) == 100


def test_a_store_that_fails_a_thread_resets_the_partition_and_nothing_is_lost(
    expected: dict[bytes, bytes],
) -> None:
    driver = under_way(cache_bytes=1)
    driver.store.refuse = StoreUnavailableError("down, says the test")
    resets = 0
    while not resets:
        resets = driver.plane.step().resets
    driver.store.refuse = None
    driver.clock.advance(10_000)
    driver.run()
    assert driver.rows("spending") == expected
    identity_holds(driver, 1500)


def test_what_one_thread_learnt_of_a_registry_serves_all(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    monkeypatch.setattr("pipeline.ingest.formats.ConfluentRegistry", lambda _: registry)
    source = pp.EventStream(
        "payments", contract=pp.Contract.load(AVRO), key="user", time="at", format="avro",
        registry="http://registry",
    )  # fmt: skip
    features = {"n": pp.count().over("1d", slide="1h")}
    spending = pp.FeatureView("spending", source=source, entity="user", features=features)
    driver = Driver([spending], partitions=1, max_records=100, under_way=2, threads=2)

    def send(records: int) -> None:
        for number in range(records):
            user, at = number % 7, 1_700_000_000_000
            value = b"\0\0\0\0\1" + encode_long(user) + encode_long(at)
            driver.log.append("payments", b"%d" % user, value, at)

    send(10)  # read where they are
    driver.run()
    registry.down = True
    send(300)
    driver.run()
    assert consumed(driver) == 310
    assert registry.asked == 1


def test_an_error_of_a_thread_that_is_found_while_partitions_go_ends_what_is_under_way(
    monkeypatch: pytest.MonkeyPatch, expected: dict[bytes, bytes]
) -> None:
    driver = under_way()
    driver.plane.step()
    driver.plane.step()
    wait([task.done for task in driver.plane._computing._begun], LONGEST_S)
    with staging(monkeypatch, fail):
        driver.plane.step()
        with pytest.raises(PipelineError, match="broken, says the test"):
            driver.plane._revoked([TopicPartition("payments", 0)], False)
    driver.plane.close()
    assert consumed(driver) < 400  # nothing after what is lost
    after = drive(driver.log, store=driver.store)
    after.run()
    assert after.rows("spending") == expected
    identity_holds(after, 1500)


def test_threads_that_the_system_refuses_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def few(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        start(thread)
        started.append(thread)

    monkeypatch.setattr(threading.Thread, "start", few)
    with pytest.raises(ConfigurationError, match=r"app\.compute_threads: .* 3 threads"):
        drive(logged(), under_way=2, threads=3)
    for thread in started:
        thread.join(LONGEST_S)
        assert not thread.is_alive()


def test_a_process_that_ends_does_not_wait_for_its_threads() -> None:
    driver = under_way()
    threads = list(driver.plane._computing._threads)
    assert len(threads) == 2
    assert all(thread.daemon for thread in threads)
    driver.plane.close()
    assert not any(thread.is_alive() for thread in threads)


def test_an_error_of_a_thread_ends_the_plane_without_a_commit_of_its_batch(
    monkeypatch: pytest.MonkeyPatch, expected: dict[bytes, bytes]
) -> None:
    driver = under_way()
    with staging(monkeypatch, fail):
        driver.plane.step()
        with pytest.raises(PipelineError, match="broken, says the test"):
            driver.plane.step()
    driver.plane.close()
    assert consumed(driver) == 100
    after = drive(driver.log, store=driver.store)
    after.run()
    assert after.rows("spending") == expected
    identity_holds(after, 1500)


def test_rows_of_all_partitions_are_asked_for_before_the_first_are_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    for name in ("begin_read", "finish_read"):
        works = getattr(MemoryPartition, name)

        def call(self: MemoryPartition, *given: Any, name: str = name, works: Any = works) -> Any:
            calls.append(name)
            return works(self, *given)

        monkeypatch.setattr(MemoryPartition, name, call)
    driver = drive(logged(40), max_records=1000)
    driver.run()
    asked = calls.index("finish_read")
    assert 1 < asked <= PARTITIONS  # one may be without a record
    assert calls[asked : 2 * asked] == ["finish_read"] * asked


def test_a_plane_that_was_interrupted_between_two_partitions_can_be_closed(
    monkeypatch: pytest.MonkeyPatch, expected: dict[bytes, bytes]
) -> None:
    driver = drive(logged(), max_records=100)
    driver.plane.step()
    tried = computing._tried
    left = [2]

    def interrupted(*given: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return tried(*given)

    monkeypatch.setattr(computing, "_tried", interrupted)
    with pytest.raises(KeyboardInterrupt):
        driver.plane.step()
    closing = threading.Thread(target=driver.plane.close, daemon=True)
    closing.start()
    closing.join(LONGEST_S)
    assert not closing.is_alive()
    assert consumed(driver) == 100
    after = drive(driver.log, store=driver.store)
    after.run()
    assert after.rows("spending") == expected
    identity_holds(after, 1500)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_batch_that_a_failed_read_found_committed_is_told(
    monkeypatch: pytest.MonkeyPatch, expected: dict[bytes, bytes], threads: int
) -> None:
    """The read awaits the commit before it, which is applied, and then the store is gone."""
    driver = drive(logged(), max_records=100, under_way=2, threads=threads, cache_bytes=1)
    failed: list[MemoryPartition] = []
    finish_read = MemoryPartition.finish_read

    def failing(partition: MemoryPartition, number: int) -> PackedRows:
        if partition.settled and not failed:
            error = StoreUnavailableError("gone, says the test")
            partition._lose(error)
            failed.append(partition)
            raise error
        return finish_read(partition, number)

    monkeypatch.setattr(MemoryPartition, "finish_read", failing)
    told = idle = 0
    while idle < 2:
        step = driver.plane.step()
        driver.clock.advance(1000 if step.resets else 1)  # a second has everything awaited
        told += sum(len(batch.events) for batch in step.batches)
        idle = 0 if step.polled or step.batches or step.resets else idle + 1
    assert failed
    assert driver.rows("spending") == expected
    assert consumed(driver) == 1500
    assert told == 1500, "agents and metrics hear of every batch that was committed, once"
