"""Records as a log holds them, and what a stream makes of each: an event, or a reason.

Written from the contract's documentation with the standard library's ``json`` and ``decimal``.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeAlias

from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.features.stream import EventStream
from pipeline.testing.log import MemoryLog
from pipeline.testing.oracle.keys import entity_from, entity_of, key_bytes, partition_of

__all__ = ["Event", "Reader", "Record", "RefusedError", "read", "read_json", "records_of"]

MAX_KEY_BYTES = 65_536
MAX_DEPTH = 64
NS_OF = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
SURROGATE = re.compile("[\ud800-\udfff]")
RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([-+])(\d\d):(\d\d))?", re.ASCII
)
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Record:
    """One record; broker time in ms, -1 where there is none."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Event:
    """An accepted record: time in ns, and its fields; of a tombstone (null value) the key alone.

    Integers, booleans, strings, bytes and floats as such, decimals as exact fractions, timestamps
    as ns, uuids as lower-case text.
    """

    record: Record
    time: int
    fields: Mapping[str, Any]


class RefusedError(ValueError):
    """A value that is no event; ``reason`` as in dead letters."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


Reader: TypeAlias = Callable[[Contract, bytes], Mapping[str, Any]]
"""Fields of a record's value as in :class:`Event`; raises :class:`RefusedError`."""


def records_of(log: MemoryLog, topic: str) -> Iterator[Record]:
    """Everything in ``topic``, partition by partition, in offset order."""
    for number, held in enumerate(log.topics[topic]):
        for r in held:
            yield Record(topic, number, r.offset, r.timestamp_ms, r.key, r.value)


def read(
    stream: EventStream, partitions: int, record: Record, reader: Reader | None = None
) -> Event | str:
    """The event that ``record`` is, or the reason why it is dead-lettered."""
    try:
        _admit(stream, partitions, record)
        if record.value is None:
            return _tombstone(stream, record)
        fields = (reader or read_json)(stream.schema, record.value or b"")
    except RefusedError as refused:
        return refused.reason
    if key_bytes(entity_of(stream.key_fields, fields)) != record.key:
        return "key_mismatch"
    time = int(fields[stream.time])
    latest = (record.timestamp_ms + stream.max_future_ms) * 10**6
    if record.timestamp_ms >= 0 and time > latest:
        return "ts_future"
    if time < stream.earliest_ns:
        return "ts_past"
    return Event(record, time, fields)


def _admit(stream: EventStream, partitions: int, record: Record) -> None:
    size = len(record.value or b"")
    if size > stream.max_value_bytes or len(record.key or b"") > MAX_KEY_BYTES:
        raise RefusedError("too_large")
    if record.value == b"":
        raise RefusedError("empty")
    if not record.key:
        raise RefusedError("no_key")
    if partition_of(record.key, partitions) != record.partition:
        raise RefusedError("misrouted")


def _tombstone(stream: EventStream, record: Record) -> Event:
    """A deletion as of the broker time; the key must be one that an event could have."""
    time = record.timestamp_ms * 10**6
    if not 0 <= time < 2**63:
        raise RefusedError("tombstone")
    entity = entity_from(record.key or b"", stream.key_type.split("|"))
    if entity is None:
        raise RefusedError("key_mismatch")
    return Event(record, time, dict(zip(stream.key_fields, entity, strict=True)))


class _Number(str):
    """A number as it is written."""


def read_json(contract: Contract, value: bytes) -> dict[str, Any]:
    """Fields of one JSON object; :class:`RefusedError` says ``decode``, ``schema`` or ``range``."""
    document = _document(contract, value)
    fields: dict[str, Any] = {}
    reasons = []
    for field in contract.fields:
        try:
            fields[field.name] = _field(field, document.get(field.name, _MISSING))
        except RefusedError as refused:
            reasons.append(refused.reason)
    if not contract.additional and set(document) - set(contract.names):
        reasons.append("schema")
    if reasons:
        raise RefusedError("schema" if "schema" in reasons else reasons[0])
    return fields


