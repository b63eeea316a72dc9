"""Compares what a reader was told, and what markers say, with the oracle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.serve.client import FeatureClient
from pipeline.store.marker import Marker
from pipeline.store.partition import Store
from pipeline.testing.oracle.expected import Value
from pipeline.testing.oracle.keys import key_bytes
from pipeline.testing.oracle.replay import OUTCOMES, Accounting, Oracle

__all__ = ["answers", "differences", "disagreements", "miscounts"]


def disagreements(
    store: Store, oracle: Oracle, at: Iterable[int | None] = (None,), *, others: Sequence[Any] = ()
) -> list[str]:
    """Where reads of the oracle's view from ``store`` differ from it; empty if nothing does.

    Every key of the log, and ``others`` (entities; a tuple where keys have several fields), is read
    at each time of ``at`` (ns; None: each row's own newest event), as any client reads it.
    """
    more = [other if isinstance(other, tuple) else (other,) for other in others]
    entities = [*oracle.entities.values(), *more]
    keys = [*oracle.entities, *map(key_bytes, more)]
    if not keys:
        return []
    found: list[str] = []
    for time in at:
        read = answers(store, oracle, entities, time)
        found += differences(oracle, keys, read, time)
    return found


def answers(
    store: Store, oracle: Oracle, entities: Sequence[tuple[Any, ...]], at: int | None
) -> dict[str, list[tuple[Value, str]]]:
    """Value and status of every feature, one per entity, as a client gets them."""
    query = FeatureClient(store).prepare([oracle.view.name])
    names = oracle.view.stream.key_fields
    columns = {name: [entity[i] for entity in entities] for i, name in enumerate(names)}
    table = query.read(columns, at="event" if at is None else at, status="feature")
    result: dict[str, list[tuple[Value, str]]] = {}
    for name in oracle.view.features:
        values = _plain(table.column(name)).to_pylist()
        statuses: list[Any] = table.column(f"{name}__status").to_pylist()
        result[name] = list(zip(values, statuses, strict=True))
    return result


def differences(
    oracle: Oracle,
    keys: Sequence[bytes],
    read: Mapping[str, Sequence[tuple[Value, str]]],
    at: int | None,
) -> list[str]:
    """One line per answer in ``read`` (feature name -> one per key) that is wrong."""
    found = []
    for i, key in enumerate(keys):
        for name, wanted in oracle.features(key, at).items():
            value, status = read[name][i]
            problem = wanted.problem(value, status)
            if problem is not None:
                time = "its newest event" if at is None else at
                found.append(f"{oracle.view.name}.{name} of {key!r} at {time}: {problem}")
    return found


def miscounts(markers: Iterable[Marker], oracle: Oracle) -> list[str]:
    """Where the accounting in ``markers`` differs from the oracle's, partition by partition."""
    stored = {marker.partition: marker for marker in markers}
    found = []
    for partition in sorted(stored.keys() | oracle.accounting.keys()):
        marker, wanted = stored.get(partition), oracle.accounting.get(partition, Accounting())
        for name in OUTCOMES:
            count = 0 if marker is None else getattr(marker, name)
            if count != getattr(wanted, name):
                found.append(
                    f"{oracle.view.name}[{partition}].{name}: {count}, "
                    f"expected {getattr(wanted, name)} ({wanted.reasons})"
                )
    return found


def _plain(column: Any) -> Any:
    """Times as ns."""
    type_ = column.type
    if pa.types.is_timestamp(type_):
        return column.cast(pa.int64())
    if pa.types.is_list(type_) and pa.types.is_timestamp(type_.value_type):
        return column.cast(pa.list_(pa.int64()))
    return column
