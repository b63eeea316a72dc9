"""The decoder of a stream, by the format of its messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.contracts.contract import Contract
from pipeline.errors import DefinitionError
from pipeline.ingest.arrow import ArrowDecoder
from pipeline.ingest.avro import AvroDecoder
from pipeline.ingest.decode import JsonDecoder
from pipeline.ingest.envelope import Decoder, Envelope
from pipeline.ingest.protobuf import ProtobufDecoder
from pipeline.ingest.registry import ConfluentRegistry

__all__ = ["make_decoder"]


def make_decoder(
    format_: str,
    contract: Contract,
    envelope: Envelope,
    *,
    registry: str | Mapping[str, Any] | None = None,
    framing: str = "bare",
    compressed: bool = False,
) -> Decoder:
    """A decoder of ``json``, ``avro``, ``protobuf`` or ``arrow`` messages.

    ``registry`` and ``framing`` are for Avro and Protobuf, ``compressed`` for Arrow; what they mean
    is said by :class:`pipeline.features.stream.EventStream`.
    """
    if format_ == "json":
        return JsonDecoder.within(contract, envelope)
    if format_ == "avro":
        if registry is None:
            return AvroDecoder(contract, envelope)
        return AvroDecoder.registered(contract, envelope, ConfluentRegistry(registry))
    if format_ == "protobuf":
        return ProtobufDecoder(contract, envelope, confluent=framing == "confluent")
    if format_ == "arrow":
        return ArrowDecoder(contract, envelope, compressed=compressed)
    raise DefinitionError("format", f"{format_!r} is none of json, avro, protobuf, arrow")
