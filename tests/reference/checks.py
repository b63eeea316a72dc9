"""The obvious twin of :mod:`pipeline.kernels.checks`, one record at a time."""

from __future__ import annotations

import re
from collections.abc import Sequence

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
    if size > max_value_bytes or size > len(value or b"") or len(key or b"") > 65_536:
        return Reason.TOO_LARGE
    if value == b"":
        return Reason.EMPTY
    if not key:
        return Reason.NO_KEY
    if partition_of(key, partitions) != partition:
        return Reason.MISROUTED
    return Reason.TOMBSTONE if value is None else Reason.OK


def settle_tombstone(key: bytes, types: Sequence[str], timestamp_ms: int) -> Reason:
    """What is wrong with a tombstone that was admitted."""
    if not 0 <= timestamp_ms <= (2**63 - 1) // 10**6:
        return Reason.TOMBSTONE
    return Reason.OK if is_key(key, types) else Reason.KEY_MISMATCH


def is_key(key: bytes, types: Sequence[str]) -> bool:
    """Whether an event could have this key."""
    if len(types) == 1:
        return _is_part(key, types[0])
    parts, rest = [b""], key
    while rest:
        if rest[:1] == b"\\":
            if rest[1:2] not in (b"\\", b"|"):
                return False
            parts[-1] += rest[1:2]
            rest = rest[2:]
            continue
        if rest[:1] == b"|":
            parts.append(b"")
        else:
            parts[-1] += rest[:1]
        rest = rest[1:]
    if len(parts) != len(types):
        return False
    forms = ["hex" if t == "bytes" else t for t in types]
    return all(_is_part(p, t) for p, t in zip(parts, forms, strict=True))


def _is_part(part: bytes, form: str) -> bool:
    if form == "int64":
        return bool(re.fullmatch(rb"0|-?[1-9][0-9]*", part)) and -(2**63) <= int(part) < 2**63
    if form == "uuid":
        return bool(re.fullmatch(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", part))
    if form == "hex":
        return bool(re.fullmatch(rb"([0-9a-f]{2})*", part))
    if form == "string":
        try:
            part.decode()
        except UnicodeDecodeError:
            return False
    return True


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
