"""Redis and Valkey: connections that never open themselves again, the registry, the settings.

The only module that knows redis-py. It brings addresses, TLS, authentication and the handshake;
what is sent and read afterwards is in :mod:`pipeline.store.wire`.
"""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, cast
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.exceptions import NoPermissionError, RedisError
from redis.retry import Retry

from pipeline.errors import (
    ConfigurationError,
    PipelineError,
    StoreUnavailableError,
    UnsafeStoreError,
)
from pipeline.ingest.batch import TopicPartition
from pipeline.store.fence import RedisPartition
from pipeline.store.keys import partition_tag
from pipeline.store.partition import Fetched, RowRead, StoreInfo, StoreSettingWarning
from pipeline.store.reader import RedisReader
from pipeline.store.registry import Registry
from pipeline.store.replies import error_of
from pipeline.store.transaction import Scratch, warm_up
from pipeline.store.wire import ServerError

__all__ = ["RedisStore", "redacted"]

P = ParamSpec("P")
R = TypeVar("R")

_OLDEST = (6, 2)
_SAFE_POLICY = "noeviction"
_CODES: dict[type[Exception], str] = {  # redis-py takes the code off these errors
    NoPermissionError: "NOPERM",
    redis.AuthenticationError: "WRONGPASS",
    redis.ReadOnlyError: "READONLY",
    redis.BusyLoadingError: "LOADING",
    redis.OutOfMemoryError: "OOM",
}


class _OpensOnce(AbstractConnection):
    """Opens its socket once, when told to, and never by itself.

    redis-py opens a lost connection again inside ``send_packed_command``; a transaction sent that
    way has lost its WATCH and is carried out unfenced. All its ways lead through ``_connect``.
    """

    _armed = False

    def open(self) -> None:
        """Open the socket and do the handshake."""
        self._armed = True
        try:
            self.connect()  # type: ignore[no-untyped-call]
        finally:
            self._armed = False

    def _connect(self) -> socket.socket:
        if not self._armed:
            raise redis.ConnectionError("the connection is lost; it is not opened again")
        self._armed = False
        opened = super()._connect()  # type: ignore[no-untyped-call, safe-super]
        return cast(socket.socket, opened)


class _Tcp(_OpensOnce, Connection):
    """Over TCP."""


class _Tls(_OpensOnce, SSLConnection):
    """Over TLS."""


class _Unix(_OpensOnce, UnixDomainSocketConnection):
    """Over a Unix domain socket."""


