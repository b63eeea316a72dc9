"""Twin of the cells that change together, and of the features that are made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from pipeline.features.plan import AccOp, CellType, Feature, FeatureOp
from pipeline.state.status import Status
from tests.reference import decay, moments

__all__ = ["add_to_group", "decayed_cell", "first_cell", "variance_cell"]

Number = int | float
Cell = tuple[Number | None, Status]
LENGTH = {AccOp.VAR_INT: 4, AccOp.VAR_FLOAT: 4, AccOp.FIRST_AT: 2}


def add_to_group(
    op: AccOp, cells: Sequence[Number], value: Number, into_tile: int
) -> list[Number]:  # fmt: skip
    """The cells of a group after ``value``, whose time is ``into_tile`` after the tile's start."""
    if op is AccOp.FIRST_AT:
        return [into_tile, value] if cells[0] == 0 or into_tile < cells[0] else list(cells)
    count, mean, low, squares = cells
    return list(moments.add((int(count), mean, low, squares), value))


def variance_cell(feature: Feature, parts: Sequence[moments.Moments], missed: Status) -> Cell:
    """VAR or STD of tiles, or of one."""
    total: moments.Moments = (0, 0.0, 0.0, 0.0)
    for part in parts:
        total = moments.merge(total, part)
    count, _, _, squares = total
    if count <= feature.ddof:
        return None, missed
    if math.isnan(squares):
        return None, Status.DEGRADED
    value = squares / float(count - feature.ddof)
    if feature.op is FeatureOp.STD:
        return math.sqrt(value) / 10.0**feature.scale, missed
    return value / 10.0**feature.scale / 10.0**feature.scale, missed


def first_cell(feature: Feature, values: Sequence[Number], missed: Status) -> Cell:
    """The first of the values of a window."""
    if not values:
        return None, missed
    if feature.type is CellType.DECIMAL:
        return float(Fraction(int(values[0]), 10**feature.scale)), missed
    return values[0], missed


def decayed_cell(
    feature: Feature, state: decay.Decayed | None, half_life: int, counts: bool, at: int
) -> Cell:
    """DECAYED or EWMA."""
    if state is None:
        empty = None if math.isnan(feature.default) else feature.default
        return empty if feature.op is FeatureOp.EWMA else 0.0, Status.PRESENT
    value = state[1] if counts else state[2]
    if feature.op is FeatureOp.EWMA:
        value = state[2] / state[1]
    else:
        value = decay.as_of(state, value, at, half_life)
    if math.isnan(value):
        return None, Status.DEGRADED
    return value / 10.0**feature.scale, Status.PRESENT
