"""Protobuf messages, against the recursive twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from pipeline.contracts.contract import Contract
from pipeline.contracts.protobuf import compile_proto
from pipeline.ingest.envelope import Envelope
from pipeline.ingest.protobuf import ProtobufDecoder
from tests.fuzz.events import Verdict, checker
from tests.fuzz.run import Target
from tests.reference import protobuf as reference

PROTO = Path(__file__).resolve().parents[1] / "unit" / "protos" / "mixed.proto"


def seeds() -> list[bytes]:
    """Messages as google.protobuf writes them, and what it does not write: groups, pieces."""
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(compile_proto(PROTO)).file:
        pool.Add(file)
    mixed = message_factory.GetMessageClass(pool.FindMessageTypeByName("tests.Mixed"))
    time: Any = {"seconds": -5, "nanos": 7}
    inner: Any = {"a": -1, "b": "é", "c": 0.5, "t": time, "deep": {"z": -3, "left": 1}}
    messages = [
        mixed(id=1, at=time, text="a", inner=inner, many=[1, 2], counts={"a": 1}, color=7),
        mixed(id=-1, at=time, deep={"ok": True, "right": inner}, cents=5, ms=6, u64=7, f32=8),
        mixed(at=time, when=time, sf64=-9, f=1.5, raw=b"x", s32=-10, u32=11, d=2.5, i32=-1),
        mixed(
            at=time, outside=1, f64=2**63 - 1, sf32=-1, uid="01234567-89ab-CDEF-0000-" + "a1" * 6
        ),
        mixed(at=time, left="l", color=-3),
    ]
    found: list[bytes] = [message.SerializeToString() for message in messages]
    group = bytes.fromhex("9b06080118019c06")
    return [*found, found[0] + group, found[0] + found[1]]


def target() -> Target:
    contract = Contract.load(PROTO, message="Mixed")
    envelope = Envelope(contract, "id", "at", 1, earliest_ns=-(2**63))

    def twin(value: bytes) -> Verdict:
        return reference.decode(value, contract)

    return Target("protobuf", seeds(), checker(ProtobufDecoder(contract, envelope), twin))
