"""Which partitions a lane owns, and the calls to its application when that changes."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.errors import PipelineError
from pipeline.ingest.batch import TopicPartition
from pipeline.ingest.lane import BEGINNING, END, OnAssign, OnRevoke, Position

__all__ = ["Membership", "start_offset"]


def start_offset(source: TopicPartition, offset: int) -> int:
    """Return ``offset`` if a partition can be read from it, else raise ``PipelineError``."""
    if offset < 0 and offset not in (BEGINNING, END):
        raise PipelineError(f"{source}: {offset} is not an offset to start at")
    return offset


class Membership:
    """Assignment of one lane.

    ``owned``  partitions whose records may be returned
    ``held``   partitions that the client holds; also those whose ``on_assign`` failed
    ``ended``  owned partitions whose end was seen since their last record, and its offset

    Its methods are called from a C callback, so they never raise: the first exception is kept
    until :meth:`take_failure`.
    """

    def __init__(self) -> None:
        self.owned: set[TopicPartition] = set()
        self.held: set[TopicPartition] = set()
        self.ended: dict[TopicPartition, int] = {}
        self._failure: BaseException | None = None
        self._on_assign: OnAssign | None = None
        self._on_revoke: OnRevoke | None = None

    def listen(self, on_assign: OnAssign, on_revoke: OnRevoke) -> None:
        """Set who is told about assignments."""
        self._on_assign, self._on_revoke = on_assign, on_revoke

    def assigned(self, sources: list[TopicPartition]) -> dict[TopicPartition, Position]:
        """Tell the application; return where each partition starts.

        After a failure partitions are still taken from the client (the group protocol wants an
        answer), at their end and not owned, so that nothing of them is returned.
        """
        starts = dict.fromkeys(sources, Position(END))
        self.held.update(sources)
        if self._failure is not None or self._on_assign is None or not sources:
            return starts
        try:
            wanted = self._on_assign(list(sources))
            starts = {s: _chosen(wanted.get(s), s) for s in sources}
        except BaseException as error:  # noqa: BLE001 - a C frame is above us; poll() raises it
            self.fail(error)
        else:
            self.owned.update(sources)
        return starts

    def chosen(self, sources: Iterable[TopicPartition]) -> None:
        """The process itself says what it reads; nobody is told."""
        self.owned = set(sources)
        self.held = set(self.owned)
        self.ended.clear()

    def revoked(self, sources: list[TopicPartition], *, lost: bool) -> None:
        """Tell the application about those partitions that it was given."""
        given = [s for s in sources if s in self.owned]
        self.owned.difference_update(sources)
        for source in sources:
            self.ended.pop(source, None)
        if given and self._on_revoke is not None:
            try:
                self._on_revoke(given, lost)
            except BaseException as error:  # noqa: BLE001 - as above
                self.fail(error)
        self.held.difference_update(sources)

    def arrived(self, source: TopicPartition) -> None:
        """A record of ``source`` is being returned."""
        self.ended.pop(source, None)

    def reached_end(self, source: TopicPartition, offset: int) -> None:
        """The end of ``source``, now ``offset``, was seen after its last record."""
        if source in self.owned:
            self.ended[source] = offset

    def held_back(self, source: TopicPartition, high: int) -> tuple[int, int] | None:
        """As :meth:`pipeline.ingest.lane.Lane.held_back`, of a log that reaches up to ``high``."""
        end = self.ended.get(source, high)
        return (end, high) if 0 <= end < high else None

    def require(self, sources: Iterable[TopicPartition]) -> None:
        """Raise ``PipelineError`` for a partition that is not owned."""
        for source in sources:
            if source not in self.owned:
                raise PipelineError(f"{source} is not assigned to this process")

    def fail(self, error: BaseException) -> None:
        """Keep the first failure; later ones are told in its notes."""
        if self._failure is None:
            self._failure = error
        else:
            self._failure.add_note(f"then: {error!r}")

    @property
    def failed(self) -> bool:
        """Whether an exception waits to be raised."""
        return self._failure is not None

    def take_failure(self) -> BaseException | None:
        """Return the kept exception and forget it."""
        failure, self._failure = self._failure, None
        return failure


def _chosen(start: int | Position | None, source: TopicPartition) -> Position:
    if start is None:
        raise PipelineError(f"{source}: on_assign returned no offset for it")
    position = start if isinstance(start, Position) else Position(int(start))
    start_offset(source, position.offset)
    return position
