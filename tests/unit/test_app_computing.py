"""Batches that threads compute while the next ones are fetched."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.app.partition import Partition, StagedBatch
from pipeline.errors import PipelineError, StoreUnavailableError
from pipeline.ingest.batch import TopicPartition
from pipeline.testing.driver import Driver
from tests.unit.test_app_plane import PARTITIONS, drive, expected, identity_holds, logged

__all__ = ["expected"]

LONGEST_S = 30.0


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


def test_an_error_of_a_thread_ends_the_plane_without_a_commit_of_its_batch(
    monkeypatch: pytest.MonkeyPatch, expected: dict[bytes, bytes]
) -> None:
    def fail(partition: Partition) -> None:
        raise PipelineError("broken, says the test")

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
