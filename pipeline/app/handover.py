"""Changed rows on their way to the agents of the same process."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any

import pyarrow as pa

__all__ = ["HandOver"]

Deliver = Callable[[pa.RecordBatch], Coroutine[Any, Any, object]]


class HandOver:
    """Gives batches to the agents' channels, on ``loop``, one at a time and in order for each view.

    For the data plane's thread, which never waits here longer than it says.
    """

    def __init__(self, deliver: Mapping[str, Deliver], loop: asyncio.AbstractEventLoop) -> None:
        self._deliver = deliver
        self._loop = loop
        self._waiting: dict[str, deque[pa.RecordBatch]] = {}
        self._puts: dict[str, Future[object]] = {}

    def give(self, view: str, changes: pa.RecordBatch) -> None:
        """Queue a batch for the agents of a view, if there are any."""
        if view in self._deliver:
            self._waiting.setdefault(view, deque()).append(changes)

    def wait(self, timeout_s: float) -> list[str]:
        """Hand over what the channels take within that time; the views with batches left.

        Raises what a channel raised. Batches for agents that were stopped are dropped.
        """
        deadline = time.monotonic() + timeout_s
        for view in list(self._waiting):
            self._hand_over(view, deadline)
        return sorted(self._waiting)

    def close(self) -> None:
        """Stop waiting; what was not taken is dropped."""
        for put in self._puts.values():
            put.cancel()
        self._puts.clear()
        self._waiting.clear()

    def _hand_over(self, view: str, deadline: float) -> None:
        queue = self._waiting[view]
        while queue:
            if view not in self._puts:
                self._puts[view] = asyncio.run_coroutine_threadsafe(
                    self._deliver[view](queue[0]), self._loop
                )
            try:
                self._puts[view].result(timeout=max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                return
            except CancelledError:
                pass  # the agents were stopped before us
            del self._puts[view]
            queue.popleft()
        del self._waiting[view]
