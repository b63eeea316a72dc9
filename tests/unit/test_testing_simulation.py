"""Promise 1 and 2 without a server: the same log gives the same bytes, whatever happens.

Every comparison is of a digest over all stored rows, offsets and accounting. Failures name a seed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from random import Random
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import pipeline as pp
from pipeline.store.memory import MemoryStore
from pipeline.testing.driver import Driver
from pipeline.testing.fuzz import Case, EventFuzzer, case
from pipeline.testing.log import MemoryLog, MemoryPublisher
from pipeline.testing.simulation import FAULTS, Simulation

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

PARTITIONS = 5
SEEDS = range(8)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)  # a simulation warns of each of its faults


def fuzzed(seed: int, events: int = 200) -> Case:
    return case(seed, events=events, partitions=PARTITIONS)


def clean(made: Case, **options: Any) -> str:
    """Digest of one worker that takes everything at once."""
    driver = Driver([made.view], log=made.log, **{"max_records": 1 << 20, **options})
    driver.run()
    driver.plane.close()
    made.log.committed.clear()
    return driver.digest("fuzz")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("max_records", [1, 7, 1000, 65536])
def test_bytes_do_not_depend_on_the_batch_size(seed: int, max_records: int) -> None:
    made = fuzzed(seed)
    assert clean(made, max_records=max_records) == clean(made), f"seed {seed}"


@pytest.mark.parametrize("workers", [2, 3, 8])
@pytest.mark.parametrize("seed", SEEDS)
def test_bytes_do_not_depend_on_the_number_of_workers(seed: int, workers: int) -> None:
    """Eight workers for five partitions: three of them own nothing, and write nothing."""
    made, store = fuzzed(seed), MemoryStore()
    want = clean(made)
    drivers = [
        Driver([made.view], log=made.log, store=store, max_records=33, share=(w, workers))
        for w in range(workers)
    ]
    for driver in drivers:
        driver.run()
    assert drivers[-1].digest("fuzz") == want, f"seed {seed}"
    assert all(not d.publisher.sent for d in drivers[PARTITIONS:])


@pytest.mark.parametrize("cache_bytes", [1, 3000])
@pytest.mark.parametrize("seed", SEEDS)
def test_bytes_do_not_depend_on_what_the_cache_evicts(seed: int, cache_bytes: int) -> None:
    made = fuzzed(seed)
    assert clean(made, max_records=9, cache_bytes=cache_bytes) == clean(made), f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_crash_after_any_batch_changes_nothing(seed: int) -> None:
    """A worker that crashes after each of its batches; the next one begins at its markers."""
    made, store = fuzzed(seed), MemoryStore()
    want = clean(made)
    crashes = 0
    while True:
        driver = Driver([made.view], log=made.log, store=store, max_records=7, cache_bytes=1)
        if not driver.plane.step().batches:
            break
        driver.crash()
        crashes += 1
    assert crashes > 5
    assert driver.digest("fuzz") == want, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_replay_from_any_offset_gives_the_same_bytes(seed: int) -> None:
    """The store goes back to its state after each of the batches in turn."""
    made, store = fuzzed(seed), MemoryStore()
    driver = Driver([made.view], log=made.log, store=store, max_records=40)
    copies = [store.snapshot()]
    while driver.plane.step().batches:
        copies.append(store.snapshot())
    want = driver.digest("fuzz")
    assert len(copies) > 4
    for copy in copies:
        store.restore(copy)
        driver.clock.advance(2_000)
        driver.run()
        driver.clock.advance(2_000)
        driver.run()
        assert driver.digest("fuzz") == want, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_a_simulation_does_the_bytes_are_those_of_a_quiet_run(seed: int) -> None:
    made = fuzzed(seed)
    want = clean(made)
    simulation = Simulation([made.view], log=made.log, seed=seed)
    assert simulation.run(150).digest("fuzz") == want, f"seed {seed}: {simulation.counts}"
    assert set(simulation.counts) == {"step", *FAULTS}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_kind_of_fault_alone(fault: str) -> None:
    made = fuzzed(99)
    want = clean(made)
    simulation = Simulation([made.view], log=made.log, seed=1, faults={fault: 1})
    assert simulation.run(60).digest("fuzz") == want
    assert simulation.counts[fault] == 60


def test_a_rebalance_storm_makes_progress_and_leaves_no_partition_without_an_owner() -> None:
    made = fuzzed(4, events=400)
    want = clean(made)
    simulation = Simulation([made.view], log=made.log, seed=4, faults={"rebalance": 5, "join": 1})
    driver = simulation.run(200)
    assert driver.digest("fuzz") == want
    owned = [s for w in simulation._workers for s in w.plane.assignment]
    assert len(owned) == len(set(owned)) == PARTITIONS


def test_equal_seeds_do_equal_things() -> None:
    histories, bytes_sent = [], []
    for _ in range(2):
        made = fuzzed(2)
        simulation = Simulation([made.view], log=made.log, seed=7)
        simulation.run(80)
        histories.append(simulation.history)
        bytes_sent.append(
            [hashlib.sha256(repr(p.sent).encode()).digest() for p in simulation.publishers]
        )
    assert histories[0] == histories[1]
    assert bytes_sent[0] == bytes_sent[1]


def outputs(publishers: Sequence[MemoryPublisher], topic: str) -> dict[Any, str]:
    """Rows or letters of a topic by position; a position that is sent again says the same."""
    found: dict[Any, Any] = {}
    for publisher in publishers:
        for _, _, value in publisher.sent.get(topic, []):
            if topic.endswith("-requests"):
                rows = pa.ipc.open_stream(value).read_all().to_pylist()
            else:
                rows = [json.loads(value)]
            for row in rows:
                row.pop("requested_at", None)
                at = (row.get("source_partition", row.get("partition")),
                      row.get("source_offset", row.get("offset")))  # fmt: skip
                assert repr(found.setdefault(at, row)) == repr(row)
    return {at: repr(row) for at, row in found.items()}


@pytest.mark.parametrize("seed", [3, 4, 7, 11])
def test_requests_late_and_dead_letters_are_those_of_a_quiet_run(seed: int) -> None:
    """Sent again, under the same ids, is allowed; sent otherwise or not at all is not, by zombies
    neither."""
    made = fuzzed(56, events=400)
    triggers = [
        pp.Trigger("often", view=made.view, when=pl.col("key") >= 0),
        pp.Trigger("always", view=made.view),
    ]
    quiet = Driver([made.view], triggers, log=made.log, max_records=1 << 20)
    quiet.run()
    quiet.plane.close()
    made.log.committed.clear()
    simulation = Simulation([made.view], triggers, log=made.log, seed=seed)
    simulation.run(200)
    names = quiet.names
    for topic in (names.requests("often"), names.requests("always"), names.late,
                  names.dead_letters):  # fmt: skip
        want = outputs([quiet.publisher], topic)
        assert len(want) > 5, topic
        assert outputs(simulation.publishers, topic) == want, topic


def test_records_that_arrive_while_everything_fails_are_all_there_in_the_end() -> None:
    made, rng = fuzzed(11, events=50), Random(11)
    fuzzer = EventFuzzer(made.view.sources[0], rng, partitions=PARTITIONS)
    simulation = Simulation([made.view], log=made.log, seed=11)
    for _ in range(8):
        simulation.run(20)
        fuzzer.fill(made.log, 30)
    driver = simulation.settle()
    assert driver.digest("fuzz") == clean(made)
    assert made.problems(driver) == []


def test_a_reply_that_is_lost_after_the_commit_counts_nothing_twice() -> None:
    log, store = MemoryLog(), MemoryStore()
    made = fuzzed(1)
    log.topics = made.log.topics
    want = clean(made)
    driver = Driver([made.view], log=log, store=store, max_records=10)
    store.lose_replies = 5
    steps = 0
    while driver.plane.lag() or steps == 0:
        driver.plane.step()
        driver.clock.advance(3_000)
        steps += 1
        if not any(driver.plane.lag().values()):
            break
    driver.run()
    assert store.lose_replies == 0
    assert driver.digest("fuzz") == want


def test_a_worker_that_crashed_reads_nothing_more() -> None:
    made = fuzzed(1)
    driver = Driver([made.view], log=made.log, max_records=10)
    driver.plane.step()
    before = driver.digest("fuzz")
    driver.crash()
    assert driver.plane.step().batches == []
    assert driver.digest("fuzz") == before
