"""The worker over a log, a store and a publisher in memory: every row has exactly one outcome."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from pipeline.errors import ModelError, StoreFullError, StoreUnavailableError
from pipeline.inference.delivery import InferenceSettings, Step
from pipeline.inference.manifest import ModelManifest
from pipeline.inference.prediction import Outcome, Prediction
from pipeline.inference.request import RequestOrigin, encode_requests
from pipeline.inference.service import ServiceTime
from pipeline.inference.worker import InferenceWorker
from pipeline.ingest.batch import TopicPartition
from pipeline.store.keys import partition_tag, row_key
from pipeline.store.marker import Marker
from pipeline.store.memory import MemoryStore
from pipeline.testing.log import MemoryLane, MemoryLog, MemoryPublisher

APP, TOPIC, PREDICTIONS, LETTERS = "shop.spend", "requests", "predictions", "dead"
NAMES = ("a", "b")
ORIGIN = RequestOrigin("view", 77, "shop", "purchases", "")
NOW_MS = 1_700_000_000_000
F32 = npt.NDArray[np.float32]

MANIFEST = ModelManifest.parse(
    {
        "name": "spend",
        "version": "1",
        "format": "onnx",
        "file": "spend.onnx",
        "sha256": "0" * 64,
        "size": 1,
        "input": "x",
        "features": [{"name": name, "dtype": "float32"} for name in NAMES],
        "null_value": -1,
        "outputs": ["y"],
        "train_window": {"start": "2017-01-01T00:00:00Z", "end": "2017-02-01T00:00:00Z"},
        "metrics": {},
    }
)


@pytest.fixture(autouse=True)
def _wrapping() -> Iterator[None]:
    """Hashes wrap around; NumPy's scalars, used with JIT off, warn of it."""
    with np.errstate(over="ignore"):
        yield


class Sum:
    """A model that adds its features; ``fault`` may change or refuse a run."""

    def __init__(self, fault: Callable[[F32, F32], int | None] | None = None) -> None:
        self.fault = fault
        self.rows: list[int] = []
        self.closed = False

    @property
    def input_names(self) -> tuple[str, ...]:
        return NAMES

    def predict(self, block: F32, out: F32) -> int:
        self.rows.append(len(block))
        out[:] = block.sum(axis=1)
        made = self.fault(block, out) if self.fault else None
        return len(block) if made is None else made

    def warm_up(self, buckets: Sequence[int]) -> ServiceTime:
        return ServiceTime(10_000.0, 10.0)

    def close(self) -> None:
        self.closed = True


class World:
    """Log, store and publisher that outlive a worker, and a clock that the test moves."""

    def __init__(self, partitions: int = 1) -> None:
        self.log, self.store, self.publisher = MemoryLog(), MemoryStore(), MemoryPublisher()
        self.log.create(TOPIC, partitions)
        self.now_ms = NOW_MS
        self.stuck_ns = 0

    def worker(
        self, model: Sum | None = None, settings: InferenceSettings | None = None
    ) -> InferenceWorker:
        self.lane = MemoryLane(self.log)
        worker = InferenceWorker(
            app=APP,
            topic_ids={TOPIC: ""},
            manifest=MANIFEST,
            model=model or Sum(),
            lane=self.lane,
            store=self.store,
            publisher=self.publisher,
            settings=settings or settings_of(),
            clock_ns=lambda: self.now_ms * 1_000_000,
            monotonic_ns=lambda: self.now_ms * 1_000_000 + self.stuck_ns,
        )
        worker.start()
        return worker

    def ask(
        self,
        offsets: Sequence[int],
        *,
        partition: int = 0,
        at_ms: int | None = None,
        source_partition: int = 0,
        null: bool = False,
        trigger: str = "basket",
    ) -> None:
        keys = [b"%d" % (offset % 10) for offset in offsets]
        features = np.array([[o, 0.5] for o in offsets], dtype=np.float64).reshape(-1, 2)
        if null:
            features[:, 1] = math.nan
        value = encode_requests(
            ORIGIN,
            keys=np.frombuffer(b"".join(keys), dtype=np.uint8),
            key_offsets=np.arange(len(keys) + 1, dtype=np.int64),
            source_partition=source_partition,
            source_offset=np.array(offsets, dtype=np.int64),
            trigger=trigger,
            event_time=np.array(offsets, dtype=np.int64) * 1_000,
            requested_at_ms=self.now_ms if at_ms is None else at_ms,
            names=NAMES,
            features=features,
        )
        self.log.append(TOPIC, None, value, self.now_ms, partition)

    def published(self) -> pa.Table:
        sent = self.publisher.sent.get(PREDICTIONS, [])
        return pa.concat_tables(pa.ipc.open_stream(value).read_all() for _, _, value in sent)

    def progress(self, partition: int = 0) -> Marker | None:
        tag = partition_tag(APP, TopicPartition(TOPIC, partition))
        return self.store.marker(tag, MANIFEST.fingerprint)

    def marker(self, partition: int = 0) -> Marker:
        marker = self.progress(partition)
        assert marker is not None
        return marker

    def prediction(self, key: bytes, partition: int = 0) -> Prediction:
        tag = partition_tag(APP, TopicPartition(TOPIC, partition))
        return Prediction.unpack(self.store.values[row_key(tag, MANIFEST.fingerprint, key)])


