"""Golden rows: bytes that every later version, and every other language, has to read and write."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.features.plan import (
    AccOp,
    Accumulator,
    CellType,
    Feature,
    FeatureOp,
    ListKind,
    ListState,
    Plan,
    Ring,
)
from pipeline.state.batch import Outcome
from pipeline.state.columns import feature_columns
from pipeline.state.status import Status
from pipeline.state.table import StateTable
from tests.reference.cases import feed, pack_keys
from tests.reference.rows import decode_row, encode_row, reseal
from tests.reference.state import Event, ReferenceState, bits_of

# Without the compiler, NumPy scalars warn where 64-bit kernels are meant to wrap or overflow.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples"
V1, V2 = (
    [json.loads((EXAMPLES / name).read_text("utf-8")) for name in names]
    for names in (
        ("row-v1.json", "row-v1-events.json"),
        (
            "row-v2.json",
            "row-v2-sketches.json",
            "row-v2-ids.json",
            "row-v2-spread.json",
            "row-v2-extremes.json",
            "row-v2-texts.json",
        ),
    )
)


def plan_of(value: dict[str, Any]) -> Plan:
    """The plan that is written in the file, enumerations by name."""
    return Plan(
        view="golden", entity="key", entity_type="string", source="events",
        ttl_ns=value["ttl_ns"],
        inputs=tuple(i["name"] for i in value["inputs"]),
        input_types=tuple(CellType[i["type"]] for i in value["inputs"]),
        input_scales=tuple(i["scale"] for i in value["inputs"]),
        masks=tuple(value["masks"]), filter=value["filter"],
        rings=tuple(Ring(**r) for r in value["rings"]),
        accumulators=tuple(
            Accumulator(**{**a, "op": AccOp[a["op"]]}) for a in value["accumulators"]
        ),
        lists=tuple(
            ListState(**{**s, "kind": ListKind[s["kind"]], "type": CellType[s["type"]]})
            for s in value["lists"]
        ),
        features=tuple(
            Feature(
                **{
                    **f,
                    "op": FeatureOp[f["op"]],
                    "type": CellType[f["type"]],
                    "default": float("nan") if f["default"] is None else f["default"],
                    "words": tuple(f.get("words", ())),
                }
            )
            for f in value["features"]
        ),
        fingerprint=int(value["layout_hash"], 16),
    )  # fmt: skip


def number(value: Any) -> Any:
    """JSON has no NaN and no infinities: they are strings."""
    return float(value) if isinstance(value, str) else value


def events_of(case: dict[str, Any]) -> list[Event]:
    return [
        Event(
            case["key"].encode(), e["offset"], e["timestamp_ms"], e["time_ns"], True,
            tuple(number(v) for v in e["inputs"]), tuple(e["masks"]), e.get("delete", False),
        )
        for e in case["events"]
    ]  # fmt: skip


CASES, OLD_CASES = (
    [(plan_of(golden["plan"]), case) for golden in version for case in golden["rows"]]
    for version in (V2, V1)
)
each_case, each_old_case, any_case = (
    pytest.mark.parametrize(("plan", "case"), cases, ids=[c["key"] for _, c in cases])
    for cases in (CASES, OLD_CASES, CASES + OLD_CASES)
)


def golden_row(case: dict[str, Any]) -> bytes:
    return bytes.fromhex("".join(case["row"]))


def check_written(plan: Plan, case: dict[str, Any], golden: bytes) -> None:
    stored: dict[bytes, bytes] = {}
    applied = feed(StateTable(plan), events_of(case), stored)
    assert [Outcome(int(o)).name.lower() for o in applied.outcome] == case["outcomes"]
    assert stored == {case["key"].encode(): golden}
    reference = ReferenceState(plan)
    reference.apply(events_of(case))
    assert encode_row(plan, reference.rows[case["key"].encode()]) == golden
    assert encode_row(plan, decode_row(plan, golden)) == golden


@each_case
def test_golden_bytes_are_written(plan: Plan, case: dict[str, Any]) -> None:
    check_written(plan, case, golden_row(case))


@each_old_case
def test_a_row_of_version_1_is_written_as_version_2(plan: Plan, case: dict[str, Any]) -> None:
    old = golden_row(case)
    new = reseal(old[:2] + b"\2" + old[3:])
    if not any("values" in kept and kept["evicted"] for kept in case["content"]["lists"]):
        check_written(plan, case, new)  # a full DISTINCT list of version 1 dropped old values
    table = StateTable(plan)
    slots = table.lookup(*pack_keys([b"k"])).slots
    assert table.load(slots, [old]) == []
    assert table.encode(slots).row(0) == new


@any_case
def test_golden_bytes_are_read(plan: Plan, case: dict[str, Any]) -> None:
    table = StateTable(plan)
    slots = table.lookup(*pack_keys([case["key"].encode()])).slots
    assert table.load(slots, [golden_row(case)]) == []
    for read in case["reads"]:
        got = table.finalize(slots, np.array([read["at_ns"]], dtype=np.int64))
        for feature, status in zip(plan.features, got.status[0], strict=True):
            expected = read["features"][feature.name]
            span = slice(feature.cell, feature.cell + feature.cells)
            cells = [
                int(c) if v else None
                for c, v in zip(got.cells[0, span], got.valid[0, span], strict=True)
            ]
            assert cells == [None if v is None else bits_of(number(v)) for v in expected["values"]]
            assert Status(int(status)).name.lower() == expected["status"]
            if feature.words:
                (shown,) = feature_columns(plan, got.cells, got.valid, [feature.name])
                assert shown.to_pylist() == [expected["text"]]


def test_the_description_in_the_file_is_the_rows_content() -> None:
    for plan, case in CASES + OLD_CASES:
        row = decode_row(plan, golden_row(case))
        content = case["content"]
        assert [row.time, row.known, row.offset] == [
            content["event_time_ns"], content["known_time_ms"], content["source_offset"]
        ]  # fmt: skip
        assert row.deleted == content.get("deletion_time_ns")
        assert row.live == content.get("present", True)
        for tiles, described in zip(row.tiles, content["rings"], strict=True):
            assert bits({int(k): v for k, v in described.items()}) == bits(tiles)
        for i, described in enumerate(content["lists"]):
            if "decayed" in described:
                held = row.decayed.get(i)
                assert (held is None) == (described["decayed"] is None)
                for value, shown in zip(held or (), described["decayed"] or (), strict=False):
                    assert bits_of(value) == bits_of(number(shown))
                continue
            assert described["evicted"] == row.dropped[i]
            assert described.get("steps", []) == row.steps.get(i, [])
            if "tiles" in described:
                assert {int(t): tally for t, tally in described["tiles"].items()} == {
                    t: {"note": tally.note, "values": [[as_written(v), c] for v, c in sorted(
                        tally.counts.items())]}
                    for t, tally in row.counts[i].items()
                }  # fmt: skip
            elif "values" in described:
                assert dict(map(tuple, described["values"])) == row.values[i]
            else:
                assert [(t, o, number(v)) for t, o, v in described["entries"]] == row.last[i]


def as_written(value: Any) -> Any:
    """As the files write it: infinities as strings."""
    return repr(value) if isinstance(value, float) and math.isinf(value) else value


def bits(tiles: dict[int, list[Any]]) -> dict[int, list[int]]:
    """Cells as bits, so that NaN equals itself and -0.0 is not 0.0."""
    return {tile: [bits_of(number(cell)) for cell in cells] for tile, cells in tiles.items()}
