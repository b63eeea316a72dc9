"""Compiles the kernels of a state table, in the order that is asked for."""

from __future__ import annotations

import numpy as np

from pipeline.features.plan import Plan
from pipeline.state.table import StateTable

__all__ = ["compile_answers", "compile_apply", "compile_rows"]

NO_TIMES = np.empty(0, dtype=np.int64)
NO_FLAGS = np.empty(0, dtype=np.uint8)
NO_SLOTS = np.empty(0, dtype=np.int32)


def compile_apply(plan: Plan) -> None:
    """Compile what applies events to rows: as long as all the others together."""
    k, m = len(plan.input_types), len(plan.masks)
    StateTable(plan, max_bytes=1 << 20).apply(
        NO_SLOTS, NO_TIMES, NO_TIMES, NO_TIMES, NO_FLAGS,
        np.empty((k, 0), dtype=np.int64), np.empty((k, 0), dtype=np.uint8),
        np.empty((m, 0), dtype=np.uint8),
    )  # fmt: skip


def compile_rows(plan: Plan) -> None:
    """Compile what finds, reads and writes rows."""
    table = StateTable(plan, max_bytes=1 << 20)
    key, ends = np.frombuffer(b"a", dtype=np.uint8), np.array([0, 1], dtype=np.int64)
    table.load(table.lookup(key, ends).slots, [None])
    table.encode(NO_SLOTS)


def compile_answers(plan: Plan) -> None:
    """Compile what makes features of rows."""
    StateTable(plan, max_bytes=1 << 20).finalize(NO_SLOTS, "event")
