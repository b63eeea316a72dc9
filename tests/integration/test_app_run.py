"""``pipeline run`` as a process, on real servers: the bytes in Redis are those of a replay."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.ingest.scan import scan
from tests.integration import shop
from tests.integration.shop_process import Shop


@pytest.fixture(params=["kafka", "embedded"])
def running(
    request: pytest.FixtureRequest, redis_url: str, topic: Callable[[str], str], tmp_path: Path
) -> Iterator[Shop]:
    """A shop on a real Kafka or on the embedded broker, with a real Redis."""
    if request.param == "kafka":
        brokers = request.getfixturevalue("kafka_brokers")
    else:
        brokers = request.getfixturevalue("embedded_servers").brokers
    found = Shop(brokers, redis_url, topic("payments"), tmp_path)
    yield found
    found.stop()


def test_the_bytes_in_redis_are_those_of_a_replay(running: Shop) -> None:
    events = [shop.message(e) for e in shop.events(8_000, seed=1)]
    bad = [(b"1", b"not json"), (None, events[0][1]), (b"7", b"")]
    running.publish([*events[:4_000], *bad, (b"7", None)])  # the last one deletes an entity
    worker = running.start()
    running.wait_until_consumed(4_004)
    running.publish(events[4_000:])
    running.wait_until_consumed(8_004)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0, running.last_words()
    running.check(8_004)
    seen = (running.directory / "seen").read_text().split()
    assert sum(map(int, seen)) > 400  # every user changed at least once, and the agent saw it
    letters = list(scan(running.properties, f"{running.app}-dead-letter"))
    assert len(letters) == len(bad)


def test_a_worker_that_is_killed_leaves_the_same_bytes(running: Shop) -> None:
    events = [shop.message(e) for e in shop.events(12_000, seed=2)]
    for start in range(0, 12_000, 3_000):
        worker = running.start(PIPELINE_APP__MAX_RECORDS="100")
        running.publish(events[start : start + 3_000])
        running.wait_until_consumed(start + 700)
        worker.kill()
        worker.wait()
    running.start()
    running.wait_until_consumed(12_000)
    running.check(12_000)


def test_two_workers_share_the_partitions_and_one_takes_over(running: Shop) -> None:
    events = [shop.message(e) for e in shop.events(9_000, seed=3)]
    first = running.start(PIPELINE_APP__MAX_RECORDS="200")
    running.publish(events[:3_000])
    running.wait_until_consumed(3_000)
    running.start(PIPELINE_APP__MAX_RECORDS="200")
    running.publish(events[3_000:6_000])
    running.wait_until_consumed(6_000)
    first.send_signal(signal.SIGTERM)
    running.publish(events[6_000:])
    running.wait_until_consumed(9_000)
    assert first.wait(20) == 0, running.last_words()
    running.check(9_000)
