"""What an error code of the Kafka client means to a lane: raise, or note and go on."""

from __future__ import annotations

import logging
from collections import Counter

from pipeline.errors import (
    ConfigurationError,
    LogTruncatedError,
    PipelineError,
    UnknownNameError,
)
from pipeline.ingest.batch import TopicPartition
from pipeline.ingest.lane import Health

__all__ = ["PARTITION_EOF", "Faults"]

logger = logging.getLogger(__name__)

# Values of rd_kafka_resp_err_t, which are part of librdkafka's public interface.
PARTITION_EOF = -191
_ALL_BROKERS_DOWN = -187
_RAISED: dict[int, tuple[type[PipelineError], str]] = {
    -140: (LogTruncatedError, "the log does not hold the offset asked for"),  # _AUTO_OFFSET_RESET
    -139: (LogTruncatedError, "the log was truncated below what was read"),  # _LOG_TRUNCATION
    1: (LogTruncatedError, "the log does not hold the offset asked for"),  # OFFSET_OUT_OF_RANGE
    -150: (PipelineError, "the Kafka client failed for good"),  # _FATAL
    -144: (PipelineError, "another member took this member's place"),  # _FENCED
    82: (PipelineError, "another member took this member's place"),  # FENCED_INSTANCE_ID
    3: (UnknownNameError, "the broker does not know it"),  # UNKNOWN_TOPIC_OR_PART
    -188: (UnknownNameError, "the broker does not know it"),  # _UNKNOWN_TOPIC
    -190: (UnknownNameError, "the broker does not know it"),  # _UNKNOWN_PARTITION
    29: (ConfigurationError, "not authorised"),  # TOPIC_AUTHORIZATION_FAILED
    30: (ConfigurationError, "not authorised"),  # GROUP_AUTHORIZATION_FAILED
}


STUCK_AFTER = 10  # times that one offset gave one error: the client tries it again for ever


class Faults:
    """Errors of one lane, sorted: the worst is kept to be raised, the others are counted."""

    def __init__(self) -> None:
        self._repeated: dict[TopicPartition, tuple[int, int, int]] = {}  # offset, code, times
        self._counts: Counter[str] = Counter()
        self._last = ""
        self._connected = True
        self._pending: PipelineError | None = None

    @property
    def health(self) -> Health:
        """Snapshot for :attr:`pipeline.ingest.lane.Lane.health`."""
        stuck = {
            source: offset
            for source, (offset, _, times) in self._repeated.items()
            if times >= STUCK_AFTER
        }
        return Health(self._connected, self._last, dict(self._counts), stuck)

    def seen(
        self,
        code: int,
        name: str,
        text: str,
        source: TopicPartition | None = None,
        offset: int = -1,
    ) -> None:
        """Take note of an error message or event; never raises."""
        where = "" if source is None else f"{source} at offset {offset}: "
        known = _RAISED.get(code)
        if known is not None:
            kind, meaning = known
            if self._pending is None:
                self._pending = kind(f"{where}{meaning} ({name}: {text})")
            return
        if code == _ALL_BROKERS_DOWN:
            self._connected = False
        self._counts[name] += 1
        self._last = f"{where}{name}: {text}"
        logger.warning("kafka: %s", self._last)
        if source is not None and offset >= 0:
            self._repeat(source, offset, code)

    def _repeat(self, source: TopicPartition, offset: int, code: int) -> None:
        """librdkafka asks again and again for a batch that it cannot unpack, and says no more."""
        *before, times = self._repeated.get(source, (-1, 0, 0))
        times = times + 1 if before == [offset, code] else 1
        self._repeated[source] = (offset, code, times)
        if times == STUCK_AFTER:
            logger.error(
                "kafka: %s is stuck at offset %d after %d attempts (%s): records from there on are "
                "not read until that batch can be, or is deleted from the topic",
                source, offset, times, self._last,
            )  # fmt: skip

    def arrived(self, source: TopicPartition) -> None:
        """Records of a partition came: whatever was there is passed."""
        self._repeated.pop(source, None)

    def alive(self) -> None:
        """A broker answered."""
        self._connected = True

    def raise_pending(self) -> None:
        """Raise the first error that waiting cannot mend, once."""
        pending, self._pending = self._pending, None
        if pending is not None:
            raise pending
