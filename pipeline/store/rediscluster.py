"""The store on a Redis Cluster: each partition on the node that serves its slot.

redis-py finds the nodes and routes the registry's commands. The fence's connection goes straight
to the node that serves the partition's tag and follows nothing: what a node refuses because the
slot moves (``MOVED``, ``ASK``, ``TRYAGAIN``, ``CLUSTERDOWN``) is StoreUnavailableError, and taking
the partition again asks the cluster anew who serves it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import Connection, SSLConnection, parse_url

from pipeline.errors import ConfigurationError, StoreUnavailableError, UnsafeStoreError
from pipeline.ingest.batch import TopicPartition
from pipeline.store.clusterreader import ClusterReader
from pipeline.store.fence import RedisPartition
from pipeline.store.keys import partition_tag
from pipeline.store.partition import Fetched, RowRead, StoreInfo
from pipeline.store.redis import HashFields
from pipeline.store.redislink import (
    FAILURES,
    RedisLink,
    link_options,
    open_link,
    redacted,
    server_info,
    translated,
    unavailable,
    verify_server,
)
from pipeline.store.registry import Registry
from pipeline.store.slots import Node, SlotMap, key_slot
from pipeline.store.sweep import RedisSweeper
from pipeline.store.transaction import Scratch, warm_up

__all__ = ["CLUSTER_SCHEMES", "ClusterStore"]

CLUSTER_SCHEMES = {"redis-cluster": "redis", "rediss-cluster": "rediss"}
"""Scheme of a cluster's address -> that of its nodes."""

_PORT = 6379
_NO_CLUSTER = "Cluster mode is not enabled"


class ClusterStore:
    """:class:`~pipeline.store.partition.Store` on a Redis Cluster.

    ``url`` is ``redis-cluster://[user:password@]host:port[,host:port]`` or ``rediss-cluster://``:
    some of the nodes, the others are found; options as those of ``redis://``. Nothing is connected
    before it is needed. Raises ConfigurationError for an address that cannot be read.
    """

    def __init__(self, url: str, *, timeout_ms: int = 10_000) -> None:
        self._address = redacted(url)
        seeds, options, tls = _parse(url, self._address)
        self._class: Any = SSLConnection if tls else Connection
        self._options = link_options(options, timeout_ms)
        self._scratch = Scratch()
        plain = {k: v for k, v in self._options.items() if k not in ("retry", "retry_on_error")}
        self._topology = _Topology(seeds, {**plain, "ssl": tls}, self._address)
        self._reader = ClusterReader(self._topology, self._open_link, self._address, self._scratch)
        self._registry = Registry(_ClusterFields(self._topology, self._address))
        warm_up()

    @property
    def address(self) -> str:
        """The URL without its password."""
        return self._address

    @property
    def registry(self) -> Registry:
        """Names of views."""
        return self._registry

    def open_partition(self, app: str, source: TopicPartition) -> RedisPartition:
        """The partition's store; looks for its node and connects when it is acquired."""
        tag = partition_tag(app, source)
        slot = key_slot(tag)
        seen: SlotMap | None = None

        def connect() -> RedisLink:
            # Taken again means that something went wrong there: the map has to be a newer one.
            nonlocal seen
            seen = self._topology.current() if seen is None else self._topology.newer(seen)
            return self._open_link(seen.node(slot))

        return RedisPartition(connect, tag, self._address, scratch=self._scratch)

    def fetch(self, reads: Sequence[RowRead]) -> list[Fetched]:
        """Answers to all ``reads``; all nodes are asked at once."""
        return self._reader.fetch(reads)

    def sweeper(self, app: str) -> RedisSweeper:
        """A sweeper over the rows of ``app``, one node after the other."""

        def masters() -> list[Callable[[], RedisLink]]:
            nodes = self._topology.newer(self._topology.current()).nodes
            return [partial(self._open_link, node) for node in nodes]

        return RedisSweeper(app, masters, self._address)

    def scan(self, pattern: bytes, count: int) -> Iterator[list[bytes]]:
        """Keys that match, a page of ``count`` looked at at a time, one master after the other."""
        client: Any = self._topology.client()
        for node in translated(self._address, client.get_primaries):
            cursor, first = 0, True
            while cursor or first:
                first = False
                ask = partial(client.scan, cursor, pattern, count, target_nodes=node)
                cursors, found = translated(self._address, ask)
                cursor = cursors[node.name]
                yield found

    def drop(self, keys: Sequence[bytes]) -> int:
        """UNLINK, a command for each slot."""
        client: Any = self._topology.client()
        return int(translated(self._address, client.unlink, *keys)) if keys else 0

    def verify(self) -> None:
        """Refuse a cluster with a master that is too old, may evict state, or serves nothing."""
        slots = self._topology.newer(self._topology.current())
        missing = int((slots.owner < 0).sum())
        if missing:
            raise StoreUnavailableError(
                f"{missing} slots of the cluster at {self._address} are served by no node: see "
                "CLUSTER INFO"
            )
        for node in slots.nodes:
            with self._client_of(node) as client:
                verify_server(client, f"{self._address} ({node})", cluster=True)

    def info(self) -> StoreInfo:
        """Sums over all masters; version and policy as far as they agree."""
        found = []
        for node in self._topology.current().nodes:
            with self._client_of(node) as client:
                found.append(server_info(client, f"{self._address} ({node})"))

        def each(value: Callable[[StoreInfo], str]) -> str:
            return ", ".join(sorted({value(info) for info in found}))

        limits = [info.max_bytes for info in found]
        return StoreInfo(
            server=each(lambda info: info.server) + " Cluster",
            version=each(lambda info: info.version),
            role=each(lambda info: info.role),
            policy=each(lambda info: info.policy),
            used_bytes=sum(info.used_bytes for info in found),
            max_bytes=sum(limits) if all(limits) else 0,
            keys=sum(info.keys for info in found),
        )

    def close(self) -> None:
        """Close the connections of readers and of the registry."""
        self._reader.close()
        self._topology.close()

    def _open_link(self, node: Node) -> RedisLink:
        options = {**self._options, "host": node.host, "port": node.port}
        return open_link(self._class, options, f"{self._address} ({node})")

    def _client_of(self, node: Node) -> redis.Redis:
        options = {**self._options, "host": node.host, "port": node.port}
        pool = redis.ConnectionPool(connection_class=self._class, **options)
        return redis.Redis.from_pool(pool)


