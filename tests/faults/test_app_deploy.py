"""Too much load, and a second deployment that gets in the way."""

from __future__ import annotations

import signal
import time

import pytest

from pipeline.embedded import EmbeddedServers
from pipeline.features.view import FeatureView
from pipeline.produce.topics import ensure_topic
from tests.faults.chaos import Chaos, resident_mib
from tests.integration import shop
from tests.integration.shop_process import PARTITIONS

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

LARGEST_MIB = 700.0


@pytest.mark.fault("F20", "ten times the load, then normal", "memory bounded, lag drains, exact")
@pytest.mark.parametrize("events", [12_000, pytest.param(38_000, marks=pytest.mark.slow)])
def test_overload(chaos: Chaos, events: int) -> None:
    worker = chaos.start(PIPELINE_APP__CACHE_BYTES="65536", PIPELINE_APP__MAX_RECORDS="20000")
    chaos.publish(300)
    chaos.settle()
    before = resident_mib(worker)
    chaos.publish(events)
    largest, started = before, time.monotonic()
    while chaos.shop.consumed() < events:
        largest = max(largest, resident_mib(worker))
        time.sleep(0.05)
    took = time.monotonic() - started
    chaos.publish(300)
    chaos.settle()
    assert worker.poll() is None
    assert largest < LARGEST_MIB
    chaos.seen.append(f"{before:.0f} -> at most {largest:.0f} MiB, drained in {took:.1f} s")


@pytest.mark.fault("I7", "workers are replaced one by one, and the new ones have a view more",
                   "both views exact: no gap, nothing twice")  # fmt: skip
def test_rolling_deploy_adds_a_view(chaos: Chaos) -> None:
    """Partitions go to and fro between those that know of the view and those that do not."""
    old = [chaos.start(), chaos.start()]
    chaos.publish(600)
    chaos.shop.wait_until_consumed(600)
    for worker in old:
        chaos.wait_for(worker, "assigned payments")
    new = []
    with chaos.load(300):
        for worker in old:
            new.append(chaos.start(SHOP_LATER="1"))
            chaos.wait_for(new[-1], "assigned payments")
            chaos.progress(200)
            chaos.end(worker)
            chaos.progress(200)
    chaos.settle()
    rows, expected = chaos.shop.added_rows()
    assert rows == expected
    for worker in new:
        assert worker.poll() is None
    chaos.seen.append(f"{len(rows)} rows of the new view equal")


@pytest.mark.fault("F25", "SIGKILL while a changed view is filled by a program without the old one",
                   "both versions exact, the old one not held up")  # fmt: skip
def test_changed_view(chaos: Chaos) -> None:
    old, new = chaos.shop.view, shop.definitions(chaos.shop.topic, changed=True)[0]
    worker = chaos.start()
    chaos.publish(3_000)
    chaos.settle()
    worker.kill()
    worker.wait()
    changed = {"SHOP_CHANGED": "1", "PIPELINE_APP__CATCH_UP_RECORDS_PER_S": "600"}
    for point in ("computed", "sent", "committed"):
        crash = f"{point}:{chaos.random.randint(4, 12)}"
        worker = chaos.start(PIPELINE_CRASH_AT=crash, **changed)
        chaos.publish(100)
        assert worker.wait(60) == -signal.SIGKILL, chaos.shop.last_words()
        chaos.seen.append(crash)
    chaos.start(**changed)
    chaos.publish(100)
    chaos.shop.wait_until_consumed(3_400)
    behind = 3_400 - _consumed(chaos, new)
    chaos.shop.wait(lambda: _consumed(chaos, new) == 3_400, lambda: "the new version is filled")
    assert chaos.shop.exact(old) == []
    assert chaos.shop.exact(new) == []
    assert behind > 0
    chaos.seen.append(f"{behind} records behind when the old one was not")


def _consumed(chaos: Chaos, view: FeatureView) -> int:
    """Records that the markers of a version account for."""
    kept, chaos.shop.view = chaos.shop.view, view
    try:
        return chaos.shop.consumed()
    finally:
        chaos.shop.view = kept


@pytest.mark.slow
@pytest.mark.fault("F24", "another application with a view of the same name", "refuses, exit 2")
def test_other_application(chaos: Chaos) -> None:
    worker = chaos.start()
    chaos.publish(300)
    chaos.shop.wait_until_consumed(300)
    with chaos.load(400):
        chaos.ends(chaos.start(SHOP_APP="another"), 2, "has a view of this name")
    chaos.settle()
    assert worker.poll() is None


@pytest.mark.slow
@pytest.mark.fault("F24", "the same application from another Kafka into the same Redis",
                   "the second stops with a named error; the first stays exact")  # fmt: skip
def test_other_cluster(chaos: Chaos, embedded_servers: EmbeddedServers) -> None:
    worker = chaos.start()
    chaos.publish(300)
    chaos.settle()
    ensure_topic(embedded_servers.brokers, chaos.shop.topic, PARTITIONS)
    chaos.shop.worker_brokers = embedded_servers.brokers
    with chaos.load(400):
        chaos.ends(chaos.start(), 2, "deleted and created again")
    chaos.settle()
    assert worker.poll() is None
