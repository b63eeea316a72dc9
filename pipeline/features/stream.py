"""Event streams: a topic and the contract of the events in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.errors import DefinitionError
from pipeline.features.entity import entity_fields, entity_type
from pipeline.units import parse_duration

__all__ = ["EventStream"]

ID_TYPES = (FieldType.INT64, FieldType.STRING)
MAX_IDS = 65_536
FORMATS = ("json", "avro", "protobuf", "arrow")
FRAMINGS = ("bare", "confluent")
TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")


@dataclass(frozen=True)
class EventStream:
    """Events of one topic, keyed by the field ``key``, ordered in time by the field ``time``.

    ``key``              an int64, string, uuid or bytes field, or several; what message keys are
                         made of them: :mod:`pipeline.ingest.entity`
    ``contract``         a :class:`Contract`, or the path of a JSON Schema, Avro (.avsc) or Protobuf
                         (.proto, .desc) file
    ``format``           json, avro, protobuf or arrow: what messages are; by default as the
                         contract's file is, so json for JSON Schema
    ``registry``         address of a schema registry: its URL, or settings of confluent-kafka's
                         ``SchemaRegistryClient``. Avro messages then name their schema
    ``framing``          bare, or confluent (a schema id before each record); by default confluent
                         where there is a registry. Avro and Protobuf only
    ``compressed``       arrow: whether message bodies may be compressed
    ``max_future``       an event later than its broker time plus this is dead-lettered
    ``earliest``         an event before this time is dead-lettered (default: 1970)
    ``max_value_bytes``  a larger value is dead-lettered without being decoded
    ``misrouted``        what becomes of a record in another partition than its key's (another
                         partitioner, added partitions): ``"dead_letter"``, or ``"route"``: all
                         views of the stream then go through a repartition topic
    ``event_id``         field that tells events apart (an integer or a string; null: unknown):
                         an event whose id its entity's row still keeps is a ``duplicate``
    ``dedup``            how long before the entity's newest event an id is kept
    ``dedup_bound``      most ids of one entity; beyond it the oldest go

    Raises :class:`DefinitionError`, which names the argument.
    """

    topic: str
    contract: Contract | str | Path
    key: str | Sequence[str]
    time: str
    max_future: str | int | timedelta = "1h"
    earliest: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    max_value_bytes: int = 1 << 20
    misrouted: Literal["dead_letter", "route"] = "dead_letter"
    event_id: str | None = None
    dedup: str | int | timedelta = "1h"
    dedup_bound: int = 4096
    format: str = ""
    registry: str | Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    framing: str = ""
    compressed: bool = False
    schema: Contract = field(init=False, repr=False)
    max_future_ms: int = field(init=False, repr=False)
    earliest_ns: int = field(init=False, repr=False)
    dedup_ns: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        where = f"EventStream({self.topic!r})"
        if not TOPIC_NAME.fullmatch(self.topic) or self.topic in {".", ".."}:
            raise DefinitionError(
                f"{where}.topic", "a Kafka topic name is 1 to 200 of A-Z a-z 0-9 . _ -"
            )
        contract = (
            self.contract if isinstance(self.contract, Contract) else Contract.load(self.contract)
        )
        format_ = self.format or contract.language
        framing = self.framing or ("bare" if self.registry is None else "confluent")
        types = {f.name: f for f in contract.fields}
        key = entity_fields(f"{where}.key", self.key)
        for argument, name in (*(("key", name) for name in key), ("time", self.time)):
            if name not in types:
                raise DefinitionError(
                    f"{where}.{argument}",
                    f"the contract has no field {name!r}; it has: {', '.join(types)}",
                )
            if types[name].nullable:
                raise DefinitionError(f"{where}.{argument}", f"field {name!r} must not be nullable")
        entity_type(f"{where}.key", contract, key)
        if types[self.time].type is not FieldType.TIMESTAMP:
            raise DefinitionError(
                f"{where}.time", f"{self.time!r} is {types[self.time].type.value}, not a timestamp"
            )
        if self.earliest.tzinfo is None:
            raise DefinitionError(f"{where}.earliest", "give a time zone")
        if self.max_value_bytes < 1:
            raise DefinitionError(f"{where}.max_value_bytes", "must be at least 1")
        if self.misrouted not in ("dead_letter", "route"):
            raise DefinitionError(f"{where}.misrouted", "is 'dead_letter' or 'route'")
        try:
            future_ns = parse_duration(self.max_future)
        except ValueError as error:
            raise DefinitionError(f"{where}.max_future", str(error)) from error
        if self.event_id is not None:
            self._check_id(where, self.event_id, types)
        object.__setattr__(self, "dedup_ns", _dedup_ns(where, self.dedup))
        check_format(where, contract, format_, self.registry is not None, framing, self.compressed)
        elapsed = self.earliest - datetime(1970, 1, 1, tzinfo=UTC)
        object.__setattr__(self, "key", key[0] if len(key) == 1 else key)
        object.__setattr__(self, "schema", contract)
        object.__setattr__(self, "format", format_)
        object.__setattr__(self, "framing", framing)
        object.__setattr__(self, "max_future_ms", future_ns // 1_000_000)
        object.__setattr__(self, "earliest_ns", elapsed // timedelta(microseconds=1) * 1000)

    def _check_id(self, where: str, name: str, types: Mapping[str, Field]) -> None:
        if name not in types:
            raise DefinitionError(
                f"{where}.event_id",
                f"the contract has no field {name!r}; it has: {', '.join(types)}",
            )
        if types[name].type not in ID_TYPES:
            raise DefinitionError(
                f"{where}.event_id",
                f"{name!r} is {types[name].type.value}; an id is "
                f"{', '.join(t.value for t in ID_TYPES)}",
            )
        if not 1 <= self.dedup_bound <= MAX_IDS:
            raise DefinitionError(f"{where}.dedup_bound", f"must be 1 to {MAX_IDS}")

    @property
    def key_fields(self) -> tuple[str, ...]:
        """The fields that the key is made of, one or more."""
        return (self.key,) if isinstance(self.key, str) else tuple(self.key)

    def topic_in(self, app: str) -> str:
        """The topic's name, whatever the application."""
        return self.topic

    @property
    def rerouted(self) -> bool:
        """Whether its records may lie in any partition, so that views need a repartition."""
        return self.misrouted == "route"

    @property
    def key_type(self) -> str:
        """``int64``, ``string``, ``uuid`` or ``bytes``; of several fields joined by ``|``."""
        return entity_type(f"EventStream({self.topic!r}).key", self.schema, self.key_fields)


