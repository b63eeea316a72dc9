"""Stored rows: each is decoded or called corrupt; what is decoded can be written and read again."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from pipeline.features.plan import Plan
from pipeline.state.table import StateTable
from tests.contract.test_row_layout import CASES, OLD_CASES, golden_row
from tests.fuzz.run import Target
from tests.reference.cases import pack_keys
from tests.reference.rows import reseal


def dialect(rng: random.Random, value: bytes) -> bytes:
    """Most with length and checksum mended: else nothing would come past them."""
    if len(value) < 48 or rng.random() < 0.1:
        return value
    return reseal(value[:4] + len(value).to_bytes(4, "little") + value[8:])


def check(values: Sequence[bytes]) -> list[str]:
    """Load each as a row of every plan."""
    answers = [""] * len(values)
    for plan in {plan.fingerprint: plan for plan, _ in CASES + OLD_CASES}.values():
        for i, value in enumerate(values):
            answers[i] += _one(plan, value)
    return [f"{'read' if '+' in answer else 'corrupt'} {answer}" for answer in answers]


def _one(plan: Plan, value: bytes) -> str:
    table = StateTable(plan)
    slots = table.lookup(*pack_keys([b"k"])).slots
    if table.load(slots, [value]):
        return "-"
    written = table.encode(slots).row(0)
    table.finalize(slots, np.array([2**62], dtype=np.int64))
    again = StateTable(plan)
    slots = again.lookup(*pack_keys([b"k"])).slots
    if again.load(slots, [written]):
        raise AssertionError("a row that was read is corrupt once it is written")
    if again.encode(slots).row(0) != written:
        raise AssertionError("a row changes when it is read and written")
    return "+"


def target() -> Target:
    seeds = [golden_row(case) for _, case in CASES + OLD_CASES]
    return Target("rows", seeds, check, dialect)