def settings_of(**changes: object) -> InferenceSettings:
    chosen: dict[str, object] = {"slo_ms": 1_000, "max_batch": 256, "max_wait_ms": 0, **changes}
    return InferenceSettings(PREDICTIONS, LETTERS, **chosen)  # type: ignore[arg-type]


def run(worker: InferenceWorker, world: World, limit: int = 3_000) -> Counter[str]:
    """Step until everything read is answered and committed; totals of all steps."""
    total: Counter[str] = Counter()
    quiet = 0
    for _ in range(limit):
        step = worker.step()
        _add(total, step)
        quiet = quiet + 1 if worker.idle and not step.messages and not step.resets else 0
        if quiet == 3:
            return total
    raise AssertionError(f"not idle after {limit} steps: {total}")


def _add(total: Counter[str], step: Step) -> None:
    total.update({outcome.name: count for outcome, count in step.rows.items()})
    total.update(duplicates=step.duplicates, refused=sum(step.refused.values()), resets=step.resets)


def test_every_row_is_predicted_once_and_accounted_for() -> None:
    world = World(partitions=2)
    for partition in (0, 1):
        for start in range(0, 500, 100):
            world.ask(range(start, start + 100), partition=partition, source_partition=partition)
    worker = world.worker()
    total = run(worker, world)
    assert total["PREDICTED"] == 1_000
    rows = world.published().select(["source_partition", "source_offset", "score"]).to_pylist()
    assert len(rows) == 1_000
    assert {(r["source_partition"], r["source_offset"]) for r in rows} == {
        (p, o) for p in (0, 1) for o in range(500)
    }
    assert all(r["score"] == r["source_offset"] + 0.5 for r in rows)
    for partition in (0, 1):
        marker = world.marker(partition)
        assert (marker.next_offset, marker.consumed, marker.applied) == (5, 500, 500)
        newest = world.prediction(b"7", partition)
        assert (newest.score, newest.source_offset) == (497.5, 497)
        assert (newest.outcome, newest.event_time) == (Outcome.PREDICTED, 497_000)
        assert newest.predicted_at_ms == NOW_MS
        assert newest.model == MANIFEST.fingerprint
    assert [world.lane.committed(TopicPartition(TOPIC, p)) for p in (0, 1)] == [5, 5]


def test_rows_that_were_answered_are_dropped_row_by_row() -> None:
    world = World()
    world.ask(range(0, 10))
    world.ask(range(5, 20))  # a sender that replayed with other batch cuts
    world.ask(range(0, 3), trigger="other")  # the same offsets, another trigger: not duplicates
    world.ask(range(0, 3), source_partition=1)
    total = run(world.worker(), world)
    assert (total["PREDICTED"], total["duplicates"]) == (26, 5)
    world.ask(range(15, 22))  # and after a restart, from the stored progress
    total = run(world.worker(), world)
    assert (total["PREDICTED"], total["duplicates"]) == (2, 5)
    marker = world.marker()
    assert (marker.consumed, marker.applied, marker.duplicate) == (38, 28, 10)
    ids = [tuple(r.values()) for r in world.published().select(
        ["source_partition", "source_offset", "trigger"]).to_pylist()]  # fmt: skip
    assert len(ids) == len(set(ids)) == 28


def test_rows_past_their_deadline_are_recorded_not_run() -> None:
    world, model = World(), Sum()
    world.ask(range(0, 64), at_ms=NOW_MS - 2_000)
    world.ask(range(64, 128))
    total = run(world.worker(model), world)
    assert (total["PREDICTED"], total["DEADLINE"]) == (64, 64)
    assert sum(model.rows) == 64
    marker = world.marker()
    assert (marker.consumed, marker.applied, marker.late) == (128, 64, 64)
    outcomes = Counter(world.published().column("outcome").to_pylist())
    assert outcomes == {"deadline": 64, "predicted": 64}
    assert world.published().column("score").null_count == 64


