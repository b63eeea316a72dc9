"""From an address to a store."""

from __future__ import annotations

from pipeline.errors import ConfigurationError
from pipeline.store.memory import memory_store
from pipeline.store.partition import Store
from pipeline.store.redis import RedisStore
from pipeline.store.rediscluster import CLUSTER_SCHEMES, ClusterStore
from pipeline.store.redislink import redacted

__all__ = ["open_store"]


def open_store(url: str, *, timeout_ms: int = 10_000) -> Store:
    """The store at ``redis://``, ``rediss://``, ``unix://`` or ``memory://name``.

    A Redis Cluster is ``redis-cluster://host:port[,host:port]`` or ``rediss-cluster://``. It is
    named, not found out: ``verify`` refuses one at the address of a single server and the other way
    round. Connects when first used; ``timeout_ms`` is the longest wait for an answer. All openers
    of one ``memory://name`` in a process share it; ``memory://`` alone is a new one each time.
    Raises ConfigurationError.
    """
    scheme, found, rest = url.partition("://")
    if found and scheme == "memory":
        return memory_store(rest)
    if found and scheme in ("redis", "rediss", "unix"):
        return RedisStore(url, timeout_ms=timeout_ms)
    if found and scheme in CLUSTER_SCHEMES:
        return ClusterStore(url, timeout_ms=timeout_ms)
    raise ConfigurationError(
        f"store address {redacted(url)!r}: it must start with redis://, rediss://, unix://, "
        "redis-cluster://, rediss-cluster:// or memory://"
    )
