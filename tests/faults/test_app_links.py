"""Bad networks: between the workers and Kafka, and between the workers and Redis."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.faults.chaos import Chaos, eventually, threads
from tests.faults.proxy import Proxy

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

Fault = Callable[[Proxy], None]


def cut(link: Proxy) -> None:
    """Every connection is reset, again and again."""
    for _ in range(5):
        link.reset()
        time.sleep(0.3)


def half_open(link: Proxy) -> None:
    """The peer falls silent; nobody says that the connection is gone."""
    link.down.hold()
    time.sleep(3)
    link.reset()


def half_close(link: Proxy) -> None:
    """The server ends what it says, and would still listen."""
    link.half_close()
    time.sleep(0.5)


def slow(link: Proxy) -> None:
    """100 ms and about 3 Mbit/s, one way each."""
    for way in (link.up, link.down):
        way.delay_s, way.slice_bytes = 0.1, 40_000
    time.sleep(3)


def bytewise(link: Proxy) -> None:
    """One byte at a time."""
    for way in (link.up, link.down):
        way.slice_bytes = 1
    time.sleep(2)


def replies_lost(link: Proxy) -> None:
    """What was asked is done, the answer never comes."""
    for _ in range(3):
        link.down.drop = True
        time.sleep(0.4)
        link.reset()
        link.down.drop = False
        time.sleep(0.6)


def cut_within(link: Proxy) -> None:
    """The connection ends in the middle of a transaction, at its end, and a little later."""
    for pattern in (b"MSET\r\n", b"EXEC\r\n", b"WATCH\r\n"):
        link.up.cut_after(pattern)
        time.sleep(0.7)


def cut_anywhere(link: Proxy) -> None:
    """Connections end at byte counts that mean nothing."""
    for count in (1, 100, 3_000):
        link.up.cut_after_bytes(count)
        link.down.cut_after_bytes(count)
        time.sleep(0.5)


def suffer(chaos: Chaos, link: Proxy, faults: list[Fault], **settings: str) -> None:
    """One worker goes through all faults; everything is compared after each."""
    worker = chaos.start(**settings)
    chaos.publish(300)
    chaos.settle()
    before = threads(worker)
    for fault in faults:
        with chaos.load(600):
            fault(link)
            link.heal()
        chaos.settle()
        assert worker.poll() is None
        chaos.seen.append(fault.__name__)
    assert eventually(lambda: threads(worker) <= before + 2), f"{before} {threads(worker)} threads"
    chaos.seen.append(f"threads {before} -> {threads(worker)}")


@pytest.mark.fault("F9", "cut, silent, slow and bytewise link to Kafka", "exact; no thread leak")
@pytest.mark.parametrize(
    "faults",
    [
        [cut, half_open],
        pytest.param(
            [cut, half_open, half_close, slow, bytewise, cut_anywhere], marks=pytest.mark.slow
        ),
    ],
    ids=len,
)
def test_kafka_link(chaos: Chaos, faults: list[Fault]) -> None:
    chaos.shop.worker_brokers = chaos.cluster.proxied
    suffer(chaos, chaos.cluster.link, faults)


@pytest.mark.fault("F10", "the same on the link to Redis; reply lost after EXEC", "applied once")
@pytest.mark.parametrize(
    "faults",
    [
        [replies_lost, cut_within],
        pytest.param(
            [
                replies_lost, cut, half_open, half_close, slow, bytewise, cut_within, cut_anywhere,
            ],
            marks=pytest.mark.slow,
        ),
    ],
    ids=len,
)  # fmt: skip
def test_redis_link(chaos: Chaos, faults: list[Fault]) -> None:
    suffer(chaos, chaos.link, faults)
