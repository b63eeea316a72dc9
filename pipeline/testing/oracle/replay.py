"""Replays a log: what became of every record, and the features of any key at any time after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.features.aggregations import Aggregation
from pipeline.features.view import FeatureView, Trigger
from pipeline.testing.oracle.answers import Entry, answer, decayed, quotient
from pipeline.testing.oracle.columns import ExpressionError, Kind, Rows, Seen
from pipeline.testing.oracle.expected import Expected
from pipeline.testing.oracle.keys import entity_of
from pipeline.testing.oracle.records import Event, Reader, Record, read
from pipeline.testing.oracle.windows import Reach

__all__ = ["Accounting", "Oracle"]

OUTCOMES = ("applied", "duplicate", "late", "dead_lettered", "filtered")
BOUNDED = {"DISTINCT", "QUANTILE", "TOP_K"}  # lists of values that become sketches
ONE = Kind("int")


@dataclass(slots=True)
class Accounting:
    """Records of one partition by what became of them."""

    applied: int = 0
    duplicate: int = 0
    late: int = 0
    dead_lettered: int = 0
    filtered: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def consumed(self) -> int:
        """All of them."""
        return sum(getattr(self, name) for name in OUTCOMES)


@dataclass(slots=True)
class _Row:
    """What a key's applied events gave each feature since the row was last emptied."""

    entity: tuple[Any, ...]
    newest: int
    entries: list[list[list[Entry]]]  # per feature, per part
    nulls: list[list[Entry]]  # per feature: the events that make it null
    overflowed: set[int] = field(default_factory=set)  # features whose values exceeded their bound
    ids: list[tuple[int, int, Any]] = field(default_factory=list)  # (time, offset, id)


@dataclass(frozen=True, slots=True)
class _Feature:
    """A feature as its definition says: ``parts`` are its own aggregation, or a ratio's two."""

    name: str
    aggregation: Aggregation
    reach: Reach
    parts: tuple[Aggregation, ...]
    kinds: tuple[Kind, ...]