class _RedisLink:
    """:class:`~pipeline.store.wire.Link` on a connection of redis-py after its handshake."""

    def __init__(self, connection: _OpensOnce, address: str) -> None:
        self._connection = connection
        self._address = address

    def send(self, data: memoryview) -> None:
        """Send all of it."""
        try:
            self._socket().sendall(data)
        except OSError as lost:
            raise self._lost(lost) from lost

    def receive(self, into: memoryview) -> int:
        """Wait for bytes."""
        try:
            count = self._socket().recv_into(into)
        except OSError as lost:
            raise self._lost(lost) from lost
        if count == 0:
            raise self._lost("it closed the connection")
        return count

    def close(self) -> None:
        """Close the socket."""
        self._connection.disconnect()  # type: ignore[no-untyped-call]

    def _socket(self) -> socket.socket:
        opened = self._connection._sock
        if opened is None:
            raise self._lost("the connection is closed")
        return cast(socket.socket, opened)

    def _lost(self, why: object) -> StoreUnavailableError:
        self.close()
        return StoreUnavailableError(
            f"lost the connection to the store at {self._address}: {why or 'timed out'}; what was "
            "under way may or may not have been done"
        )


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
        given = options.pop("connection_class", Connection)
        self._class = {SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}.get(given, _Tcp)
        self._options: dict[str, Any] = {
            "socket_timeout": timeout_ms / 1000,
            "socket_connect_timeout": timeout_ms / 1000,
            **options,
            "protocol": 2,
            "decode_responses": False,
            "health_check_interval": 0,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
            "client_name": "pipeline",
        }
        self._scratch = Scratch()
        self._reader = RedisReader(self._open_link, self._address, self._scratch)
        pool = redis.ConnectionPool(connection_class=given, **self._options)
        self._client = redis.Redis(connection_pool=pool)
        self._registry = Registry(_HashFields(self._client, self._address))
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

    def verify(self) -> None:
        """Refuse a server that is too old, a replica, or may evict state."""
        info: dict[str, Any] = _translated(self._address, self._client.info)
        version = str(info.get("redis_version", "0"))
        if _version(version) < _OLDEST:
            raise UnsafeStoreError(
                f"the store at {self._address} is Redis {version}; 6.2 or later is needed"
            )
        if info.get("role") != "master":
            raise UnsafeStoreError(
                f"the store at {self._address} is a replica of {info.get('master_host')}:"
                f"{info.get('master_port')}; give the address of the primary"
            )
        if info.get("cluster_enabled"):
            raise UnsafeStoreError(
                f"the store at {self._address} is a node of a Redis Cluster, which is not served "
                "yet; give the address of a Redis that stands alone"
            )
        self._verify_policy(info)

    def info(self) -> StoreInfo:
        """What ``INFO`` and ``DBSIZE`` say."""
        info: dict[str, Any] = _translated(self._address, self._client.info)
        keys = _translated(self._address, self._client.dbsize)
        policy = self._configured_policy() or info.get("maxmemory_policy") or ""
        return StoreInfo(
            server="Valkey" if "valkey_version" in info else "Redis",
            version=str(info.get("valkey_version") or info.get("redis_version", "")),
            role=str(info.get("role", "")),
            policy=str(policy),
            used_bytes=int(info.get("used_memory", 0)),
            max_bytes=int(info.get("maxmemory", 0)),
            keys=keys,
        )

    def close(self) -> None:
        """Close the connections of readers and of the registry."""
        self._reader.close()
        self._client.close()
        self._client.connection_pool.disconnect()

    def _verify_policy(self, info: dict[str, Any]) -> None:
        policy = self._configured_policy() or info.get("maxmemory_policy")
        if policy is None:
            warnings.warn(
                f"the store at {self._address} does not tell its maxmemory-policy; make sure that "
                f"it is {_SAFE_POLICY}, any other loses state without a word",
                StoreSettingWarning,
                stacklevel=3,
            )
        elif policy != _SAFE_POLICY:
            raise UnsafeStoreError(
                f"the store at {self._address} evicts keys when its memory is full "
                f"(maxmemory-policy {policy}), and rows are state, not a cache: run "
                f"CONFIG SET maxmemory-policy {_SAFE_POLICY}, and put the same into its "
                "configuration"
            )

    def _configured_policy(self) -> str | None:
        try:
            answer = self._client.config_get("maxmemory-policy")
        except redis.ResponseError:
            return None  # managed services forbid CONFIG
        except RedisError as error:
            raise _unavailable(self._address, error) from error
        value = {_text(name): value for name, value in answer.items()}.get("maxmemory-policy")
        return None if value is None else _text(value)

    def _open_link(self) -> _RedisLink:
        connection = self._class(**self._options)
        try:
            connection.open()
        except (RedisError, OSError) as error:
            raise _unavailable(self._address, error) from error
        return _RedisLink(connection, self._address)


class _HashFields:
    """:class:`~pipeline.store.registry.RegistryFields` in Redis hashes."""

    def __init__(self, client: redis.Redis, address: str) -> None:
        self._client = client
        self._address = address

    def get(self, key: bytes, name: str) -> bytes | None:
        """HGET."""
        return cast("bytes | None", _translated(self._address, self._client.hget, key, name))

    def get_all(self, key: bytes) -> dict[str, bytes]:
        """HGETALL."""
        found = _translated(self._address, self._client.hgetall, key)
        return {_text(name): value for name, value in cast(dict[bytes, bytes], found).items()}

    def set(self, key: bytes, name: str, value: bytes) -> None:
        """HSET."""
        _translated(self._address, self._client.hset, key, name, value)

    def set_absent(self, key: bytes, name: str, value: bytes) -> bool:
        """HSETNX."""
        return bool(_translated(self._address, self._client.hsetnx, key, name, value))


def redacted(url: str) -> str:
    """``url`` without its password and options."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if at and ":" in user:
        user = user.partition(":")[0] + ":***"
    return f"{parts.scheme}://{user}{at}{host}{parts.path}"


def _translated(address: str, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        return call(*args, **kwargs)
    except RedisError as error:
        raise _unavailable(address, error) from error


def _unavailable(address: str, error: Exception) -> PipelineError:
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return error_of(ServerError(f"{code} {error}"), address)
    if isinstance(error, redis.ResponseError):
        return error_of(ServerError(str(error)), address)
    return StoreUnavailableError(
        f"no answer from the store at {address} ({error}): is the server up and the address "
        "right? It is set by store.url (--store)"
    )


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _version(text: str) -> tuple[int, ...]:
    numbers = (part for part in text.split(".") if part.isdigit())
    return tuple(int(part) for part in numbers)