def _document(contract: Contract, value: bytes) -> dict[str, Any]:
    try:
        pairs = json.loads(
            value.decode("utf-8"), parse_float=_Number, parse_int=_Number,
            parse_constant=_constant, object_pairs_hook=tuple,
        )  # fmt: skip
    except (ValueError, RecursionError) as error:
        raise RefusedError("decode") from error
    if not isinstance(pairs, tuple) or not _sound(pairs, 1):
        raise RefusedError("decode")
    names = [name for name, _ in pairs]
    if any(names.count(name) > 1 for name in contract.names):
        raise RefusedError("decode")
    return dict(pairs)


def _constant(token: str) -> Any:
    raise ValueError(token)


def _sound(item: Any, depth: int) -> bool:
    """No lone surrogates, no nesting beyond the limit; objects are tuples of pairs."""
    if isinstance(item, str):
        return not SURROGATE.search(item)
    if not isinstance(item, list | tuple):
        return True
    if depth > MAX_DEPTH:
        return False
    parts = [part for pair in item for part in pair] if isinstance(item, tuple) else item
    return all(_sound(part, depth + isinstance(part, list | tuple)) for part in parts)


def _field(field: Field, value: Any) -> Any:
    if value is _MISSING or value is None:
        if field.required if value is _MISSING else not field.nullable:
            raise RefusedError("schema")
        return None
    if isinstance(value, _Number):
        return _number(field, value)
    if field.type is FieldType.BOOL and isinstance(value, bool):
        return value
    if isinstance(value, str):
        if field.type is FieldType.STRING:
            return value
        if field.type is FieldType.UUID and UUID.fullmatch(value):
            return value.lower()
        if field.type is FieldType.BYTES:
            return _base64(value)
        if field.type is FieldType.TIMESTAMP and field.unit not in NS_OF:
            return _in_int64(_timestamp(value, field.unit == "iso-utc"))
    raise RefusedError("schema")


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError("schema") from error


def _number(field: Field, text: str) -> Any:
    if field.type is FieldType.FLOAT64:
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise RefusedError("range")
        return value
    if field.type is FieldType.DECIMAL:
        return Fraction(_scaled(text, field.scale, "range"), 10**field.scale)
    if field.type is FieldType.INT64:
        return _scaled(text, 0, "schema")
    if field.type is FieldType.TIMESTAMP and field.unit in NS_OF:
        return _in_int64(_scaled(text, 0, "schema") * NS_OF[field.unit])
    raise RefusedError("schema")


def _scaled(text: str, scale: int, inexact: str) -> int:
    """The number times 10^scale, an int64; ``inexact`` is the reason where that is no integer."""
    number = Decimal(text)
    sign, digits, exponent = number.as_tuple()
    if not any(digits):
        return 0
    shift = int(exponent) + scale
    size = len("".join(map(str, digits)).lstrip("0")) + shift
    mantissa = int("".join(map(str, digits)))
    if shift < 0:
        if -shift > len(digits) or mantissa % 10**-shift:
            raise RefusedError(inexact)
        mantissa //= 10**-shift
    elif size > 20:
        raise RefusedError("range")
    else:
        mantissa *= 10**shift
    return _in_int64(-mantissa if sign else mantissa)


def _in_int64(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise RefusedError("range")
    return value


def _timestamp(text: str, utc: bool) -> int:
    match = RFC3339.fullmatch(text)
    if match is None:
        raise RefusedError("schema")
    date, minute, second, fraction, zulu, sign, hours, minutes = match.groups()
    if int(second) > 60 or not (zulu or sign or utc):
        raise RefusedError("schema")
    if sign and (int(hours) > 23 or int(minutes) > 59):
        raise RefusedError("schema")
    leap, year_0 = second == "60", date.startswith("0000")
    try:
        # Leap seconds and the year 0 are out of range, but only on a day that exists.
        shown = f"{'2000' + date[4:] if year_0 else date}T{minute}:{'00' if leap else second}"
        moment = datetime.fromisoformat(shown)
    except ValueError as error:
        raise RefusedError("schema") from error
    digits = (fraction or "").ljust(9, "0")
    if leap or year_0 or digits[9:].strip("0"):
        raise RefusedError("range")
    east = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    offset = timezone(-east if sign == "-" else east) if sign else UTC
    since = moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC) - _east(offset)
    return (since // timedelta(seconds=1)) * 10**9 + int(digits[:9])


def _east(zone: timezone) -> timedelta:
    return zone.utcoffset(None)
