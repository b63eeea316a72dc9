"""From an event produced to its features readable, at a steady rate (target P9).

    python -m tests.bench.latency [--rate 100000] [--seconds 10] [--warm 3]

A process of its own produces behaviour events of workload (a), each with the wall time of its
sending; the data plane reads them with a freshness goal of 20 ms. The age of an event is the wall
time at which its commit was acknowledged less that; broker, Redis, producer and worker share the
machine. Only events after the first ``--warm`` seconds count.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from contextlib import ExitStack

import numpy as np
from confluent_kafka import Producer

from pipeline.app.build import build_plane
from pipeline.config import Config
from pipeline.produce.topics import ensure_topic
from tests.bench.end_to_end import servers
from tests.bench.peers.workload import Log, view
from tests.bench.report import Figure, record

TOPIC, PARTITIONS, GOAL_MS = "behaviour-steady", 12, 20
TICK_S = 0.002


def produce(brokers: str, rate: int, seconds: float) -> None:
    """Send ``rate`` events a second, a few at a time; says when it falls behind."""
    values = [
        (b"%d" % user, b'{"user":%d,"time":%d,"item":%d,"category":"music","action":"click",'
         b'"price":%d.%02d,"dwell":%.3f}'
         % (user, at, item, price // 100, price % 100, dwell / 1000))
        for block in Log(TOPIC, int(rate * seconds)).blocks()
        for user, at, item, _, _, price, dwell in block.iter_rows()
    ]  # fmt: skip
    producer = Producer(
        {
            "bootstrap.servers": brokers,
            "partitioner": "murmur2_random",
            "linger.ms": 5,
            "enable.idempotence": True,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    producer.list_topics(TOPIC, 10)
    sent, began = 0, time.monotonic()
    while sent < len(values):
        due = min(len(values), int((time.monotonic() - began) * rate))
        now = time.time_ns() // 1_000_000
        for key, value in values[sent:due]:
            producer.produce(TOPIC, value, key, timestamp=now)
        sent = due
        producer.poll(0)
        time.sleep(TICK_S)
    late = time.monotonic() - began - seconds
    if producer.flush(60) or late > 0.1 * seconds:
        raise RuntimeError(f"the producer could not keep the rate: {late:.1f} s late")


def measure(rate: int, seconds: float, warm: float) -> tuple[np.ndarray, int]:
    """Ages in ms of the events after ``warm`` seconds, and how many there were."""
    with ExitStack() as stack:
        brokers, redis_url, _ = stack.enter_context(servers())
        ensure_topic(brokers, TOPIC, PARTITIONS)
        flags = {
            "broker.brokers": brokers,
            "store.url": redis_url,
            "app.session_timeout_ms": "6000",
            "app.freshness_ms": str(GOAL_MS),
        }
        plane = build_plane("steady", [view(TOPIC)], [], Config.load(environ={}, flags=flags))
        stack.callback(plane.close)
        plane.start()
        while len(plane.assignment) < PARTITIONS:
            plane.step()
        command = [sys.executable, "-m", "tests.bench.latency", "--produce", brokers]
        command += ["--rate", str(rate), "--seconds", str(seconds)]
        producer = subprocess.Popen(command)
        total, seen, ages, first = int(rate * seconds), 0, [], 0
        while seen < total:
            step = plane.step()
            now = time.time_ns() // 1_000_000
            for batch in step.batches:
                sent = batch.events.binary.timestamps_ms
                first = first or int(sent[0])
                seen += len(sent)
                ages.append(now - sent[sent > first + 1000 * warm])
            if producer.poll() not in (None, 0):
                raise RuntimeError("the producer failed")
        producer.wait()
        return np.concatenate(ages), total


def main() -> None:
    """Print quantiles."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warm", type=float, default=3.0)
    parser.add_argument("--produce", metavar="BROKERS", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.produce:
        produce(asked.produce, asked.rate, asked.seconds)
        return
    ages, _ = measure(asked.rate, asked.seconds, asked.warm)
    middle, high, highest = (float(np.quantile(ages, q)) for q in (0.5, 0.99, 0.999))
    late = float((ages > GOAL_MS).mean())
    print(
        f"{asked.rate:,} events/s: p50 {middle:.0f} ms, p99 {high:.0f} ms, p99.9 {highest:.0f} ms, "
        f"largest {ages.max()} ms; {100 * late:.2g} % older than {GOAL_MS} ms"
    )
    what = f"produced to readable, p99, {asked.rate:,} events/s"
    ratio = round(high / GOAL_MS, 3)
    figure = Figure(
        "P9", what, high, "goal", GOAL_MS, ratio, 1.0, "ms", 1, (ratio, ratio), high <= GOAL_MS
    )
    record([figure])


if __name__ == "__main__":
    main()
