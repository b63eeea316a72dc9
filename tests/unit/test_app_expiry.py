"""Rows that expire in the store: no feature, no byte of a later row tells that they were gone."""

from __future__ import annotations

import random
from typing import Any

import pytest

import pipeline as pp
from pipeline.errors import StoreUnavailableError
from pipeline.ingest.batch import TopicPartition
from pipeline.store.keys import partition_tag, row_key
from pipeline.store.memory import MemoryPartition, MemoryStore
from pipeline.testing.driver import Clock, Driver
from pipeline.testing.log import MemoryLog

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
START_MS = 1_700_000_000_000
HORIZON_MS = 3 * DAY_MS
TTL_MS = 2 * DAY_MS
CONTRACT = pp.Contract.load(
    {
        "title": "visit",
        "type": "object",
        "properties": {
            "user": {"type": "integer"},
            "page": {"type": "integer"},
            "price": {"type": "number"},
            "at": {"type": "integer", "x-unix-time": "ms"},
        },
        "required": ["user", "page", "price", "at"],
    }
)
STREAM = pp.EventStream("visits", contract=CONTRACT, key="user", time="at")


def view(name: str, ttl: str | None) -> pp.FeatureView:
    return pp.FeatureView(
        name, source=STREAM, entity="user", ttl=ttl,
        features={
            "visits": pp.count().over("1d", slide="1h"),
            "spent": pp.sum("price").over("36h", slide="6h"),
            "pages": pp.distinct("page").over("1d", slide="1h"),
            "recent": pp.sum("price").over("1d"),
            "last_pages": pp.last("page", n=3),
        },
    )  # fmt: skip


FADING = view("fading", "2d")
LASTING = view("lasting", None)


class World:
    """Two applications over one log: one whose rows expire, one whose store keeps everything."""

    def __init__(self, *views: pp.FeatureView, **options: Any) -> None:
        self.clock = Clock(START_MS)
        self.log = MemoryLog()
        self.log.create("visits", 3)
        self.store = MemoryStore(clock_ms=self.clock.ms)
        options.setdefault("cache_bytes", 1)
        self.options: dict[str, Any] = {
            "clock": self.clock, "log": self.log, "replay_horizon_ms": HORIZON_MS, **options,
        }  # fmt: skip
        self.views = views or (FADING, LASTING)
        self.fading = self.driver(self.store)
        self.control = Driver(
            list(self.views), log=self.log, clock=self.clock, max_records=7,
        )  # fmt: skip

    def driver(self, store: MemoryStore) -> Driver:
        return Driver(list(self.views), store=store, max_records=5, **self.options)

    def visit(self, user: int, at_ms: int | None = None, page: int = 1, price: float = 1.5) -> None:
        at = self.clock.ms() if at_ms is None else at_ms
        event = {"user": user, "page": page, "price": price, "at": at}
        self.fading.pipe("visits", event, self.clock.ms())

    def run(self) -> None:
        self.fading.run()
        self.control.run()

    def beat(self, times: int = 2) -> None:
        """Idle seconds."""
        for _ in range(times):
            self.clock.advance(1100)
            self.run()

    def gone(self) -> set[bytes]:
        """Users whose row is only in the control's store."""
        return self.control.rows("fading").keys() - self.fading.rows("fading").keys()

    def same(self) -> None:
        """Every row that is there has the control's bytes, and the marker its counts."""
        for name in (v.name for v in self.views):
            control = self.control.rows(name)
            for user, row in self.fading.rows(name).items():
                assert row == control[user], user
            for mine, theirs in zip(
                self.fading.markers(name), self.control.markers(name), strict=True
            ):
                assert (mine.applied, mine.late, mine.consumed) == (
                    theirs.applied, theirs.late, theirs.consumed
                )  # fmt: skip


def test_a_row_goes_after_ttl_and_horizon_and_comes_back_as_if_it_had_stayed() -> None:
    world = World()
    for user in range(20):
        world.visit(user)
    world.run()
    world.beat()
    assert len(world.store.deadlines) == 20  # of the view with a ttl only
    world.clock.advance(TTL_MS + HORIZON_MS - 10_000)
    world.run()
    assert world.gone() == set()
    world.clock.advance(20_000)
    assert len(world.gone()) == 20
    assert len(world.fading.rows("lasting")) == 20
    for user in range(10):
        world.visit(user, page=2, price=0.1)
    world.run()
    assert len(world.fading.rows("fading")) == 10
    world.same()


def test_missing_and_expired_read_as_the_same_nulls() -> None:
    world = World(FADING)
    world.visit(1)
    world.visit(2)
    world.run()
    world.beat()
    world.clock.advance(TTL_MS + HORIZON_MS + 60_000)
    world.visit(2)
    world.run()
    tables = {}
    for name, store in (("gone", world.store), ("kept", world.control.store)):
        client = pp.FeatureClient(store, clock_ns=lambda: world.clock.ms() * 10**6)
        tables[name] = client.prepare(["fading"]).read([1, 2, 3])
    features = [*FADING.features]
    assert tables["gone"].select(features) == tables["kept"].select(features)
    status = {name: table["fading__status"].to_pylist() for name, table in tables.items()}
    assert status == {
        "gone": ["missing", "present", "missing"],
        "kept": ["expired", "present", "missing"],
    }


