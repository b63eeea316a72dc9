"""From an event produced to its features readable, at a steady rate (target P9).

    python -m tests.bench.latency [--rate 100000] [--seconds 20] [--warm 10] [--rounds 3]

A process of its own produces behaviour events of workload (a), each with the wall time of its
sending; the data plane reads them with a freshness goal of 20 ms. The age of an event is the wall
time at which its commit was acknowledged less that; broker, Redis, producer and worker share the
machine. Only events after the first ``--warm`` seconds count.

A client that only consumes takes turns with it, with the same properties of librdkafka: what age an
event has when it comes to a client at all is what nothing behind it can make up for. So does a
thread that only sleeps, to tell what delays the machine itself.

Quix Streams takes turns with it, at the highest of a few rates that it sustains: at which half of
the events are less than a second old, in the later part of the run as in the earlier one. Its rows
are in Redis when its sink has written them, at a checkpoint every 100 ms.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from tempfile import TemporaryDirectory

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition

from pipeline.app.build import build_plane, lane_config
from pipeline.config import Config
from pipeline.produce.topics import ensure_topic
from tests.bench.end_to_end import servers
from tests.bench.peers.systems import ROOT, PeerError, environment
from tests.bench.peers.workload import Log, view
from tests.bench.report import Figure, compared, record

TOPIC, PARTITIONS, GOAL_MS = "behaviour-steady", 12, 20
TICK_S = 0.002
AT_ONCE = 20_000
QUIX_RATES = (20_000, 10_000, 5_000, 2_500)
_QUIX_S = 300.0


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
        plane = build_plane("steady", [view(TOPIC)], [], _config(brokers, redis_url))
        stack.callback(plane.close)
        plane.start()
        while len(plane.assignment) < PARTITIONS:
            plane.step()
        producer = subprocess.Popen(_produce(brokers, rate, seconds))
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


def measure_bare(rate: int, seconds: float, warm: float) -> tuple[np.ndarray, float]:
    """Ages in ms at which events come to a client that does nothing with them; by how much a thread
    that sleeps for 2 ms was late at most, in ms, of which there was none of ours to wait for."""
    late: list[tuple[float, float]] = []
    done = threading.Event()

    def sleep() -> None:
        before = time.monotonic()
        while not done.wait(TICK_S):
            now = time.monotonic()
            late.append((now, now - before - TICK_S))
            before = now

    with ExitStack() as stack:
        brokers, redis_url, _ = stack.enter_context(servers())
        ensure_topic(brokers, TOPIC, PARTITIONS)
        consumer = Consumer(lane_config("bare", _config(brokers, redis_url)).settings())
        stack.callback(consumer.close)
        consumer.assign([TopicPartition(TOPIC, number, 0) for number in range(PARTITIONS)])
        sleeper = threading.Thread(target=sleep)
        sleeper.start()
        stack.callback(done.set)
        producer = subprocess.Popen(_produce(brokers, rate, seconds))
        total, seen, ages, first, began = int(rate * seconds), 0, [], 0, 0.0
        while seen < total:
            messages = [m for m in consumer.consume(AT_ONCE, 0.005) if m.error() is None]
            now = time.time_ns() // 1_000_000
            sent = np.array([m.timestamp()[1] for m in messages], dtype=np.int64)
            if len(sent) and not first:
                first, began = int(sent[0]), time.monotonic()
            seen += len(sent)
            ages.append(now - sent[sent > first + 1000 * warm])
            if producer.poll() not in (None, 0):
                raise RuntimeError("the producer failed")
        producer.wait()
        done.set()
        sleeper.join()
        return np.concatenate(ages), 1000 * max(by for at, by in late if at > began + warm)


def _config(brokers: str, redis_url: str) -> Config:
    flags = {
        "broker.brokers": brokers,
        "store.url": redis_url,
        "app.session_timeout_ms": "6000",
        "app.freshness_ms": str(GOAL_MS),
    }
    return Config.load(environ={}, flags=flags)


def _produce(brokers: str, rate: int, seconds: float) -> list[str]:
    command = [sys.executable, "-m", "tests.bench.latency", "--produce", brokers]
    return [*command, "--rate", str(rate), "--seconds", str(seconds)]


def measure_quix(rate: int, seconds: float, warm: float) -> np.ndarray:
    """Ages in ms of the events after ``warm`` seconds with Quix Streams, in the order of sending.

    Raises PeerError where it cannot be installed or its job ends badly.
    """
    with ExitStack() as stack:
        program = environment("env", "requirements.txt")
        brokers, redis_url, _ = stack.enter_context(servers())
        directory = stack.enter_context(TemporaryDirectory(prefix="bench-"))
        ensure_topic(brokers, TOPIC, PARTITIONS)
        job = subprocess.Popen(
            [
                program, "-m", "tests.bench.peers.quix_latency", f"--brokers={brokers}",
                f"--topic={TOPIC}", "--group=steady", f"--redis={redis_url}",
                f"--directory={directory}", "--events=0",
            ],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        stack.callback(job.kill)
        subprocess.run(_produce(brokers, PARTITIONS, 1), check=True)  # so that it is under way
        said = job.stdout.readline() if job.stdout else ""
        if said != "ready\n":
            raise PeerError(f"Quix Streams' job said {said!r}")
        began_ms = time.time_ns() // 1_000_000
        subprocess.run(_produce(brokers, rate, seconds), check=True)
        told = json.loads(job.communicate(timeout=_QUIX_S)[0])
        sent, ages = np.array(told["sent"]), np.array(told["ages"])
        counted = sent >= began_ms
        if counted.sum() != int(rate * seconds):
            raise PeerError(f"Quix Streams saw {counted.sum()} of {int(rate * seconds)} events")
        counted &= sent > sent[counted].min() + 1000 * warm
        return ages[counted][np.argsort(sent[counted], kind="stable")]


def sustained(rate: int, seconds: float, warm: float) -> bool:
    """Whether Quix Streams keeps up with ``rate``: within a second, and not later and later."""
    ages = measure_quix(rate, seconds, warm)
    early, late = np.median(ages[: len(ages) // 2]), np.median(ages[len(ages) // 2 :])
    say(f"Quix Streams at {rate:,} events/s: median age {early:.0f} ms, then {late:.0f} ms")
    return bool(late <= min(1.2 * early + 20, 1_000))


def say(text: str) -> None:
    """A line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def compare(asked: argparse.Namespace) -> list[Figure]:
    """Ours and Quix Streams in turns; what ours reached alone where that cannot be had."""
    rate, seconds, warm = asked.rate, asked.seconds, asked.warm
    quix_rate = None
    try:
        rates = [each for each in QUIX_RATES if asked.rounds]
        quix_rate = next((each for each in rates if sustained(each, seconds, warm)), None)
        if rates and quix_rate is None:
            say("Quix Streams: NOT TIMED, it sustains none of these rates")
    except (PeerError, subprocess.SubprocessError) as failure:
        say(f"Quix Streams: NOT TIMED, {failure}")
    ours: list[float] = []
    bare: list[float] = []
    theirs: list[float] = []
    for _ in range(max(asked.rounds, 1)):
        ages, _ = measure(rate, seconds, warm)
        middle, high, highest = (float(np.quantile(ages, q)) for q in (0.5, 0.99, 0.999))
        ours.append(high)
        say(
            f"{rate:,} events/s: p50 {middle:.0f} ms, p99 {high:.0f} ms, p99.9 {highest:.0f} ms, "
            f"largest {ages.max()} ms; {100 * float((ages > GOAL_MS).mean()):.2g} % older than "
            f"{GOAL_MS} ms"
        )
        arrived, late = measure_bare(rate, seconds, warm)
        bare.append(float(np.quantile(arrived, 0.99)))
        say(
            f"a client that only consumes: p50 {np.quantile(arrived, 0.5):.0f} ms, p99 "
            f"{bare[-1]:.0f} ms; a thread that only sleeps woke up to {late:.0f} ms late"
        )
        if quix_rate is not None:
            try:
                theirs.append(float(np.quantile(measure_quix(quix_rate, seconds, warm), 0.99)))
            except (PeerError, subprocess.SubprocessError) as failure:
                say(f"Quix Streams: OUT, {failure}")
                quix_rate = None
            else:
                say(f"Quix Streams at {quix_rate:,} events/s: p99 {theirs[-1]:.0f} ms")
    what, limit = f"produced to readable, p99, {rate:,} events/s", [float(GOAL_MS)] * len(ours)
    found = [compared("P9", what, ours, "goal", limit, "ms", 1.0, at_most=True)]
    arrival = f"produced to consumed by a bare client, p99, {rate:,} events/s"
    found.append(compared("P9", arrival, bare, "goal", limit, "ms", 1.0, at_most=True))
    if quix_rate is not None:
        peer = f"Quix at {quix_rate:,}/s"
        found.append(compared("P9", what, ours, peer, theirs, "ms", 0.1, at_most=True))
    return found


def main() -> None:
    """Print quantiles, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3, help="0: one of ours, no other system")
    parser.add_argument("--produce", metavar="BROKERS", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.produce:
        produce(asked.produce, asked.rate, asked.seconds)
    else:
        record(compare(asked))


if __name__ == "__main__":
    main()
