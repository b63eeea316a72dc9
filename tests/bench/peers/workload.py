"""Workload (a) of the end-to-end benchmark: behaviour events, their features, and an oracle.

An event is a function of the seed and its number, so a log of n events is the beginning of every
longer one. Seven fields, about 140 bytes of JSON, keyed by user.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from confluent_kafka import Producer

import pipeline as pp
from pipeline.contracts.contract import Contract

__all__ = [
    "FEATURES",
    "FIRST_USER",
    "PROOF",
    "START_MS",
    "Log",
    "Rows",
    "Spread",
    "expected",
    "mistakes",
    "producing",
    "view",
]

Spread = Literal["zipf", "uniform", "each"]
Rows = dict[str, list[int | float | None]]
"""User to the features of ``FEATURES``, as of the user's last event."""

FEATURES = ("n_5m", "spend_1h", "mean_dwell_1h", "max_price_24h", "n_24h")

START_MS = 1_700_000_040_000  # where tiles of ten seconds and of a minute begin
_BLOCK = 100_000
_CATEGORIES = np.array(
    [
        "books-and-media",
        "games-and-toys",
        "music",
        "garden-and-outdoor",
        "sports",
        "home-and-kitchen",
    ]
)
_ACTIONS = np.array(["view-item", "click", "add-to-cart", "buy"])
FIRST_USER = 10_000_000
_FIRST_ITEM = 10**12
_JSON = (
    b'{"user":%d,"time":%d,"item":%d,"category":"%s","action":"%s","price":%d.%02d,"dwell":%.3f}'
)

_CONTRACT = {
    "type": "object",
    "title": "behaviour",
    "properties": {
        "user": {"type": "integer"},
        "time": {"type": "integer", "x-unix-time": "ms"},
        "item": {"type": "integer"},
        "category": {"type": "string"},
        "action": {"type": "string"},
        "price": {"type": "number", "x-decimal": 2},
        "dwell": {"type": "number"},
    },
    "required": ["user", "time", "item", "category", "action", "price", "dwell"],
}


def view(topic: str, name: str = "activity") -> pp.FeatureView:
    """The five features over ``topic``, in this package's own words."""
    source = pp.EventStream(topic, Contract.load(_CONTRACT), key="user", time="time")
    return pp.FeatureView(
        name,
        source=source,
        entity="user",
        publish_changes=False,  # the peers do not either
        features={
            "n_5m": pp.count().over("5m", slide="10s"),
            "spend_1h": pp.sum("price").over("1h", slide="1m"),
            "mean_dwell_1h": pp.mean("dwell").over("1h", slide="1m"),
            "max_price_24h": pp.max("price").over("24h", slide="30m"),
            "n_24h": pp.count().over("24h", slide="30m"),
        },
    )


