"""A prepared read: names resolved once, then keys in and features out.

Layout of the table that :meth:`Query.read` returns, a row per key in the order given::

    <entity>               the keys
    <feature>              one column per feature asked for, in that order; <view>__<feature>
                           where the short name would stand twice
    <feature>__status      only with status="feature"
    <view>__status         the worst status of the view's features asked for
    <view>__event_time     newest event in the row, timestamp[ns, UTC]; null if there is no row
    <view>__age            time of the read less event time, duration[ns]
    <view>__source_offset  offset of the last event in the row
    <view>__partition      partition of the source topic that the key belongs to

A status is one of present, missing, expired, stale, degraded (dictionary-encoded strings).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import CorruptRowError, DefinitionError, UnknownNameError
from pipeline.features.plan import Plan
from pipeline.features.planjson import from_json
from pipeline.serve.entity import EntityKeys, encode_keys
from pipeline.state.batch import Finalized
from pipeline.state.columns import feature_columns, feature_matrix
from pipeline.state.status import Status
from pipeline.state.table import StateTable
from pipeline.store.marker import Marker
from pipeline.store.partition import RowRead, Store
from pipeline.store.registry import Registry, ViewRecord, unknown_name

__all__ = ["At", "Query"]

At: TypeAlias = "Literal['now', 'event'] | datetime | int"
Keys: TypeAlias = Mapping[str, object]

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

_REFRESH_S = 10.0
_NO_EVENT = np.iinfo(np.int64).min
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_STATUS_NAMES = pa.array([status.name.lower() for status in Status])


@dataclass(frozen=True, slots=True)
class _View:
    """A view of a query: how it is registered, and what is asked of it."""

    record: ViewRecord
    plan: Plan
    features: tuple[str, ...]
    columns: I64  # positions of ``features`` among the plan's


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was read of one view for n keys."""

    finalized: Finalized
    status: U8  # uint8[n, f], of the features asked for, staleness included
    event_time: I64
    known: npt.NDArray[np.bool_]  # whether there is a row
    source_offset: I64
    partition: I32