@pytest.mark.parametrize("seed", range(4))
def test_random_lives_have_the_bytes_of_a_store_that_keeps_everything(seed: int) -> None:
    """Late events, evictions, workers that come and go; no event is later than the horizon."""
    print(f"seed {seed}")
    draw = random.Random(seed)
    world = World(cache_bytes=draw.choice([1, 4000, 1 << 24]), sweep_keys_per_s=50)
    came_back = 0
    for _ in range(60):
        world.clock.advance(draw.choice([0, 1000, HOUR_MS, DAY_MS, TTL_MS, HORIZON_MS]))
        gone = world.gone()
        for _ in range(draw.randrange(8)):
            user = draw.choice([1, draw.randrange(15), 100 + draw.randrange(400)])
            came_back += str(user).encode() in gone
            late = draw.choice([0, 0, 0, HOUR_MS, TTL_MS, HORIZON_MS - 60_000])
            world.visit(user, world.clock.ms() - late, draw.randrange(9), draw.uniform(-9, 9))
        world.run()
        if draw.random() < 0.2:  # killed: what it had cached gets no expiry from it
            world.fading = world.driver(world.store)
        if draw.random() < 0.1:  # or given back in order
            world.fading.plane.close()
            world.fading = world.driver(world.store)
        world.beat(draw.randrange(4))
        world.same()
    assert came_back > 3, "no row that was gone came back"


def test_rows_that_are_given_back_expire_and_those_of_a_killed_worker_are_swept() -> None:
    world = World(FADING, cache_bytes=1 << 24, sweep_keys_per_s=100)
    for user in range(30):
        world.visit(user)
    world.run()
    world.beat()
    assert not world.store.deadlines  # cached: nothing leaves
    world.fading.lane.rebalance((1, 2))
    world.fading.plane.step()
    fingerprint = FADING.plan.fingerprint
    tags = [partition_tag("test", TopicPartition("visits", p)) for p in range(3)]
    prefixes = [row_key(tag, fingerprint, b"") for tag in tags]
    given = {key.startswith(prefixes[1]) for key in world.store.deadlines}
    assert given == {False}  # of partitions 0 and 2, which went
    before = len(world.store.deadlines)
    assert before > 5
    heir = world.driver(world.store)
    heir.lane.rebalance((0, 1))
    counts: dict[tuple[str, str], int] = {}
    for _ in range(5):
        world.clock.advance(2 * HOUR_MS)
        heir_step = heir.plane.step()
        for key, rows in heir_step.expiring.items():
            counts[key] = counts.get(key, 0) + rows
    assert len(world.store.deadlines) == 30
    assert counts == {("fading", "swept"): 30 - before}


def test_only_one_worker_sweeps() -> None:
    world = World(FADING, cache_bytes=1 << 24, sweep_keys_per_s=1000, share=(1, 3))
    for user in range(30):
        world.visit(user)
    for _ in range(4):
        world.clock.advance(2 * HOUR_MS)
        world.fading.plane.step()
    assert world.fading.rows("fading")
    assert not world.store.deadlines  # it does not own the first partition


def test_an_expiry_counts_from_the_newest_of_now_event_and_broker_time() -> None:
    world = World(FADING)
    ahead = HOUR_MS // 2
    world.visit(1, START_MS + ahead)
    world.visit(2, START_MS - 5 * DAY_MS)
    world.run()
    world.beat()
    deadlines = {key.rpartition(b":")[2]: at for key, at in world.store.deadlines.items()}
    keep = START_MS + TTL_MS + HORIZON_MS
    assert deadlines[b"1"] >= keep + ahead
    assert keep <= deadlines[b"2"] <= keep + 5_000  # history is kept as long as today


def test_a_row_that_is_written_again_before_its_expiry_is_sent_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(FADING)
    world.visit(1)
    world.fading.plane.step()  # committed and evicted; its expiry waits for the next commit
    world.visit(1)
    world.fading.plane.step()  # set and written in one transaction
    assert not [key for key in world.store.deadlines if key.endswith(b":1")]
    world.run()
    world.same()


def test_a_commit_that_fails_loses_only_expiries(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(FADING, sweep_keys_per_s=100)
    for user in range(10):
        world.visit(user)
    works = MemoryPartition.finish_commit
    left = [3]

    def finish(self: MemoryPartition) -> None:
        if left[0]:
            left[0] -= 1
            raise StoreUnavailableError("cut")
        works(self)

    monkeypatch.setattr(MemoryPartition, "finish_commit", finish)
    for _ in range(20):
        world.clock.advance(HOUR_MS)
        world.run()
    world.same()
    assert len(world.store.deadlines) == 10
