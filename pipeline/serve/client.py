"""The reader's front door."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from pipeline.serve.query import Query
from pipeline.store.open import open_store
from pipeline.store.partition import Store

__all__ = ["FeatureClient"]


class FeatureClient:
    """Reads features of entities by name; needs no user code and no Kafka.

    ``source`` is the address of the store or an open :class:`Store`. ``app`` restricts the names
    to the views of one application. Safe to use from several threads. ``clock_ns`` is wall time,
    by which ``at="now"`` is meant.

    ::

        with FeatureClient("redis://localhost:6379") as client:
            query = client.prepare(["household_activity:spend_7d", "household_activity:trips_24h"])
            table = query.read({"household_id": [17, 42]})
    """

    def __init__(
        self,
        source: str | Store,
        app: str | None = None,
        *,
        timeout_ms: int = 1_000,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._owned = isinstance(source, str)
        self._store = (
            open_store(source, timeout_ms=timeout_ms) if isinstance(source, str) else source
        )
        self._app = app
        self._clock_ns = clock_ns

    def views(self) -> list[str]:
        """Names of the views that can be read, sorted."""
        return self._store.registry.views(self._app)

    def prepare(self, features: Sequence[str]) -> Query:
        """A query for these features, resolved once and read many times.

        Each is ``"view:feature"``, or ``"view"`` for all features of a view. Raises
        UnknownNameError, which lists names like the unknown one, StoreUnavailableError.
        """
        return Query(self._store, features, app=self._app, clock_ns=self._clock_ns)

    def close(self) -> None:
        """Close the connections, if the store was opened here."""
        if self._owned:
            self._store.close()

    def __enter__(self) -> FeatureClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
