"""Many keys: ten million rows through a cache that holds a few of them; one key that is nearly all.

The events are laid out by NumPy; the data plane, Redis and every row are real. Each key occurs
twice, a tenth of the stream apart and in another order, so that its row has long left the cache.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import pipeline as pp
from pipeline.app.outputs import TopicNames
from pipeline.app.partition import view_plans
from pipeline.app.plane import DataPlane, PlaneSettings, Topic
from pipeline.app.sender import Sender
from pipeline.embedded.redis import EmbeddedRedis
from pipeline.features.planjson import to_json
from pipeline.ingest.batch import BinaryBatch, TopicPartition
from pipeline.ingest.lane import Health, OnAssign, OnRevoke, Position
from pipeline.serve.client import FeatureClient
from pipeline.store.open import open_store
from pipeline.store.registry import ViewRecord
from pipeline.testing.log import MemoryPublisher

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
SOURCE = TopicPartition("clicks", 0)
START_MS = 1_700_000_000_000
DIGITS = 8
HEAD, MIDDLE, TAIL = b'{"user":"', b'","n":', b',"at":1700000000000}'
CACHE_BYTES = 32 << 20
CONTRACT = {
    "title": "click",
    "type": "object",
    "properties": {
        "user": {"type": "string"},
        "n": {"type": "integer"},
        "at": {"type": "integer", "x-unix-time": "ms"},
    },
    "required": ["user", "n", "at"],
}


class Clicks:
    """A lane with one partition whose ``user(i)`` is the number of the user of event ``i``."""

    def __init__(self, count: int, user: Callable[[I64], I64]) -> None:
        self._count, self._user, self._next = count, user, 0
        self._assign: OnAssign | None = None

    @property
    def health(self) -> Health:
        """Connected."""
        return Health(True, "", {})

    def subscribe(self, topics: Sequence[str], *, on_assign: OnAssign, on_revoke: OnRevoke) -> None:
        """Assigned at the first poll."""
        self._assign = on_assign

    def poll(self, max_records: int, timeout_ms: int) -> list[BinaryBatch]:
        """The next events."""
        if self._assign is not None:
            assign, self._assign = self._assign, None
            start = assign([SOURCE])[SOURCE]
            self._next = start.offset if isinstance(start, Position) else start
        offsets = np.arange(self._next, min(self._next + max_records, self._count), dtype=np.int64)
        self._next += len(offsets)
        return [batch(offsets, self._user(offsets))] if len(offsets) else []

    def assign(self, starts: Any) -> None:
        """Nothing is read apart here."""

    def seek(self, source: TopicPartition, offset: int, leader_epoch: int = -1) -> None:
        """Go on there."""
        self._next = offset

    def pause(self, sources: Iterable[TopicPartition]) -> None:
        """Nothing here waits."""

    def resume(self, sources: Iterable[TopicPartition]) -> None:
        """Nothing here waits."""

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Nobody asks."""

    def committed(self, source: TopicPartition) -> int:
        """Nothing."""
        return -1

    def watermarks(self, source: TopicPartition) -> tuple[int, int]:
        """All of it."""
        return 0, self._count

    def generation(self) -> int:
        """Unknown."""
        return -1

    def at_end(self, source: TopicPartition) -> bool:
        """Whether everything was read."""
        return self._next >= self._count

    def held_back(self, source: TopicPartition) -> tuple[int, int] | None:
        """Never."""
        return None

    def close(self) -> None:
        """Nothing to give back."""


