"""Rows a second of fenced commits to a Redis Cluster of one, two and three masters.

    python -m tests.bench.shards [--rows 2000] [--bytes 128] [--partitions 12] [--rounds 9]

A poll commits every partition once, as the data plane does: all transactions are sent before the
first answer is awaited. In turns with that, each is awaited before the next is sent. Every master
has as many partitions. All servers and the client share this machine: what it has no cores for, no
shard can give.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

from pipeline.ingest.batch import TopicPartition
from pipeline.store.keys import partition_tag
from pipeline.store.marker import Marker
from pipeline.store.partition import PartitionStore, RowWrite
from pipeline.store.rediscluster import ClusterStore
from pipeline.store.slots import SLOTS, key_slot
from tests.bench.commit import VIEW, prepared_rows
from tests.bench.report import compared, publish
from tests.rediscluster import ClusterServers

MASTERS = (1, 2, 3)


@dataclass
class Cluster:
    """A cluster, its partitions, and by way of committing: rows/s, and ns of CPU a row of the
    client and of all servers."""

    servers: ClusterServers
    partitions: Sequence[PartitionStore]
    rates: dict[str, list[float]] = field(default_factory=dict)
    client: dict[str, list[float]] = field(default_factory=dict)
    server: dict[str, list[float]] = field(default_factory=dict)

    def cpu_s(self) -> float:
        """Of its servers."""
        return sum(_cpu_s(server.pid) for server in self.servers.servers)

    def measure(self, way: str, polls: int, rows: int, commit: Callable[[], None]) -> None:
        """One round of ``polls``."""
        began, used, served = time.perf_counter(), time.process_time(), self.cpu_s()
        for _ in range(polls):
            commit()
        done = polls * rows * len(self.partitions)
        self.rates.setdefault(way, []).append(done / (time.perf_counter() - began))
        self.client.setdefault(way, []).append((time.process_time() - used) / done * 1e9)
        self.server.setdefault(way, []).append((self.cpu_s() - served) / done * 1e9)


def main() -> None:
    """Print the rates of all, and what the shards give."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000, help="of a partition in a poll")
    parser.add_argument("--bytes", type=int, default=128)
    parser.add_argument("--partitions", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--polls", type=int, default=20, help="a round")
    asked = parser.parse_args()
    write = [RowWrite(VIEW, prepared_rows(asked.rows, asked.bytes))]
    with ExitStack() as stack:
        clusters = [_opened(masters, asked.partitions, stack) for masters in MASTERS]
        for number in range(asked.rounds + 1):
            for cluster in clusters:
                stores = cluster.partitions
                for way, commit in (("together", _together), ("in turn", _in_turn)):
                    polls = asked.polls if number else 1
                    cluster.measure(way, polls, asked.rows, partial(commit, stores, write))
    print(f"{os.cpu_count()} cores, {asked.partitions} partitions, {asked.rows} rows of each")
    for masters, cluster in zip(MASTERS, clusters, strict=True):
        for way, rates in cluster.rates.items():
            print(
                f"{masters} masters, {way:8s} {statistics.median(rates[1:]) / 1e6:.2f} M rows/s "
                f"({min(rates[1:]) / 1e6:.2f} to {max(rates[1:]) / 1e6:.2f}), CPU of the client "
                f"{statistics.median(cluster.client[way][1:]):.0f} ns a row, of all servers "
                f"{statistics.median(cluster.server[way][1:]):.0f}"
            )
    first = clusters[0].rates["together"][1:]
    publish(
        [
            compared(
                "P7", f"rows of {asked.bytes} bytes, {masters} masters on this machine's cores",
                cluster.rates["together"][1:], "1 master", first, "rows/s", 1.0,
            )
            for masters, cluster in zip(MASTERS[1:], clusters[1:], strict=True)
        ]
    )  # fmt: skip


def _together(stores: Sequence[PartitionStore], write: list[RowWrite]) -> None:
    for partition, store in enumerate(stores):
        store.begin_commit(write, [Marker(VIEW, "", partition, 1)])
    for store in stores:
        store.finish_commit()


def _in_turn(stores: Sequence[PartitionStore], write: list[RowWrite]) -> None:
    for partition, store in enumerate(stores):
        store.commit(write, [Marker(VIEW, "", partition, 1)])


def _opened(masters: int, partitions: int, stack: ExitStack) -> Cluster:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    servers = stack.enter_context(ClusterServers(directory, masters=masters))
    store = ClusterStore(servers.url)
    stack.callback(store.close)
    opened = []
    for source in _spread(masters, partitions):
        partition = store.open_partition("bench", source)
        partition.acquire(1)
        stack.callback(partition.close)
        partition.markers([VIEW])
        opened.append(partition)
    return Cluster(servers, opened)


def _spread(masters: int, partitions: int) -> list[TopicPartition]:
    """The first partitions of a topic of which every master has as many, in turns."""
    found: list[list[TopicPartition]] = [[] for _ in range(masters)]
    for number in count():
        source = TopicPartition("views", number)
        found[key_slot(partition_tag("bench", source)) * masters // SLOTS].append(source)
        if all(len(of_master) >= partitions // masters for of_master in found):
            return [of_master[i] for i in range(partitions // masters) for of_master in found]
    raise AssertionError


def _cpu_s(pid: int | None) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