@dataclass(frozen=True, slots=True)
class Log:
    """``events`` events of ``users`` users: drawn by Zipf's law, evenly, or ``each`` in turn.

    ``steps`` are pairs of an event's number and the ms of event time between events from there on.
    """

    topic: str
    events: int
    steps: tuple[tuple[int, int], ...] = ((0, 1),)
    users: int = 100_000
    spread: Spread = "zipf"
    seed: int = 7

    def blocks(self) -> Iterator[pl.DataFrame]:
        """The events in order; ``price`` in cents, ``dwell`` in thousandths."""
        weights = 1.0 / np.arange(1, self.users + 1) ** 1.1
        zipf = np.cumsum(weights / weights.sum())
        for number, first in enumerate(range(0, self.events, _BLOCK)):
            draw = np.random.default_rng([self.seed, number])
            user: npt.NDArray[np.int64]
            if self.spread == "zipf":
                user = np.minimum(np.searchsorted(zipf, draw.random(_BLOCK)), self.users - 1)
            elif self.spread == "uniform":
                user = draw.integers(0, self.users, _BLOCK)
            else:
                user = np.arange(first, first + _BLOCK) % self.users
            yield pl.DataFrame(
                {
                    "user": FIRST_USER + user.astype(np.int64),
                    "time": self._times(np.arange(first, first + _BLOCK)),
                    "item": _FIRST_ITEM + draw.integers(0, 10**7, _BLOCK),
                    "category": _CATEGORIES[draw.integers(0, len(_CATEGORIES), _BLOCK)],
                    "action": _ACTIONS[draw.integers(0, len(_ACTIONS), _BLOCK)],
                    "price": draw.integers(100, 100_000, _BLOCK),
                    "dwell": draw.integers(0, 100_000, _BLOCK),
                }
            ).head(self.events - first)

    def _times(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        times = np.full(len(numbers), START_MS)
        before = 0
        for start, step_ms in self.steps:
            times += (step_ms - before) * np.maximum(0, numbers - start)
            before = step_ms
        return times

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """The events in order as message keys and values."""
        for block in self.blocks():
            for user, time, item, category, action, price, dwell in block.iter_rows():
                value = _JSON % (
                    user, time, item, category.encode(), action.encode(),
                    price // 100, price % 100, dwell / 1000,
                )  # fmt: skip
                yield b"%d" % user, value

    def produce(self, brokers: str) -> int:
        """Write the log to its topic, partitioned by murmur2 of the user; bytes of the values."""
        return self.send(Producer(producing(brokers)))

    def send(self, producer: Producer) -> int:
        """The same by a producer of one's own, which has a transaction under way perhaps."""
        written = 0
        for user, value in self.records():
            written += len(value)
            _send(producer, self.topic, user, value)
        if left := producer.flush(120):
            raise RuntimeError(f"{left} events were not taken by the broker")
        return written


def producing(brokers: str) -> dict[str, str | int | bool]:
    """Settings of a producer of whole logs."""
    return {
        "bootstrap.servers": brokers,
        "partitioner": "murmur2_random",
        "enable.idempotence": True,  # else a batch that is sent again comes out of order
        "linger.ms": 50,
        "batch.num.messages": 10_000,
        "queue.buffering.max.messages": 1_000_000,
    }


PROOF = Log(
    "behaviour-proof",
    events=20_000,
    users=2_000,
    steps=((0, 12_000), (8_000, 1_250), (12_000, 75)),
)
"""28 hours, ever denser: of every window, dozens of events lie in the tile that just left it."""


def _send(producer: Producer, topic: str, key: bytes, value: bytes) -> None:
    while True:
        try:
            producer.produce(topic, value, key)
        except BufferError:  # the queue is full: let the broker take some
            producer.poll(0.1)
        else:
            return


def expected(log: Log) -> Rows:
    """What every user's row has to be, from the events themselves: no tiles, no state."""
    events = pl.concat([block.select("user", "time", "price", "dwell") for block in log.blocks()])
    last = pl.col("time").max().over("user")

    def within(window_s: int, slide_s: int) -> pl.Expr:
        slide_ms = slide_s * 1000
        return pl.col("time") > last // slide_ms * slide_ms - window_s * 1000

    short, hour, day = within(300, 10), within(3600, 60), within(86_400, 1800)
    found = (
        events.with_columns(short=short, hour=hour, day=day)
        .group_by("user")
        .agg(
            pl.col("short").sum().cast(pl.Int64),
            pl.col("price").filter(pl.col("hour")).sum(),
            pl.col("dwell").filter(pl.col("hour")).sum().alias("dwelt"),
            pl.col("hour").sum().cast(pl.Int64),
            pl.col("price").filter(pl.col("day")).max().alias("most"),
            pl.col("day").sum().cast(pl.Int64),
        )
    )
    return {
        str(user): [n, cents / 100, dwelt / 1000 / hours, most / 100, days]
        for user, n, cents, dwelt, hours, most, days in found.iter_rows()
    }


def mistakes(want: Rows, got: Rows) -> list[str]:
    """What is wrong with ``got``, a line each; a mean may differ in its last digits."""
    wrong = [f"user {user}: no row" for user in want if user not in got]
    wrong += [f"user {user}: a row of nobody" for user in got if user not in want]
    for user, row in got.items():
        if user in want and not _same(want[user], row):
            wrong.append(f"user {user}: {json.dumps(row)} instead of {json.dumps(want[user])}")
    return wrong


def _same(want: list[int | float | None], got: list[int | float | None]) -> bool:
    mean, found = want[2], got[2]
    if mean is None or found is None:
        return want == got
    close = abs(mean - found) <= 1e-9 * max(1.0, abs(mean))
    return close and want[:2] + want[3:] == got[:2] + got[3:]