def batch(offsets: I64, users: I64) -> BinaryBatch:
    """Events of equal length: the n-th click of a user says how many it had in ``n``, always 1."""
    n = len(offsets)
    names = (users[:, None] // 10 ** np.arange(DIGITS - 1, -1, -1) % 10 + 48).astype(np.uint8)
    head, tail = (np.frombuffer(part, dtype=np.uint8) for part in (HEAD, MIDDLE + b"1" + TAIL))
    columns = [np.tile(head, (n, 1)), names, np.tile(tail, (n, 1))]
    payload = np.concatenate(columns, axis=1)
    width = payload.shape[1]
    return BinaryBatch(
        source=SOURCE,
        payload=payload.reshape(-1),
        value_offsets=np.arange(n + 1, dtype=np.int64) * width,
        value_null=np.zeros(n, dtype=np.uint8),
        value_size=np.full(n, width, dtype=np.int64),
        keys=np.ascontiguousarray(names).reshape(-1),
        key_offsets=np.arange(n + 1, dtype=np.int64) * DIGITS,
        key_null=np.zeros(n, dtype=np.uint8),
        offsets=offsets,
        timestamps_ms=np.full(n, START_MS, dtype=np.int64),
    )


def run(url: str, events: int, user: Callable[[I64], I64]) -> tuple[pp.FeatureView, DataPlane]:
    """The plane, after it has applied everything."""
    stream = pp.EventStream("clicks", pp.Contract.load(CONTRACT), key="user", time="at")
    view = pp.FeatureView(
        "clicks",
        source=stream,
        entity="user",
        features={"n": pp.count().over("1d", slide="1h"), "sum": pp.sum("n").over("1d")},
    )
    store = open_store(url)
    plan = view.plan
    record = ViewRecord(plan.view, "many", plan.source, 1, to_json(plan), plan.fingerprint)
    store.registry.register(record)
    names = TopicNames("many", "-dead-letter", "-late", "-changes")
    plane = DataPlane(
        names=names,
        topics=[Topic(stream, "", 1, tuple(view_plans([view], [])))],
        settings=PlaneSettings(20_000, 0, CACHE_BYTES, 1000, 1000),
        lane=Clicks(events, user),
        store=store,
        sender=Sender(names, Discarding(), lambda: START_MS),
        clock_ms=lambda: START_MS,
        monotonic=lambda: 0.0,
    )
    plane.start()
    done = 0
    while done < events:
        done += sum(len(b.events) for b in plane.step().batches)
    return view, plane


class Discarding(MemoryPublisher):
    """Changed rows of millions of keys are not what is looked at here."""

    def flush(self) -> None:
        """Forget what is queued."""
        super().flush()
        self.sent.clear()


def counts(url: str, users: I64) -> list[tuple[int, int]]:
    """Both features of these users, read back."""
    with FeatureClient(url) as client:
        query = client.prepare(["clicks:n", "clicks:sum"])
        keys = [f"{u:0{DIGITS}d}" for u in users.tolist()]
        table: Any = query.read({"user": keys}, at="event")
    return list(zip(table["n"].to_pylist(), table["sum"].to_pylist(), strict=True))


@pytest.mark.fault("B24", "new keys at full speed, far more than the cache holds",
                   "memory of the worker bounded, every row exact")  # fmt: skip
@pytest.mark.parametrize(
    "keys", [100_000, pytest.param(10_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(1500)])]
)
def test_many_keys(keys: int, record_property: Callable[[str, object], None]) -> None:
    block = max(keys // 10, 1)

    def user(offset: I64) -> I64:
        """Blocks of new keys, each followed by the same keys in another order."""
        round_, at = np.divmod(offset, block)
        again = round_ % 2 == 1
        mixed = at * 7919 % block  # 7919 is prime and divides no block used here
        return np.asarray(round_ // 2 * block + np.where(again, mixed, at))

    with EmbeddedRedis() as server:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        _, plane = run(server.url, 2 * keys, user)
        grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        sample = np.random.default_rng(keys).integers(0, keys, 20_000)
        assert set(counts(server.url, sample)) == {(2, 2)}
        (partition,) = plane.assignment
        assert partition == SOURCE
        plane.close()
    record_property("grown_mib", grown_mib)
    print(f"{keys:,} keys: {grown_mib:.0f} MiB more at most")
    assert grown_mib < 4 * CACHE_BYTES / (1 << 20) + 200


@pytest.mark.fault("B24", "one key is nine of ten events", "order kept, every row exact")
def test_hot_key() -> None:
    def user(offset: I64) -> I64:
        return np.asarray(np.where(offset % 10 == 0, 1 + offset // 10 % 1000, 0))

    with EmbeddedRedis() as server:
        _, plane = run(server.url, 40_000, user)
        assert counts(server.url, np.arange(1, 1001)) == [(4, 4)] * 1000
        plane.close()
        # The exact window keeps the newest 4,096 events; the tiles have counted all.
        assert counts(server.url, np.array([0])) == [(36_000, 4096)]
