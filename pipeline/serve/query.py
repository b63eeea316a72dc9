"""A prepared read: names resolved once, then keys in and features out.

Layout of the table that :meth:`Query.read` returns, a row per key in the order given::

    <entity>               the keys, a column a field of the entity
    <feature>              one column per feature, in the order asked for; <view>__<feature>
                           where the short name would stand twice
    <feature>__status      after its feature; only with status="feature"
    <view>__status         the worst status of the view's features asked for
    <view>__event_time     newest event in the row, timestamp[ns, UTC]; null if there is no row
    <view>__age            time of the read less event time, duration[ns]; 0 at "event"
    <view>__source_offset  offset of the last event in the row
    <view>__partition      partition of the source topic that the key belongs to

A status is one of present, missing, expired, stale, degraded, estimated (dictionary-encoded
strings). The features of a stored row that fails its checks are null and degraded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.features.plan import Plan
from pipeline.serve.entity import EntityKeys, KeyColumn, encode_keys, key_column
from pipeline.serve.names import AskedView, Selection, select
from pipeline.state.batch import Finalized, PackedRows
from pipeline.state.columns import feature_matrix
from pipeline.state.status import Status, worst
from pipeline.state.table import StateTable
from pipeline.store.marker import Marker
from pipeline.store.partition import Fetched, RowRead, Store

__all__ = ["At", "Query"]

At: TypeAlias = "Literal['now', 'event'] | datetime | int | np.integer | npt.NDArray[np.int64]"
Times: TypeAlias = "int | npt.NDArray[np.int64] | None"
Keys: TypeAlias = Mapping[str, object] | object

log = logging.getLogger(__name__)

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

_REFRESH_S = 10.0
_AHEAD_MS = 60_000  # clocks of machines that are set right differ by less
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was read of one view for n keys; ``status`` uint8[n, f] of the features asked for."""

    finalized: Finalized
    status: U8
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
        self._asked = features if isinstance(features, str) else tuple(features)
        self._app = app
        self._clock_ns = clock_ns
        self._monotonic = monotonic
        self._local = threading.local()
        self._selection = select(store.registry, self._asked, app)
        self._selected_at = monotonic()

    @property
    def features(self) -> list[str]:
        """Names of the feature columns, in order."""
        return [column.name for column in self._selection.columns]

    @property
    def entities(self) -> dict[str, str]:
        """Fields whose keys are needed, with their types: int64, string, uuid or bytes."""
        return self._selection.entities

    def read(
        self,
        keys: Keys,
        *,
        at: At = "now",
        max_staleness: timedelta | None = None,
        status: Literal["view", "feature"] = "view",
    ) -> pa.Table:
        """Features of ``keys`` as of ``at``, laid out as the module says.

        ``keys``: name of a field of an entity to a column of keys, or just the column where the
        query has one. Views of several entities, and entities of several fields, take one column
        each, of equal length. ``at``:
        ``"now"``, ``"event"`` (each row's own newest event), a datetime with time zone, ns since
        the Unix epoch, or an int64 array of ns: a time for each key. ``max_staleness``: rows
        whose partition was not read to within that of ``at`` (or of now, if earlier) are
        ``stale``.

        Raises TypeError (wrong keys, names the entity), StoreUnavailableError.
        """
        selection = self._current()
        columns = _encode(selection, keys)
        time_ns = _times(at, self._clock_ns, columns)
        answers = self._answers(selection, columns, time_ns, max_staleness)
        arrays = [
            view.columns.arrays(a.finalized.cells, a.finalized.valid)
            for view, a in zip(selection.views, answers, strict=True)
        ]
        table: dict[str, Any] = {name: column.column for name, column in columns.items()}
        for column in selection.columns:
            table[column.name] = arrays[column.view][column.feature]
            if status == "feature":
                codes = answers[column.view].status[:, column.feature]
                table[f"{column.name}__status"] = _status_column(codes)
        for view, answer in zip(selection.views, answers, strict=True):
            table |= _view_columns(view.record.name, answer, time_ns)
        return pa.table(table)

    def read_matrix(
        self, keys: Keys, *, dtype: Literal["float32", "float64"] = "float32", at: At = "now"
    ) -> npt.NDArray[np.floating]:
        """Scalar features of ``keys``, [n, features] in the order of :attr:`features`.

        Nulls are NaN. DefinitionError for a feature that holds a list. Raises as :meth:`read`.
        """
        selection = self._current()
        selection.refuse_lists()
        columns = _encode(selection, keys)
        times = _times(at, self._clock_ns, columns)
        answers = self._answers(selection, columns, times, None)
        parts = []
        for view, answer in zip(selection.views, answers, strict=True):
            cells, valid = answer.finalized.cells, answer.finalized.valid
            part = np.empty((len(cells), len(view.features)), dtype=np.dtype(dtype))
            feature_matrix(view.plan, cells, valid, view.features, part)
            parts.append(part)
        out = np.empty((len(parts[0]), len(selection.columns)), dtype=np.dtype(dtype))
        for i, column in enumerate(selection.columns):
            out[:, i] = parts[column.view][:, column.feature]
        return out

    def _current(self) -> Selection:
        now = self._monotonic()
        if now - self._selected_at >= _REFRESH_S:
            before = self._selection
            self._selection = select(self._store.registry, self._asked, self._app, before)
            self._selected_at = now
        return self._selection

    def _answers(
        self,
        selection: Selection,
        columns: Mapping[str, KeyColumn],
        time_ns: Times,
        max_staleness: timedelta | None,
    ) -> list[_Answer]:
        entities: dict[str, EntityKeys] = {}
        for view in selection.views:
            if view.plan.entity not in entities:
                fields = [columns[name] for name in view.plan.entities]
                entities[view.plan.entity] = encode_keys(fields)
        partitions = {
            (entity, count): entities[entity].partitions(count)
            for entity, count in {(v.plan.entity, v.record.partitions) for v in selection.views}
        }
        reads = []
        for view in selection.views:
            partition = partitions[view.plan.entity, view.record.partitions]
            keys = entities[view.plan.entity]
            reads.append(_row_read(view, keys, partition, max_staleness is not None))
        n = len(reads[0].partition)
        times: I64 | Literal["event"] = (
            "event" if time_ns is None else np.full(n, time_ns, dtype=np.int64)
        )
        answers = []
        for view, read, got in zip(selection.views, reads, self._store.fetch(reads), strict=True):
            answer = self._decode(view, entities[view.plan.entity], read, got, times)
            if max_staleness is not None:
                now = self._clock_ns()
                horizon = now if time_ns is None else min(now, int(np.min(time_ns, initial=now)))
                since_ms = (horizon - _nanoseconds(max_staleness)) // 10**6
                _mark_stale(answer, got.markers, since_ms, now // 10**6 + _AHEAD_MS)
            answers.append(answer)
        return answers

    def _decode(
        self,
        view: AskedView,
        keys: EntityKeys,
        read: RowRead,
        got: Fetched,
        times: I64 | Literal["event"],
    ) -> _Answer:
        table = self._table(view.plan)
        lookup = table.lookup(keys.keys, keys.key_offsets)
        slots, wanted = lookup.slots, lookup.missing
        whole = len(wanted) == len(got.rows)
        found = got.rows if whole else PackedRows.of([got.rows[i] for i in wanted.tolist()])
        corrupt = table.load(slots[wanted], found)
        if corrupt:  # every feature of theirs is null and degraded
            log.warning(
                "the stored row of view %s for %s %r fails its checks (%d such rows in this read)",
                view.record.name, view.plan.entity, keys.key(int(wanted[corrupt[0]])), len(corrupt),
            )  # fmt: skip
        finalized = table.finalize(slots, times)
        return _Answer(
            finalized=finalized,
            status=finalized.status[:, view.positions],
            event_time=table.event_time(slots),
            known=table.present(slots),
            source_offset=table.source_offset(slots),
            partition=read.partition,
        )

    def _table(self, plan: Plan) -> StateTable:
        """This thread's table of the plan, empty: a row is not kept from one read to the next."""
        tables: dict[int, StateTable] = self._local.__dict__.setdefault("tables", {})
        table = tables.get(plan.fingerprint)
        if table is None:
            table = tables[plan.fingerprint] = StateTable(plan)
        else:
            table.clear()
        return table


def _row_read(view: AskedView, keys: EntityKeys, partition: I32, with_markers: bool) -> RowRead:
    record = view.record
    return RowRead(
        app=record.app,
        topic=record.topic,
        fingerprint=record.fingerprint,
        keys=keys.keys,
        key_offsets=keys.key_offsets,
        partition=partition,
        with_markers=with_markers,
    )


def _encode(selection: Selection, keys: Keys) -> dict[str, KeyColumn]:
    types = selection.entities
    if not isinstance(keys, Mapping):
        if len(types) > 1:
            raise TypeError(f"keys: name their entity, as this query has {', '.join(types)}")
        keys = dict.fromkeys(types, keys)
    for name in keys:
        if name not in types:
            raise TypeError(f"{name}: no view of this query has it; wanted: {', '.join(types)}")
    encoded = {}
    for entity, type_ in types.items():
        if entity not in keys:
            raise TypeError(f"{entity}: keys of this entity are missing")
        encoded[entity] = key_column(entity, type_, keys[entity])
    lengths = {name: len(column) for name, column in encoded.items()}
    if len(set(lengths.values())) > 1:
        raise TypeError(f"columns of keys differ in length: {lengths}")
    return encoded


def _times(at: At, clock_ns: Callable[[], int], columns: Mapping[str, KeyColumn]) -> Times:
    """The time asked for, or one for each key; None for each row's own."""
    if not isinstance(at, np.ndarray):
        return _time_ns(at, clock_ns)
    if at.dtype != np.int64 or any(at.shape != (len(c),) for c in columns.values()):
        raise TypeError(
            f"at: {at.dtype} of shape {at.shape}; times of keys are int64 ns, one for each key"
        )
    return at


def _time_ns(at: At, clock_ns: Callable[[], int]) -> int | None:
    """The time asked for; None for each row's own."""
    if at == "now":
        return clock_ns()
    if at == "event":
        return None
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise TypeError(f"at: {at!r} has no time zone; say which, such as datetime.UTC")
        return _nanoseconds(at - _EPOCH)
    if isinstance(at, int | np.integer) and not isinstance(at, bool):
        return int(at)
    raise TypeError(f"at: {at!r} is neither 'now', 'event', a datetime, ns nor an array of ns")


def _nanoseconds(span: timedelta) -> int:
    return ((span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds) * 1_000


def _mark_stale(
    answer: _Answer, markers: Mapping[int, Marker | None], horizon_ms: int, latest_ms: int
) -> None:
    """Statuses of rows whose partition was not read up to ``horizon_ms`` are stale, or worse.

    So are those where a worker says that it read beyond ``latest_ms``: its clock is wrong.
    """
    behind = [
        number
        for number, marker in markers.items()
        if marker is None or not horizon_ms <= marker.processed_through_ms <= latest_ms
    ]
    if behind:
        rows = np.isin(answer.partition, behind)
        marked = answer.status[rows]
        answer.status[rows] = worst(np.stack([marked, np.full_like(marked, Status.STALE)]), axis=0)


def _status_column(codes: U8) -> Any:
    indices: Any = pa.array(codes.astype(np.int8))
    return pa.DictionaryArray.from_arrays(indices, _status_names(), safe=False)


@cache
def _status_names() -> Any:
    return pa.array([status.name.lower() for status in Status])


def _view_columns(name: str, answer: _Answer, time_ns: Times) -> dict[str, Any]:
    known = (
        None
        if answer.known.all()
        else pa.py_buffer(np.packbits(answer.known, bitorder="little").data)
    )
    age = np.zeros_like(answer.event_time) if time_ns is None else time_ns - answer.event_time

    def column(values: I64, type_: pa.DataType) -> Any:
        data = pa.py_buffer(np.ascontiguousarray(values).data)
        return pa.Array.from_buffers(type_, len(values), [known, data])

    status = answer.status
    codes = worst(status, axis=1) if status.any() else np.zeros(len(status), dtype=np.uint8)
    return {
        f"{name}__status": _status_column(codes),
        f"{name}__event_time": column(answer.event_time, pa.timestamp("ns", "UTC")),
        f"{name}__age": column(age, pa.duration("ns")),
        f"{name}__source_offset": column(answer.source_offset, pa.int64()),
        f"{name}__partition": pa.array(answer.partition),
    }
