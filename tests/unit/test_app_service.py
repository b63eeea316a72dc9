"""The data plane as a service: agents that are slow or gone, errors of any kind, stopping."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

import pipeline as pp
from pipeline.app.plane import DataPlane
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
