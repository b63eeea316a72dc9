from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.units import format_duration, format_size, parse_duration, parse_size

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("60d", 60 * 86_400 * SECOND),
        ("1h30m", 5_400 * SECOND),
        ("1h 30m", 5_400 * SECOND),
        ("500ms", SECOND // 2),
        ("1.5s", 3 * SECOND // 2),
        ("2w", 14 * 86_400 * SECOND),
        ("1us", 1_000),
        ("7ns", 7),
        ("0", 0),
        ("0s", 0),
        (" 5m ", 300 * SECOND),
        (12, 12),
        (timedelta(minutes=1, microseconds=3), 60 * SECOND + 3_000),
    ],
)
def test_duration_is_exact_nanoseconds(text: str | int | timedelta, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5", "write numbers with units"),
        ("", "write numbers with units"),
        ("abc", "write numbers with units"),
        ("x1h", "write numbers with units"),
        ("1h junk", "write numbers with units"),
        ("1M", "minutes are 'm'"),
        ("1y", "write days"),
        ("1h1h", "large to small"),
        ("1m1h", "large to small"),
        ("-1h", "write numbers with units"),
        ("0.1ns", "finer than the smallest unit"),
        ("400w400w", "large to small"),
        ("99999999w", "does not fit 64 bits"),
        (-1, "negative"),
        (timedelta(seconds=-1), "negative"),
        (True, "not a duration"),
        (1.5, "not a duration"),
        (None, "not a duration"),
    ],
)
def test_what_is_not_a_duration_says_why(text: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_duration(text)  # type: ignore[arg-type]


@given(st.integers(0, 2**63 - 1))
def test_duration_text_reads_back(ns: int) -> None:
    assert parse_duration(format_duration(ns)) == ns


def test_duration_text_is_short() -> None:
    assert format_duration(86_400 * SECOND) == "1d"
    assert format_duration(8 * 86_400 * SECOND) == "8d"
    assert format_duration(14 * 86_400 * SECOND) == "14d"
    assert format_duration(-SECOND) == "-1s"


@pytest.mark.parametrize(
    ("text", "size"),
    [("256MiB", 256 << 20), ("1.5KiB", 1536), ("1GB", 10**9), ("512", 512), (7, 7), ("3 b", 3)],
)
def test_size_is_bytes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "1XB", "-1", -1, True, 1.5, "1.0001KiB", None])
def test_what_is_not_a_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"not a size|negative|finer"):
        parse_size(text)  # type: ignore[arg-type]


@given(st.integers(1, 1023), st.sampled_from([0, 10, 20, 30, 40]))
def test_whole_sizes_read_back(count: int, shift: int) -> None:
    assert parse_size(format_size(count << shift)) == count << shift
