"""The versions of views: how far each is, which readers get, and how one is taken away.

A version is a name and a fingerprint. What is said here comes from the store alone, so readers can
be moved while no broker answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import UnknownNameError, ViewVersionError
from pipeline.features.lookups import row_plans
from pipeline.features.planjson import from_json
from pipeline.ingest.batch import TopicPartition
from pipeline.store.keys import marker_key, partition_tag, quarantine_prefix, row_prefix
from pipeline.store.marker import Marker
from pipeline.store.partition import RowRead, Store
from pipeline.store.registry import Registry, ViewRecord, unknown_name

__all__ = ["Erased", "Version", "activate", "find", "look", "retire"]

ALIKE_MS = 10_000  # markers of quiet partitions say so every second, those of busy ones in bursts
PAGE = 1_000  # keys looked at in one command: a millisecond or so of the server's time
ROUNDS = 10  # a worker hears within seconds that a version was retired


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a view, as the store has it.

    ``markers`` of its topic's partitions, None for one that never committed; ``active`` says
    whether it is what readers get, ``since_ms`` since when (None: not known, or it is not).
    """

    record: ViewRecord
    active: bool
    since_ms: int | None
    markers: tuple[Marker | None, ...]

    @property
    def begun(self) -> int:
        """Number of partitions that have a marker."""
        return sum(marker is not None for marker in self.markers)

    @property
    def through_ms(self) -> int | None:
        """Broker time that every partition was read through; None if one has not begun."""
        found = [m.processed_through_ms for m in self.markers if m is not None]
        return min(found) if len(found) == len(self.markers) else None

    def moved_since(self, before: Version) -> bool:
        """Whether a worker wrote a marker since another look at it."""
        return self.markers != before.markers

    def behind(self, other: Version) -> int | None:
        """Records that it has yet to read until it is where ``other`` was, offset by offset.

        None where they cannot be compared: they read different topics.
        """
        if self.record.topic != other.record.topic:
            return None
        pairs = zip(self.markers, other.markers, strict=True)
        return sum(max(0, _offset(theirs) - _offset(ours)) for ours, theirs in pairs)


def _offset(marker: Marker | None) -> int:
    return 0 if marker is None else marker.next_offset


def look(store: Store, name: str | None = None, app: str | None = None) -> list[Version]:
    """The versions of a view, or of all, by name and fingerprint; the active one of a view is read
    first, so that what stands beside it is never behind only because time went on. Versions of a
    view that readers do not find are those of ``app``, if it is named.

    Raises UnknownNameError, StoreUnavailableError, CorruptRowError.
    """
    registry = store.registry
    unserved = set() if app is None else {record.name for record in registry.versions(app)}
    unserved.difference_update(registry.views())
    names = sorted({*registry.views(app), *unserved}) if name is None else [name]
    found: list[Version] = []
    for view in names:
        owner, fingerprint, since_ms = _served(registry, view, app, unserved)
        records = registry.versions(owner, view)
        records.sort(key=lambda record: record.fingerprint != fingerprint)
        for record in records:
            active = record.fingerprint == fingerprint
            markers = _markers(store, record)
            found.append(Version(record, active, since_ms if active else None, markers))
    return found


def _served(
    registry: Registry, view: str, app: str | None, unserved: Collection[str]
) -> tuple[str, int | None, int | None]:
    """Application, fingerprint that readers get (None: none), and since when (ms) if known."""
    if app is not None and view in unserved:
        return app, None, None
    owner, fingerprint, since_ms = registry.active(view)
    if app not in (None, owner):
        raise unknown_name("view", view, registry.views(app))
    return owner, fingerprint, since_ms


def find(versions: Sequence[Version], name: str, fingerprint: str) -> Version:
    """The version whose fingerprint begins with these hexadecimal digits.

    Raises UnknownNameError if none does, or several do.
    """
    known = {f"{v.record.fingerprint:016x}": v for v in versions}
    matching = [text for text in known if text.startswith(fingerprint.lower())]
    if len(matching) == 1:
        return known[matching[0]]
    problem = "several versions" if matching else "no version"
    raise UnknownNameError(
        f"view {name!r} has {problem} {fingerprint!r}; it has: {', '.join(sorted(known))}"
    )


