"""What a batch sends: rows cut into messages, and who takes them until they are acknowledged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["MESSAGE_BYTES", "Outbox", "message_slices"]

I64 = npt.NDArray[np.int64]
MESSAGE_BYTES = 512 << 10  # a broker refuses more than 1 MiB unless told otherwise


class Outbox(Protocol):
    """Sends messages; a :class:`pipeline.produce.publisher.Publisher` with tickets is one."""

    def publish(
        self, topic: str, value: bytes, *, key: bytes | None = None, partition: int | None = None
    ) -> None:
        """Queue one message, by ``key`` or to ``partition``."""

    def publish_many(self, topic: str, values: Sequence[bytes], keys: Sequence[bytes]) -> None:
        """Queue many messages, by their keys."""

    def ticket(self) -> Any:
        """For what was queued since the last ticket."""

    def acknowledged(self, ticket: Any) -> bool:
        """Whether all of a ticket has been acknowledged; raises as :meth:`wait`."""

    def wait(self, ticket: Any) -> None:
        """Wait until it is; raises UnavailableError if it is not."""


def message_slices(sizes: I64, limit: int = MESSAGE_BYTES) -> Iterator[slice]:
    """Rows of ``sizes`` int64[n] bytes, in order, as many a message as ``limit`` bytes take."""
    ends, start = np.cumsum(sizes), 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        fits = int(np.searchsorted(ends, before + limit, side="right"))
        yield slice(start, max(fits, start + 1))
        start = max(fits, start + 1)
