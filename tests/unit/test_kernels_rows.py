"""Rows that cannot be trusted: reported, never decoded, never read outside of."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.features.plan import Plan
from pipeline.kernels import header, varint
from pipeline.kernels.jit import JIT_ENABLED
from pipeline.kernels.load import load_slots
from pipeline.state.status import Status
from pipeline.state.table import StateTable
from tests.reference.cases import columns, feed, make_events, make_plan, pack_keys
from tests.reference.rows import encode_row, reseal
from tests.reference.state import Event, ReferenceState

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

SEEDS = range(40) if JIT_ENABLED else range(8)
I64 = st.integers(-(2**63), 2**63 - 1)


def some_rows(seed: int) -> tuple[random.Random, Plan, list[bytes]]:
    rng = random.Random(seed)
    plan = make_plan(rng)
    stored: dict[bytes, bytes] = {}
    feed(StateTable(plan), make_events(rng, 60, 3, rng.choice((0, 10**15))), stored)
    return rng, plan, list(stored.values())


def load_one(table: StateTable, row: bytes) -> bool:
    """Whether the row is accepted; if so it has to be encoded to the same bytes."""
    table.clear()
    slots = table.lookup(*pack_keys([b"k"])).slots
    if table.load(slots, [row]) == [0]:
        got = table.finalize(slots, np.zeros(1, dtype=np.int64))
        assert set(got.status[0].tolist()) <= {Status.DEGRADED}
        assert not got.valid.any()
        event = Event(b"k", 1, 1, 1, True, (1, 1.0, 1, 1, 1), (True, True, True))
        with pytest.raises(ValueError, match="not loaded"):
            table.apply(slots, *columns([event]))
        return False
    assert table.encode(slots).row(0) == row
    return True


@pytest.mark.parametrize("seed", SEEDS)
def test_every_flipped_bit_and_every_truncation_is_found(seed: int) -> None:
    rng, plan, rows = some_rows(seed)
    table = StateTable(plan)
    for row in rows[:2]:
        assert load_one(table, row)
        bits = range(8 * len(row)) if len(row) < 80 else rng.sample(range(8 * len(row)), 200)
        bad = [bytearray(row) for _ in bits]
        for copy, bit in zip(bad, bits, strict=True):
            copy[bit // 8] ^= 1 << bit % 8
        bad += [bytearray(row[:n]) for n in range(len(row))] + [bytearray(row + b"\0")]
        slots = table.lookup(*pack_keys([b"%d" % i for i in range(len(bad))])).slots
        assert table.load(slots, [bytes(b) for b in bad]) == list(range(len(bad)))


@pytest.mark.parametrize("seed", SEEDS)
def test_bodies_with_a_right_checksum_are_still_checked(seed: int) -> None:
    """What is accepted is canonical; nothing else is. Run under NUMBA_BOUNDSCHECK=1 as well."""
    rng, plan, rows = some_rows(seed)
    table = StateTable(plan)
    refused = 0
    for _ in range(300 if JIT_ENABLED else 30):
        row = bytearray(rng.choice(rows))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(16, len(row))
            row[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        if rng.random() < 0.3:
            row = row[: rng.randint(48, len(row))] + rng.randbytes(rng.randint(0, 12))
        row[4:8] = struct.pack("<I", len(row))
        refused += not load_one(table, reseal(bytes(row)))
    assert refused > 0


def test_extreme_headers_are_harmless() -> None:
    plan = make_plan(random.Random(5), ids=False)
    reference = ReferenceState(plan)
    reference.apply(make_events(random.Random(5), 5, 1, 0))
    row = encode_row(plan, reference.rows[b"k0"])
    table = StateTable(plan)
    for value in (-(2**63), -(2**63) + 1, -1, 0, 2**63 - 1):
        for at in (16, 24, 32):
            changed = row[:at] + struct.pack("<q", value) + row[at + 8 :]
            table.clear()
            slots = table.lookup(*pack_keys([b"k"])).slots
            table.load(slots, [reseal(changed)])
            for t in (-(2**63), 0, 2**63 - 1):
                table.finalize(slots, np.array([t], dtype=np.int64))


def test_a_deletion_that_contradicts_the_row_is_refused() -> None:
    plan = make_plan(random.Random(5), ids=False)
    live, gone = (
        encode_row(plan, state.rows[b"k0"]) for state in (deleted(plan, [7, 9]), deleted(plan, [7]))
    )
    table = StateTable(plan)
    assert load_one(table, live)
    assert load_one(table, gone)
    for row, at, value in (
        (live, 48, 9), (live, 48, 10), (live, 48, -(2**63)), (live, 16, 7), (live, 3, 0),
        (gone, 48, 8), (gone, 16, 8), (gone, 48, -(2**63)), (gone, 3, 0),
    ):  # fmt: skip
        new = struct.pack("<q", value) if at > 3 else bytes([value])
        assert not load_one(table, reseal(row[:at] + new + row[at + len(new) :]))
    for flags in (2, 3, 0x80):
        assert not load_one(table, reseal(live[:3] + bytes([flags]) + live[4:]))
    assert not load_one(table, reseal(live[:2] + b"\1" + live[3:]))  # v1 has no flags
    short = reseal(gone[:4] + struct.pack("<I", 48) + gone[8:48])
    assert not load_one(table, short)


def deleted(plan: Plan, times: list[int]) -> ReferenceState:
    """k0 deleted at the first of ``times``, then with events at the others."""
    state, inputs = ReferenceState(plan), (1, 1.0, 1, 1, 1)
    state.apply([
        Event(b"k0", i, 0, t, True, inputs, (True, True, True), delete=i == 0)
        for i, t in enumerate(times)
    ])  # fmt: skip
    return state


def test_the_reason_is_the_first_that_applies() -> None:
    plan = make_plan(random.Random(1))
    table = StateTable(plan)
    _, _, rows = some_rows(1)
    row = rows[0]
    slots = table.lookup(*pack_keys([b"a", b"b", b"c", b"d", b"e", b"f", b"g"])).slots
    bad = [
        b"", row[:47], b"XX" + row[2:], row[:2] + b"\3" + row[3:], row + b"\0",
        row[:8] + b"\0" + row[9:] if row[8] else row[:8] + b"\1" + row[9:],
        row[:-1] + bytes([row[-1] ^ 1]),
    ]  # fmt: skip
    errors = np.zeros(len(bad), dtype=np.uint8)
    t = plan.tables()
    load_slots(
        table._arena, table._heads, table._slots, slots, 0, table._need, t.rings, t.accumulators,
        t.lists, table._layout_hash, np.frombuffer(bytearray(b"".join(bad)), dtype=np.uint8),
        np.cumsum([0, *map(len, bad)]).astype(np.int64), np.zeros(len(bad), dtype=np.uint8), errors,
    )  # fmt: skip
    assert errors.tolist() == [
        header.TRUNCATED, header.TRUNCATED, header.FORMAT, header.FORMAT, header.TRUNCATED,
        header.LAYOUT, header.CHECKSUM,
    ]  # fmt: skip


@given(I64)
def test_varints_and_words_come_back(value: int) -> None:
    out = np.zeros(24, dtype=np.uint8)
    with np.errstate(over="ignore"):
        end = varint.write_varint(out, 3, varint.zigzag(np.int64(value)))
        bits, at = varint.read_varint(out, 3, end)
        assert (varint.unzigzag(bits), at) == (value, end)
        assert varint.read_varint(out, 3, end - 1)[1] == -1
        assert varint.write_word(out, 3, np.int64(value)) == 11
        assert varint.read_word(out, 3, 11) == (value, 11)
        assert varint.read_word(out, 3, 10)[1] == -1


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x80\x00", b"\xff" * 9 + b"\x02", b"\xff" * 10, b"\x81" * 10 + b"\x01"]
)
def test_varints_that_are_cut_short_too_long_or_padded_are_refused(data: bytes) -> None:
    assert varint.read_varint(np.frombuffer(data, dtype=np.uint8), 0, len(data))[1] == -1
