"""A changed view runs beside the one it changes, which goes on without its definition."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest

import pipeline as pp
from pipeline.app.versions import activate, find, look, retire
from pipeline.contracts.avro import AvroLayout
from pipeline.errors import ConfigurationError, DefinitionError, ViewVersionError
from pipeline.features.planjson import to_json
from pipeline.features.repartition import Repartition
from pipeline.features.stored import StoredView, source_json
from pipeline.features.streamjson import stream_from_json, stream_to_json
from pipeline.features.view import FeatureView
from pipeline.inference.request import decode_requests
from pipeline.serve.client import FeatureClient
from pipeline.store.memory import MemoryStore
from pipeline.testing.driver import Clock, Driver
from pipeline.testing.fuzz import case
from pipeline.testing.log import MemoryLog
from pipeline.testing.simulation import Simulation

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"
PARTITIONS = 3
SALE: dict[str, Any] = {
    "title": "sale",
    "type": "object",
    "properties": {
        "user": {"type": "integer"},
        "shop": {"type": "string"},
        "cents": {"type": "integer"},
        "at": {"type": "integer", "x-unix-time": "ms"},
    },
    "required": ["user", "shop", "cents", "at"],
}
WIDER = {**SALE, "properties": {**SALE["properties"], "tax": {"type": "integer"}}}


def sales(contract: dict[str, Any] = SALE) -> pp.EventStream:
    return pp.EventStream("sales", pp.Contract.load(contract), key="user", time="at")


def old(stream: pp.EventStream | None = None, entity: str = "user") -> FeatureView:
    return FeatureView(
        "spending",
        source=stream or sales(),
        entity=entity,
        where=pl.col("cents") >= 0,
        features={
            "n": pp.count().over("1h", slide="1m"),
            "dear": pp.count(where=pl.col("cents").is_in([7, 70, 700])).over("1d"),
            "spent": pp.sum("cents").over("1d"),
        },
    )


def new(stream: pp.EventStream | None = None, entity: str = "user") -> FeatureView:
    return FeatureView(
        "spending",
        source=stream or sales(),
        entity=entity,
        features={
            "n": pp.count().over("2h", slide="1m"),
            "shops": pp.distinct("shop" if entity == "user" else "user").over("1d", slide="1h"),
        },
    )


def wider(entity: str = "user") -> FeatureView:
    """Of a contract with another field, which it uses."""
    return FeatureView(
        "spending",
        source=sales(WIDER),
        entity=entity,
        features={"n": pp.count().over("2h", slide="1m"), "tax": pp.sum("tax").over("1d")},
    )


def sell(driver: Driver, seed: int, count: int = 300) -> None:
    """Sales of some users, a few that no contract takes, and some that only SALE does."""
    rng = Random(seed)
    start_ms = 1_700_000_000_000 + seed * 1_000_000
    for i in range(count):
        at = start_ms + i * 1_000
        sale: dict[str, Any] = {
            "user": rng.randrange(9), "shop": f"s{rng.randrange(5)}",
            "cents": rng.choice([-1, 7, 70, 100]), "at": at,
        }  # fmt: skip
        if rng.random() < 0.3:
            sale["tax"] = rng.choice([1, 2.5, "x"])
        if rng.random() < 0.05:
            del sale["cents"]
        data = json.dumps(sale).encode()
        driver.log.append("sales", b"%d" % sale["user"], data, at + rng.randrange(50))


class World:
    """One log and one store, over which programs of any version run."""

    def __init__(self) -> None:
        self.log, self.store, self.clock = MemoryLog(), MemoryStore(), Clock(1_800_000_000_000)

    def deploy(self, view: FeatureView, **options: Any) -> Driver:
        return Driver(
            [view], log=self.log, store=self.store, clock=self.clock, partitions=PARTITIONS,
            **{"max_records": 50, **options},
        )  # fmt: skip

    def read(self, at: Any = "event") -> dict[str, list[Any]]:
        with FeatureClient(self.store) as client:
            key = next(iter(client.prepare(["spending"]).entities))
            keys = list(range(9)) if key == "user" else [f"s{i}" for i in range(5)]
            query = client.prepare(["spending"])
            found: Any = query.read({key: keys}, at=at)
            return {name: found[name].to_pylist() for name in query.features}


def alone(view: FeatureView, log: MemoryLog) -> Driver:
    """The same log with a program that has this view, and no other ever was."""
    copy = MemoryLog({topic: [list(p) for p in parts] for topic, parts in log.topics.items()
                      if topic == "sales"})  # fmt: skip
    driver = Driver([view], log=copy, partitions=PARTITIONS, max_records=50)
    driver.run()
    return driver


@pytest.mark.parametrize("changed", [new(), wider()], ids=["features", "contract"])
def test_readers_get_the_old_version_fresh_until_they_are_moved_and_after_they_are_moved_back(
    changed: FeatureView,
) -> None:
    world, first = World(), old()
    driver = world.deploy(first)
    sell(driver, 1)
    driver.run()
    driver.plane.close()

    driver = world.deploy(changed)  # nothing here defines the old version
    sell(driver, 2)
    driver.run()
    assert list(world.read()) == ["n", "dear", "spent"]
    assert driver.digest(first) == alone(first, world.log).digest(first)
    assert driver.digest(changed) == alone(changed, world.log).digest(changed)

    versions = look(world.store, "spending")
    chosen = find(versions, "spending", f"{changed.plan.fingerprint:016x}")
    activate(world.store, chosen, versions[0], 5)
    assert list(world.read()) == list(changed.features)
    sell(driver, 3)
    driver.run()
    activate(world.store, versions[0], look(world.store, "spending")[0], 6)
    assert list(world.read()) == ["n", "dear", "spent"]
    assert driver.digest(first) == alone(first, world.log).digest(first)
    # what the old program would have answered, the newest sales included
    assert world.read() == _read_of(alone(first, world.log))


def _read_of(driver: Driver) -> dict[str, list[Any]]:
    with FeatureClient(driver.store) as client:
        query = client.prepare(["spending"])
        found: Any = query.read({"user": list(range(9))}, at="event")
        return {name: found[name].to_pylist() for name in query.features}


@pytest.mark.parametrize("changed", [new(entity="shop"), wider("shop")], ids=["fields", "contract"])
def test_a_repartitioned_version_keeps_its_way(changed: FeatureView) -> None:
    """The old way goes on where it was: the new one sends everything, from the first record on."""
    world, first = World(), old(entity="shop")
    driver = world.deploy(first)
    sell(driver, 1)
    driver.run()
    sent = sum(map(len, world.log.topics["test-sales-by-shop"]))
    driver.plane.close()
    driver = world.deploy(changed, max_records=20)
    sell(driver, 2)
    for _ in range(400):
        driver.plane.step()
        world.clock.advance(10)
    driver.run()
    assert sum(map(len, world.log.topics["test-sales-by-shop"])) > sent
    (total,) = {sum(m.applied + m.filtered for m in driver.markers(first))}
    good = [r for part in world.log.topics["sales"] for r in part if b"cents" in (r.value or b"")]
    assert total == len(good)
    plain = alone(first, world.log)  # the order between partitions is that of its own log
    want, got = _counts(plain, first), _counts(driver, first)
    assert got == want
    assert all(m.consumed == m.applied + m.duplicate + m.filtered for m in driver.markers(first))


def _counts(driver: Driver, view: FeatureView) -> dict[str, list[Any]]:
    with FeatureClient(driver.store) as client:
        query = client.prepare(["spending:n", "spending:spent"])
        found: Any = query.read({"shop": [f"s{i}" for i in range(5)]}, at=1_700_003_000_000 * 10**6)
        return {name: found[name].to_pylist() for name in query.features}


def test_freshness_of_the_old_version_does_not_wait_for_the_new_way() -> None:
    world, first = World(), old(entity="shop")
    driver = world.deploy(first)
    sell(driver, 1)
    driver.run()
    for _ in range(6):
        world.clock.advance(1_500)
        driver.run()
    fresh = min(m.processed_through_ms for m in driver.markers(first))
    assert fresh > world.clock.now_ms - 10_000
    driver.plane.close()
    driver = world.deploy(new(entity="shop"), max_records=7)
    for _ in range(12):  # far from enough for the new way
        world.clock.advance(1_500)
        driver.plane.step()
    assert min(m.processed_through_ms for m in driver.markers(first)) >= fresh


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_while_old_and_new_programs_share_the_partitions(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    made, other = case(seed, events=200, partitions=5), case(seed + 50, events=1, partitions=5)
    assert made.view.plan.fingerprint != other.view.plan.fingerprint
    run = Simulation([made.view], log=made.log, seed=seed)
    run.run(60)
    run._views = [other.view]  # from now on new workers are of the new program
    run.run(120)
    while any(made.view in worker._views.values() for worker in run._workers):
        run._crash()
    driver = run.settle()
    for view in (made.view, other.view):
        made.log.committed.clear()
        quiet = Driver([view], log=made.log, max_records=1 << 20)
        quiet.run()
        assert driver.digest(view) == quiet.digest(view), f"seed {seed}"


def test_requests_of_a_new_version_are_not_lost_to_an_old_program_that_starts_again() -> None:
    world, first, second = World(), old(), new()
    asks = pp.Trigger("asks", view=second)

    def start_old() -> Driver:
        world.clock.advance(1)
        return world.deploy(first)

    def start_new() -> Driver:
        world.clock.advance(1)
        return Driver(
            [second], [asks], log=world.log, store=world.store, clock=world.clock,
            partitions=PARTITIONS, max_records=50,
        )  # fmt: skip

    driver = start_old()
    sell(driver, 1)
    driver.run()
    driver.plane.close()
    sent = []
    for seed, start in enumerate([start_new, start_old, start_new, start_old, start_new], 2):
        driver = start()
        sell(driver, seed, 60)
        driver.run()
        sent += driver.publisher.sent.get("test-asks-requests", [])
        driver.plane.close()
    driver = start_new()
    driver.run()
    sent += driver.publisher.sent.get("test-asks-requests", [])
    applied = sum(m.applied for m in driver.markers(second))
    assert sum(len(decode_requests(value)) for _, _, value in sent) == applied > 500
    for view in (first, second):
        assert driver.digest(view) == alone(view, world.log).digest(view)


def test_a_retired_version_is_dropped_by_running_workers() -> None:
    world, first, second = World(), old(), new()
    world.deploy(first).plane.close()
    driver = world.deploy(second)
    sell(driver, 1)
    driver.run()
    assert driver.markers(first)
    fingerprint = first.plan.fingerprint
    with pytest.raises(ViewVersionError, match="is what readers get"):
        _retire(world, fingerprint)
    world.store.registry.activate("test", "spending", second.plan.fingerprint)
    assert _retire(world, fingerprint).done
    assert not driver.markers(first)
    sell(driver, 2)
    world.clock.advance(1_000)
    driver.run()  # fenced by the marker that is gone; then another plane is built
    world.clock.advance(20_000)
    driver.run()
    assert not driver.markers(first)
    assert not driver.rows(first)
    assert driver.digest(second) == alone(second, world.log).digest(second)

    driver.plane.close()
    driver = world.deploy(first)  # defined again: it begins anew, beside what readers get
    driver.run()
    assert driver.digest(first) == alone(first, world.log).digest(first)
    assert world.store.registry.resolve("spending").fingerprint == second.plan.fingerprint


def test_a_quiet_worker_hears_that_its_own_view_was_retired() -> None:
    world, first, second = World(), old(), new()
    worker = world.deploy(first)
    sell(worker, 1)
    worker.run()
    world.deploy(second).plane.close()
    world.store.registry.activate("test", "spending", second.plan.fingerprint)
    world.store.registry.retire("test", "spending", first.plan.fingerprint, 5)
    outdated = []
    for _ in range(8):
        world.clock.advance(1_000)
        outdated.append(worker.plane.step().outdated)
    assert True in outdated
    with pytest.raises(ConfigurationError, match="every view that 'test' defines was retired"):
        worker.run()


def _retire(world: World, fingerprint: int) -> Any:
    return retire(
        world.store, "test", "spending", fingerprint, keys_per_s=10**9,
        clock_ms=world.clock.ms, sleep=lambda _: None,
    )  # fmt: skip


def test_a_version_that_cannot_be_kept_up_is_named(caplog: pytest.LogCaptureFixture) -> None:
    world, first, second = World(), old(), new()
    world.deploy(first).plane.close()
    registry = world.store.registry
    (record,) = registry.versions("test")
    registry.register(replace(record, source=""))
    message = (
        f"view spending {first.plan.fingerprint:016x} is what readers get, and cannot be kept up "
        "by this program: .* does not say what its events come from. Leave workers running"
    )
    with pytest.raises(ConfigurationError, match=message):
        world.deploy(second)
    assert {v.record.fingerprint for v in look(world.store)} == {
        first.plan.fingerprint, second.plan.fingerprint,
    }  # fmt: skip
    registry.activate("test", "spending", second.plan.fingerprint)
    driver = world.deploy(second)
    assert "stands still, nobody keeps it up" in caplog.text
    sell(driver, 1)
    driver.run()
    assert not driver.markers(first)


def test_what_another_program_wrote_is_refused_by_name() -> None:
    view = old()
    plan, source = to_json(view.plan), source_json(view, ())
    made = StoredView.of(plan, source, lambda _: None)
    assert (made.plan, made.name, made.publish_changes) == (view.plan, view.name, True)
    silent = source_json(replace(made, publish_changes=False), (), ("asks",))
    made = StoredView.of(plan, silent, lambda _: None)
    assert (made.publish_changes, made.triggers) == (False, ("asks",))
    with pytest.raises(DefinitionError, match="another version of this program computes its rows"):
        StoredView.of(plan.replace('"ttl_ns":0', '"ttl_ns":5'), source, lambda _: None)
    with pytest.raises(DefinitionError, match=r"spending [0-9a-f]{16}\.source: format 9"):
        StoredView.of(plan, source.replace('"format":1', '"format":9'), lambda _: None)
    with pytest.raises(DefinitionError, match=r"\.source: KeyError"):
        StoredView.of(plan, source.replace('"contract"', '"contrast"'), lambda _: None)


def _streams() -> dict[str, Any]:
    wide = pp.Contract.load(SALE)
    registry = {"url": "http://127.0.0.1:1", "basic.auth.user.info": "me:secret"}
    events = SCHEMAS / "events"
    found: dict[str, Any] = {
        "json": sales(),
        "options": pp.EventStream(
            "sales", wide, key=["shop", "user"], time="at", max_future="90s", dedup="1h30m",
            event_id="cents", dedup_bound=7, max_value_bytes=99, misrouted="route",
        ),
        "arrow": pp.EventStream("sales", wide, "user", "at", format="arrow", compressed=True),
        "several": Repartition("v", (sales(), replace(sales(), topic="returns")), ("shop",)),
    }  # fmt: skip
    for path in sorted(events.glob("*.avsc")):
        contract = pp.Contract.load(path)
        key, time = _key_and_time(contract)
        found[path.name] = pp.EventStream("sales", contract, key, time)
        found[f"{path.name}, registry"] = pp.EventStream(
            "sales", contract, key, time, registry=registry
        )
    for path in sorted(events.glob("*.proto")):
        contract = pp.Contract.load(path)
        found[path.name] = pp.EventStream("sales", contract, *_key_and_time(contract))
    return found


def _key_and_time(contract: pp.Contract) -> tuple[str, str]:
    solid = [f for f in contract.fields if not f.nullable]
    keys = [f.name for f in solid if f.type.value in ("int64", "string")]
    times = [f.name for f in solid if f.type.value == "timestamp"]
    return keys[0], times[0]


@pytest.mark.parametrize("name", _streams())
def test_a_stream_comes_back_as_it_was(name: str) -> None:
    stream = _streams()[name]
    text = stream_to_json(stream)
    assert "secret" not in text
    back = stream_from_json(text, "v", lambda _: {"url": "http://127.0.0.1:1"})
    assert stream_to_json(back) == text
    for name in ("schema", "key_fields", "key_type", "topic"):
        assert getattr(back, name) == getattr(stream, name)
    if isinstance(stream, pp.EventStream) and not isinstance(back, Repartition):
        ours, theirs = back.schema.layout, stream.schema.layout
        if isinstance(theirs, AvroLayout) and isinstance(ours, AvroLayout):
            assert (ours.nodes, ours.schema.document) == (theirs.nodes, theirs.schema.document)
        else:
            assert ours == theirs
        for name in ("time", "max_future_ms", "earliest_ns", "dedup_ns", "format", "framing"):
            assert getattr(back, name) == getattr(stream, name)
        if stream.registry is not None:
            with pytest.raises(DefinitionError, match="which registry topic 'sales' has"):
                stream_from_json(text, "v", lambda _: None)
