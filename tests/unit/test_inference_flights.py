"""What is under way: overlapped, bounded, and never committed before it is acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from pipeline.errors import PipelineError, StoreFullError, StoreUnavailableError
from pipeline.inference.worker import InferenceWorker
from pipeline.ingest.batch import TopicPartition
from pipeline.testing.log import MemoryPublisher
from tests.unit.test_inference_worker import F32, PREDICTIONS, TOPIC, Sum, World, run, settings_of


@pytest.fixture(autouse=True)
def _wrapping() -> Iterator[None]:
    """Hashes wrap around; NumPy's scalars, used with JIT off, warn of it."""
    with np.errstate(over="ignore"):
        yield


class Slow(MemoryPublisher):
    """Acknowledges when it is told to; whoever waits is noted, and served."""

    def __init__(self) -> None:
        super().__init__()
        self.acknowledges = False
        self.waited = 0

    def acknowledged(self, ticket: int) -> bool:
        if self.acknowledges and not super().acknowledged(ticket):
            super().wait(ticket)
        return super().acknowledged(ticket)

    def wait(self, ticket: int) -> None:
        self.waited += not super().acknowledged(ticket)
        super().wait(ticket)


class Gate(Sum):
    """A model of which every run waits for the test."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)

    def predict(self, block: F32, out: F32) -> int:
        self.entered.release()
        self.turns.acquire(timeout=20)
        return super().predict(block, out)


def busy_world(messages: int = 12) -> tuple[World, Slow, Gate]:
    world, publisher, model = World(), Slow(), Gate()
    world.publisher = publisher
    for i in range(messages):
        world.ask(range(10 * i, 10 * i + 10))
    return world, publisher, model


SETTINGS = settings_of(max_batch=10, max_messages=1, slo_ms=1_000_000, under_way=3)


def after(world: World, model: Gate, runs: int) -> InferenceWorker:
    """A worker after so many runs, the next under way."""
    worker = world.worker(model, SETTINGS)
    for _ in range(runs):
        while not model.entered.acquire(blocking=False):
            worker.step()
        model.turns.release()
    while not model.entered.acquire(blocking=False):
        worker.step()
    for _ in range(5):
        worker.step()
    return worker


def queued(publisher: Slow) -> int:
    return len(publisher._waiting) + len(publisher.sent.get(PREDICTIONS, []))


def test_runs_go_on_while_acknowledgements_are_awaited() -> None:
    world, publisher, model = busy_world()
    after(world, model, 3)
    assert queued(publisher) == 3
    assert publisher.waited == 0
    assert world.progress() is None, "committed what nobody had acknowledged"
    model.turns.release(20)


def test_so_many_are_under_way_and_no_more() -> None:
    world, publisher, model = busy_world()
    after(world, model, 5)
    assert queued(publisher) == 5
    assert publisher.waited == 2  # for the oldest, to make room for the others
    assert world.marker().next_offset == 2
    model.turns.release(20)


def test_what_is_acknowledged_is_committed_while_the_model_runs() -> None:
    world, publisher, model = busy_world()
    publisher.acknowledges = True
    after(world, model, 4)
    assert publisher.waited == 0
    assert world.marker().next_offset >= 3
    model.turns.release(20)


def test_an_idle_worker_leaves_nothing_under_way() -> None:
    world, publisher, _ = busy_world()
    worker = world.worker(Sum(), SETTINGS)
    assert run(worker, world)["PREDICTED"] == 120
    assert world.marker().next_offset == 12
    assert publisher.waited > 0


def test_all_that_is_lost_is_published_again_in_order() -> None:
    world, publisher, model = busy_world()
    worker = after(world, model, 2)
    publisher.fail_next, publisher.fail_after = True, 1
    model.turns.release(20)
    for _ in range(200):
        worker.step()
    assert world.progress() is None
    world.now_ms += 200
    total = run(worker, world)
    assert total["resets"] == 0
    marker = world.marker()
    assert (marker.applied, marker.next_offset) == (120, 12)
    offsets = world.published().column("source_offset").to_pylist()
    assert set(offsets) == set(range(120))
    assert offsets[10:] == list(range(120))  # the first message came through before
    assert offsets[:10] == list(range(10))


@pytest.mark.parametrize("error", [StoreFullError("full"), StoreUnavailableError("gone")])
def test_a_commit_that_is_refused_takes_none_behind_it_along(error: PipelineError) -> None:
    world, publisher, model = busy_world()
    worker = after(world, model, 2)
    world.store.refuse = error
    publisher.acknowledges = True
    model.turns.release(40)
    for _ in range(100):
        worker.step()
    assert world.progress() is None
    world.store.refuse = None
    for _ in range(20):
        world.now_ms += 200  # all in all less than a model may take
        worker.step()
    run(worker, world)
    marker = world.marker()
    assert (marker.applied, marker.duplicate, marker.next_offset) == (120, 0, 12)


def test_an_error_that_ends_the_worker_commits_nothing_more() -> None:
    world, publisher, model = busy_world()
    worker = after(world, model, 2)
    model.turns.release(20)

    def die(timeout_s: float = 0.0) -> None:
        raise KeyboardInterrupt

    publisher.flush = die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run(worker, world)
    del publisher.flush
    worker.close()
    assert world.progress() is None
    assert run(world.worker(), world)["PREDICTED"] == 120


def test_partitions_that_go_are_committed_first() -> None:
    world, _, model = busy_world()
    worker = after(world, model, 2)
    world.lane.rebalance((1, 2))  # partition 0 is the other's
    worker.step()
    assert world.marker().next_offset == 2
    assert world.log.committed[TopicPartition(TOPIC, 0)] == 2
    model.turns.release(20)


def test_a_full_worker_reads_nothing_and_pauses_only_when_it_takes_long() -> None:
    world, _, model = busy_world(40)
    settings = settings_of(max_batch=10, max_messages=1, slo_ms=1_000_000, max_queued_rows=50)
    worker = world.worker(model, settings)
    for _ in range(50):
        worker.step()
    (partition,) = worker.partitions.values()
    assert sum(m.waiting for m in partition.pending) == 50
    assert not world.lane._paused
    world.now_ms += 1_001
    worker.step()
    assert world.lane._paused == {TopicPartition(TOPIC, 0)}
    model.turns.release(60)
    assert run(worker, world)["PREDICTED"] == 400
    assert not world.lane._paused


def test_a_full_worker_with_nothing_to_do_goes_on_polling() -> None:
    world, publisher, _ = busy_world(40)
    settings = settings_of(max_batch=10, max_messages=1, slo_ms=1_000_000, max_queued_rows=50)
    worker = world.worker(Sum(), settings)
    while world.log.generation == 0:
        worker.step()
    world.store.refuse = StoreFullError("full")
    for _ in range(200):
        worker.step()
    assert world.lane._paused == {TopicPartition(TOPIC, 0)}
    world.lane.rebalance((1, 2))
    worker.step()
    assert not worker.partitions  # it was heard
    assert publisher.waited > 0
