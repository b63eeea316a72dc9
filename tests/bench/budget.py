"""What one event costs, by stage, in ns of CPU, and whether that explains the whole (target P1).

    python -m tests.bench.budget [--events 2000000] [--rounds 3] [--quick]

Workload (a) end to end, twice a round: as it is, when only the CPU of the worker, of the broker and
of Redis is taken; and with a clock of the thread's own CPU around each stage. Fetching is the CPU
of librdkafka's threads. What no stage has is named as the rest; the stages have to explain 85 % of
the run without clocks.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import redis

from pipeline.app.sender import Sender
from pipeline.config import Config
from pipeline.features.derive import Derivation
from pipeline.ingest.decode import JsonDecoder
from pipeline.ingest.native import NativeLane
from pipeline.produce.topics import ensure_topic
from pipeline.state.table import StateTable
from pipeline.store.fence import RedisPartition
from tests.bench._worker import cpu_seconds, processes
from tests.bench.end_to_end import about, process, servers
from tests.bench.peers.systems import Where
from tests.bench.peers.workload import Log
from tests.bench.report import compared, publish

TOPIC, PARTITIONS, EXPLAINED = "budget", 12, 0.85
STAGES: dict[str, list[tuple[Any, str]]] = {
    "gather": [(NativeLane, "poll")],
    "decode": [(JsonDecoder, "decode")],
    "keys": [(StateTable, "lookup"), (StateTable, "load")],
    "inputs": [(Derivation, "compute")],
    "tiles": [(StateTable, "apply")],
    "encode": [(StateTable, "encode")],
    "settle": [(StateTable, "settle"), (StateTable, "evict_rows")],
    "outputs": [(Sender, "send"), (Sender, "seal"), (Sender, "wait"), (Sender, "acknowledged")],
    "Redis client": [(RedisPartition, name) for name in ("begin_commit", "finish_commit", "read")],
}


class Stages:
    """CPU by stage; of a stage within another, only the inner one's."""

    def __init__(self) -> None:
        self.ns: Counter[str] = Counter()
        self._within = threading.local()
        self._lock = threading.Lock()

    @contextmanager
    def clocked(self) -> Iterator[None]:
        """Put a clock around every stage."""
        with ExitStack() as stack:
            for stage, methods in STAGES.items():
                for owner, name in methods:
                    stack.enter_context(
                        patch.object(owner, name, self._around(stage, getattr(owner, name)))
                    )
            yield

    def _around(self, stage: str, method: Any) -> Any:
        @wraps(method)
        def call(*given: Any, **named: Any) -> Any:
            outer, self._within.inner = getattr(self._within, "inner", 0), 0
            began = time.thread_time_ns()
            try:
                return method(*given, **named)
            finally:
                took = time.thread_time_ns() - began
                with self._lock:
                    self.ns[stage] += took - self._within.inner
                self._within.inner = outer + took

        return call


def fetching_ns() -> int:
    """CPU of librdkafka's threads that there are now."""
    total = 0
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().startswith("rdk:"):
            total += int((task / "schedstat").read_text().split()[0])
    return total


def run(config: Config, group: str, where: Where, broker: list[int], store: list[int]) -> Any:
    """CPU an event in ns of the worker, the broker and Redis; and of fetching."""
    with redis.Redis.from_url(where.redis_url) as client:
        client.flushall()
    before = [sum(map(cpu_seconds, pids)) for pids in (broker, store)]
    fetched: list[int] = []
    close = NativeLane.close

    def closing(lane: NativeLane) -> None:
        fetched.append(fetching_ns())
        close(lane)

    with patch.object(NativeLane, "close", closing):
        took = process(config, group, where)
    after = [sum(map(cpu_seconds, pids)) for pids in (broker, store)]
    spent = [took.cpu_seconds, *(b - a for a, b in zip(before, after, strict=True))]
    return [seconds / where.events * 1e9 for seconds in spent], max(fetched) / where.events


def main() -> None:
    """Print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a smoke run; nothing is recorded")
    asked = parser.parse_args()
    events, rounds = (200_000, 1) if asked.quick else (asked.events, asked.rounds)
    whole: list[float] = []
    budgets: list[dict[str, float]] = []
    with servers() as (brokers, redis_url, broker):
        described = about(broker, redis_url)
        flags = {"broker.brokers": brokers, "store.url": redis_url}
        config = Config.load(environ={}, flags=flags)
        ensure_topic(config.broker, TOPIC, PARTITIONS)
        Log(TOPIC, events).produce(brokers)
        with redis.Redis.from_url(redis_url) as client:
            store = [int(client.info("server")["process_id"])]
        others = [pid for pid in processes(os.getpid())[1:] if pid not in store]
        where = Where(brokers, redis_url, TOPIC, events)
        run(config, "budget-warm", where, others, store)
        for number in range(rounds):
            spent, _ = run(config, f"budget-{number}", where, others, store)
            whole.append(sum(spent))
            stages = Stages()
            with stages.clocked():
                clocked, fetching = run(config, f"stages-{number}", where, others, store)
            budget = {"broker": clocked[1], "fetch": fetching}
            budget |= {stage: stages.ns[stage] / events for stage in STAGES}
            budget |= {"Redis server": clocked[2]}
            budgets.append(budget)
            print(f"round {number + 1}: worker {spent[0]:.0f}, with clocks {clocked[0]:.0f} ns")
    middle = {name: round(statistics.median(b[name] for b in budgets), 1) for name in budgets[0]}
    total = statistics.median(whole)
    for name, cost in (*middle.items(), ("rest", total - sum(middle.values()))):
        print(f"{name:14}{cost:8.0f} ns {cost / total:6.1%}")
    sums = [sum(budget.values()) for budget in budgets]
    what = "CPU of one event by stages, as a share of the whole"
    figure = compared("P1", what, sums, "end to end", whole, "ns", EXPLAINED)
    publish([figure], {**described, "stages_ns": middle}, quick=asked.quick)


if __name__ == "__main__":
    main()
