"""How outputs are handed to the outbox."""

from __future__ import annotations

import json
from collections.abc import Sequence

import polars as pl
import pytest

import pipeline as pp
from pipeline.app.sender import LETTERS
from pipeline.testing.driver import Driver
from pipeline.testing.log import MemoryLog, MemoryPublisher

CONTRACT = pp.Contract.load(
    {
        "title": "visit",
        "type": "object",
        "properties": {
            "user": {"type": "string"},
            "amount": {"type": "string"},
            "at": {"type": "integer", "x-unix-time": "ms"},
        },
        "required": ["user", "amount", "at"],
    }
)
STREAM = pp.EventStream("visits", contract=CONTRACT, key="user", time="at")
SPENT = pp.FeatureView(
    "spent", source=STREAM, entity="user",
    features={"spent": pp.sum(pl.col("amount").cast(pl.Int64)).over("1d", slide="1h")},
)  # fmt: skip
N = 2 * LETTERS + 1


def test_letters_of_a_batch_are_handed_over_by_the_thousand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    publish_many = MemoryPublisher.publish_many

    def counted(
        self: MemoryPublisher, topic: str, values: Sequence[bytes], keys: Sequence[bytes]
    ) -> None:
        calls.append(len(values))
        publish_many(self, topic, values, keys)

    monkeypatch.setattr(MemoryPublisher, "publish_many", counted)
    log = MemoryLog()
    log.create("visits", 1)
    for i in range(N):
        at = 1_700_000_000_000 + i
        event = {"user": "ada", "amount": f"none {i}", "at": at}
        log.append("visits", b"ada", json.dumps(event).encode(), at)
    driver = Driver([SPENT], log=log, max_records=N)
    driver.run()
    assert calls == [LETTERS, LETTERS, 1]
    sent = driver.publisher.sent[driver.names.dead_letters]
    letters = [json.loads(value) for _, _, value in sent]
    assert [letter["offset"] for letter in letters] == list(range(N))
    assert {letter["reason"] for letter in letters} == {"expression"}
