"""Dead letters read back, and their records published again after a fix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.config import BrokerConfig
from pipeline.errors import UnknownNameError
from pipeline.ingest.deadletter import DeadLetter
from pipeline.ingest.scan import ScannedRecord, fetch, scan
from pipeline.produce.publisher import Publisher
from pipeline.produce.topics import describe

__all__ = ["Replayed", "open_letters", "replay"]

AT_ONCE = 1000  # records published before their letters are closed


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many records were published again, and why others were not: reason to number."""

    sent: int
    kept: Mapping[str, int]


def open_letters(broker: BrokerConfig, topic: str) -> list[DeadLetter]:
    """Letters of ``topic`` that nobody has dealt with, each once, in the order of their records.

    Raises UnknownNameError, BrokerUnavailableError, CorruptRowError for what is no letter.
    """
    found: dict[bytes, bytes | None] = {}
    for record in scan(broker.client_properties(), topic):
        key = record.key or b""
        if found.get(key, b"") is not None:  # once closed, a letter sent again stays closed
            found[key] = record.value
    letters = [DeadLetter.from_message(k, v) for k, v in found.items() if v is not None]
    return sorted(letters, key=lambda x: (x.topic, x.partition, x.offset, x.view or ""))


def replay(broker: BrokerConfig, topic: str, letters: Iterable[DeadLetter]) -> Replayed:
    """Publish the whole records of ``letters`` (of ``topic``) to where they came from, and close
    their letters.

    They are new records there, by the same key. A record that one view refused stays: the others
    have applied it. So does one that the log no longer holds, or whose topic was made anew.
    At least once: after a crash between the two steps, a letter is still open.
    """
    kept: Counter[str] = Counter()
    by_topic: dict[str, list[DeadLetter]] = {}
    for letter in letters:
        if letter.view is None:
            by_topic.setdefault(letter.topic, []).append(letter)
        else:
            kept["refused by one view only"] += 1
    sent = 0
    with Publisher(broker) as publisher:
        for source, mine in by_topic.items():
            if not _same_topic(broker, source, mine[0].topic_id):
                kept["topic is another one now"] += len(mine)
                continue
            for start in range(0, len(mine), AT_ONCE):
                part = mine[start : start + AT_ONCE]
                done = _republish(broker, publisher, source, part)
                publisher.publish_many(topic, [None] * len(done), [x.id.encode() for x in done])
                publisher.flush()
                sent += len(done)
                kept["no longer in the log"] += len(part) - len(done)
    return Replayed(sent, {reason: n for reason, n in kept.items() if n})


def _same_topic(broker: BrokerConfig, topic: str, topic_id: str) -> bool:
    try:
        found = describe(broker, topic).topic_id
    except UnknownNameError:
        return False
    return not found or not topic_id or found == topic_id


def _republish(
    broker: BrokerConfig, publisher: Publisher, topic: str, letters: Sequence[DeadLetter]
) -> list[DeadLetter]:
    """The letters whose records were there, published and acknowledged."""
    offsets: dict[int, list[int]] = {}
    for letter in letters:
        offsets.setdefault(letter.partition, []).append(letter.offset)
    records: dict[tuple[int, int], ScannedRecord] = {
        (r.partition, r.offset): r for r in fetch(broker.client_properties(), topic, offsets)
    }
    done = [x for x in letters if (x.partition, x.offset) in records]
    for letter in done:
        record = records[letter.partition, letter.offset]
        publisher.publish(topic, record.value, key=record.key)
    publisher.flush()
    return done
