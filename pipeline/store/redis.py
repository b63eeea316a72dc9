"""The store on one Redis or Valkey server, and the registry in its hashes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import redis
from redis.connection import Connection, parse_url

from pipeline.errors import ConfigurationError
from pipeline.ingest.batch import TopicPartition
from pipeline.store.fence import RedisPartition
from pipeline.store.keys import partition_tag
from pipeline.store.partition import Fetched, RowRead, StoreInfo
from pipeline.store.reader import RedisReader
from pipeline.store.redislink import (
    RedisLink,
    link_options,
    open_link,
    redacted,
    server_info,
    translated,
    verify_server,
)
from pipeline.store.registry import Registry
from pipeline.store.sweep import RedisSweeper
from pipeline.store.transaction import Scratch, warm_up

__all__ = ["HashFields", "RedisStore", "redacted"]


class RedisStore:
    """:class:`~pipeline.store.partition.Store` on one Redis or Valkey server.

    ``url`` is ``redis://``, ``rediss://`` or ``unix://`` as redis-py takes it; ``timeout_ms`` is
    the longest wait for an answer. Nothing is connected before it is needed. Raises
    ConfigurationError for an address that cannot be read.
    """

    def __init__(self, url: str, *, timeout_ms: int = 10_000) -> None:
        self._address = redacted(url)
        try:
            options = dict(parse_url(url))  # type: ignore[no-untyped-call]
        except ValueError as wrong:
            raise ConfigurationError(f"store address {self._address}: {wrong}") from wrong
        self._class: Any = options.pop("connection_class", Connection)
        self._options: dict[str, Any] = link_options(options, timeout_ms)
        self._scratch = Scratch()
        self._reader = RedisReader(self._open_link, self._address, self._scratch)
        pool = redis.ConnectionPool(connection_class=self._class, **self._options)
        self._client = redis.Redis(connection_pool=pool)
        self._registry = Registry(HashFields(self._client, self._address))
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
        """The partition's store; connects when it is acquired."""
        tag = partition_tag(app, source)
        return RedisPartition(self._open_link, tag, self._address, scratch=self._scratch)

    def fetch(self, reads: Sequence[RowRead]) -> list[Fetched]:
        """Answers to all ``reads`` in one round trip."""
        return self._reader.fetch(reads)

    def sweeper(self, app: str) -> RedisSweeper:
        """A sweeper over the rows of ``app``."""
        return RedisSweeper(app, lambda: [self._open_link], self._address)

    def scan(self, pattern: bytes, count: int) -> Iterator[list[bytes]]:
        """Keys that match, a page of ``count`` looked at at a time."""
        cursor = 0
        while True:
            cursor, found = cast(
                "tuple[int, list[bytes]]",
                translated(self._address, self._client.scan, cursor, pattern, count),
            )
            yield found
            if not cursor:
                return

    def drop(self, keys: Sequence[bytes]) -> int:
        """UNLINK."""
        return translated(self._address, self._client.unlink, *keys) if keys else 0

    def verify(self) -> None:
        """Refuse a server that is too old, a replica, or may evict state."""
        verify_server(self._client, self._address, cluster=False)

    def info(self) -> StoreInfo:
        """What ``INFO`` and ``DBSIZE`` say."""
        return server_info(self._client, self._address)

    def close(self) -> None:
        """Close the connections of readers and of the registry."""
        self._reader.close()
        self._client.close()
        self._client.connection_pool.disconnect()

    def _open_link(self) -> RedisLink:
        return open_link(self._class, self._options, self._address)


class HashFields:
    """:class:`~pipeline.store.registry.RegistryFields` in Redis hashes.

    In a cluster its keys have no tag: each is on the node of its own slot, which ``client`` finds.
    """

    def __init__(self, client: redis.Redis | redis.RedisCluster, address: str) -> None:
        self._client: Any = client
        self._address = address

    def get(self, key: bytes, name: str) -> bytes | None:
        """HGET."""
        return cast("bytes | None", translated(self._address, self._client.hget, key, name))

    def get_all(self, key: bytes) -> dict[str, bytes]:
        """HGETALL."""
        found = translated(self._address, self._client.hgetall, key)
        return {name.decode(): value for name, value in cast(dict[bytes, bytes], found).items()}

    def set(self, key: bytes, name: str, value: bytes) -> None:
        """HSET."""
        translated(self._address, self._client.hset, key, name, value)

    def set_absent(self, key: bytes, name: str, value: bytes) -> bool:
        """HSETNX."""
        return bool(translated(self._address, self._client.hsetnx, key, name, value))

    def delete(self, key: bytes, name: str) -> None:
        """HDEL."""
        translated(self._address, self._client.hdel, key, name)