class Query:
    """Features of entities, read together. Made by :meth:`FeatureClient.prepare`.

    Which version of a view is meant is looked up again every ten seconds, so a query follows
    when readers are moved to another one. Safe to use from several threads.
    """

    def __init__(
        self,
        store: Store,
        features: Sequence[str],
        *,
        app: str | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._asked = tuple(features)
        self._app = app
        self._clock_ns = clock_ns
        self._monotonic = monotonic
        self._local = threading.local()
        self._views = _resolve(store.registry, self._asked, app)
        self._resolved_at = monotonic()

    @property
    def features(self) -> list[str]:
        """Names of the feature columns, in order."""
        return _column_names(self._views)

    @property
    def entities(self) -> dict[str, str]:
        """Entities whose keys are needed, with their types ``int64`` or ``string``."""
        return {view.plan.entity: view.plan.entity_type for view in self._views}

    def read(
        self,
        keys: Keys,
        *,
        at: At = "now",
        max_staleness: timedelta | None = None,
        status: Literal["view", "feature"] = "view",
    ) -> pa.Table:
        """Features of ``keys`` as of ``at``, laid out as the module says.

        ``keys``: entity name to a column of keys. Views of several entities take one column
        each, of equal length. ``at``: ``"now"``, ``"event"`` (each row's own newest event), a
        datetime with time zone, or ns since the Unix epoch. ``max_staleness``: rows whose
        partition was not read to within that of ``at`` (or now, if earlier) are ``stale``.

        Raises TypeError (wrong keys, names the entity), StoreUnavailableError, CorruptRowError.
        """
        views = self._current()
        entities = _encode(views, keys)
        time_ns = _time_ns(at, self._clock_ns)
        answers = self._answers(views, entities, time_ns, max_staleness)
        names = iter(_column_names(views))
        columns: dict[str, pa.Array] = {name: e.column for name, e in entities.items()}
        for view, answer in zip(views, answers, strict=True):
            got = answer.finalized
            arrays = feature_columns(view.plan, got.cells, got.valid, view.features)
            for i, array in enumerate(arrays):
                name = next(names)
                columns[name] = array
                if status == "feature":
                    columns[f"{name}__status"] = _status_column(answer.status[:, i])
        for view, answer in zip(views, answers, strict=True):
            columns |= _view_columns(view.record.name, answer, time_ns)
        return pa.table(columns)

    def read_matrix(
        self, keys: Keys, *, dtype: Literal["float32", "float64"] = "float32", at: At = "now"
    ) -> npt.NDArray[np.floating]:
        """Scalar features of ``keys``, [n, features] in the order of :attr:`features`.

        Nulls are NaN. DefinitionError for a feature that holds a list. Raises as :meth:`read`.
        """
        views = self._current()
        entities = _encode(views, keys)
        rows = len(next(iter(entities.values())))
        out = np.empty((rows, sum(len(v.features) for v in views)), dtype=np.dtype(dtype))
        first = 0
        answers = self._answers(views, entities, _time_ns(at, self._clock_ns), None)
        for view, answer in zip(views, answers, strict=True):
            _refuse_lists(view)
            last = first + len(view.features)
            got = answer.finalized
            feature_matrix(view.plan, got.cells, got.valid, view.features, out[:, first:last])
            first = last
        return out

    def _current(self) -> tuple[_View, ...]:
        now = self._monotonic()
        if now - self._resolved_at >= _REFRESH_S:
            self._resolved_at = now
            self._views = _resolve(self._store.registry, self._asked, self._app, self._views)
        return self._views

    def _answers(
        self,
        views: tuple[_View, ...],
        entities: Mapping[str, EntityKeys],
        time_ns: int | None,
        max_staleness: timedelta | None,
    ) -> list[_Answer]:
        reads = []
        for view in views:
            keys, record = entities[view.plan.entity], view.record
            partition = keys.partitions(record.partitions)
            reads.append(
                RowRead(
                    record.app, record.topic, record.fingerprint, keys.keys, keys.key_offsets,
                    partition, with_markers=max_staleness is not None,
                )
            )  # fmt: skip
        answers = []
        for view, read, got in zip(views, reads, self._store.fetch(reads), strict=True):
            answer = self._decode(view, entities[view.plan.entity], read, got.rows, time_ns)
            if max_staleness is not None:
                now = self._clock_ns()
                horizon = now if time_ns is None else min(now, time_ns)
                _mark_stale(answer, got.markers, (horizon - _nanoseconds(max_staleness)) // 10**6)
            answers.append(answer)
        return answers

    def _decode(
        self,
        view: _View,
        keys: EntityKeys,
        read: RowRead,
        rows: Sequence[bytes | None],
        time_ns: int | None,
    ) -> _Answer:
        table = self._table(view.plan)
        lookup = table.lookup(keys.keys, keys.key_offsets)
        wanted = lookup.missing
        found = rows if len(wanted) == len(rows) else [rows[i] for i in wanted.tolist()]
        corrupt = table.load(lookup.slots[wanted], found)
        if corrupt:
            raise CorruptRowError(
                f"the stored row of view {view.record.name} for {view.plan.entity} "
                f"{keys.key(int(wanted[corrupt[0]]))!r} fails its checks "
                f"({len(corrupt)} such rows in this read)"
            )
        slots = lookup.slots
        at: I64 | Literal["event"] = (
            "event" if time_ns is None else np.full(len(slots), time_ns, dtype=np.int64)
        )
        finalized = table.finalize(slots, at)
        return _Answer(
            finalized=finalized,
            status=finalized.status[:, view.columns],
            event_time=table.event_time(slots),
            known=table.known_time(slots) != _NO_EVENT,
            source_offset=table.source_offset(slots),
            partition=read.partition,
        )

    def _table(self, plan: Plan) -> StateTable:
        """This thread's table of the plan, empty; a row is not kept from one read to the next."""
        tables: dict[int, StateTable] = self._local.__dict__.setdefault("tables", {})
        table = tables.get(plan.fingerprint)
        if table is None:
            table = tables[plan.fingerprint] = StateTable(plan)
        else:
            table.clear()
        return table


def _resolve(
    registry: Registry, asked: Sequence[str], app: str | None, known: Sequence[_View] = ()
) -> tuple[_View, ...]:
    if not asked:
        raise UnknownNameError("no features asked for: name some, as 'view:feature'")
    wanted: dict[str, list[str]] = {}
    for item in asked:
        view, _, feature = item.partition(":")
        wanted.setdefault(view, []).append(feature)
    plans = {view.record: view.plan for view in known}
    views = []
    for name, features in wanted.items():
        record = registry.resolve(name, app)
        plan = plans[record] if record in plans else from_json(record.plan)
        views.append(_view(record, plan, features))
    return tuple(views)


def _view(record: ViewRecord, plan: Plan, asked: Sequence[str]) -> _View:
    names = [feature.name for feature in plan.features]
    features: dict[str, None] = {}
    for name in asked:
        if name and name not in names:
            raise unknown_name(f"feature of view {record.name!r} named", name, names)
        features |= dict.fromkeys([name] if name else names)
    columns = np.array([names.index(name) for name in features], dtype=np.int64)
    return _View(record, plan, tuple(features), columns)


def _column_names(views: Sequence[_View]) -> list[str]:
    """Short names, long ones where a short one would stand twice or hide a key column."""
    flat = [(view.record.name, feature) for view in views for feature in view.features]
    short = [feature for _, feature in flat]
    taken = {view.plan.entity for view in views}
    return [
        f"{view}__{name}" if short.count(name) > 1 or name in taken else name for view, name in flat
    ]


def _encode(views: Sequence[_View], keys: Keys) -> dict[str, EntityKeys]:
    types = {view.plan.entity: view.plan.entity_type for view in views}
    for name in keys:
        if name not in types:
            raise TypeError(f"{name}: no view of this query has it; wanted: {', '.join(types)}")
    encoded = {}
    for entity, type_ in types.items():
        if entity not in keys:
            raise TypeError(f"{entity}: keys of this entity are missing")
        encoded[entity] = encode_keys(entity, type_, keys[entity])
    lengths = {name: len(column) for name, column in encoded.items()}
    if len(set(lengths.values())) > 1:
        raise TypeError(f"columns of keys differ in length: {lengths}")
    return encoded


def _time_ns(at: At, clock_ns: Callable[[], int]) -> int | None:
    """The time asked for; None for each row's own."""
    if at == "now":
        return clock_ns()
    if at == "event":
        return None
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise TypeError(f"at: {at!r} has no time zone; say which, such as timezone.utc")
        return _nanoseconds(at - _EPOCH)
    if isinstance(at, int) and not isinstance(at, bool):
        return at
    raise TypeError(f"at: {at!r} is neither 'now', 'event', a datetime nor ns")


def _nanoseconds(span: timedelta) -> int:
    return ((span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds) * 1_000


def _mark_stale(answer: _Answer, markers: Mapping[int, Marker | None], horizon_ms: int) -> None:
    """Statuses of rows whose partition was not read up to ``horizon_ms`` become stale at least."""
    behind = [
        number
        for number, marker in markers.items()
        if marker is None or marker.processed_through_ms < horizon_ms
    ]
    if behind:
        rows = np.isin(answer.partition, behind)
        answer.status[rows] = np.maximum(answer.status[rows], Status.STALE)


def _status_column(codes: U8) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int8)), _STATUS_NAMES)


def _view_columns(name: str, answer: _Answer, time_ns: int | None) -> dict[str, pa.Array]:
    absent = ~answer.known
    age = np.zeros_like(answer.event_time) if time_ns is None else time_ns - answer.event_time
    return {
        f"{name}__status": _status_column(answer.status.max(axis=1)),
        f"{name}__event_time": pa.array(
            answer.event_time, type=pa.timestamp("ns", "UTC"), mask=absent
        ),
        f"{name}__age": pa.array(age, type=pa.duration("ns"), mask=absent),
        f"{name}__source_offset": pa.array(answer.source_offset, mask=absent),
        f"{name}__partition": pa.array(answer.partition),
    }


def _refuse_lists(view: _View) -> None:
    for feature in view.plan.features:
        if feature.name in view.features and feature.width > 1:
            raise DefinitionError(
                f"{view.record.name}:{feature.name}",
                f"is a list of up to {feature.width}; a matrix takes scalars, use read()",
            )
