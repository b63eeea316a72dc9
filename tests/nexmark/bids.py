"""Bids of the Nexmark benchmark, each a function of the seed and its number alone.

Shares and shapes follow the published generator: 46 of 50 events are bids; half of them go to a
hot auction and three quarters come from a hot bidder, which change every hundred ids; prices are
log-uniform over six decades; half of the bids come through one of four channels, the others
through one of ten thousand. Times here rise by 10 ms a bid, with up to a second of jitter.

Source: P. Tucker et al., NEXMark - A Benchmark for Queries over Data Streams, 2002, and the
generator of the Apache Beam and Flink ports.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["CONTRACT", "bids"]

U64 = npt.NDArray[np.uint64]
BASE_NS = 1_436_918_400_000_000_000  # 2015-07-15, the benchmark's first day
STEP_NS = 10_000_000
JITTER_NS = 1_000_000_000
HOT_CHANNELS = np.array(["Apple", "Baidu", "Facebook", "Google"])
CONTRACT = {
    "title": "bid",
    "type": "object",
    "properties": {
        "site": {"type": "string"},
        "auction": {"type": "integer"},
        "bidder": {"type": "integer"},
        "price": {"type": "integer"},
        "channel": {"type": "string"},
        "placed": {"type": "string", "format": "date-time"},
    },
    "required": ["site", "auction", "bidder", "price", "channel", "placed"],
}


def bids(seed: int, first: int, count: int, *, step_ns: int = STEP_NS) -> pl.DataFrame:
    """Bids ``first`` to ``first + count``: the fields of the contract, in order of arrival."""
    number = np.arange(first, first + count, dtype=np.int64)
    epoch = number // 46  # of 50 events: 1 person, 3 auctions, 46 bids
    last_auction, last_person = epoch * 3 + 2, epoch
    hot_auction = 1000 + last_auction // 100 * 100
    hot_bidder = 1000 + last_person // 100 * 100 + 1
    recent_auction = 1000 + np.maximum(last_auction - _below(seed, number, 1, 100), 0)
    recent_bidder = 1000 + np.maximum(last_person - _below(seed, number, 2, 1000), 0)
    channel = _below(seed, number, 3, 10_000)
    named = np.char.add("channel-", channel.astype(str))
    jitter = _below(seed, number, 4, JITTER_NS)
    return pl.DataFrame(
        {
            "site": np.full(count, "nexmark"),
            "auction": np.where(_below(seed, number, 5, 2) > 0, hot_auction, recent_auction),
            "bidder": np.where(_below(seed, number, 6, 4) > 0, hot_bidder, recent_bidder),
            "price": 10.0 ** (_unit(seed, number, 7) * 6) * 100,
            "channel": np.where(
                _below(seed, number, 8, 2) > 0, HOT_CHANNELS[_below(seed, number, 9, 4)], named
            ),
            "placed": BASE_NS + number * step_ns + jitter,
        }
    ).with_columns(
        pl.col("price").round().cast(pl.Int64), pl.col("placed").cast(pl.Datetime("ns", "UTC"))
    )


def _mixed(seed: int, number: npt.NDArray[np.int64], stream: int) -> U64:
    """64 random bits per number: SplitMix64's finaliser over a counter (Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        z = number.astype(np.uint64) * np.uint64(16) + np.uint64(stream)
        z = (z + np.uint64(seed) * np.uint64(0xD1342543DE82EF95)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _below(seed: int, number: npt.NDArray[np.int64], stream: int, n: int) -> npt.NDArray[np.int64]:
    return (_mixed(seed, number, stream) % np.uint64(n)).astype(np.int64)


def _unit(seed: int, number: npt.NDArray[np.int64], stream: int) -> npt.NDArray[np.float64]:
    return (_mixed(seed, number, stream) >> np.uint64(11)).astype(np.float64) / 2.0**53
