"""Plans survive JSON exactly."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DefinitionError
from pipeline.features.plan import (
    AccOp,
    Accumulator,
    CellType,
    Feature,
    FeatureOp,
    ListKind,
    ListState,
    Lookup,
    Plan,
    Ring,
)
from pipeline.features.planjson import from_json, to_json

I64 = st.integers(-(2**63), 2**63 - 1)
DEFAULTS = st.one_of(st.just(math.nan), st.floats(allow_nan=False))
TYPES = st.sampled_from(CellType)
PLANS = st.builds(
    Plan,
    view=st.text(),
    entity=st.text(),
    entity_type=st.sampled_from(["int64", "string"]),
    source=st.text(),
    ttl_ns=I64,
    inputs=st.lists(st.text(), max_size=3).map(tuple),
    input_types=st.lists(TYPES, max_size=3).map(tuple),
    input_scales=st.lists(st.integers(0, 18), max_size=3).map(tuple),
    masks=st.lists(st.text(), max_size=2).map(tuple),
    filter=st.integers(-1, 3),
    rings=st.lists(st.builds(Ring, I64, I64), max_size=2).map(tuple),
    accumulators=st.lists(
        st.builds(Accumulator, I64, st.sampled_from(AccOp), I64, I64), max_size=2
    ).map(tuple),
    lists=st.lists(
        st.builds(ListState, st.sampled_from(ListKind), I64, I64, I64, I64, I64, TYPES), max_size=2
    ).map(tuple),
    features=st.lists(
        st.builds(
            Feature,
            st.text(),
            st.sampled_from(FeatureOp),
            *(I64 for _ in range(6)),
            TYPES,
            I64,
            DEFAULTS,
            st.one_of(st.just(0), I64),
        ),
        max_size=3,
    ).map(tuple),
    fingerprint=st.integers(0, 2**64 - 1),
)


def _with_lookups(plan: Plan, others: list[Plan]) -> Plan:
    looked = [Lookup(p, ("c",), (0,)) for p in others if p.features]
    return dataclasses.replace(plan, lookups=tuple(looked))


@given(st.builds(_with_lookups, PLANS, st.lists(PLANS, max_size=2)))
def test_round_trip(plan: Plan) -> None:
    text = to_json(plan)
    again = from_json(text)
    assert again == plan
    assert to_json(again) == text
    assert from_json(json.dumps(json.loads(text))) == plan
    for old, new in zip(plan.features, again.features, strict=True):
        assert math.copysign(1, old.default) == math.copysign(1, new.default)
        assert type(new.op) is FeatureOp
        assert type(new.type) is CellType


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 1"),
        ({"format": None}, "format 1"),
        ({"fingerprint": 5}, "plan.fingerprint"),
        ({"rings": [{"width_ns": 1}]}, "plan.rings"),
        ({"input_types": [99]}, "plan.input_types"),
        ({"features": None}, "plan.features"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_is_not_a_plan_is_named(change: dict[str, object], message: str) -> None:
    empty = Plan("v", "e", "int64", "t", 0, (), (), (), (), -1, (), (), (), (), 1)
    fields = json.loads(to_json(empty)) | change
    with pytest.raises(DefinitionError, match=message):
        from_json(json.dumps(fields))
    with pytest.raises(DefinitionError, match="JSON"):
        from_json("{")