class Oracle:
    """Features of one view, from its definition and the log alone.

    ``partitions`` of its topic. ``triggers`` of the view: a record on which the condition of one
    fails is dead-lettered. ``reader`` reads values that are not JSON.
    """

    def __init__(
        self,
        view: FeatureView,
        *,
        partitions: int = 1,
        triggers: Sequence[Trigger] = (),
        reader: Reader | None = None,
    ) -> None:
        self.view = view
        self.accounting: dict[int, Accounting] = {}
        self._partitions = partitions
        self._reader = reader
        self._rows = Rows(view.columns)
        self._lookups = lookups_of(view, partitions, reader)
        self._conditions = [t.when for t in triggers if t.view is view and hasattr(t.when, "meta")]
        self._ttl = view.plan.ttl_ns
        self._features = [self._feature(name, a) for name, a in view.features.items()]
        self._keys: dict[bytes, _Row] = {}
        self._deleted: dict[bytes, int] = {}
        self._offsets: dict[int, int] = {}

    def _feature(self, name: str, aggregation: Aggregation) -> _Feature:
        parts = aggregation.parts or (aggregation,)
        kinds = tuple(ONE if p.column is None else self._rows.kind(p.column) for p in parts)
        return _Feature(name, aggregation, Reach.of(aggregation, self._ttl), parts, kinds)

    # ---- what becomes of records

    def feed(self, records: Iterable[Record]) -> list[str]:
        """Take records, each partition's in offset order; what became of each."""
        return [self._take(record) for record in records]

    def _take(self, record: Record) -> str:
        if record.offset <= self._offsets.get(record.partition, -1):
            raise ValueError(f"offset {record.offset} of partition {record.partition} goes back")
        self._offsets[record.partition] = record.offset
        outcome = self._outcome(record)
        account = self.accounting.setdefault(record.partition, Accounting())
        name = outcome if outcome in OUTCOMES else "dead_lettered"
        setattr(account, name, getattr(account, name) + 1)
        if name != outcome:
            account.reasons[outcome] = account.reasons.get(outcome, 0) + 1
        return outcome

    def _outcome(self, record: Record) -> str:
        """One of the outcomes, or the reason of a dead letter."""
        event = read(self.view.sources[0], self._partitions, record, self._reader)
        for looked in self._lookups:
            event = looked.after(record, event)
        if isinstance(event, str):
            return event
        if record.value is None:
            return self._delete(event)
        try:
            selected = self._rows.true(event, self.view.where)
            for condition in self._conditions:
                self._rows.true(event, condition)  # type: ignore[arg-type]
            seen = [[self._rows.seen(event, p) for p in f.parts] for f in self._features]
        except ExpressionError:
            return "expression"
        for number, feature in enumerate(self._features):
            if self._null(feature, seen[number], "reject"):
                return "null_value"
        for number, feature in enumerate(self._features):
            if any(map(_too_long, feature.parts, seen[number])):
                return "text_too_long"
        if not selected:
            return "filtered"
        return self._apply(event, seen)

    def _apply(self, event: Event, seen: list[list[Seen]]) -> str:
        key = event.record.key or b""
        row = self._keys.get(key)
        known = self._id(event)
        if row is not None and known is not None and any(i == known for *_, i in row.ids):
            return "duplicate"
        if event.time <= self._deleted.get(key, event.time - 1):
            return "late"
        if row is not None and self._ttl and event.time > row.newest + self._ttl:
            row = None
        newest = None if row is None else row.newest
        if not any(f.reach.takes(newest, event.time) for f in self._features):
            return "late"
        if row is None:
            entity = entity_of(self.view.stream.key_fields, event.fields)
            parts: list[list[list[Entry]]] = [[[] for _ in f.parts] for f in self._features]
            row = _Row(entity, event.time, parts, [[] for _ in self._features])
            self._keys[key] = row
        row.newest = max(row.newest, event.time)
        for number, feature in enumerate(self._features):
            if feature.reach.takes(newest, event.time):
                self._add(row, number, feature, event, seen[number])
        self._remember(row, event, known)
        return "applied"

    def _delete(self, event: Event) -> str:
        """A tombstone: nothing of the key is left but when it was deleted."""
        key = event.record.key or b""
        self._deleted[key] = max(event.time, self._deleted.get(key, event.time))
        self._keys.pop(key, None)
        return "applied"

    def _id(self, event: Event) -> Any:
        name = self.view.stream.event_id
        return None if name is None else event.fields.get(name)

    def _remember(self, row: _Row, event: Event, known: Any) -> None:
        """Keep the newest ids, at most the bound, later than the newest event less ``dedup``."""
        stream = self.view.stream
        if known is not None:
            row.ids.append((event.time, event.record.offset, known))
        young = sorted(i for i in row.ids if i[0] > row.newest - stream.dedup_ns)
        row.ids = young[-stream.dedup_bound :]

    def _add(
        self, row: _Row, number: int, feature: _Feature, event: Event, seen: list[Seen]
    ) -> None:
        if self._null(feature, seen, "propagate"):
            row.nulls[number].append(Entry(event.time, event.record.offset, None))
        for part, s in zip(row.entries[number], seen, strict=True):
            if s.passes and s.value is not None:
                part.append(Entry(event.time, event.record.offset, s.value))
        if feature.aggregation.op.name in BOUNDED and number not in row.overflowed:
            (entries,) = row.entries[number]
            if len(entries) > feature.aggregation.bound:
                held = {
                    (self._place(feature, e.time), e.value)
                    for e in entries
                    if self._held(feature, row.newest, e.time)
                }
                if len(held) > feature.aggregation.bound:
                    row.overflowed.add(number)

    def _place(self, feature: _Feature, time: int) -> int:
        """What values count once in: all of the row, or each tile."""
        if feature.aggregation.op.name == "DISTINCT" or not feature.reach.tile:
            return 0
        return (time - 1) // feature.reach.tile

    def _null(self, feature: _Feature, seen: list[Seen], policy: str) -> bool:
        """Whether an event has a null where the feature has this policy for one."""
        return any(
            part.nulls == policy and s.passes and s.value is None
            for part, s in zip(feature.parts, seen, strict=True)
        )

    def _held(self, feature: _Feature, newest: int, time: int) -> bool:
        """Whether the tiles of the feature's width that the view keeps reach back to ``time``."""
        width = feature.reach.tile
        return any(f.reach.takes(newest, time) for f in self._features if f.reach.tile == width)

    # ---- what features are

    @property
    def entities(self) -> Mapping[bytes, tuple[Any, ...]]:
        """Every key that has a row, and the entity that it names: a value for each key field."""
        return {key: row.entity for key, row in self._keys.items()}

    def newest(self, key: bytes) -> int | None:
        """Time of the key's newest event, ns; None without a row."""
        row = self._keys.get(key)
        return None if row is None else row.newest

    def features(self, key: bytes, at: int | None = None) -> dict[str, Expected]:
        """Every feature of ``key`` at ``at`` ns, by default the time of its newest event."""
        row = self._keys.get(key)
        if row is None:
            return dict.fromkeys(self.view.features, Expected(None, "missing"))
        time = row.newest if at is None else at
        if self._ttl and time - row.newest > self._ttl:
            return dict.fromkeys(self.view.features, Expected(None, "expired"))
        if time < row.newest:
            return dict.fromkeys(self.view.features, Expected(None, "degraded", loose=True))
        return {f.name: self._value(row, i, f, time) for i, f in enumerate(self._features)}

    def _value(self, row: _Row, number: int, feature: _Feature, at: int) -> Expected:
        nulls, unsure = self._window(feature, row.nulls[number], at)
        if nulls:
            return Expected(None)
        value = self._of_values(row, number, feature, at)
        if unsure and value.status == "present":
            return Expected(value.value, "degraded", value.tolerance, value.loose)
        return value

    def _of_values(self, row: _Row, number: int, feature: _Feature, at: int) -> Expected:
        if feature.reach.always:
            return decayed(feature.aggregation, sorted(row.entries[number][0]), at)
        windows, missed = [], False
        for entries in row.entries[number]:
            inside, lost = self._window(feature, entries, at)
            windows.append(inside)
            missed = missed or lost
        if len(windows) > 1:
            value = quotient(feature.aggregation, feature.kinds, windows)
        else:
            value = answer(feature.aggregation, feature.kinds[0], windows[0])
            if feature.aggregation.op.name == "LAST":
                missed = missed and len(windows[0]) < feature.aggregation.n
        if missed and value.status == "present":
            return Expected(value.value, "degraded", value.tolerance, value.loose)
        if number in row.overflowed:
            return Expected(value.value, value.status, value.tolerance, loose=True)
        return value

    def _window(
        self, feature: _Feature, entries: Sequence[Entry], at: int
    ) -> tuple[list[Entry], bool]:
        """The entries that count at ``at``, and whether the bound took one that would."""
        kept, dropped = sorted(entries, key=_position), []
        reach = feature.reach
        if reach.keep:
            kept, dropped = kept[-reach.keep :], kept[: -reach.keep]
        start = reach.start(at)
        lost = any(start is None or e.time > start for e in dropped)
        return [e for e in kept if reach.covers(e.time, at)], lost