def _refuse(block: F32, out: F32) -> int | None:
    raise ModelError("out of order")


def _refuse_oddly(block: F32, out: F32) -> int | None:
    raise ZeroDivisionError("a bug in the model")


def _nan_first(block: F32, out: F32) -> int | None:
    out[0] = np.nan
    return None


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (_refuse, {"MODEL_ERROR": 50}),
        (_refuse_oddly, {"MODEL_ERROR": 50}),
        (lambda block, out: len(block) + 1, {"SHAPE": 50}),
        (_nan_first, {"NAN": 1, "PREDICTED": 49}),
    ],
)
def test_a_bad_model_makes_fallbacks(
    fault: Callable[[F32, F32], int | None], expected: dict[str, int]
) -> None:
    world = World()
    world.ask(range(50))
    worker = world.worker(Sum(fault))
    total = run(worker, world)
    assert {name: total[name] for name in expected} == expected
    assert total["PREDICTED"] == expected.get("PREDICTED", 0)
    marker = world.marker()
    assert marker.filtered == 50 - marker.applied
    (partition,) = worker.partitions.values()
    assert {o.name: n for o, n in partition.outcomes.items() if n} == expected
    first = world.prediction(b"0")
    assert math.isnan(first.score) == (first.outcome is not Outcome.PREDICTED)


def test_a_model_that_hangs_is_given_up() -> None:
    world, entered, release = World(), threading.Event(), threading.Event()

    def hang(block: F32, out: F32) -> int | None:
        entered.set()
        release.wait(10)
        return None

    model = Sum(hang)
    world.ask(range(10))
    worker = world.worker(model)
    worker.step()
    assert entered.wait(10)
    world.stuck_ns = 11_000_000_000
    model.fault = None
    total = run(worker, world)
    assert total["MODEL_ERROR"] == 10
    world.ask(range(10, 20))
    assert run(worker, world)["PREDICTED"] == 10  # a fresh thread took over
    release.set()


def test_nulls_become_the_manifests_null_value() -> None:
    world = World()
    world.ask([7], null=True)
    run(world.worker(), world)
    assert world.prediction(b"7").score == 6.0


def test_messages_that_cannot_be_read_are_dead_lettered() -> None:
    world = World()
    world.ask(range(3))
    world.log.append(TOPIC, None, b"noise", NOW_MS, 0)
    world.log.append(TOPIC, None, None, NOW_MS, 0)
    world.ask(range(3, 6))
    total = run(world.worker(), world)
    assert (total["PREDICTED"], total["refused"]) == (6, 2)
    letters = [json.loads(value) for _, _, value in world.publisher.sent[LETTERS]]
    assert [(x["offset"], x["reason"]) for x in letters] == [(1, "decode"), (2, "tombstone")]
    marker = world.marker()
    assert (marker.next_offset, marker.consumed, marker.dead_lettered) == (4, 8, 2)


def test_a_crash_between_publish_and_commit_changes_nothing_but_repeats() -> None:
    def scores(store: MemoryStore) -> dict[bytes, tuple[float, int]]:
        tag = partition_tag(APP, TopicPartition(TOPIC, 0))
        prefix = row_key(tag, MANIFEST.fingerprint, b"")
        found = {k: Prediction.unpack(v) for k, v in store.values.items()
                 if k.startswith(prefix) and k != prefix}  # fmt: skip
        return {k: (p.score, p.source_offset) for k, p in found.items()}

    calm, crashed = World(), World()
    for world in (calm, crashed):
        for start in range(0, 300, 30):
            world.ask(range(start, start + 30))
    run(calm.worker(), calm)

    worker = crashed.worker(settings=settings_of(max_messages=4))
    crashed.store.refuse = None
    while not crashed.publisher.sent:  # up to the first acknowledged publish ...
        flush = crashed.publisher.flush

        def flush_then_die(timeout_s: float = 0.0, flush: Callable[[], None] = flush) -> None:
            flush()
            if crashed.publisher.sent:
                raise KeyboardInterrupt  # ... and no further: the commit is never sent

        crashed.publisher.flush = flush_then_die  # type: ignore[method-assign]
        try:
            worker.step()
        except KeyboardInterrupt:
            break
        finally:
            crashed.publisher.flush = flush  # type: ignore[method-assign]
    assert crashed.published().num_rows > 0
    assert crashed.progress() is None
    run(crashed.worker(), crashed)

    assert scores(crashed.store) == scores(calm.store)
    assert crashed.marker() == calm.marker()
    ids = crashed.published().column("source_offset").to_pylist()
    assert len(ids) > 300  # published twice, told apart by row id
    assert set(ids) == set(range(300))
    columns = ["source_offset", "score", "outcome"]
    once = {tuple(r.values()) for r in crashed.published().select(columns).to_pylist()}
    assert len(once) == 300


