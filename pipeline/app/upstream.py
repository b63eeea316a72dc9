"""Up to when the records of the sources have reached a repartition topic.

Nothing in a repartition partition says that it is complete; the markers of the routes do. They are
looked at about once a second, and what they said the time before is passed on: everything they
account for was acknowledged by the broker a second ago, and a reader at the end has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.app.topic import Topic
from pipeline.errors import CorruptRowError, UnavailableError
from pipeline.store.partition import RowRead, Store

__all__ = ["Upstream"]

UNKNOWN = -1


class Upstream:
    """Broker times, in ms, that the routes to each repartition topic have been through."""

    def __init__(self, app: str, store: Store, topics: Sequence[Topic]) -> None:
        self._store = store
        ways = [(topic, route) for topic in topics for route in topic.routes]
        self._routes = [route for _, route in ways]
        self._reads = [_markers_of(app, topic, route.fingerprint) for topic, route in ways]
        self._found: list[int] = [UNKNOWN] * len(ways)
        self._before = self._found

    def look(self) -> None:
        """Ask the store; what it does not tell now stays as it was."""
        if not self._reads:
            return
        try:
            answers = self._store.fetch(self._reads)
        except (UnavailableError, CorruptRowError):
            return  # only the freshness stands still; whoever owns the partition says why
        self._before = self._found
        self._found = [
            min(UNKNOWN if m is None else m.processed_through_ms for m in answer.markers.values())
            for answer in answers
        ]

    def through_ms(self, topic: str, now_ms: int, fields: frozenset[str]) -> int:
        """What a reader of these fields has seen at the end of ``topic``: now, if that is a source.

        Several ways may lead there from one source: the one that is further counts, of those that
        carry what the source has of the fields.
        """
        through: dict[str, int] = {}
        for route, seen in zip(self._routes, self._before, strict=True):
            if route.topic == topic:
                source, carries = route.source, {f.name for f in route.fields}
                known = seen if fields & {*source.schema.names} <= carries else UNKNOWN
                through[source.topic] = max(through.get(source.topic, UNKNOWN), known)
        return min([now_ms, *through.values()])


def _markers_of(app: str, topic: Topic, fingerprint: int) -> RowRead:
    """The markers of all partitions; they come with rows, of a key that no row has."""
    n = topic.partitions
    return RowRead(
        app=app,
        topic=topic.topic,
        fingerprint=fingerprint,
        keys=np.empty(0, dtype=np.uint8),
        key_offsets=np.zeros(n + 1, dtype=np.int64),
        partition=np.arange(n, dtype=np.int32),
        with_markers=True,
    )