def activate(store: Store, chosen: Version, current: Version | None, now_ms: int) -> None:
    """Move readers to a version; ``current`` is what they get, None to ask for nothing.

    Raises ViewVersionError where it is not as far as ``current`` in every partition.
    """
    if current is not None and not chosen.active:
        problem = _not_ready(chosen, current)
        if problem is not None:
            raise ViewVersionError(f"{chosen.record.version} is not caught up: {problem}")
    record = chosen.record
    store.registry.activate(record.app, record.name, record.fingerprint, now_ms)


def _not_ready(chosen: Version, current: Version) -> str | None:
    missing = len(chosen.markers) - chosen.begun
    if missing and not (current.record.topic == chosen.record.topic and _idle(chosen, current)):
        return f"{missing} of {len(chosen.markers)} partitions have not begun"
    behind = chosen.behind(current)
    if behind:
        return f"it has {behind:,} records to read until it is where {current.record.version} is"
    if behind is None:
        ours, theirs = chosen.through_ms, current.through_ms
        if ours is not None and theirs is not None and ours < theirs - ALIKE_MS:
            return (
                f"it was read through {(theirs - ours) / 1000:,.0f} s less than "
                f"{current.record.version}"
            )
    return None


def _idle(chosen: Version, current: Version) -> bool:
    """Whether where the one has not begun, the other has not either."""
    pairs = zip(chosen.markers, current.markers, strict=True)
    return all(theirs is None for ours, theirs in pairs if ours is None)


@dataclass(frozen=True, slots=True)
class Erased:
    """Markers and rows (quarantined copies too) that were removed, and whether nothing is left."""

    markers: int
    rows: int
    done: bool


def retire(
    store: Store,
    app: str,
    name: str,
    fingerprint: int,
    *,
    keys_per_s: int,
    served: bool = False,
    clock_ms: Callable[[], int],
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[int], None] = lambda _: None,
) -> Erased:
    """Stop keeping a version up, and remove its rows and markers, looking at so many keys a second.

    ``served``: even if readers get it, who then know no such view.

    Removing a marker ends the commits of whoever kept it up: the transaction compares markers. A
    worker that had none yet hears of it from the registry, and leaves a marker by then, so that
    is looked for in the end. What was interrupted goes on when it is called again; until it is
    done, no program that defines the version starts. Raises UnknownNameError, ViewVersionError,
    StoreUnavailableError.
    """
    retired = store.registry.retire(app, name, fingerprint, clock_ms(), served=served)
    record = retired.record
    tags = [partition_tag(app, TopicPartition(record.topic, p)) for p in range(record.partitions)]
    markers = [marker_key(tag, fingerprint) for tag in tags]
    prints = {plan.fingerprint for plan in row_plans(from_json(record.plan))}
    starts = (row_prefix, quarantine_prefix)
    wanted = tuple(start(tag, one) for tag in tags for one in prints for start in starts)
    pattern = b"{%s:%s:*}:[rq]:*" % (app.encode(), record.topic.encode())
    if len(prints) == 1:
        pattern = pattern[:-1] + b"%016x:*" % fingerprint
    gone, rows = 0, 0
    for _ in range(ROUNDS):
        found = store.drop(markers)
        for page in store.scan(pattern, PAGE):
            rows += store.drop([key for key in page if key.startswith(wanted)])
            progress(rows)
            sleep(PAGE / keys_per_s)
        left = sum(marker is not None for marker in _markers(store, record))
        gone += found
        if not left:
            store.registry.erased(retired)
            return Erased(gone, rows, done=True)
    return Erased(gone, rows, done=False)


def _markers(store: Store, record: ViewRecord) -> tuple[Marker | None, ...]:
    """The markers of all partitions; they come with rows, of a key that no row has."""
    n = record.partitions
    read = RowRead(
        app=record.app,
        topic=record.topic,
        fingerprint=record.fingerprint,
        keys=np.empty(0, dtype=np.uint8),
        key_offsets=np.zeros(n + 1, dtype=np.int64),
        partition=np.arange(n, dtype=np.int32),
        with_markers=True,
    )
    found = store.fetch([read])[0].markers
    return tuple(found[p] for p in range(n))
