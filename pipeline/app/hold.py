"""Back-pressure: topics that are not read while somebody does not keep up with their views."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pipeline.ingest.batch import TopicPartition
from pipeline.ingest.lane import Lane

__all__ = ["Hold"]


class Hold:
    """Pauses the partitions of held topics, and resumes them.

    A partition that was read to its end goes on until it brings another batch: as long as it does
    not, it is known to be quiet.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._topics: frozenset[str] = frozenset()
        self._paused: set[TopicPartition] = set()

    def __contains__(self, source: object) -> bool:
        return source in self._paused

    @property
    def topics(self) -> frozenset[str]:
        """Those that are held."""
        return self._topics

    def change(self, topics: Iterable[str], broken: Collection[TopicPartition]) -> None:
        """Hold these topics from now on; ``broken`` partitions are for their mender to resume."""
        self._topics = frozenset(topics)
        for source in [s for s in self._paused if s.topic not in self._topics]:
            self._paused.discard(source)
            if source not in broken:
                self._lane.resume([source])

    def keep(self, sources: Iterable[TopicPartition], broken: Collection[TopicPartition]) -> None:
        """Pause what is to be held among the partitions we own."""
        for source in sources:
            if (
                source.topic in self._topics
                and source not in self._paused
                and source not in broken
                and not self._lane.at_end(source)
            ):
                self._lane.pause([source])
                self._paused.add(source)

    def forget(self, source: TopicPartition) -> None:
        """It is no longer ours; its next assignment is not paused."""
        self._paused.discard(source)
