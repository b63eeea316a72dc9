"""Questions in the servers' own protocols, asked without a client library.

A client library would keep threads and retries of its own alive while a server is starting; one
request over one socket says as much.
"""

from __future__ import annotations

import socket
import struct

__all__ = ["kafka_answers", "redis_pid"]

_TIMEOUT_S = 1.0
_METADATA, _METADATA_VERSION = 3, 4  # the oldest version that Apache Kafka 4 also speaks
_MAX_ANSWER_BYTES = 1 << 20


def kafka_answers(host: str, port: int, cluster: str) -> bool:
    """Whether a broker of the cluster with id ``cluster`` lists at least one live broker.

    Asks for metadata of no topic (Kafka protocol, request 3, version 4). Raises OSError when
    nobody answers.
    """
    client = b"probe"
    body = struct.pack(">hhih", _METADATA, _METADATA_VERSION, 1, len(client)) + client
    body += struct.pack(">i?", 0, False)
    with socket.create_connection((host, port), timeout=_TIMEOUT_S) as connection:
        connection.sendall(struct.pack(">i", len(body)) + body)
        (size,) = struct.unpack(">i", _receive(connection, 4))
        answer = _receive(connection, min(size, _MAX_ANSWER_BYTES))
    _correlation, _throttle_ms, brokers = struct.unpack_from(">iii", answer)
    return bool(brokers > 0) and cluster.encode() in answer


def redis_pid(address: str | tuple[str, int]) -> int | None:
    """Process id of the Redis server at a socket path or (host, port); None while it loads.

    Sends ``PING``, then ``INFO server``. Raises OSError when nobody answers.
    """
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.connect(address)
        connection.sendall(b"PING\r\n")
        if _receive_line(connection) != b"+PONG":
            return None
        connection.sendall(b"INFO server\r\n")
        length = int(_receive_line(connection)[1:])
        information = _receive(connection, length)
    for line in information.splitlines():
        name, _, value = line.partition(b":")
        if name == b"process_id":
            return int(value)
    return None


def _receive(connection: socket.socket, size: int) -> bytes:
    answer = bytearray()
    while len(answer) < size:
        part = connection.recv(size - len(answer))
        if not part:
            raise ConnectionResetError("the server closed the connection")
        answer += part
    return bytes(answer)


def _receive_line(connection: socket.socket) -> bytes:
    line = bytearray()
    while not line.endswith(b"\r\n"):
        line += _receive(connection, 1)
    return bytes(line[:-2])
