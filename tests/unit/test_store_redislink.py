"""Whether an answer has arrived is known without waiting for it."""

from __future__ import annotations

import socket
from typing import Any, cast

from pipeline.store.redislink import RedisLink


class Opened:
    """What a link needs of redis-py's connection."""

    def __init__(self, sock: socket.socket | None) -> None:
        self._sock = sock

    def disconnect(self) -> None:
        self._sock = None


def test_bytes_and_the_end_of_a_connection_arrive() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = RedisLink(cast(Any, Opened(ours)), "here")
        assert not link.arrived()
        theirs.sendall(b"+OK\r\n")
        assert link.arrived()
        assert link.receive(memoryview(bytearray(9))) == 5
        assert not link.arrived()
        theirs.close()
        assert link.arrived()
        link.close()
        assert link.arrived()