@pytest.mark.parametrize("seed", range(8))
def test_a_kill_at_any_step_loses_and_repeats_no_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    world = World(partitions=2)
    offset = 0
    for _ in range(30):
        n = int(rng.integers(1, 60))
        partition = int(rng.integers(2))
        back = int(rng.integers(0, 3))  # a sender that repeats some rows
        world.ask(range(max(offset - back, 0), offset + n), partition=partition,
                  source_partition=partition)  # fmt: skip
        offset += n
    settings = settings_of(max_messages=3, micro_batch=16, max_batch=48)
    for _ in range(12):
        worker = world.worker(settings=settings)
        for _ in range(int(rng.integers(1, 6))):
            worker.step()  # then abandoned, as by kill -9: no close, no revoke
    run(world.worker(settings=settings), world)
    print(f"seed {seed}")
    published = {
        (r["source_partition"], r["source_offset"]): r["score"]
        for r in world.published().to_pylist()
    }
    for partition in (0, 1):
        marker = world.marker(partition)
        asked = sum(1 for p, _ in published if p == partition)
        assert marker.applied == asked
        assert marker.consumed == marker.applied + marker.duplicate
        assert marker.next_offset == len(world.log.topics[TOPIC][partition])
    assert all(score == row_offset + 0.5 for (_, row_offset), score in published.items())


def test_the_broker_is_away_for_a_moment() -> None:
    world = World()
    world.ask(range(10))
    worker = world.worker()
    world.publisher.fail_next = True
    for _ in range(50):
        worker.step()
    assert world.progress() is None
    world.now_ms += 200
    assert run(worker, world)["PREDICTED"] == 10
    assert world.published().num_rows == 10


def test_a_full_store_is_back_pressure() -> None:
    world = World()
    worker = world.worker()
    worker.step()
    world.ask(range(10))
    world.store.refuse = StoreFullError("out of memory")
    resets = 0
    for _ in range(20):
        resets += worker.step().resets
    assert (resets, world.progress()) == (0, None)
    world.store.refuse = None
    world.now_ms += 10_000  # the rows were predicted in time: only their commit had to wait
    assert run(worker, world)["PREDICTED"] == 10
    assert world.marker().applied == 10
    assert world.published().num_rows == 10


def test_a_lost_store_starts_again_from_the_marker() -> None:
    world = World()
    worker = world.worker(settings=settings_of(slo_ms=1_000_000))
    worker.step()
    world.ask(range(10))
    world.store.refuse = StoreUnavailableError("gone")
    for _ in range(20):
        worker.step()
    world.store.refuse = None
    world.now_ms += 10_000
    run(worker, world)
    assert world.marker().applied == 10


def test_another_worker_takes_over() -> None:
    world = World()
    first = world.worker(settings=settings_of(slo_ms=1_000_000))
    first.step()
    world.ask(range(10))
    second = world.worker(settings=settings_of(slo_ms=1_000_000))
    assert run(second, world)["PREDICTED"] == 10
    assert world.marker().consumed == 10
    fenced = Counter[str]()
    for _ in range(20):
        _add(fenced, first.step())
    assert fenced["PREDICTED"] == 0
    assert world.marker().consumed == 10


def test_the_lane_is_paused_while_too_many_rows_wait() -> None:
    world, release = World(), threading.Event()
    model = Sum(lambda block, out: len(block) if release.wait(10) else None)
    for start in range(0, 1_000, 50):
        world.ask(range(start, start + 50))
    worker = world.worker(model, settings_of(max_queued_rows=100, max_messages=1, slo_ms=100_000))
    for _ in range(30):
        worker.step()
    (partition,) = worker.partitions.values()
    assert sum(len(m.rows) for m in partition.pending) <= 150
    release.set()
    assert run(worker, world)["PREDICTED"] == 1_000
