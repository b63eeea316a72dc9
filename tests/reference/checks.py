"""The obvious twin of :mod:`pipeline.kernels.checks`, one record at a time."""

from __future__ import annotations

from pipeline.ingest.batch import Reason
from tests.reference.hash import partition_of


def admit(
    key: bytes | None,
    value: bytes | None,
    size: int,
    partition: int,
    partitions: int,
    max_value_bytes: int,
) -> Reason:
    """What is wrong with a record before its value is looked at."""
    if value is None:
        return Reason.TOMBSTONE
    if size > max_value_bytes or size > len(value) or len(key or b"") > 65_536:
        return Reason.TOO_LARGE
    if not value:
        return Reason.EMPTY
    if not key:
        return Reason.NO_KEY
    return Reason.OK if partition_of(key, partitions) == partition else Reason.MISROUTED


def settle(
    key: bytes,
    entity: int | str,
    event_time: int,
    timestamp_ms: int,
    max_future_ms: int,
    earliest_ns: int,
) -> Reason:
    """What is wrong with a record whose value is well-formed."""
    if key != str(entity).encode():
        return Reason.KEY_MISMATCH
    if timestamp_ms >= 0 and event_time > (timestamp_ms + max_future_ms) * 1_000_000:
        return Reason.TS_FUTURE
    return Reason.TS_PAST if event_time < earliest_ns else Reason.OK
