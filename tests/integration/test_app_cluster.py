"""``pipeline run`` on a Redis Cluster whose slots move: the bytes are those of a replay."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.serve.client import FeatureClient
from pipeline.store.slots import key_slot
from tests.integration import shop
from tests.integration.shop_process import Shop
from tests.rediscluster import MASTERS, ClusterServers

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


def test_slots_move_under_a_running_application(
    kafka_brokers: str, redis_cluster: ClusterServers, topic: Callable[[str], str], tmp_path: Path
) -> None:
    running = Shop(kafka_brokers, redis_cluster.url, topic("payments"), tmp_path)
    draw = random.Random(5)
    events = [shop.message(e) for e in shop.events(9_000, seed=5)]
    try:
        worker = running.start(PIPELINE_APP__MAX_RECORDS="100")
        running.publish(events[:1_500])
        running.wait_until_consumed(1_500)
        with FeatureClient(redis_cluster.url) as client:
            query = client.prepare(["spending:last_shop", "spending:payments_1d"])
            for turn, tag in enumerate(running.tags()):
                slot = key_slot(tag)
                target = draw.choice([n for n in range(MASTERS) if n != redis_cluster.owner(slot)])
                move = redis_cluster.move(slot, target)
                running.publish(events[1_500 + 1_000 * turn : 2_000 + 1_000 * turn])
                move.begin()
                running.publish(events[2_000 + 1_000 * turn : 2_500 + 1_000 * turn])
                while move.keys(15):
                    got = query.read({"user": [*range(1, 60)]}, at="event")
                    assert got.num_rows == 59
                move.end()
        running.publish(events[7_500:])
        running.wait_until_consumed(9_000)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0, running.last_words()
        running.check(9_000)
        assert "the slot" in running.log_of(worker), "no slot was in the worker's way"
    finally:
        running.stop()