def _too_long(part: Aggregation, seen: Seen) -> bool:
    """Whether a string that is to be read back exceeds what is kept of one."""
    if part.op.name not in {"FIRST", "LAST", "TOP_K"} or not isinstance(seen.value, str | bytes):
        return False
    size = len(seen.value.encode() if isinstance(seen.value, str) else seen.value)
    return seen.passes and size > (39 if part.max_bytes is None else part.max_bytes)


def _position(entry: Entry) -> tuple[int, int]:
    return entry.time, entry.order


@dataclass(frozen=True, slots=True)
class _Lookup:
    """Another view's oracle, which reads the same log, and the columns that it gives."""

    oracle: Oracle
    columns: Mapping[str, str]

    def after(self, record: Record, event: Event | str) -> Event | str:
        """The event with its columns, once the other view has taken the record too."""
        self.oracle.feed([record])
        if isinstance(event, str):
            return event
        key = record.key or b""
        newest = self.oracle.newest(key)
        at = event.time if newest is None else max(newest, event.time)
        found = self.oracle.features(key, at)
        values = {column: found[name].value for column, name in self.columns.items()}
        return replace(event, fields={**event.fields, **values})


def lookups_of(view: FeatureView, partitions: int, reader: Reader | None) -> list[_Lookup]:
    """One for each view that ``view`` looks up."""
    views = {id(r.view): r.view for r in view.lookups.values()}
    return [
        _Lookup(
            Oracle(other, partitions=partitions, reader=reader),
            {column: r.feature for column, r in view.lookups.items() if r.view is other},
        )
        for other in views.values()
    ]
