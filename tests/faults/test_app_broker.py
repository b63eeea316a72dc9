"""The Kafka node restarts, freezes, loses records, and its topic is not the one it was."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from pipeline.ingest.batch import TopicPartition
from pipeline.produce.topics import ensure_topic
from tests.faults.chaos import Chaos, cpu_seconds, paused
from tests.integration.shop_process import PARTITIONS

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


@pytest.mark.fault("F7", "Kafka restarts", "goes on by itself; no busy loop meanwhile")
@pytest.mark.parametrize("how", [pytest.param("SIGTERM", marks=pytest.mark.slow), "SIGKILL"])
def test_restart(chaos: Chaos, how: str) -> None:
    worker, node = chaos.start(), chaos.cluster.node
    chaos.publish(300)
    chaos.shop.wait_until_consumed(300)
    with chaos.load(500):
        chaos.progress(200)
        if how == "SIGTERM":
            node.stop()
        else:
            node.kill()
        used, since = cpu_seconds(worker), time.monotonic()
        time.sleep(2)
        share = (cpu_seconds(worker) - used) / (time.monotonic() - since)
        node.start()
        chaos.progress(200)
    chaos.settle()
    assert worker.poll() is None
    assert share < 0.2
    chaos.seen.append(f"{share:.0%} of a core while it was away")


@pytest.mark.fault("F8", "Kafka is frozen", "goes on by itself, nothing twice")
@pytest.mark.parametrize("seconds", [5, pytest.param(30, marks=pytest.mark.slow)])
def test_frozen(chaos: Chaos, seconds: int) -> None:
    worker, node = chaos.start(), chaos.cluster.node
    chaos.publish(300)
    chaos.shop.wait_until_consumed(300)
    with chaos.load(500):
        chaos.progress(200)
        assert node.pid is not None
        with paused(node.pid):
            time.sleep(seconds)
        chaos.progress(200)
    chaos.settle()
    assert worker.poll() is None


HANGING = """
import os, signal, sys, confluent_kafka
brokers, topic, partition, timeout_ms = sys.argv[1:]
producer = confluent_kafka.Producer({"bootstrap.servers": brokers, "transactional.id": topic,
                                     "transaction.timeout.ms": timeout_ms})
producer.init_transactions(30)
producer.begin_transaction()
for _ in range(7):
    producer.produce(topic, b'{"user": 1}', b"1", int(partition))
