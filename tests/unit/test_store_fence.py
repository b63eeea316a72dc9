"""What a partition makes of replies, whole or in pieces, foreseen or not."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pipeline.errors import PipelineError, StoreUnavailableError
from pipeline.ingest.batch import TopicPartition
from pipeline.store.fence import RedisPartition
from pipeline.store.keys import partition_tag
from pipeline.store.lease import Lease
from pipeline.store.marker import Marker
from pipeline.store.partition import RowExpiry
from pipeline.store.wire import OK, Replies, bulks

SOURCE = TopicPartition("views", 0)
TAG = partition_tag("shop", SOURCE)
VIEW, OTHER = 7, 8
LEASE, THEIRS = Lease(1, b"n" * 16, 1).pack(), Lease(2, b"m" * 16, 2).pack()
BEFORE, AFTER = Marker(VIEW, "", 0, 1).pack(), Marker(VIEW, "", 0, 2)
QUEUED = b"+QUEUED\r\n"
REFUSALS = (b"-ERR no\r\n", b"-OOM full\r\n", b"-MOVED 1 a:1\r\n")
ABORTED = b"*-1\r\n"
TAKEN = [  # the lease, then the markers
    OK, bulks([None]), OK, QUEUED, b"*1\r\n" + OK, OK, bulks([LEASE]), OK, bulks([BEFORE, None]),
]  # fmt: skip


class Script:
    """A server that says what was written down, and then is gone."""

    def __init__(self, says: bytes, chance: random.Random) -> None:
        self._left, self._chance = says, chance

    def send(self, data: memoryview) -> None:
        """Nobody listens."""

    def receive(self, into: memoryview) -> int:
        size = min(len(into), self._chance.choice((1, 2, 7, 60, 5000)), len(self._left))
        if not size:
            raise StoreUnavailableError("gone")
        into[:size], self._left = self._left[:size], self._left[size:]
        return size

    def arrived(self) -> bool:
        return True

    def close(self) -> None:
        self._left = b""


def replies(chance: random.Random, queued: int, keys: int, expiring: bool) -> bytes:
    """To a commit and to two reads; now and then of a server that is in trouble."""

    def maybe(reply: bytes) -> bytes:
        return chance.choice(REFUSALS) if chance.random() < 0.03 else reply

    def watched() -> bytes:
        values: list[bytes | None] = [LEASE, AFTER.pack(), None]
        if chance.random() < 0.2:
            values[chance.randrange(3)] = chance.choice((None, BEFORE, THEIRS, b"junk"))
        return maybe(bulks(values))

    did = b"".join(maybe(b":1\r\n" if expiring and not i else OK) for i in range(queued))
    said = [maybe(OK), *(maybe(QUEUED) for _ in range(queued))]
    outcome = ABORTED if chance.random() < 0.1 else b"*%d\r\n" % queued + did
    said += [maybe(outcome), maybe(OK), watched()]
    for present in (0.0, 0.5):
        rows = [b"row" if chance.random() < present else None for _ in range(keys)]
        said += [maybe(bulks(rows)), watched()]
    whole = b"".join(said)
    return whole[: chance.randrange(len(whole))] if chance.random() < 0.2 else whole


def played(seed: int) -> list[object]:
    """What a commit and two reads came to."""
    chance = random.Random(seed)
    expiring, keys = chance.random() < 0.3, chance.choice((1, 3, 64, 65))
    said = b"".join(TAKEN) + replies(chance, 1 + expiring, keys, expiring)
    link = Script(said, chance)
    partition = RedisPartition(lambda: link, TAG, "here", nonce=lambda size: b"n" * size)
    partition.acquire(1)
    partition.markers([VIEW, OTHER])
    names, bounds = np.full(keys, 107, dtype=np.uint8), np.arange(keys + 1, dtype=np.int64)
    one = np.ones(1, dtype=np.int64)
    found: list[object] = []
    try:
        expiries = [RowExpiry(VIEW, names[:1], bounds[:2], one)] if expiring else []
        partition.commit([], [AFTER], expiries)
        found.append("applied")
        for _ in range(2):
            found.append([*partition.read(VIEW, names, bounds, bounds[:-1])])
    except PipelineError as error:
        found += [type(error), str(error)]
    return [*found, partition.held, dict(partition._expected)]


@pytest.mark.parametrize("part", range(4))
def test_foreseen_replies_come_to_what_they_do_word_by_word(
    monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    seeds = range(500 * part, 500 * (part + 1))
    fast = [played(seed) for seed in seeds]
    assert 50 < sum(len(found) == 5 for found in fast) < 450
    monkeypatch.setattr(Replies, "skip", lambda replies, reply: False)
    for seed, found in zip(seeds, fast, strict=True):
        assert played(seed) == found, f"seed {seed}"
