"""The last moment of a row: what is read at exactly newest + ttl, and one nanosecond around it."""

from __future__ import annotations

import json
from typing import Any

import pytest

import pipeline as pp
from pipeline.testing.driver import Clock, Driver
from pipeline.testing.log import MemoryLog

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

CONTRACT = pp.Contract.load(
    {
        "title": "visit",
        "type": "object",
        "properties": {
            "user": {"type": "string"},
            "page": {"type": ["integer", "null"]},
            "at": {"type": "integer", "x-unix-time": "ns"},
        },
        "required": ["user", "at"],
    }
)
STREAM = pp.EventStream("visits", contract=CONTRACT, key="user", time="at")
START = 1_700_000_000_000_000_000
DAY = 86_400 * 10**9
VIEW = pp.FeatureView(
    "visits", source=STREAM, entity="user", ttl="1d",
    features={"page": pp.last("page"), "pages": pp.last("page", n=3)},
)  # fmt: skip


def drive(*events: tuple[int, int | None]) -> Driver:
    log = MemoryLog()
    log.create("visits", 1)
    for at, page in events:
        value = json.dumps({"user": "u", "page": page, "at": at}).encode()
        log.append("visits", b"u", value, at // 10**6)
    driver = Driver([VIEW], log=log, clock=Clock(START // 10**6))
    driver.run()
    return driver


def read(driver: Driver, at: int) -> tuple[Any, Any, str]:
    query = pp.FeatureClient(driver.store).prepare(["visits:page", "visits:pages"])
    row = query.read({"user": ["u"]}, at=at).to_pylist()[0]
    return row["page"], row["pages"], row["visits__status"]


def test_a_value_is_there_as_long_as_its_row() -> None:
    driver = drive((START, 7))
    for at in (START, START + DAY - 1, START + DAY):
        assert read(driver, at) == (7, [7], "present")
    assert read(driver, START + DAY + 1) == (None, None, "expired")


def test_an_older_value_counts_up_to_the_same_age() -> None:
    driver = drive((START, 7), (START + DAY, None))
    assert read(driver, START + DAY) == (7, [7], "present")
    assert read(driver, START + DAY + 1) == (None, None, "present")
    driver = drive((START, 7), (START + DAY - 1, 8))
    assert read(driver, START + DAY) == (8, [8, 7], "present")
    assert read(driver, START + DAY + 1) == (8, [8], "present")


def test_an_event_joins_up_to_the_same_age() -> None:
    driver = drive((START, 1), (START - DAY, 2), (START - DAY - 1, 3))
    assert read(driver, START) == (1, [1, 2], "present")
    (marker,) = driver.markers("visits")
    assert (marker.applied, marker.late) == (2, 1)


def test_a_row_is_emptied_by_an_event_more_than_its_ttl_later() -> None:
    driver = drive((START, 1), (START + DAY, None), (START + 2 * DAY + 1, None))
    assert read(driver, START + 2 * DAY + 1) == (None, None, "present")
    driver = drive((START, 1), (START + DAY, 2), (START + 2 * DAY, None))
    assert read(driver, START + 2 * DAY) == (2, [2], "present")
