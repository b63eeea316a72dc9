"""Events a second of 1, 2, 4 and 8 worker processes, until the cores are full (target P13).

    python -m tests.bench.scale [--workers 1 2 4 8] [--events 4000000] [--rounds 3] [--quick]

``pipeline run --workers N`` over one log of evenly spread users and 24 partitions. Counted is the
time in which all N have their partitions, from the last assignment until 95 % are committed; CPU of
workers, broker and Redis over the same time. The ideal of N is N times what one does, or all cores
of the machine at the CPU an event took with one, whichever is less: broker and Redis are on the
machine too, and on two cores one worker and they leave little for a second.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import time
from dataclasses import dataclass

from pipeline.config import Config
from pipeline.produce.topics import ensure_topic
from tests.bench._worker import Worker, cpu_seconds, processes
from tests.bench.end_to_end import about, servers
from tests.bench.peers.workload import Log
from tests.bench.report import compared, left_out, publish

TOPIC, PARTITIONS, GOAL = "scale", 24, 0.9
ENOUGH = 0.2  # of the log at least has to be left when the last worker has come


@dataclass(frozen=True)
class Speed:
    """Events a second, and CPU an event of the workers and of broker and Redis, in us."""

    rate: float
    worker_us: float
    server_us: float


def measure(worker: Worker, count: int, events: int, servers: list[int]) -> Speed:
    """Once all workers have partitions."""
    while len(set(re.findall(r"INFO +(.*)assigned scale\[", worker.said()))) < count:
        worker.consumed()
        time.sleep(0.02)
    pids = processes(worker.process.pid)

    def now() -> tuple[float, int, float, float]:
        taken = [sum(map(cpu_seconds, group)) for group in (pids, servers)]
        return time.perf_counter(), worker.consumed(), taken[0], taken[1]

    began = ended = now()
    while ended[1] < 0.95 * events:
        time.sleep(0.02)
        ended = now()
    wall, done, own, theirs = (b - a for a, b in zip(began, ended, strict=True))
    if done < ENOUGH * events:
        raise RuntimeError(f"{done:,} of {events:,} events were left when all {count} had come")
    return Speed(done / wall, own / done * 1e6, theirs / done * 1e6)


def main() -> None:
    """Print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--events", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a smoke run; nothing is recorded")
    asked = parser.parse_args()
    counts, events, rounds = asked.workers, asked.events, asked.rounds
    if asked.quick:
        counts, events, rounds = [1, 2], 600_000, 1
    cores = os.cpu_count() or 1
    runs: dict[int, list[Speed]] = {count: [] for count in counts}
    with servers() as (brokers, redis_url, broker):
        described = about(broker, redis_url)
        config = Config.load(environ={}, flags={"broker.brokers": brokers})
        ensure_topic(config.broker, TOPIC, PARTITIONS)
        Log(TOPIC, events, spread="uniform").produce(brokers)
        others = [pid for pid in processes(os.getpid()) if pid != os.getpid()]
        for number in range(rounds):
            for count in counts:
                app = f"scale-{count}-{number}"
                with Worker(
                    brokers, redis_url, TOPIC, app, PARTITIONS, ("--workers", str(count))
                ) as worker:
                    speed = measure(worker, count, events, others)
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
