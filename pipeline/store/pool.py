"""Connections to one server that readers share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from pipeline.errors import StoreUnavailableError
from pipeline.state.batch import PackedRows
from pipeline.store.wire import Link, Replies, Reply, ServerError

__all__ = ["Answer", "Asked", "LinkPool"]

_IDLE_CONNECTIONS = 16

Answer: TypeAlias = "PackedRows | ServerError"


class Asked:
    """A request that was sent; its replies are read once."""

    __slots__ = ("fresh", "link", "replies", "request")

    def __init__(self, link: Link, replies: Replies, request: bytes, fresh: bool) -> None:
        self.link = link
        self.replies = replies
        self.request = request
        self.fresh = fresh


class LinkPool:
    """A few connections that are kept open while idle; safe to use from several threads.

    Requests must be such that asking twice does no harm: a kept connection that the server closed
    meanwhile is replaced, once.
    """

    def __init__(self, connect: Callable[[], Link]) -> None:
        self._connect = connect
        self._idle: list[tuple[Link, Replies]] = []
        self._lock = threading.Lock()
        self._closed = False

    def begin(self, request: bytes) -> Asked:
        """Send ``request``; call :meth:`finish`, :meth:`finish_each` or :meth:`abandon` next.

        Raises StoreUnavailableError.
        """
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        if kept is not None:
            asked = Asked(*kept, request, fresh=False)
            try:
                asked.link.send(memoryview(request))
            except StoreUnavailableError:
                return self._begin_fresh(request)
            return asked
        return self._begin_fresh(request)

    def finish(self, asked: Asked, count: int) -> list[Answer]:
        """Its ``count`` replies, which are arrays of strings or errors.

        Raises StoreUnavailableError.
        """
        try:
            with self._whole(asked):
                return [asked.replies.read_packed() for _ in range(count)]
        except StoreUnavailableError:
            if asked.fresh:
                raise
        return self.finish(self._begin_fresh(asked.request), count)

    def finish_each(self, asked: Asked, count: int) -> list[Reply]:
        """Its ``count`` replies of any kind. Raises StoreUnavailableError."""
        try:
            with self._whole(asked):
                return [asked.replies.read() for _ in range(count)]
        except StoreUnavailableError:
            if asked.fresh:
                raise
        return self.finish_each(self._begin_fresh(asked.request), count)

    def abandon(self, asked: Asked) -> None:
        """Its replies are not wanted any more."""
        asked.link.close()

    def close(self) -> None:
        """Close all idle connections; those in use are closed when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for link, _ in idle:
            link.close()

    def _begin_fresh(self, request: bytes) -> Asked:
        link = self._connect()
        try:
            link.send(memoryview(request))
        except BaseException:
            link.close()
            raise
        return Asked(link, Replies(link), request, fresh=True)

    @contextmanager
    def _whole(self, asked: Asked) -> Iterator[None]:
        """Keep the connection if all replies were read, else close it: they would be mixed up."""
        whole = False
        try:
            yield
            whole = True
        finally:
            if whole:
                self._keep(asked)
            else:
                asked.link.close()

    def _keep(self, asked: Asked) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _IDLE_CONNECTIONS:
                self._idle.append((asked.link, asked.replies))
                return
        asked.link.close()
