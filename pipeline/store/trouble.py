"""When a partition is tried again, and how much is read after a commit that did not go through."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import FencedError, PipelineError

__all__ = ["BatchLimit", "Trouble"]

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
LONGEST_REFUSAL_S = 120.0  # a worker that fell behind hears of its group much earlier
LEAST_RECORDS = 1_000
GROWN_AFTER_S = 10.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """A partition that has to be opened again, and when; since when others have its lease."""

    retry_at: float
    pause_s: float
    fenced_at: float | None

    @classmethod
    def of(cls, error: PipelineError, now: float, before: Trouble | None) -> Trouble:
        """That of a partition at ``now``, longer than the one ``before``.

        Raises ``error`` where another's lease was in the way for minutes.
        """
        pause = min(LONGEST_PAUSE_S, before.pause_s * 2) if before else FIRST_PAUSE_S
        fenced_at = None
        if isinstance(error, FencedError):
            fenced_at = before.fenced_at if before and before.fenced_at is not None else now
            if now - fenced_at > LONGEST_REFUSAL_S:
                raise error
        return cls(now + pause, pause, fenced_at)


class BatchLimit:
    """Most records of a poll: half of it after a commit that did not go through, for it may have
    been too large for the link and would be again; twice as many every ten seconds after."""

    def __init__(self, most: int) -> None:
        self._most = self._now = most
        self._least = min(most, LEAST_RECORDS)
        self._grown_at = 0.0

    def records(self, now: float) -> int:
        """As of ``now`` in seconds."""
        if self._now < self._most and now >= self._grown_at + GROWN_AFTER_S:
            self._now, self._grown_at = min(self._most, 2 * self._now), now
        return self._now

    def failed(self, now: float) -> None:
        """A commit did not go through; those of one poll count once."""
        self._now = max(self._least, self._now // 2)
        self._grown_at = now
