"""A small TCP proxy that goes wrong on demand.

::

    with Proxy(("127.0.0.1", 6379)) as proxy:
        client = connect(proxy.address)
        proxy.up.hold_after(b"EXEC\\r\\n")    # requests stop right after these bytes
        ...
        proxy.up.held.wait(5); proxy.up.release()

``up`` is the way from client to server, ``down`` the way back. Every fault can be set and cleared
while connections are open.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from types import TracebackType

__all__ = ["Proxy", "Way"]


class Way:
    """Faults of one direction. Set an attribute at any time; it holds for bytes to come."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.slice_bytes = 0  # forward so many bytes at a time; 0: as they come
        self.drop = False  # swallow everything
        self.held = threading.Event()  # set while bytes are being held back
        self._pattern: bytes | None = None
        self._left: int | None = None
        self._then = "hold"
        self._open = threading.Event()
        self._open.set()
        self._tail = b""

    def hold(self) -> None:
        """Forward nothing until :meth:`release`."""
        self._open.clear()

    def hold_after(self, pattern: bytes) -> None:
        """Forward up to the end of ``pattern``, once, then hold."""
        self._pattern, self._then, self._tail = pattern, "hold", b""

    def cut_after(self, pattern: bytes) -> None:
        """Forward up to the end of ``pattern``, once, then reset the connection."""
        self._pattern, self._then, self._tail = pattern, "cut", b""

    def cut_after_bytes(self, count: int) -> None:
        """Forward so many more bytes, then reset the connection."""
        self._left = count

    def release(self) -> None:
        """Forward again, what was held back first."""
        self.held.clear()
        self._open.set()

    def clear(self) -> None:
        """No fault; what was held back comes first."""
        self.delay_s, self.slice_bytes, self.drop = 0.0, 0, False
        self._pattern = self._left = None
        self.release()

    def forward(self, data: bytes, target: socket.socket) -> bool:
        """Send ``data`` on, as the faults allow. False: the connection is to be cut."""
        while data:
            if not self._open.is_set():
                self.held.set()
                self._open.wait()
            now, data, cut = self._split(data)
            if not self.drop:
                self._send(now, target)
            if cut:
                return False
        return True

    def _split(self, data: bytes) -> tuple[bytes, bytes, bool]:
        """What to send now, what after, whether to cut in between."""
        if self._left is not None:
            now, self._left = data[: self._left], self._left - len(data)
            if self._left >= 0:
                return now, b"", False
            self._left = None
            return now, b"", True
        if self._pattern is None:
            return data, b"", False
        seen = self._tail + data
        at = seen.find(self._pattern)
        if at < 0:
            self._tail = seen[-(len(self._pattern) - 1) :] if len(self._pattern) > 1 else b""
            return data, b"", False
        end = at + len(self._pattern) - len(self._tail)
        self._pattern = None
        if self._then == "cut":
            return data[:end], b"", True
        self._open.clear()
        if end == len(data):
            self.held.set()
        return data[:end], data[end:], False

    def _send(self, data: bytes, target: socket.socket) -> None:
        step = self.slice_bytes or len(data)
        for at in range(0, len(data), step):
            if self.delay_s:
                time.sleep(self.delay_s)
            target.sendall(data[at : at + step])


class Proxy:
    """Listens on a free loopback port and forwards to ``target``."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.up = Way()
        self.down = Way()
        self.connections = 0
        self._target = target
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closing = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """The port to connect to."""
        return int(self._listener.getsockname()[1])

    def heal(self) -> None:
        """Forward everything as it comes again."""
        for way in (self.up, self.down):
            way.clear()

    def retarget(self, target: tuple[str, int]) -> None:
        """Forward to another server from now on; open connections are reset."""
        self._target = target
        self.reset()

    def reset(self) -> None:
        """Reset every open connection, both ways."""
        for pair in self._pairs:
            for end in pair:
                _reset(end)
        self._pairs.clear()

    def half_close(self) -> None:
        """End what the server says on every connection; the client may go on sending."""
        for client, _ in self._pairs:
            with contextlib.suppress(OSError):  # it ended before
                client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Stop listening and reset everything."""
        self._closing = True
        self._listener.close()
        self.up.release()
        self.down.release()
        self.reset()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                continue
            try:
                server = socket.create_connection(self._target)
            except OSError:
                _reset(client)
                continue
            self.connections += 1
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (client, server)
            self._pairs.append(pair)
            for source, target, way in ((client, server, self.up), (server, client, self.down)):
                threading.Thread(target=_pump, args=(source, target, way), daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _pump(source: socket.socket, target: socket.socket, way: Way) -> None:
    try:
        while data := source.recv(1 << 16):
            if not way.forward(data, target):
                break
    except OSError:
        pass
    _reset(source)
    _reset(target)


def _reset(end: socket.socket) -> None:
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    end.close()