class _Topology:
    """:class:`~pipeline.store.clusterreader.Topology` by redis-py."""

    def __init__(self, seeds: Sequence[Node], options: dict[str, Any], address: str) -> None:
        self._seeds = seeds
        self._options = options
        self._address = address
        self._client: RedisCluster | None = None
        self._slots: SlotMap | None = None
        self._lock = threading.RLock()

    def current(self) -> SlotMap:
        """The map, asked for if there is none yet."""
        with self._lock:
            if self._slots is None:
                self._slots = self._load(again=False)
            return self._slots

    def newer(self, than: SlotMap) -> SlotMap:
        """A map that was asked for after ``than``: many callers in trouble ask once."""
        with self._lock:
            if self._slots is None or self._slots is than:
                self._slots = self._load(again=True)
            return self._slots

    def learn(self, slot: int, node: Node) -> SlotMap:
        """The map, corrected by what a node said."""
        with self._lock:
            self._slots = self.current().moved(slot, node)
            return self._slots

    def client(self) -> RedisCluster:
        """redis-py's client; raises StoreUnavailableError."""
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def close(self) -> None:
        """Close its connections."""
        with self._lock:
            client, self._client, self._slots = self._client, None, None
        if client is not None:
            client.close()

    def _load(self, *, again: bool) -> SlotMap:
        had = self._client is not None
        client = self.client()
        try:
            if again and had:
                client.nodes_manager.initialize()
        except FAILURES:
            # All nodes that were known are gone: those of the address may know the others.
            self._client = None
            client.close()
            client = self.client()
        served = {
            slot: Node(str(nodes[0].host), int(nodes[0].port))
            for slot, nodes in client.nodes_manager.slots_cache.items()
        }
        return SlotMap.of(served)

    def _connect(self) -> RedisCluster:
        try:
            return RedisCluster(
                startup_nodes=[
                    ClusterNode(seed.host, seed.port)  # type: ignore[no-untyped-call]
                    for seed in self._seeds
                ],
                require_full_coverage=False,  # the slots that are served go on
                **self._options,
            )
        except FAILURES as error:
            # RedisClusterException says that no node answered; its cause says why.
            why = error.__cause__
            if _NO_CLUSTER in str(why):
                raise UnsafeStoreError(
                    f"the store at {self._address} is no Redis Cluster: its address begins with "
                    "redis:// or rediss://"
                ) from error
            raise unavailable(
                self._address, why if isinstance(why, Exception) else error
            ) from error


class _ClusterFields(HashFields):
    """The registry's hashes, each on its own node; connects when first asked."""

    def __init__(self, topology: _Topology, address: str) -> None:
        self._topology = topology
        self._address = address

    @property
    def _client(self) -> Any:
        return self._topology.client()


def _parse(url: str, address: str) -> tuple[list[Node], dict[str, Any], bool]:
    """Nodes, options of their connections, whether over TLS."""
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    scheme = CLUSTER_SCHEMES[parts.scheme]
    seeds: list[Node] = []
    options: dict[str, Any] = {}
    try:
        for host in hosts.split(","):
            netloc = f"{credentials}{at}{host}"
            one = parts._replace(scheme=scheme, netloc=netloc).geturl()
            options = dict(parse_url(one))  # type: ignore[no-untyped-call]
            seeds.append(Node(str(options.pop("host")), int(options.pop("port", _PORT))))
    except (ValueError, KeyError) as wrong:
        raise ConfigurationError(
            f"store address {address}: a cluster's is {parts.scheme}://host:port[,host:port] "
            f"({wrong})"
        ) from wrong
    options.pop("connection_class", None)
    if options.pop("db", 0):
        raise ConfigurationError(f"store address {address}: a Redis Cluster has database 0 only")
    return seeds, options, scheme == "rediss"
