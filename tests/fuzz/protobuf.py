"""Protobuf messages, against the recursive twin."""

from __future__ import annotations

from pathlib import Path

from pipeline.contracts.contract import Contract
from pipeline.ingest.envelope import Envelope
from pipeline.ingest.protobuf import ProtobufDecoder
from tests.fuzz.events import Verdict, checker
from tests.fuzz.run import Target
from tests.reference import protobuf as reference

PROTO = Path(__file__).resolve().parents[1] / "unit" / "protos" / "mixed.proto"
SEEDS = [
    bytes.fromhex(text)
    for text in (
        "08011204080510071a0161",
        "08ffffffffffffffffff01120022170801120162190000000000f83f220208032a0408021001300738fdff"
        "ffffffffffffff01",
        "12020805520608111001180942035a5a5a4807aa0102c3a958c80160e80768ffffffffffffffffff01750000"
        "0080",
        "120a08ffffffffffffffffff01aa0100a201243031323334353637383961622d43444546303030302d313131"
        "31323232323333333390"
        "017f",
        "1200a20124303132333435363738396162634445462d303030302d3131313132323232333333",
        "12009b060801180102082a9c0612009b069c06",
        "1200c10c000000000000f03fc1bb010100000000000000c59c1301000000a08df40107",
        "12008a0103ffffff920100980105a80101b20102080a",
    )
]


def target() -> Target:
    contract = Contract.load(PROTO, message="Mixed")
    envelope = Envelope(contract, "id", "at", 1, earliest_ns=-(2**63))

    def twin(value: bytes) -> Verdict:
        return reference.decode(value, contract)

    return Target("protobuf", SEEDS, checker(ProtobufDecoder(contract, envelope), twin))
