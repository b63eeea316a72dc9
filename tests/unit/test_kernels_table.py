"""The hash index, half full and with keys that share their home, against a dictionary."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pipeline.kernels import table as kernel
from pipeline.kernels.hash import hash_keys
from pipeline.kernels.jit import JIT_ENABLED
from tests.reference.cases import pack_keys

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")


class SmallTable:
    """Slots for 8 keys, an index of 16 entries, and hashes of the caller's choice."""

    def __init__(self) -> None:
        self.slots = np.zeros((64, kernel.SECTION + 3), dtype=np.int64)
        self.keys = np.zeros(1 << 16, dtype=np.uint8)
        self.totals = np.zeros(kernel.TOTALS, dtype=np.int64)
        self.totals[kernel.FREE_SLOT] = -1
        self.index = np.zeros(16, dtype=np.int64)
        self.sequence = 0

    def find(self, names: list[bytes], hashes: list[int]) -> list[int]:
        self.sequence += 1
        out = np.empty(len(names), dtype=np.int32)
        kernel.find_slots(
            self.slots, self.keys, self.totals, self.index, 0, self.sequence, *pack_keys(names),
            np.array(hashes, dtype=np.int64), out, np.empty(len(names), dtype=np.int64),
        )  # fmt: skip
        return [int(slot) for slot in out]


@pytest.mark.parametrize("seed", range(200) if JIT_ENABLED else range(20))
def test_finding_and_removing_equals_a_dictionary(seed: int) -> None:
    rng = random.Random(seed)
    table = SmallTable()
    known: dict[bytes, int] = {}
    hashes = {b"%d" % i: rng.choice((0, 1, 15, 14)) << 60 for i in range(12)}
    hashes = {k: h - 2**64 if h >= 2**63 else h for k, h in hashes.items()}
    for _ in range(100):
        name = rng.choice(list(hashes))
        if name in known and rng.random() < 0.5:
            kernel.remove_slot(
                table.slots, table.totals, table.index, known.pop(name), hashes[name]
            )
        elif name in known or len(known) < 8:
            (slot,) = table.find([name], [hashes[name]])
            assert known.setdefault(name, slot) == slot
            assert sorted(known.values()) == sorted(set(known.values()))
        assert table.totals[kernel.ROWS] == len(known)
        assert np.count_nonzero(table.index) == len(known)
    assert table.find(list(known), [hashes[n] for n in known]) == list(known.values())


def test_the_index_is_rebuilt_without_hashing_again() -> None:
    table = SmallTable()
    names = [b"key-%d" % i for i in range(8)]
    hashes = np.empty(8, dtype=np.uint64)
    hash_keys(*pack_keys(names), hashes)
    slots = table.find(names, hashes.view(np.int64).tolist())
    bigger = np.zeros(1024, dtype=np.int64)
    kernel.rebuild_index(table.index, bigger)
    table.index = bigger
    assert table.find(names, hashes.view(np.int64).tolist()) == slots
    assert table.totals[kernel.ROWS] == 8


def test_keys_that_share_all_64_bits_stay_apart() -> None:
    table = SmallTable()
    assert table.find([b"a", b"b", b"a", b"", b"ab"], [7] * 5) == [0, 1, 0, 2, 3]
