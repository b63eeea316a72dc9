"""A stream as JSON and back: with it and a plan a view is kept up without its definition.

What is needed to make events of a topic's records, and nothing else: of a schema registry only that
there is one, since its settings may hold passwords.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.contracts.avro import AvroLayout
from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.contracts.protobuf import ProtoEntry, ProtoLayout, ProtoNode
from pipeline.errors import DefinitionError
from pipeline.features.repartition import Repartition
from pipeline.features.stream import EventStream

__all__ = ["Registries", "stream_from_json", "stream_to_json"]

Registries = Callable[[str], str | Mapping[str, Any] | None]
"""Schema registry of a topic, None if it is not known."""

_FORMAT = 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ALIKE = (
    "topic", "time", "max_value_bytes", "misrouted", "event_id", "dedup_bound", "format",
    "framing", "compressed",
)  # fmt: skip


def stream_to_json(stream: EventStream | Repartition) -> str:
    """The stream as one line of JSON with sorted keys; streams that read alike give equal text."""
    sources = stream.sources if isinstance(stream, Repartition) else (stream,)
    fields: dict[str, Any] = {"format": _FORMAT, "sources": [_stream_out(s) for s in sources]}
    if isinstance(stream, Repartition):
        fields["entity"] = list(stream.entity)
    return json.dumps(fields, sort_keys=True, allow_nan=False, separators=(",", ":"))


def stream_from_json(text: str, view: str, registries: Registries) -> EventStream | Repartition:
    """The stream that :func:`stream_to_json` wrote, for ``view``.

    Raises :class:`DefinitionError` for what cannot be read, and for a stream with a schema
    registry that ``registries`` does not know.
    """
    where = f"{view}.source"
    try:
        fields = json.loads(text)
        if fields["format"] != _FORMAT:
            raise DefinitionError(where, f"format {fields['format']}, this program knows {_FORMAT}")
        sources = tuple(_stream_in(where, given, registries) for given in fields["sources"])
        if "entity" not in fields:
            (stream,) = sources
            return stream
        return Repartition(view, sources, tuple(fields["entity"]))
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise DefinitionError(where, f"{type(problem).__name__}: {problem}") from problem


def _stream_out(stream: EventStream) -> dict[str, Any]:
    return {
        **{name: getattr(stream, name) for name in _ALIKE},
        "contract": _contract_out(stream.schema),
        "key": list(stream.key_fields),
        "max_future_ms": stream.max_future_ms,
        "earliest_us": stream.earliest_ns // 1_000,
        "dedup_ns": stream.dedup_ns,
        "registry": stream.registry is not None,
    }


def _stream_in(where: str, fields: Mapping[str, Any], registries: Registries) -> EventStream:
    registry = registries(fields["topic"]) if fields["registry"] else None
    if fields["registry"] and registry is None:
        raise DefinitionError(
            where, f"no view of this program says which registry topic {fields['topic']!r} has"
        )
    return EventStream(
        **{name: fields[name] for name in _ALIKE},
        contract=_contract_in(fields["contract"]),
        key=fields["key"],
        max_future=timedelta(milliseconds=fields["max_future_ms"]),
        earliest=_EPOCH + timedelta(microseconds=fields["earliest_us"]),
        dedup=fields["dedup_ns"],
        registry=registry,
    )


def _contract_out(contract: Contract) -> dict[str, Any]:
    if isinstance(contract.layout, AvroLayout):
        return {"avro": contract.layout.schema.document}
    fields: dict[str, Any] = {
        "name": contract.name,
        "version": contract.version,
        "additional": contract.additional,
        "fields": [
            {**dataclasses.asdict(field), "type": field.type.value} for field in contract.fields
        ],
    }
    if contract.layout is not None:
        fields["protobuf"] = dataclasses.asdict(contract.layout)
    return fields


def _contract_in(given: Mapping[str, Any]) -> Contract:
    if "avro" in given:
        return Contract.load(given["avro"])
    fields = tuple(Field(**{**f, "type": FieldType(f["type"])}) for f in given["fields"])
    layout = _layout_in(given["protobuf"]) if "protobuf" in given else None
    return Contract(given["name"], given["version"], fields, given["additional"], layout)


def _layout_in(given: Mapping[str, Any]) -> ProtoLayout:
    return ProtoLayout(tuple(map(_node_in, given["nodes"])), tuple(given["path"]))


def _node_in(given: Mapping[str, Any]) -> ProtoNode:
    entries = [
        ProtoEntry(**{**entry, "symbols": tuple((n, text) for n, text in entry["symbols"])})
        for entry in given["entries"]
    ]
    ranges = {name: tuple(given[name]) for name in ("fields", "nodes", "oneofs")}
    return ProtoNode(**{**given, **ranges, "entries": entries})