assert producer.flush(30) == 0
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.fault(
    "F22", "a producer is killed within its transaction",
    "told with its last stable offset; stale for readers; goes on after the time-out, exact",
)  # fmt: skip
@pytest.mark.parametrize("lane", ["native", pytest.param("portable", marks=pytest.mark.slow)])
def test_open_transaction(chaos: Chaos, lane: str) -> None:
    worker = chaos.start(PIPELINE_APP__LANE=lane)
    chaos.publish(300)
    chaos.settle()
    before = {m.partition: m for m in chaos.shop.markers()}
    partition = min(before, key=lambda p: -before[p].next_offset)
    stable = before[partition].next_offset
    started = time.monotonic()
    arguments = [chaos.shop.brokers, chaos.shop.topic, str(partition), "20000"]
    killed = subprocess.run([sys.executable, "-c", HANGING, *arguments], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    chaos.publish(600)
    behind = f"{TopicPartition(chaos.shop.topic, partition)}: an open transaction"
    chaos.wait_for(worker, f"{behind} at last stable offset {stable} has held back")
    labels = f'{{topic="{chaos.shop.topic}",partition="{partition}"}}'
    told = chaos.metrics(worker)
    assert told[f"pipeline_last_stable_offset{labels}"] == stable
    assert told[f"pipeline_held_back_records{labels}"] > 7
    assert told[f"pipeline_held_back_seconds{labels}"] >= 5
    doctor = chaos.shop.command("doctor", "--timeout", "10s")
    text = " ".join(doctor.stdout.split())
    assert f"holds partition {partition} back at its last stable offset {stable}," in text, text
    held, others = _through(chaos, partition)
    assert stable == next(m.next_offset for m in chaos.shop.markers() if m.partition == partition)
    time.sleep(2.5)
    later = _through(chaos, partition)
    assert later[0] == held, "a reader would take it for fresh"
    assert later[1] > others, "a partition beside it stands still"
    chaos.wait_for(worker, f"the transaction at offset {stable} is over")
    lasted = time.monotonic() - started
    chaos.settle(gaps=True)
    assert worker.poll() is None
    assert chaos.metrics(worker)[f"pipeline_last_stable_offset{labels}"] == -1
    chaos.seen.append(f"held back at {stable}, over after {lasted:.0f} s")


def _through(chaos: Chaos, partition: int) -> tuple[int, int]:
    """Broker time that this partition was read through, and the earliest of the others."""
    found = {m.partition: m.processed_through_ms for m in chaos.shop.markers()}
    return found.pop(partition), min(found.values())


@pytest.mark.slow
@pytest.mark.fault("F21", "retention overtakes a worker that was away", "named stop, exit 2")
def test_retention(chaos: Chaos) -> None:
    worker = chaos.start()
    chaos.publish(600)
    chaos.settle()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(15) == 0
    chaos.publish(600)
    places = [confluent_kafka.TopicPartition(chaos.shop.topic, p, -1) for p in range(PARTITIONS)]
    admin = _admin(chaos)  # a client that nobody holds gives up its requests
    for deleted in admin.delete_records(places).values():
        deleted.result(10)
    before = _held(chaos)
    chaos.ends(chaos.start(), 2, "events in between are gone")
    assert _held(chaos) == before


@pytest.mark.slow
@pytest.mark.fault("F21", "Redis and the start of the log are both gone", "named stop, exit 2")
def test_retention_and_empty_store(chaos: Chaos) -> None:
    """Rows cannot be computed again from a log that lacks its start; a fresh start would lie."""
    worker = chaos.start()
    chaos.publish(600)
    chaos.settle()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(15) == 0
    places = [confluent_kafka.TopicPartition(chaos.shop.topic, p, -1) for p in range(PARTITIONS)]
    admin = _admin(chaos)
    for deleted in admin.delete_records(places).values():
        deleted.result(10)
    chaos.roll_back()
    chaos.store.kill()
    chaos.store.start()
    chaos.ends(chaos.start(), 2, "too late to compute them again")


@pytest.mark.fault("F21", "the topic is deleted and created again", "named stop, exit 2")
@pytest.mark.parametrize("when", [pytest.param("away", marks=pytest.mark.slow), "running"])
def test_recreated_topic(chaos: Chaos, when: str) -> None:
    worker = chaos.start()
    chaos.publish(600)
    chaos.settle()
    if when == "away":
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(15) == 0
    before = _held(chaos)
    admin = _admin(chaos)
    admin.delete_topics([chaos.shop.topic])[chaos.shop.topic].result(10)
    time.sleep(1)
    ensure_topic(chaos.shop.brokers, chaos.shop.topic, PARTITIONS)
    chaos.publish(1_800)  # its offsets go beyond those of the old one
    if when == "running":
        assert worker.wait(60) == 2, chaos.shop.last_words()
        chaos.seen.append(chaos.shop.log_of(worker).splitlines()[-1])
    chaos.ends(chaos.start(), 2, "deleted and created again")
    assert _held(chaos) == before, "records of another topic were applied"


@pytest.mark.fault("F21", "the log loses what was read, then grows past it", "named stop, exit 2")
@pytest.mark.parametrize(
    ("lane", "when"),
    [
        ("native", "away"),
        pytest.param("portable", "away", marks=pytest.mark.slow),
        pytest.param("native", "running", marks=pytest.mark.slow),
        pytest.param("portable", "running", marks=pytest.mark.slow),
    ],
)
def test_truncated_log(chaos: Chaos, lane: str, when: str) -> None:
    """As after an unclean leader election: offsets look right, only the leader epoch tells."""
    worker = chaos.start(PIPELINE_APP__LANE=lane)
    chaos.publish(600)
    chaos.settle()
    before = _held(chaos)
    if when == "away":
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(15) == 0
    else:
        worker.send_signal(signal.SIGSTOP)
    chaos.cluster.node.stop()
    data = chaos.cluster.directory / "data"
    for partition in range(PARTITIONS):
        for file in (data / f"{chaos.shop.topic}-{partition}").iterdir():
            if file.name != "partition.metadata":
                file.unlink()
    chaos.cluster.node.start()
    chaos.publish(1_800)
    if when == "running":
        worker.send_signal(signal.SIGCONT)
        chaos.ends(worker, 2, "truncat")
    chaos.ends(chaos.start(PIPELINE_APP__LANE=lane), 2, "truncat")
    assert _held(chaos) == before, "records that are not those after the marker were applied"


@pytest.mark.slow
@pytest.mark.fault("F21", "partitions are added", "refused: keys would change their partition")
@pytest.mark.parametrize("when", ["away", "running"])
def test_partitions_added(chaos: Chaos, when: str) -> None:
    worker = chaos.start(PIPELINE_BROKER__PROPERTIES__TOPIC__METADATA__REFRESH__INTERVAL__MS="500")
    chaos.publish(600)
    chaos.settle()
    if when == "away":
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(15) == 0
    admin = _admin(chaos)
    added = admin.create_partitions([NewPartitions(chaos.shop.topic, PARTITIONS + 2)])
    added[chaos.shop.topic].result(10)
    if when == "running":
        chaos.ends(worker, 2, "partitions")
    chaos.ends(chaos.start(), 2, f"rows of application '{chaos.shop.app}' were written for 6")


def _held(chaos: Chaos) -> object:
    """Rows, and how far each partition is."""
    return chaos.shop.rows(), {m.partition: m.next_offset for m in chaos.shop.markers()}


def _admin(chaos: Chaos) -> AdminClient:
    return AdminClient(dict(chaos.shop.properties))
