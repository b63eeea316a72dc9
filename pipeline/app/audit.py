"""Recomputes live rows from the log and compares bytes: the proof that a store is right.

A sample of entities is drawn from the log itself (the ones whose keys hash lowest), so that a row
that is missing is found too. The events of each are applied again, from the start of the log up to
what its live row includes, by the kernels that the workers use, in another process.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.app.partition import Partition, ViewPlan
from pipeline.app.topic import Topic
from pipeline.features.lookups import row_plans
from pipeline.features.plan import ListKind, Plan
from pipeline.features.stream import EventStream
from pipeline.ingest.batch import BinaryBatch, EventBatch, Reason, TopicPartition
from pipeline.ingest.lane import Lane
from pipeline.kernels.hash import hash_keys
from pipeline.store.memory import MemoryStore
from pipeline.store.partition import RowRead, Store

__all__ = ["Audit", "Difference", "Result"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

MAX_RECORDS = 20_000
POLL_MS = 100
ROW_OFFSET = slice(32, 40)  # of the source offset in a row
ROW_TIME = slice(16, 24)
ROW_FLAGS = 3
HEADER = 48


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not what its events give. ``stored`` or ``computed`` None: there is none."""

    view: str
    source: TopicPartition
    key: bytes
    stored: bytes | None
    computed: bytes | None


@dataclass(slots=True)
class Result:
    """What came out for one view, or for the rows that ``owner`` keeps to look it up: numbers of
    rows that are equal, that the log is too short to judge (it no longer holds all their events),
    that expired, of which a copy is in quarantine, and those that differ."""

    plan: Plan
    owner: str = ""
    equal: int = 0
    unknown: int = 0
    expired: int = 0
    quarantined: int = 0
    differing: list[Difference] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The view's, after that of its owner, if any."""
        return f"{self.owner}/{self.plan.view}" if self.owner else self.plan.view


@dataclass(frozen=True, slots=True)
class _Live:
    """A row as it was in the store, and the log offset that its view had surely come to before."""

    key: bytes
    row: bytes | None
    committed: int

    @property
    def offset(self) -> int:
        """Source offset of the row, -1 without one."""
        if self.row is None or len(self.row) < HEADER:
            return -1
        return int.from_bytes(self.row[ROW_OFFSET], "little", signed=True)


