"""A Redis Cluster of a few masters on loopback, and slots that move between them.

Slots are moved as ``redis-cli --cluster reshard`` moves them, key by key, so that a test can look
in between.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import redis

from pipeline.embedded.process import LOOPBACK, free_port
from pipeline.embedded.redis import EmbeddedRedis
from pipeline.store.slots import SLOTS

__all__ = ["ClusterServers", "Move"]

MASTERS = 3
SETTLE_S = 20.0


class ClusterServers:
    """``masters`` servers with as many slots each; ``directory`` keeps their files.

    ``redis-cli --cluster create`` joins no fewer than three.
    """

    def __init__(
        self, directory: Path, *, masters: int = MASTERS, settings: dict[str, str] | None = None
    ) -> None:
        self.servers: list[EmbeddedRedis] = []
        self._buses = [free_port() for _ in range(masters)]
        for number in range(masters):
            data = directory / f"node-{number}"
            data.mkdir(parents=True)
            self.servers.append(
                EmbeddedRedis(
                    directory=data,
                    settings={
                        "cluster-enabled": "yes",
                        "cluster-port": str(self._buses[number]),
                        "cluster-node-timeout": "1500",
                        "cluster-config-file": "nodes.conf",
                        "cluster-require-full-coverage": "no",
                        "save": "",
                        **(settings or {}),
                    },
                )
            )

    @staticmethod
    def available() -> bool:
        """Whether the program is there."""
        return shutil.which("redis-server") is not None

    @property
    def url(self) -> str:
        """Address of the cluster: all of its nodes."""
        return "redis-cluster://" + ",".join(f"{LOOPBACK}:{port}" for port in self.ports)

    @property
    def ports(self) -> list[int]:
        """Of the servers."""
        return [int(server.url.rsplit(":", 1)[1]) for server in self.servers]

    def start(self) -> ClusterServers:
        """Start and join them."""
        for server in self.servers:
            server.start()
        count = len(self.servers)
        for number in range(count):
            slots = range(SLOTS * number // count, SLOTS * (number + 1) // count)
            with self.node(number) as client:
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                client.execute_command("CLUSTER ADDSLOTS", *slots)
        with self.node(0) as client:
            for port, bus in list(zip(self.ports, self._buses, strict=True))[1:]:
                client.execute_command("CLUSTER MEET", LOOPBACK, port, bus)
        self.wait()
        return self

    def wait(self) -> None:
        """Until all nodes agree on who serves what."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            with contextlib.suppress(redis.RedisError):
                views = [self._view(number) for number in range(len(self.servers))]
                if all(v == views[0] and sum(map(len, v.values())) == SLOTS for v in views):
                    return
            if time.monotonic() > deadline:
                raise TimeoutError("the cluster's nodes do not agree")
            time.sleep(0.05)

    def alive(self, number: int) -> bool:
        """Whether a node says that the cluster is in order."""
        with contextlib.suppress(redis.RedisError), self.node(number) as client:
            return bool(client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        return False

    @contextlib.contextmanager
    def node(self, number: int) -> Iterator[Any]:
        """A client of one node alone."""
        with redis.Redis(host=LOOPBACK, port=self.ports[number]) as client:
            client.set_response_callback("CLUSTER GETKEYSINSLOT", lambda keys, **_: keys)
            yield client

    def client(self) -> redis.RedisCluster:
        """A client of all."""
        return redis.RedisCluster(host=LOOPBACK, port=self.ports[0])

    def flush(self) -> None:
        """Empty every node."""
        for number in range(len(self.servers)):
            with self.node(number) as client:
                client.flushall()

    def owner(self, slot: int) -> int:
        """Number of the node that serves ``slot``."""
        for port, slots in self._view(0).items():
            if slot in slots:
                return self.ports.index(port)
        raise LookupError(f"nobody serves slot {slot}")

    def move(self, slot: int, target: int) -> Move:
        """A slot on its way to the node ``target``; nothing is done yet."""
        return Move(self, slot, self.owner(slot), target)

    def close(self) -> None:
        """Stop all."""
        for server in self.servers:
            server.close()

    def _view(self, number: int) -> dict[int, set[int]]:
        """Port -> slots, as one node sees it."""
        found: dict[int, set[int]] = {}
        with self.node(number) as client:
            if client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                return found
            for first, last, master, *_ in client.execute_command("CLUSTER SLOTS"):
                found.setdefault(int(master[1]), set()).update(range(first, last + 1))
        return found

    def __enter__(self) -> ClusterServers:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Move:
    """One slot from one node to another: :meth:`begin`, :meth:`keys` as often as wanted,
    :meth:`end`."""

    def __init__(self, cluster: ClusterServers, slot: int, source: int, target: int) -> None:
        self.cluster, self.slot, self.source, self.target = cluster, slot, source, target
        self.done = True

    def begin(self) -> None:
        """The target imports, the source migrates."""
        self.done = False
        with self.cluster.node(self.source) as old, self.cluster.node(self.target) as new:
            ids = [client.execute_command("CLUSTER MYID").decode() for client in (old, new)]
            new.execute_command("CLUSTER SETSLOT", self.slot, "IMPORTING", ids[0])
            old.execute_command("CLUSTER SETSLOT", self.slot, "MIGRATING", ids[1])

    def keys(self, count: int, wanted: Callable[[bytes], bool] = lambda _: True) -> int:
        """Move up to ``count`` keys; returns how many."""
        with self.cluster.node(self.source) as old:
            found = old.execute_command("CLUSTER GETKEYSINSLOT", self.slot, 1 << 20)
            chosen = [key for key in found if wanted(key)][:count]
            if chosen:
                port = self.cluster.ports[self.target]
                old.execute_command(
                    "MIGRATE", LOOPBACK, port, "", 0, 5000, "REPLACE", "KEYS", *chosen
                )
        return len(chosen)

    def end(self) -> None:
        """Move what is left; from here on the target serves the slot. Again is nothing."""
        if self.done:
            return
        self.done = True
        while self.keys(1000):
            pass
        with self.cluster.node(self.target) as new:
            owner = new.execute_command("CLUSTER MYID").decode()
        for number in (self.target, self.source, *range(len(self.cluster.servers))):
            with self.cluster.node(number) as client:
                client.execute_command("CLUSTER SETSLOT", self.slot, "NODE", owner)

    def all(self) -> None:
        """From begin to end."""
        self.begin()
        self.end()
