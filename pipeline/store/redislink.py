"""Connections to Redis that never open themselves again, and redis-py's errors as ours.

redis-py brings addresses, TLS, authentication and the handshake; what is sent and read afterwards
is in :mod:`pipeline.store.wire`. With :mod:`pipeline.store.redis` and
:mod:`pipeline.store.rediscluster` the only module that knows redis-py.
"""

from __future__ import annotations

import select
import socket
import ssl
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import NoPermissionError, RedisClusterException, RedisError
from redis.retry import Retry

from pipeline.errors import PipelineError, StoreUnavailableError, UnsafeStoreError
from pipeline.store.partition import StoreInfo, StoreSettingWarning
from pipeline.store.replies import error_of
from pipeline.store.wire import ServerError

__all__ = [
    "FAILURES",
    "RedisLink",
    "link_options",
    "open_link",
    "redacted",
    "server_info",
    "translated",
    "unavailable",
    "verify_server",
]

P = ParamSpec("P")
R = TypeVar("R")

FAILURES = (RedisError, RedisClusterException)
"""What redis-py raises; the second is of no family."""

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


class RedisLink:
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

    def arrived(self) -> bool:
        """Whether bytes have arrived, or the connection is lost."""
        opened = self._connection._sock
        if opened is None or (isinstance(opened, ssl.SSLSocket) and opened.pending()):
            return True
        arriving = select.poll()  # unlike select(), for any number of descriptors
        arriving.register(opened, select.POLLIN)
        return bool(arriving.poll(0))

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


def link_options(given: dict[str, Any], timeout_ms: int) -> dict[str, Any]:
    """Options of a connection, from those of an address: no retry, no health check, RESP2."""
    return {
        "socket_timeout": timeout_ms / 1000,
        "socket_connect_timeout": timeout_ms / 1000,
        **given,
        "protocol": 2,
        "decode_responses": False,
        "health_check_interval": 0,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "client_name": "pipeline",
    }


def open_link(kind: type[AbstractConnection], options: dict[str, Any], address: str) -> RedisLink:
    """An open link of redis-py's connection class ``kind``; raises StoreUnavailableError."""
    once = {SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}.get(kind, _Tcp)
    try:
        connection = once(**options)  # looks up the version of redis-py, in a file
        connection.open()
    except (RedisError, OSError) as error:
        raise unavailable(address, error) from error
    return RedisLink(connection, address)


def verify_server(client: redis.Redis, address: str, *, cluster: bool) -> None:
    """Refuse a server that is too old, a replica, may evict state, or is (not) of a cluster.

    Raises UnsafeStoreError, StoreUnavailableError; warns with StoreSettingWarning.
    """
    info: dict[str, Any] = translated(address, client.info)
    version = str(info.get("redis_version", "0"))
    if _version(version) < _OLDEST:
        raise UnsafeStoreError(f"the store at {address} is Redis {version}; 6.2 or later is needed")
    if info.get("role") != "master":
        raise UnsafeStoreError(
            f"the store at {address} is a replica of {info.get('master_host')}:"
            f"{info.get('master_port')}; give the address of the primary"
        )
    if bool(info.get("cluster_enabled")) != cluster:
        found = "stands alone" if cluster else "is a node of a Redis Cluster"
        right = "redis://" if cluster else "redis-cluster://"
        raise UnsafeStoreError(
            f"the store at {address} {found}: its address begins with {right} (over TLS "
            f"{right.replace('redis', 'rediss', 1)})"
        )
    _verify_policy(client, address, info)


def server_info(client: redis.Redis, address: str) -> StoreInfo:
    """What ``INFO`` and ``DBSIZE`` say; raises StoreUnavailableError."""
    info: dict[str, Any] = translated(address, client.info)
    keys = translated(address, client.dbsize)
    policy = _configured_policy(client, address) or info.get("maxmemory_policy") or ""
    return StoreInfo(
        server="Valkey" if "valkey_version" in info else "Redis",
        version=str(info.get("valkey_version") or info.get("redis_version", "")),
        role=str(info.get("role", "")),
        policy=str(policy),
        used_bytes=int(info.get("used_memory", 0)),
        max_bytes=int(info.get("maxmemory", 0)),
        keys=int(keys),
    )


def redacted(url: str) -> str:
    """``url`` without its password and options."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if at and ":" in user:
        user = user.partition(":")[0] + ":***"
    return f"{parts.scheme}://{user}{at}{host}{parts.path}"


def translated(address: str, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What ``call`` returns; an error of redis-py is raised as one of ours."""
    try:
        return call(*args, **kwargs)
    except FAILURES as error:
        raise unavailable(address, error) from error


def unavailable(address: str, error: Exception) -> PipelineError:
    """The exception of this package for one of redis-py, or of the operating system."""
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return error_of(ServerError(f"{code} {error}"), address)
    if isinstance(error, redis.ResponseError):
        return error_of(ServerError(str(error)), address)
    return StoreUnavailableError(
        f"no answer from the store at {address} ({error}): is the server up and the address "
        "right? It is set by store.url (--store)"
    )


def _verify_policy(client: redis.Redis, address: str, info: dict[str, Any]) -> None:
    policy = _configured_policy(client, address) or info.get("maxmemory_policy")
    if policy is None:
        warnings.warn(
            f"the store at {address} does not tell its maxmemory-policy; make sure that "
            f"it is {_SAFE_POLICY}, any other loses state without a word",
            StoreSettingWarning,
            stacklevel=4,
        )
    elif policy != _SAFE_POLICY:
        raise UnsafeStoreError(
            f"the store at {address} evicts keys when its memory is full "
            f"(maxmemory-policy {policy}), and rows are state, not a cache: run "
            f"CONFIG SET maxmemory-policy {_SAFE_POLICY}, and put the same into its "
            "configuration"
        )


def _configured_policy(client: redis.Redis, address: str) -> str | None:
    try:
        answer = client.config_get("maxmemory-policy")
    except redis.ResponseError:
        return None  # managed services forbid CONFIG
    except RedisError as error:
        raise unavailable(address, error) from error
    value = {_text(name): value for name, value in answer.items()}.get("maxmemory-policy")
    return None if value is None else _text(value)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _version(text: str) -> tuple[int, ...]:
    numbers = (part for part in text.split(".") if part.isdigit())
    return tuple(int(part) for part in numbers)
