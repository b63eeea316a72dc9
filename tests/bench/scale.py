"""Events a second of 1, 2, 4 and 8 worker processes, until the cores are full (target P13).

    python -m tests.bench.scale [--workers 1 2 4 8] [--events 2000000] [--rounds 2] [--quick]

``pipeline run --workers N`` over evenly spread users and 24 partitions. A log is written in one
transaction, which is committed when all N have their partitions: nobody reads before. Counted is
the time from the first commit seen until 95 % are committed, and the CPU of workers, broker and
Redis over it. The ideal of N is N times what one does, or all cores of the machine at the CPU that
an event took with one, whichever is less: broker and Redis are on the machine too, and on two cores
one worker and they leave little for a second.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import time
from dataclasses import dataclass

from confluent_kafka import Producer

from pipeline.config import Config
from pipeline.produce.topics import ensure_topic
from tests.bench._worker import Worker, cpu_seconds, processes
from tests.bench.end_to_end import about, servers
from tests.bench.peers.workload import Log, producing
from tests.bench.report import compared, left_out, publish

PARTITIONS, GOAL = 24, 0.9
SETTLED_S = 1.0  # after the last worker has got its partitions


@dataclass(frozen=True)
class Speed:
    """Events a second, and CPU an event of the workers and of broker and Redis, in us."""

    rate: float
    worker_us: float
    server_us: float


def measure(brokers: str, redis_url: str, count: int, log: Log, servers: list[int]) -> Speed:
    """One run of so many workers over a log of their own."""
    settings = {**producing(brokers), "transactional.id": log.topic}
    producer = Producer({**settings, "transaction.timeout.ms": 600_000})
    producer.init_transactions(60)
    producer.begin_transaction()
    log.send(producer)
    workers = ("--workers", str(count))
    with Worker(brokers, redis_url, log.topic, log.topic, PARTITIONS, workers) as worker:
        while len(set(re.findall(r"INFO +(.*)assigned scale-", worker.said()))) < count:
            if worker.consumed():
                raise RuntimeError("events were read before their transaction was committed")
            time.sleep(0.1)
        time.sleep(SETTLED_S)
        pids = processes(worker.process.pid)

        def now() -> tuple[float, int, float, float]:
            taken = [sum(map(cpu_seconds, group)) for group in (pids, servers)]
            return time.perf_counter(), worker.consumed(), taken[0], taken[1]

        producer.commit_transaction(60)
        worker.wait(1)
        began = ended = now()
        while ended[1] < 0.95 * log.events:
            time.sleep(0.02)
            ended = now()
    wall, done, own, theirs = (b - a for a, b in zip(began, ended, strict=True))
    return Speed(done / wall, own / done * 1e6, theirs / done * 1e6)


def main() -> None:
    """Print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a smoke run; nothing is recorded")
    asked = parser.parse_args()
    counts, events, rounds = asked.workers, asked.events, asked.rounds
    if asked.quick:
        counts, events, rounds = [1, 2], 300_000, 1
    cores = os.cpu_count() or 1
    runs: dict[int, list[Speed]] = {count: [] for count in counts}
    with servers() as (brokers, redis_url, broker):
        described = about(broker, redis_url)
        config = Config.load(environ={}, flags={"broker.brokers": brokers})
        others = [pid for pid in processes(os.getpid()) if pid != os.getpid()]
        for number in range(rounds):
            for count in counts:
                log = Log(f"scale-{count}-{number}", events, spread="uniform")
                ensure_topic(config.broker, log.topic, PARTITIONS)
                speed = measure(brokers, redis_url, count, log, others)
                runs[count].append(speed)
                print(
                    f"{count} workers: {speed.rate:12,.0f} events/s, CPU an event "
                    f"{speed.worker_us:.2f} us, of broker and Redis {speed.server_us:.2f} us; "
                    f"{speed.rate * (speed.worker_us + speed.server_us) / 1e6:.2f} of {cores} cores"
                )
    found = []
    for count in counts:
        one = runs[counts[0]]
        ideal = [min(count / counts[0] * s.rate, full(s, cores)) for s in one]
        what = f"{count} workers on {cores} cores, broker and Redis on them too"
        if count == counts[0]:
            used = statistics.median(s.rate / full(s, cores) for s in one)
            print(f"{count} workers fill {used:.2f} of the machine's cores")
            continue
        rates = [s.rate for s in runs[count]]
        found.append(compared("P13", what, rates, "ideal", ideal, "events/s", GOAL))
    if not found:
        left_out("P13", "efficiency", "one number of workers was asked for")
    publish(found, described, quick=asked.quick)


def full(speed: Speed, cores: int) -> float:
    """Events a second that would take all cores."""
    return cores * 1e6 / (speed.worker_us + speed.server_us)


if __name__ == "__main__":
    main()
