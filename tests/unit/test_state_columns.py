"""Cells as Arrow columns, against a loop over every cell."""

from __future__ import annotations

import math
import random
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest

from pipeline.features.plan import CellType, Feature, FeatureOp, Plan
from pipeline.state.columns import feature_columns, feature_matrix, feature_type


def features() -> tuple[Feature, ...]:
    made: list[Feature] = []
    for op, type_, width in [
        (FeatureOp.COUNT, CellType.INT, 1),
        (FeatureOp.SUM, CellType.FLOAT, 1),
        (FeatureOp.LAST, CellType.INT, 3),
        (FeatureOp.MAX, CellType.BOOL, 1),
        (FeatureOp.MIN, CellType.TIME, 1),
        (FeatureOp.RATIO, CellType.INT, 1),
        (FeatureOp.LAST, CellType.FLOAT, 2),
    ]:
        cell = sum(f.width for f in made)
        made.append(Feature(f"f{len(made)}", op, 0, 0, 0, 0, cell, width, type_, 0, math.nan))
    return tuple(made)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan("v", "e", "int64", "t", 0, (), (), (), (), -1, (), (), (), features(), 0)


def told(feature: Feature, bits: int) -> object:
    type_ = feature_type(feature)
    type_ = type_.value_type if pa.types.is_list(type_) else type_
    if pa.types.is_floating(type_):
        return np.int64(bits).view(np.float64).item()
    if pa.types.is_boolean(type_):
        return bits != 0
    return pa.scalar(bits, pa.int64()).cast(type_).as_py() if bits < 10**15 else bits


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 64, 301])
def test_columns_hold_every_cell(plan: Plan, rows: int, order: Literal["C", "F"]) -> None:
    draw = random.Random(rows)
    cells = np.zeros((rows, plan.cells), dtype=np.int64)
    for feature in plan.features:
        real = pa.types.is_floating(
            feature_type(feature).value_type if feature.width > 1 else feature_type(feature)
        )
        for cell in range(feature.cell, feature.cell + feature.width):
            drawn = [draw.randint(0, 10**6) * 1000 for _ in range(rows)]
            cells[:, cell] = np.array(drawn, dtype=float).view(np.int64) if real else drawn
    valid = np.array(
        [[draw.random() < 0.7 for _ in range(plan.cells)] for _ in range(rows)], dtype=np.uint8
    ).reshape(rows, plan.cells)
    columns = feature_columns(
        plan, np.asarray(cells, order=order), np.asarray(valid, order=order),
        [f.name for f in plan.features],
    )  # fmt: skip
    for feature, column in zip(plan.features, columns, strict=True):
        column.validate(full=True)
        assert column.type == feature_type(feature)
        for row, value in enumerate(column.to_pylist()):
            span = range(feature.cell, feature.cell + feature.width)
            expected = [told(feature, int(cells[row, c])) for c in span if valid[row, c]]
            if feature.width == 1:
                assert value == (expected[0] if expected else None)
            else:
                assert value == (expected or None)


def test_a_matrix_has_nan_for_null(plan: Plan) -> None:
    cells = np.arange(2 * plan.cells, dtype=np.int64).reshape(2, plan.cells)
    valid = np.ones((2, plan.cells), dtype=np.uint8)
    valid[1, 0] = 0
    out = np.empty((2, 1), dtype=np.float32)
    feature_matrix(plan, cells, valid, ["f0"], out)
    assert out[0, 0] == 0
    assert np.isnan(out[1, 0])
