"""RFC 3339 timestamps against their twin."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels.timestamps import OUT_OF_RANGE, TIMED, UNTIMELY, timestamp
from tests.reference import timestamps as reference

STATUS = {"timed": TIMED, "untimely": UNTIMELY, "out of range": OUT_OF_RANGE}
EDGES = [
    "2017-01-01T11:53:26Z",
    "2017-01-01t11:53:26z",
    "2017-01-01T11:53:26",
    "2017-01-01T11:53:26.5",
    "2262-04-11T23:47:16.854775807Z",
    "2262-04-11T23:47:16.854775808Z",
    "2262-04-11T23:47:17Z",
    "1677-09-21T00:12:43.145224192Z",
    "1677-09-21T00:12:43.145224191Z",
    "1677-09-21T00:12:42Z",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "1969-12-31T23:59:59.999999999Z",
    "2016-12-31T23:59:60Z",
    "2016-12-31T23:59:61Z",
    "2016-12-31T23:60:00Z",
    "2016-12-31T24:00:00Z",
    "2000-02-29T00:00:00Z",
    "1900-02-29T00:00:00Z",
    "2016-02-29T00:00:00Z",
    "2017-02-29T00:00:00Z",
    "2017-04-31T00:00:00Z",
    "2017-01-32T00:00:00Z",
    "2017-00-01T00:00:00Z",
    "2017-13-01T00:00:00Z",
    "2017-01-00T00:00:00Z",
    "2017-07-31T00:00:00Z",
    "2017-08-31T00:00:00Z",
    "2017-09-31T00:00:00Z",
    "2017-01-01T00:00:00+01:30",
    "2017-01-01T00:00:00-01:30",
    "2017-01-01T00:00:00+24:00",
    "2017-01-01T00:00:00+23:60",
    "2017-01-01T00:00:00+0100",
    "2017-01-01T00:00:00+01",
    "2017-01-01T00:00:00ZZ",
    "2017-01-01T00:00:00.Z",
    "2017-01-01T00:00:00.1234567890Z",
    "2017-01-01T00:00:00.1234567891Z",
    "2017-01-01X00:00:00Z",
    "2017/01/01T00:00:00Z",
    "2017-01-01T00-00:00Z",
    "2017-01-01T00:00-00Z",
    "2017-01-01",
    "20170101T000000Z",
    "+017-01-01T00:00:00Z",
    "2017-1-01T00:00:00Z",
    "2017-01-01T0a:00:00Z",
    "",
    "2017-01-01 11:53:26Z",
    "2017-01-01T11:53:26 Z",
    "2017-01-01T11:53:2",
]
DAY = datetime(1677, 1, 1)


def check(text: str) -> None:
    """The kernel's value and status are the twin's, with and without a default of UTC."""
    data = np.frombuffer(b'"' + text.encode() + b'"}', dtype=np.uint8)
    for utc in (False, True):
        value, status = timestamp(data, 1, 1 + len(text.encode()), utc)
        expected, name = reference.timestamp(text.encode(), utc)
        assert (int(value), status) == (expected, STATUS[name]), text


@pytest.mark.parametrize("text", EDGES)
def test_edges(text: str) -> None:
    check(text)


def test_days_of_six_centuries() -> None:
    for days in range(0, 366 * 600, 5):
        check((DAY + timedelta(days=days)).isoformat() + "Z")


@given(st.datetimes(), st.sampled_from(["", "Z", "+05:45", "-11:00"]))
def test_any_time(time: datetime, offset: str) -> None:
    check(time.isoformat() + offset)


@given(st.sampled_from(EDGES), st.integers(0, 30), st.characters(max_codepoint=255))
def test_a_changed_character(text: str, at: int, character: str) -> None:
    check(text[:at] + character + text[at + 1 :])