class Audit:
    """Compares the views of an application with its log.

    ``sample`` rows of each view and partition; ``keys`` (message keys) instead names them.
    ``lane`` must be of a group of its own. ``now_ns`` tells which rows may have expired.
    """

    def __init__(
        self,
        app: str,
        topics: Sequence[Topic],
        store: Store,
        lane: Lane,
        *,
        sample: int,
        keys: Sequence[bytes] = (),
        now_ns: int,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._app = app
        self._topics = {t.topic: t for t in topics if t.views}
        self._decoders = {name: t.decoder() for name, t in self._topics.items()}
        self._store = store
        self._lane = lane
        self._sample = sample
        self._keys = keys
        self._now_ns = now_ns
        self._progress = progress
        self._replays: dict[TopicPartition, list[_Replay]] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._assigned = False

    def run(self) -> list[Result]:
        """Read the log once; a result for each view. Raises UnavailableError."""
        self._lane.subscribe(list(self._topics), on_assign=self._begin, on_revoke=lambda *_: None)
        try:
            while not self._assigned or any(self._unfinished()):
                for batch in self._lane.poll(MAX_RECORDS, POLL_MS):
                    self._read(batch)
                for source in list(self._ends):
                    if self._lane.at_end(source):
                        self._ends.pop(source)
        finally:
            self._lane.close()
        results: dict[int, Result] = {}
        for replays in self._replays.values():
            for replay in replays:
                made = Result(replay.rows, replay.owner)
                replay.compare(results.setdefault(replay.rows.fingerprint, made))
        return list(results.values())

    def _begin(self, sources: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        self._assigned = True
        starts: dict[TopicPartition, int] = {}
        for source in sources:
            topic = self._topics[source.topic]
            starts[source], self._ends[source] = self._lane.watermarks(source)
            self._replays[source] = [
                _Replay(self._app, topic, source, plan, rows, starts[source], self._store, self)
                for plan in topic.views
                for rows in row_plans(plan.view.plan)
            ]
        return starts

    def _unfinished(self) -> Iterator[bool]:
        """Per partition, whether a row waits for events that were not read yet."""
        for source, end in self._ends.items():
            yield any(replay.position < max(end, replay.needed) for replay in self._replays[source])

    def _read(self, batch: BinaryBatch) -> None:
        events = self._decoders[batch.source.topic].decode(batch)
        for replay in self._replays[batch.source]:
            replay.apply(events)
        self._progress(len(batch))

    @property
    def sample(self) -> int:
        """Rows of a view and partition."""
        return self._sample

    @property
    def keys(self) -> Sequence[bytes]:
        """Message keys that were asked for."""
        return self._keys

    @property
    def now_ns(self) -> int:
        """When the audit began."""
        return self._now_ns


class _Replay:
    """The sampled rows of one view and partition, computed again; or ``rows`` of those that the
    view keeps for its look-ups, each up to what it includes itself."""

    def __init__(
        self, app: str, topic: Topic, source: TopicPartition, plan: ViewPlan, rows: Plan,
        start: int, store: Store, audit: Audit,
    ) -> None:  # fmt: skip
        memory = MemoryStore()
        self.rows = rows
        self.owner = "" if rows is plan.view.plan else plan.view.name
        self._marked_by = plan.view.plan.fingerprint
        self.position = start
        self._app, self._topic, self._source = app, topic, source
        self._store, self._audit, self._start = store, audit, start
        self._lost_until_ns: int | None = None if start == 0 else -1
        self._partition = Partition(
            app, source, topic.topic_id, memory.open_partition(app, source), [plan], 1 << 62
        )
        self._partition.open(-1, start)
        self._live: dict[int, _Live] = {}
        self._wanted = _hashes(*_packed(audit.keys)) if audit.keys else None
        self._limit = np.uint64(2**64 - 1)

    @property
    def needed(self) -> int:
        """The log offset after what the sampled rows include."""
        return max((max(x.committed, self._log_offset(x) + 1) for x in self._live.values()),
                   default=0)  # fmt: skip

    def apply(self, events: EventBatch) -> None:
        """Apply the events of sampled keys, up to what their live rows include."""
        if self._lost_until_ns == -1:
            bound = getattr(self._topic.stream, "max_future_ms", 0)
            self._lost_until_ns = (int(events.binary.timestamps_ms[0]) + bound) * 1_000_000
        binary = events.binary
        hashes = np.empty(len(events), dtype=np.uint64)
        hash_keys(binary.keys, binary.key_offsets, hashes)
        good = events.reason == Reason.OK
        self._draw(hashes, good, binary)
        known = np.array(sorted(self._live), dtype=np.uint64)
        chosen = np.zeros(len(events), dtype=bool)
        if len(known):
            place = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
            live = [self._live[int(h)] for h in known]
            offsets = np.array([x.offset for x in live], dtype=np.int64)[place]
            committed = np.array([x.committed for x in live], dtype=np.int64)[place]
            included = (binary.offsets <= offsets) | (events.log_offsets < committed)
            chosen = good & (known[place] == hashes) & included
        reason = np.where(chosen, Reason.OK, np.maximum(events.reason, Reason.LATE))
        events = dataclasses.replace(events, reason=reason.astype(np.uint8))
        self._partition.settle(self._partition.stage(self._partition.ask(events), 0))
        self.position = events.next_offset

    def compare(self, result: Result) -> None:
        """Count every sampled row into ``result``."""
        live = list(self._live.values())
        if not live:
            return
        wanted = self.rows.fingerprint
        (table,) = (t for t in self._partition.tables if t.plan.fingerprint == wanted)
        slots = table.lookup(*_packed([x.key for x in live])).slots
        rows = table.encode(slots)
        newest = table.event_time(slots)
        copies = dataclasses.replace(self._read([x.key for x in live]), quarantined=True)
        result.quarantined += sum(c is not None for c in self._store.fetch([copies])[0].rows)
        for i, x in enumerate(live):
            computed = rows.rows[rows.row_offsets[i] : rows.row_offsets[i + 1]].tobytes() or None
            if computed == x.row:
                result.equal += 1
            elif not self._complete(x.row or computed or b""):
                result.unknown += 1
            elif x.row is None and self._gone(int(newest[i])):
                result.expired += 1
            else:
                result.differing.append(
                    Difference(result.name, self._source, x.key, x.row, computed)
                )

    def _draw(self, hashes: U64, good: npt.NDArray[np.bool_], binary: BinaryBatch) -> None:
        """Fetch the rows of keys that are new in the sample; drop those that hash too high."""
        if self._wanted is not None:
            new = good & np.isin(hashes, self._wanted)
        else:
            new = good & (hashes <= self._limit)
        found, first = np.unique(hashes[new], return_index=True)
        rows = np.flatnonzero(new)[first]
        fresh = [(int(h), int(i)) for h, i in zip(found, rows, strict=True)
                 if int(h) not in self._live]  # fmt: skip
        if self._wanted is None:
            fresh = fresh[: self._audit.sample]
        if not fresh:
            return
        keys = [binary.key(i) or b"" for _, i in fresh]
        for (number, _), live in zip(fresh, self._fetch(keys), strict=True):
            self._live[number] = live
        if self._wanted is None and len(self._live) >= self._audit.sample:
            for number in sorted(self._live)[self._audit.sample :]:
                del self._live[number]
            self._limit = np.uint64(max(self._live))

    def _fetch(self, keys: Sequence[bytes]) -> list[_Live]:
        """Markers first: what they have come to is in rows that are read later."""
        read = self._read(keys)
        marked = dataclasses.replace(read, fingerprint=self._marked_by, with_markers=True)
        marker = self._store.fetch([marked])[0].markers.get(self._source.partition)
        committed = 0 if marker is None else marker.next_offset
        rows = self._store.fetch([read])[0].rows
        return [_Live(key, row, committed) for key, row in zip(keys, rows, strict=True)]

    def _read(self, keys: Sequence[bytes]) -> RowRead:
        packed, offsets = _packed(keys)
        return RowRead(
            self._app, self._source.topic, self.rows.fingerprint, packed, offsets,
            np.full(len(keys), self._source.partition, dtype=np.int32),
        )  # fmt: skip

    def _log_offset(self, live: _Live) -> int:
        """Offset in the log of what a row includes last."""
        one_to_one = isinstance(self._topic.stream, EventStream) and (
            self._topic.stream.format != "arrow"
        )
        return live.offset if one_to_one or live.offset < 0 else live.offset >> 20

    def _complete(self, row: bytes) -> bool:
        """Whether the log holds every event that can have left something in the row."""
        if self._lost_until_ns is None:
            return True
        newest = int.from_bytes(row[ROW_TIME], "little", signed=True)
        reach = _reach(self.rows)
        return not row[ROW_FLAGS] and newest - reach > self._lost_until_ns

    def _gone(self, newest: int) -> bool:
        ttl = self.rows.ttl_ns
        return 0 < ttl < self._audit.now_ns - newest


def _reach(plan: Plan) -> float:
    """How far back from its newest event a row can know anything, ns."""
    reach = max((ring.width_ns * ring.tiles for ring in plan.rings), default=0)
    for state in plan.lists:
        if state.ring >= 0:
            continue
        if state.horizon_ns == 0 or state.kind is ListKind.DECAYED:
            return math.inf
        reach = max(reach, state.horizon_ns)
    return reach


def _packed(keys: Sequence[bytes]) -> tuple[U8, I64]:
    offsets = np.zeros(len(keys) + 1, dtype=np.int64)
    np.cumsum([len(key) for key in keys], out=offsets[1:])
    return np.frombuffer(bytearray(b"".join(keys)), dtype=np.uint8), offsets


def _hashes(keys: U8, offsets: I64) -> U64:
    found = np.empty(len(offsets) - 1, dtype=np.uint64)
    hash_keys(keys, offsets, found)
    return found