def check_format(
    where: str, contract: Contract, format_: str, registry: bool, framing: str, compressed: bool
) -> None:
    """DefinitionError where format, contract, registry and framing do not agree."""
    if format_ not in FORMATS:
        raise DefinitionError(f"{where}.format", f"{format_!r} is none of {', '.join(FORMATS)}")
    if framing not in FRAMINGS:
        raise DefinitionError(f"{where}.framing", f"{framing!r} is none of {', '.join(FRAMINGS)}")
    if registry and format_ != "avro":
        raise DefinitionError(f"{where}.registry", f"is for avro only, not for {format_}")
    if framing == "confluent" and format_ not in {"avro", "protobuf"}:
        raise DefinitionError(f"{where}.framing", f"{format_} messages have no schema id")
    if format_ == "avro" and registry != (framing == "confluent"):
        raise DefinitionError(
            f"{where}.framing",
            "avro with schema ids needs a registry, and bare avro has no use of it",
        )
    if format_ == "avro" and not registry and contract.language != "avro":
        raise DefinitionError(f"{where}.contract", "bare avro needs an Avro contract (.avsc)")
    if format_ == "protobuf" and contract.language != "protobuf":
        raise DefinitionError(f"{where}.contract", "protobuf needs a .proto or .desc contract")
    if compressed and format_ != "arrow":
        raise DefinitionError(f"{where}.compressed", f"is for arrow only, not for {format_}")


def _dedup_ns(where: str, span: str | int | timedelta) -> int:
    try:
        nanoseconds = parse_duration(span)
    except ValueError as error:
        raise DefinitionError(f"{where}.dedup", str(error)) from error
    if nanoseconds <= 0:
        raise DefinitionError(f"{where}.dedup", "must be longer than 0")
    return nanoseconds
