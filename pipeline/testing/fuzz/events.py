"""A hostile producer: duplicates, disorder, edges of windows, bad records, jumping clocks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from pipeline.features.stream import EventStream
from pipeline.testing.fuzz import values
from pipeline.testing.log import MemoryLog
from pipeline.testing.oracle.keys import key_bytes

__all__ = ["EventFuzzer", "Message", "Shape"]

START_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True, slots=True)
class Shape:
    """How hostile a log is; shares between 0 and 1.

    ``hot``         of records that have the same key
    ``late``        out of order, by up to twice the longest edge
    ``duplicates``  sent again, a few records later
    ``bad``         that are no events: tombstones, and one for each reason of a dead letter
    ``jumps``       of records before which the clock jumps over empty windows
    ``edges``       of values at the edges of their type, ``nulls`` of those without a value
    ``shuffled``    of stretches of up to 16 records that are shuffled
    ``gaps``        of offsets that are followed by a gap
    ``changes``     whether the events' schema changes half-way (fields more, fields fewer)
    """

    entities: int = 6
    hot: float = 0.5
    late: float = 0.25
    duplicates: float = 0.05
    bad: float = 0.05
    jumps: float = 0.02
    edges: float = 0.1
    nulls: float = 0.15
    shuffled: float = 0.2
    gaps: float = 0.03
    changes: bool = True


@dataclass(frozen=True, slots=True)
class Message:
    """A record to be: ``partition`` None is the key's own."""

    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    partition: int | None = None
    skip: int = 0


