"""The data plane as a service: agents that are slow or gone, errors of any kind, stopping."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

import pipeline as pp
from pipeline.app.plane import DataPlane, Step
from pipeline.app.service import PlaneService
from pipeline.errors import StoreUnavailableError
from pipeline.metrics import Registry
from pipeline.testing.driver import Driver

CONTRACT = pp.Contract.load(
    {
        "title": "visit",
        "type": "object",
        "properties": {
            "user": {"type": "string"},
            "at": {"type": "integer", "x-unix-time": "ms"},
        },
        "required": ["user", "at"],
    }
)
STREAM = pp.EventStream("visits", contract=CONTRACT, key="user", time="at")
VISITS = pp.FeatureView(
    "visits", source=STREAM, entity="user",
    features={"visits": pp.count().over("1d", slide="1h")},
)  # fmt: skip


def driver(records: int) -> Driver:
    made = Driver([VISITS], max_records=10)
    for i in range(records):
        event = json.dumps({"user": f"u{i % 3}", "at": i}).encode()
        made.log.append("visits", f"u{i % 3}".encode(), event, i)
    made.plane.close()
    return made


def service(
    build: Callable[[], DataPlane], deliver: Callable[[Any], Any], failed: Callable[[], object]
) -> PlaneService:
    return PlaneService(build, {"visits": deliver}, Registry(), lambda: 0, failed)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come to pass")


def test_agents_get_what_the_last_step_of_a_plane_committed() -> None:
    source = driver(50)
    given: list[int] = []

    class Last(DataPlane):
        """Its first step commits, and says that another plane is to be built."""

        def step(self) -> Step:
            return dataclasses.replace(super().step(), outdated=True)

    source.plane.__class__ = Last
    planes = [source.plane]

    def build() -> DataPlane:
        if not planes:
            raise StoreUnavailableError("there is no other, says the test")
        return planes.pop()

    async def deliver(rows: Any) -> None:
        given.append(len(rows))

    async def run() -> None:
        made = service(build, deliver, lambda: None)
        await made.start()
        await until(lambda: made.failure is not None)
        await made.stop()

    asyncio.run(run())
    assert given == [3]


def test_a_full_channel_holds_the_plane_back_and_stopping_is_no_failure() -> None:
    source = driver(1000)
    puts: list[asyncio.Task[Any]] = []

    async def full(_: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        puts.append(task)
        await asyncio.sleep(3600)

    async def main() -> PlaneService:
        running = service(lambda: source.plane, full, lambda: None)
        await running.start()
        await until(lambda: bool(puts))
        await asyncio.sleep(0.3)
        assert [m.consumed for m in source.markers("visits")] == [10]
        puts[0].cancel()  # as Faust does with agents before it stops the plane
        await asyncio.sleep(0.05)
        await running.stop()
        return running

    assert asyncio.run(main()).failure is None


def two_topics() -> Driver:
    """Views over visits (1000 records waiting) and over calls (none), in one driver."""
    calls = pp.FeatureView(
        "calls", source=pp.EventStream("calls", contract=CONTRACT, key="user", time="at"),
        entity="user", features={"calls": pp.count().over("1d", slide="1h")},
    )  # fmt: skip
    made = Driver([VISITS, calls], max_records=10, partitions=2)
    for i in range(1000):
        user = f"u{i % 3}"
        made.log.append("visits", user.encode(), json.dumps({"user": user, "at": i}).encode(), i)
    made.plane.close()
    return made


def test_a_full_channel_holds_its_topic_back_while_the_plane_polls_beats_and_reads_the_other() -> (
    None
):
    source = two_topics()
    gate = asyncio.Event()
    taken: list[Any] = []

    async def slow(changes: Any) -> None:
        await gate.wait()
        taken.append(changes)

    def consumed(view: str) -> int:
        return sum(m.consumed for m in source.markers(view))

    async def main() -> PlaneService:
        polls = 0
        works = source.lane.poll

        def poll(*args: int) -> Any:
            nonlocal polls
            polls += 1
            return works(*args)

        source.lane.poll = poll  # type: ignore[assignment,method-assign]
        running = service(lambda: source.plane, slow, lambda: None)
        await running.start()
        await until(lambda: consumed("visits") > 0)
        await asyncio.sleep(0.4)
        held, before = consumed("visits"), polls
        assert held <= 20  # one batch a partition at most
        source.log.append("calls", b"u1", b'{"user": "u1", "at": 5}', 5)
        await until(lambda: consumed("calls") == 1)
        source.clock.advance(60_000)
        await until(lambda: all(m.processed_through_ms >= 60_000 for m in source.markers("calls")))
        source.lane.rebalance((0, 2))  # the plane answers its group, and is given it all back
        await until(lambda: len(source.plane.assignment) == 2)
        source.lane.rebalance((0, 1))
        await until(lambda: len(source.plane.assignment) == 4)
        assert polls > before
        assert consumed("visits") <= held + 20
        assert not taken
        behind = [
            m
            for m in source.markers("visits")
            if m.next_offset < len(source.log.topics["visits"][m.partition])
        ]
        assert behind
        assert all(m.processed_through_ms < 60_000 for m in behind)
        gate.set()
        await until(lambda: consumed("visits") == 1000)
        await running.stop()
        return running

    assert asyncio.run(main()).failure is None
    rows = sum(batch.num_rows for batch in taken)
    assert rows == source.changes("visits").num_rows


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [StoreUnavailableError("x"), ValueError("x"), "panic"])
def test_whatever_ends_the_plane_is_told(error: Any) -> None:
    if error == "panic":
        error = pl.exceptions.PanicException("x")  # no Exception, a BaseException
    told: list[bool] = []

    def build() -> DataPlane:
        raise error

    async def nobody(_: Any) -> None:
        return None

    async def main() -> PlaneService:
        running = service(build, nobody, lambda: told.append(True))
        await running.start()
        await until(lambda: bool(told))
        await running.stop()
        return running

    assert asyncio.run(main()).failure is error


def test_a_retired_version_makes_it_build_another_plane() -> None:
    """Registered beside another, which readers get; no plane is left open, none fails."""
    source, taken = driver(30), []
    registry = source.store.registry
    total = pp.FeatureView(
        "total", source=STREAM, entity="user", features={"n": pp.count().over("1h")}
    )
    built: list[Driver] = []

    def build() -> DataPlane:
        views = [VISITS, total] if not built else [VISITS]
        made = Driver(views, log=source.log, store=source.store, clock=source.clock)
        built.append(made)
        return made.plane

    async def take(changes: Any) -> None:
        taken.append(changes)

    async def main() -> PlaneService:
        running = service(build, take, lambda: None)
        await running.start()
        await until(lambda: sum(m.consumed for m in source.markers("visits")) == 30)
        registry.retire("test", "total", total.plan.fingerprint, 5, served=True)
        source.clock.advance(6_000)
        await until(lambda: len(built) == 2)
        source.pipe("visits", {"user": "u1", "at": 50}, 50)
        await until(lambda: sum(m.consumed for m in source.markers("visits")) == 31)
        await running.stop()
        return running

    assert asyncio.run(main()).failure is None
    assert sum(len(changes) for changes in taken) >= 4
    assert len(built) == 2
