"""A model that hangs, is slow, answers wrongly or twice: each row has one outcome, and it is told.

The kill of the whole worker is in ``test_inference_kill.py``. Features never wait for a model:
their worker writes requests to a topic, whoever reads it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.errors import ModelError
from pipeline.inference.prediction import Outcome
from pipeline.inference.worker import InferenceWorker
from pipeline.ingest.batch import TopicPartition
from tests.faults.conftest import SEEN
from tests.unit.test_inference_worker import Sum, World, run, settings_of

F32 = npt.NDArray[np.float32]
SOURCE = TopicPartition("requests", 0)
KEYS = 10  # of the requests that a World asks


@pytest.fixture(autouse=True)
def _wrapping() -> Iterator[None]:
    """Hashes wrap around; NumPy's scalars, used with JIT off, warn of it."""
    with np.errstate(over="ignore"):
        yield


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> list[str]:
    """What the table of faults shows."""
    told: list[str] = []
    request.node.stash[SEEN] = told
    return told


class Stub(Sum):
    """A model with a fault that the test turns on; a run waits while ``gate`` is shut."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def predict(self, block: F32, out: F32) -> int:
        self.entered.set()
        self.gate.wait(20)
        return super().predict(block, out)


def accounted(world: World, asked: int, seen: list[str]) -> dict[str, int]:
    """Each request has one outcome, in the marker and in what was published; the outcomes."""
    marker = world.marker()
    assert marker.consumed == asked
    assert marker.consumed == marker.applied + marker.late + marker.filtered
    table = world.published()
    published: list[Any] = table.column("source_offset").to_pylist()
    assert sorted(published) == list(range(asked))
    outcomes: Counter[Any] = Counter(table.column("outcome").to_pylist())
    assert (outcomes["predicted"], outcomes["deadline"]) == (marker.applied, marker.late)
    rows = zip(*(table.column(c).to_pylist() for c in ("source_offset", "outcome", "score")),
               strict=True)  # fmt: skip
    for offset, outcome, score in rows:
        assert score == (offset + 0.5 if outcome == "predicted" else None)
    for key in range(KEYS):
        newest = world.prediction(b"%d" % key)
        assert newest.source_offset == max(range(key, asked, KEYS))
    seen.append(", ".join(f"{name} {n}" for name, n in sorted(outcomes.items())))
    return dict(outcomes)


def stuck(world: World, worker: InferenceWorker, model: Stub) -> None:
    """A run begins, and takes longer than a model may."""
    model.entered.clear()
    for _ in range(50):
        worker.step()
        if model.entered.wait(0.1):
            break
    else:
        raise AssertionError("no run began")
    world.stuck_ns += 11_000_000_000


@pytest.mark.fault("F19", "the model hangs, and answers after it was given up",
                   "its rows are fallbacks; the late answer is nobody's")  # fmt: skip
def test_hang_and_late_answer(seen: list[str]) -> None:
    world, model = World(), Stub()
    worker = world.worker(model)
    world.ask(range(20))
    old, model.gate = model.gate, threading.Event()
    stuck(world, worker, model)
    hung, model.gate = model.gate, old
    for _ in range(50):  # given up
        worker.step()
    world.ask(range(20, 40))
    hung.set()  # the first run answers while the second is under way, on a thread of its own
    run(worker, world)
    outcomes = accounted(world, 40, seen)
    assert outcomes == {"model_error": 20, "predicted": 20}


@pytest.mark.fault("F19", "the model never answers any more", "stops with a named error")
def test_hangs_again_and_again(seen: list[str]) -> None:
    world, model = World(), Stub()
    worker = world.worker(model)
    model.gate.clear()
    for turn in range(2):
        world.ask(range(10 * turn, 10 * turn + 10))
        stuck(world, worker, model)
        for _ in range(50):
            worker.step()
    world.ask(range(20, 30))
    stuck(world, worker, model)
    with pytest.raises(ModelError, match="did not answer 3 times in a row"):
        run(worker, world)
    model.gate.set()
    before = world.marker()
    assert (
        before.consumed == before.filtered == 20
    )  # what was given up is told; the rest comes again
    fresh = world.worker()
    run(fresh, world)
    accounted(world, 30, seen)


@pytest.mark.fault("F19", "the model is a hundred times slower",
                   "what comes too late is dropped and counted")  # fmt: skip
def test_slow(seen: list[str]) -> None:
    world = World()

    def slow(block: F32, out: F32) -> int | None:
        world.now_ms += 400  # of 1,000 that a row has
        return None

    worker = world.worker(Sum(slow), settings_of(max_batch=64))
    for start in range(0, 1_000, 50):
        world.ask(range(start, start + 50))
    run(worker, world)
    outcomes = accounted(world, 1_000, seen)
    assert 0 < outcomes["predicted"] < 1_000
    table = world.published()
    late = [
        offset
        for offset, outcome in zip(
            table.column("source_offset").to_pylist(), table.column("outcome").to_pylist(),
            strict=True,
        )
        if outcome == "deadline"
    ]  # fmt: skip
    assert late, "nothing was dropped"


def more_rows(block: F32, out: F32) -> int | None:
    return len(block) + 1


def no_rows(block: F32, out: F32) -> int | None:
    return 0


def out_of_memory(block: F32, out: F32) -> int | None:
    raise MemoryError("the device has no memory left")


@pytest.mark.fault("F19", "an answer of the wrong shape, or the device is out of memory",
                   "its rows are fallbacks with the reason; the next run is right")  # fmt: skip
@pytest.mark.parametrize("fault", [more_rows, no_rows, out_of_memory])
def test_wrong_answer(fault: Callable[[F32, F32], int | None], seen: list[str]) -> None:
    world, model = World(), Sum(fault)
    worker = world.worker(model)
    world.ask(range(50))
    run(worker, world)
    model.fault = None
    world.ask(range(50, 100))
    run(worker, world)
    outcomes = accounted(world, 100, seen)
    reason = Outcome.MODEL_ERROR if fault is out_of_memory else Outcome.SHAPE
    assert outcomes == {reason.name.lower(): 50, "predicted": 50}


@pytest.mark.fault("F19", "requests and answers come twice", "each row is answered once")
def test_twice(seen: list[str]) -> None:
    world = World()
    for start in range(0, 200, 20):
        world.ask(range(start, start + 20))
        world.ask(range(start, start + 20))
    world.publisher.fail_next = True  # the broker took the answers, and did not say so
    world.publisher.fail_after = 10**9
    worker = world.worker()
    for _ in range(50):
        worker.step()
    world.now_ms += 200
    run(worker, world)
    marker = world.marker()
    assert (marker.consumed, marker.applied, marker.duplicate) == (400, 200, 200)
    table = world.published()
    rows = set(zip(table.column("source_offset").to_pylist(), table.column("score").to_pylist(),
                   strict=True))  # fmt: skip
    assert rows == {(offset, offset + 0.5) for offset in range(200)}
    seen.append(f"{table.num_rows} published, {len(rows)} rows")
