"""What the fuzzer makes, and the engine against the oracle on it. Failures name their seed."""

from __future__ import annotations

import builtins
import importlib
import sys
from collections import Counter
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings

from pipeline.errors import MissingExtraError
from pipeline.testing.fuzz import EventFuzzer, Shape, case, fuzz_stream
from pipeline.testing.fuzz.strategies import cases, messages, views
from pipeline.testing.fuzz.views import edges
from pipeline.testing.log import MemoryLog
from pipeline.testing.oracle import records_of
from pipeline.testing.oracle.records import read

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")

STREAM = fuzz_stream()
REASONS = {
    "tombstone", "empty", "no_key", "misrouted", "too_large", "decode", "schema", "range",
    "key_mismatch", "ts_future", "ts_past",
}  # fmt: skip


@pytest.mark.parametrize("seed", range(25))
def test_the_engine_equals_the_oracle_on_a_fuzzed_log(seed: int) -> None:
    made = case(seed)
    assert made.problems(max_records=64) == [], f"seed {seed}: {made.view.features}"


@given(cases(max_events=40))
@settings(max_examples=30)
def test_the_engine_equals_the_oracle_on_whatever_hypothesis_thinks_of(made: Any) -> None:
    assert made.problems() == [], str(made.view.features)


def test_equal_seeds_make_equal_cases() -> None:
    one, other = case(5), case(5)
    assert one.view.plan == other.view.plan
    assert list(records_of(one.log, "fuzz")) == list(records_of(other.log, "fuzz"))
    assert list(records_of(one.log, "fuzz")) != list(records_of(case(6).log, "fuzz"))


def test_every_reason_and_every_kind_of_disorder_is_made() -> None:
    log = MemoryLog()
    log.create("fuzz", 2)
    EventFuzzer(STREAM, Random(1), partitions=2, shape=Shape(bad=0.5)).fill(log, 2000)
    records = list(records_of(log, "fuzz"))
    events = [read(STREAM, 2, r) for r in records]
    found = Counter(e for e in events if isinstance(e, str))
    assert set(found) == REASONS
    good = [e for e in events if not isinstance(e, str) and e.record.value is not None]
    times = [e.time for e in good]
    assert sum(b < a for a, b in pairwise(times)) > 100
    assert sum(b == a for a, b in pairwise(times)) > 10
    minute = 60 * 10**9
    assert {t % minute for t in times} >= {minute - 1, 0, 1}
    assert len({r.value for r in records}) < len(records)
    assert any("added_later" in str(r.value) for r in records)
    assert any(r.timestamp_ms == -1 for r in records)
    offsets = [r.offset for r in records]
    assert any(b - a > 1 for a, b in pairwise(offsets))
    keys = Counter(e.fields["key"] for e in good)
    assert keys.most_common(1)[0][1] > len(good) / 3
    prices = {repr(e.fields["price"]) for e in good}
    assert prices >= {"None", "-0.0", "0.1", "1e+17", "1e+308", "5e-324"}
    counts = {e.fields["count"] for e in good}
    assert counts >= {2**63 - 1, -(2**63), None}


def test_views_have_every_aggregation_and_every_kind_of_window() -> None:
    found: Counter[str] = Counter()
    for seed in range(150):
        view = case(seed, events=1).view
        assert edges(view)
        found["ttl"] += view.plan.ttl_ns > 0
        found["where"] += view.where is not None
        for a in view.features.values():
            found[a.op.name] += 1
            found["exact"] += a.exact
            found["delay"] += a.delay_ns > 0
            found["kept"] += a.keep is not None
            found["default"] += a.default is not None
    assert min(found.values()) > 10
    assert set(found) >= {"COUNT", "SUM", "MEAN", "MIN", "MAX", "RATIO", "DISTINCT", "LAST"}
    assert set(found) >= {"QUANTILE", "TOP_K", "MAX_N", "MIN_N"}


@given(messages(STREAM, max_size=5))
@settings(max_examples=10)
def test_messages_are_drawn(made: Any) -> None:
    assert 1 <= len(made) <= 10


@given(views(STREAM))
@settings(max_examples=10)
def test_views_are_drawn(made: Any) -> None:
    assert made.plan.view == "fuzz"


def test_a_case_says_its_seed() -> None:
    assert "seed=3" in repr(case(3, events=1))


def test_hypothesis_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    works = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "hypothesis":
            raise ModuleNotFoundError(name)
        return works(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "pipeline.testing.fuzz.strategies")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'pipeline\[testing\]'"):
        importlib.import_module("pipeline.testing.fuzz.strategies")
