"""Golden bytes of what the store holds beside rows; see docs/store-layout.md."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import CorruptRowError, DefinitionError, FencedError, PipelineError
from pipeline.ingest.batch import TopicPartition
from pipeline.store.keys import partition_tag, registry_key
from pipeline.store.lease import Lease, next_lease, refuse_newer
from pipeline.store.marker import POSITION, Marker

LEASE = Lease(epoch=3, nonce=bytes(range(16)), generation=41)
LEASE_HEX = "464c010003000000000000002900000000000000000102030405060708090a0b0c0d0e0fa672c054"
MARKER = Marker(
    fingerprint=0xFEDCBA9876543210,
    topic_id="AAECAwQFBgcICQoLDA0ODw",
    partition=5,
    next_offset=1_000_000_007,
    leader_epoch=-1,
    processed_through_ms=1_700_000_000_123,
    consumed=21,
    applied=6,
    duplicate=5,
    late=4,
    dead_lettered=3,
    filtered=3,
)
MARKER_HEX = (
    "464d01001032547698badcfe41414543417751464267634943516f4c4441304f4477000005000000"
    "ffffffff07ca9a3b000000007b68e5cf8b0100001500000000000000060000000000000005000000"
    "000000000400000000000000030000000000000003000000000000006c990087"
)

POSITIONS = np.array([(0, 3, 41), (0, 4, 2**40), (1, 0, 0)], dtype=POSITION)
ROUTED = replace(MARKER, positions=POSITIONS.tobytes())
ROUTED_HEX = (
    "464d02001032547698badcfe41414543417751464267634943516f4c4441304f4477000005000000"
    "ffffffff07ca9a3b000000007b68e5cf8b0100001500000000000000060000000000000005000000"
    "00000000040000000000000003000000000000000300000000000000030000000000000003000000"
    "29000000000000000000000004000000000000000001000001000000000000000000000000000000"
    "dca9ba98"
)


def test_golden_bytes() -> None:
    assert LEASE.pack().hex() == LEASE_HEX
    assert MARKER.pack().hex() == MARKER_HEX
    assert (len(LEASE.pack()), len(MARKER.pack())) == (40, 112)
    assert Lease.unpack(bytes.fromhex(LEASE_HEX)) == LEASE
    assert Marker.unpack(bytes.fromhex(MARKER_HEX)) == MARKER
    assert ROUTED.pack().hex() == ROUTED_HEX
    assert Marker.unpack(bytes.fromhex(ROUTED_HEX)) == ROUTED


@pytest.mark.parametrize("value", [LEASE, MARKER, ROUTED])
def test_every_damaged_byte_is_found(value: Lease | Marker) -> None:
    packed = value.pack()
    for at in range(len(packed)):
        for bit in (0, 7):
            damaged = bytearray(packed)
            damaged[at] ^= 1 << bit
            with pytest.raises(CorruptRowError, match="the key"):
                type(value).unpack(bytes(damaged), "the key")
    for wrong in (b"", packed[:-1], packed + b"\0"):
        with pytest.raises(CorruptRowError, match="bytes"):
            type(value).unpack(wrong)


def test_later_version_is_named() -> None:
    import zlib

    for value in (LEASE, MARKER):
        later = bytearray(value.pack()[:-4])
        later[2] = 3
        later += zlib.crc32(later).to_bytes(4, "little")
        with pytest.raises(CorruptRowError, match="version 3"):
            type(value).unpack(bytes(later))


@pytest.mark.parametrize(
    "wrong",
    [
        {"consumed": 1},
        {"applied": 1},
        {"applied": 1, "late": -1},
        {"topic_id": "short"},
        {"next_offset": -1},
        {"partition": -1},
        {"fingerprint": 1 << 64},
        {"positions": b"short"},
        {"positions": POSITIONS[::-1].tobytes()},
        {"positions": POSITIONS[[0, 0]].tobytes()},
        {"positions": np.array([(0, 0, -1)], dtype=POSITION).tobytes()},
    ],
)
def test_markers_that_do_not_add_up_cannot_be_made(wrong: dict[str, object]) -> None:
    fields = {"fingerprint": 1, "topic_id": "", "partition": 0, "next_offset": 0, **wrong}
    with pytest.raises(PipelineError):
        Marker(**fields)  # type: ignore[arg-type]


def test_leases_follow_each_other() -> None:
    nonce = b"n" * 16
    assert next_lease(None, None, 7, nonce) == Lease(1, nonce, 7)
    assert next_lease(LEASE, None, 42, nonce) == Lease(4, nonce, 42)
    assert next_lease(LEASE, Lease(9, nonce, 1), 42, nonce).epoch == 10
    assert next_lease(LEASE, None, -1, nonce).generation == 41
    refuse_newer(LEASE, 41, "lease")
    refuse_newer(LEASE, -1, "lease")
    refuse_newer(None, 0, "lease")
    with pytest.raises(FencedError, match="delete that key"):
        refuse_newer(LEASE, 40, "lease")


def test_names() -> None:
    assert partition_tag("shop", TopicPartition("a.b_c-d", 12)) == b"{shop:a.b_c-d:12}"
    assert registry_key("shop") == b"pipeline:shop"
    for app in ("", "a:b", "a{b}", "ä", "views", "..", "a b", "a\n"):
        with pytest.raises(DefinitionError, match="app"):
            partition_tag(app, TopicPartition("t", 0))
    for topic in ("", "a:b", "}{"):
        with pytest.raises(DefinitionError, match="topic"):
            partition_tag("shop", TopicPartition(topic, 0))