class EventFuzzer:
    """Makes messages of one stream from ``rng``, ever later; equal seeds make equal messages.

    ``partitions`` of its topic, for records that come in where their key does not belong.
    ``edges_ns`` are the lengths that matter (slides, windows, ttl): times fall on their
    multiples, and one nanosecond beside them.
    """

    def __init__(
        self,
        stream: EventStream,
        rng: Random,
        *,
        edges_ns: Sequence[int] = (60 * 10**9,),
        partitions: int = 1,
        shape: Shape | None = None,
        start_ns: int = START_NS,
    ) -> None:
        self.stream = stream
        self.shape = shape or Shape()
        self._rng = rng
        self._edges = sorted(e for e in edges_ns if e > 0) or [1]
        self._now = start_ns
        self._partitions = partitions
        self._fields = {f.name: f for f in stream.schema.fields}

    def messages(self, n: int) -> list[Message]:
        """About ``n`` messages: duplicates come on top."""
        made: list[Message] = []
        for i in range(n):
            self._advance()
            changed = self.shape.changes and 2 * i >= n
            made.append(self._bad() if self._rolls(self.shape.bad) else self._good(changed))
            if self._rolls(self.shape.duplicates):
                made.append(self._rng.choice(made[-8:]))
        return self._shuffled(made)

    def fill(self, log: MemoryLog, n: int) -> None:
        """Append about ``n`` messages to the stream's topic."""
        for m in self.messages(n):
            log.append(self.stream.topic, m.key, m.value, m.timestamp_ms, m.partition, m.skip)

    def _rolls(self, share: float) -> bool:
        return share > 0 and self._rng.random() < share

    def _advance(self) -> None:
        rng, edge = self._rng, self._rng.choice(self._edges)
        if self._rolls(self.shape.jumps):
            self._now += rng.randint(2, 50) * self._edges[-1]
            return
        kind = rng.randint(0, 4)
        if kind == 0:
            return
        if kind == 1:
            self._now += rng.randint(1, 3)
        elif kind == 2:
            self._now += rng.randint(0, edge)
        else:  # onto a multiple of an edge, or just beside it
            self._now = max(self._now, -(-self._now // edge) * edge + rng.randint(-1, 1))

    def _event_time(self) -> int:
        if not self._rolls(self.shape.late):
            return self._now
        rng, edge = self._rng, self._rng.choice(self._edges)
        back = rng.choice((1, rng.randint(0, edge), edge, 2 * edge, rng.randint(1, 9) * edge))
        time = self._now - back + rng.randint(-1, 1)
        return max(0, time // edge * edge + rng.randint(-1, 1) if self._rolls(0.4) else time)

    def _broker_ms(self) -> int:
        if self._rolls(0.1):
            return -1
        return max(0, self._now // 10**6 + self._rng.randint(0, 2000))

    def _entity(self) -> tuple[bytes, dict[str, str]]:
        """The message key of an entity, and the JSON texts of the fields that it is made of."""
        number = 0 if self._rolls(self.shape.hot) else self._rng.randrange(self.shape.entities)
        names = self.stream.key_fields
        made = [values.entity(self._fields[n], number // (i + 1)) for i, n in enumerate(names)]
        texts = {name: text for name, (_, text) in zip(names, made, strict=True)}
        return key_bytes([value for value, _ in made]), texts

    def _good(self, changed: bool = False) -> Message:
        key, entity = self._entity()
        texts = self._texts(entity, self._event_time())
        if changed and self._rolls(0.5):
            texts["added_later"] = self._rng.choice(("1", '"text"', "[1, {}]", "null"))
            for field in self._fields.values():
                if not field.required and self._rolls(0.5):
                    texts.pop(field.name, None)
        return Message(
            key, _object(texts), self._broker_ms(), skip=int(self._rolls(self.shape.gaps))
        )

    def _texts(self, entity: dict[str, str], time: int) -> dict[str, str]:
        texts = {}
        for name, field in self._fields.items():
            text = values.value(self._rng, field, self.shape.edges, self.shape.nulls)
            if text is not None:
                texts[name] = text
        texts |= entity
        texts[self.stream.time] = values.time_text(self._fields[self.stream.time], time)
        return texts

    def _bad(self) -> Message:
        """One record for each reason why a stream refuses one."""
        rng, (key, entity) = self._rng, self._entity()
        texts = self._texts(entity, self._now)
        time = self._fields[self.stream.time]
        whole = _object(texts)
        far = self._now + 10**6 * (self.stream.max_future_ms + 10**7)
        kind = rng.randint(0, 11)
        if kind == 0:  # what it deletes is older than its broker time
            now = self._now // 10**6 - rng.randint(0, 1)
            return Message(key, None, now if rng.random() < 0.8 else -1)
        if kind == 1:
            return Message(rng.choice((None, b"")), whole, self._broker_ms(), partition=0)
        if kind == 2:
            return Message(b"other", whole, self._broker_ms())
        if kind == 3:
            future = _object(texts | {time.name: values.time_text(time, far)})
            return Message(key, future, self._now // 10**6)
        if kind == 10:  # belongs there as often as not
            return Message(key, whole, self._broker_ms(), rng.randrange(self._partitions))
        if kind == 11:
            past = self.stream.earliest_ns - rng.choice((1, 10**9))
            return Message(key, _object(texts | {time.name: values.time_text(time, past)}), -1)
        return Message(key, self._mangled(kind, texts, whole), self._broker_ms())

    def _mangled(self, kind: int, texts: dict[str, str], whole: bytes) -> bytes:
        rng, time = self._rng, self.stream.time
        if kind == 4:
            return b""
        if kind == 5:
            return whole[: rng.randrange(1, len(whole))]
        if kind == 6:
            return _object(texts | {time: rng.choice(("true", "[]", '"yesterday"', "1.5"))})
        if kind == 7:
            return _object(texts | {time: rng.choice(("null", "99999999999999999999"))})
        if kind == 8:
            return whole + b" " * (self.stream.max_value_bytes + 1 - len(whole))
        if kind == 9 and rng.random() < 0.5:
            return whole.replace(b"{", b'{"' + time.encode() + b'": 1, ', 1)
        return rng.randbytes(rng.randint(1, 40))

    def _shuffled(self, made: list[Message]) -> list[Message]:
        out: list[Message] = []
        while len(out) < len(made):
            part = made[len(out) : len(out) + self._rng.randint(1, 16)]
            if self._rolls(self.shape.shuffled):
                self._rng.shuffle(part)
            out += part
        return out


def _object(texts: dict[str, str]) -> bytes:
    return ("{" + ", ".join(f"{json.dumps(n)}: {t}" for n, t in texts.items()) + "}").encode()
