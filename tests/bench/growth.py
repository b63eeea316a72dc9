"""What an event costs when there are ten times as many events, keys, views or partitions.

    python -m tests.bench.growth [--events 500000] [--rounds 3] [--quick]

Workload (a) end to end with evenly spread users, against 10,000 users, one view, 12 partitions and
``--events`` events; in turns. Printed is the CPU an event of the worker, and of broker and Redis.
With ten views an event is applied ten times, and ten rows are written: that cost is stated a view.
A row of results (P1) says how much more an event costs; more than a quarter more is not flat.
"""

from __future__ import annotations

import argparse
import os
import statistics
from dataclasses import dataclass

import redis

from pipeline.config import Config
from pipeline.produce.topics import ensure_topic
from tests.bench._worker import cpu_seconds, processes
from tests.bench.end_to_end import about, process, servers
from tests.bench.peers.systems import Where
from tests.bench.peers.workload import Log
from tests.bench.report import compared, publish

MORE, FLAT = 10, 1.25


@dataclass(frozen=True)
class Case:
    """The size of a run."""

    name: str
    events: int
    users: int = 10_000
    views: int = 1
    partitions: int = 12

    @property
    def log(self) -> Log:
        """Its events; runs of the same log share a topic."""
        topic = f"growth-{self.events}-{self.users}-{self.partitions}"
        return Log(topic, self.events, users=self.users, spread="uniform")


def cases(events: int) -> list[Case]:
    """The usual one first, then each with ten times as many of one thing."""
    return [
        Case("usual", events),
        Case("events", MORE * events),
        Case("keys", events, users=MORE * 10_000),
        Case("views", events, views=MORE),
        Case("partitions", events, partitions=MORE * 12),
    ]


def measure(config: Config, case: Case, brokers: str, number: int) -> tuple[float, float]:
    """CPU an event and view in us, of the worker and of the servers."""
    with redis.Redis.from_url(config.store.url) as client:
        client.flushall()
    others = processes(os.getpid())[1:]
    before = sum(map(cpu_seconds, others))
    where = Where(brokers, config.store.url, case.log.topic, case.events)
    took = process(config, f"{case.name}-{number}", where, case.views)
    servers_s = sum(map(cpu_seconds, others)) - before
    each = case.events * case.views / 1e6
    return took.cpu_seconds / each, servers_s / each


def main() -> None:
    """Print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a smoke run; nothing is recorded")
    asked = parser.parse_args()
    events, rounds = (50_000, 1) if asked.quick else (asked.events, asked.rounds)
    taken: dict[str, list[float]] = {}
    with servers() as (brokers, redis_url, broker):
        described = about(broker, redis_url)
        flags = {"broker.brokers": brokers, "store.url": redis_url}
        config = Config.load(environ={}, flags=flags)
        found = cases(events)
        for log in {case.log.topic: case.log for case in found}.values():
            partitions = int(log.topic.rpartition("-")[2])
            ensure_topic(config.broker, log.topic, partitions)
            log.produce(brokers)
        measure(config, found[0], brokers, -1)  # kernels, and the first join
        for number in range(rounds):
            for case in found:
                worker, others = measure(config, case, brokers, number)
                taken.setdefault(case.name, []).append(worker)
                print(
                    f"{case.name:12}{case.events:12,} events {case.users:9,} users {case.views:3} "
                    f"views {case.partitions:4} partitions: {worker:6.2f} us of the worker, "
                    f"{others:6.2f} of broker and Redis"
                )
    usual = taken.pop("usual")
    median = statistics.median(usual)
    figures = [
        compared("P1", f"CPU of an event{' and view' if name == 'views' else ''}, {MORE} x {name}",
                 costs, "the usual", usual, "us", FLAT, at_most=True)
        for name, costs in taken.items()
    ]  # fmt: skip
    print(f"usual: {median:.2f} us")
    publish(figures, described, quick=asked.quick)


if __name__ == "__main__":
    main()
