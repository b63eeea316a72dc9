"""The registry: which views there are, and what a reader has to know of them.

Kept in the store, in hashes::

    pipeline:<app>    "topic:<topic>"                {"partitions": N, "topic_id": ID}
                      "view:<name>:<fingerprint>"    the view's record, JSON
                      "retired:<name>:<fingerprint>" {"at_ms": T, "erased": bool, "record": ...}
                      "since:<name>:<fingerprint>"   T, when it was registered first, ms
                      "active:<name>"                {"fingerprint": ..., "at_ms": T}
    pipeline:views    "<name>"                       "<app>/<fingerprint>": what readers get

Several versions of a view live side by side; :meth:`Registry.activate` moves readers from one to
another with a single write. A version that was retired counts for nothing, whatever record there is
of it, until a program that defines it starts again.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import (
    CorruptRowError,
    DefinitionError,
    LogTruncatedError,
    UnknownNameError,
    ViewVersionError,
)
from pipeline.store.keys import ALIASES, registry_key

__all__ = ["Registry", "RegistryFields", "Retired", "ViewRecord", "unknown_name"]

_FORMAT = 1


class RegistryFields(Protocol):
    """Named values under a key; what a :class:`Registry` is kept in."""

    def get(self, key: bytes, name: str) -> bytes | None:
        """Value of ``name``, None where absent."""

    def get_all(self, key: bytes) -> dict[str, bytes]:
        """All names and values."""

    def set(self, key: bytes, name: str, value: bytes) -> None:
        """Write one value."""

    def set_absent(self, key: bytes, name: str, value: bytes) -> bool:
        """Write one value unless there is one; whether it was written."""

    def delete(self, key: bytes, name: str) -> None:
        """Remove one value, if it is there."""


@dataclass(frozen=True, slots=True)
class ViewRecord:
    """What is registered of one version of a view.

    ``partitions`` is that of the topic, by which readers find a key; ``plan`` is the JSON of
    :func:`pipeline.features.planjson.to_json`. ``source`` is JSON too, what its events come from
    (:mod:`pipeline.features.streamjson`); empty if a program wrote it that did not say.
    """

    name: str
    app: str
    topic: str
    partitions: int
    plan: str
    fingerprint: int
    source: str = ""

    @property
    def version(self) -> str:
        """``<name> <fingerprint>``, as people are told."""
        return f"{self.name} {self.fingerprint:016x}"

    def to_json(self) -> bytes:
        """The stored form."""
        fields = {
            "format": _FORMAT,
            "name": self.name,
            "app": self.app,
            "topic": self.topic,
            "partitions": self.partitions,
            "fingerprint": f"{self.fingerprint:016x}",
            "plan": json.loads(self.plan),
        }
        if self.source:
            fields["source"] = json.loads(self.source)
        return json.dumps(fields, allow_nan=False).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> ViewRecord:
        """The record in ``data``; raises CorruptRowError, which says ``where``."""
        try:
            fields = json.loads(data)
            if fields["format"] != _FORMAT:
                raise ValueError(f"format {fields['format']}, this program knows {_FORMAT}")
            return cls(
                name=fields["name"],
                app=fields["app"],
                topic=fields["topic"],
                partitions=int(fields["partitions"]),
                plan=json.dumps(fields["plan"]),
                fingerprint=int(fields["fingerprint"], 16),
                source=json.dumps(fields["source"]) if "source" in fields else "",
            )
        except (ValueError, KeyError, TypeError) as problem:
            raise CorruptRowError(f"{where} is not a view's record: {problem}") from problem


@dataclass(frozen=True, slots=True)
class Retired:
    """A version that is no longer kept up, since when (ms), and whether its rows are gone."""

    record: ViewRecord
    at_ms: int
    erased: bool


class Registry:
    """Names of views, kept in ``fields``."""

    def __init__(self, fields: RegistryFields) -> None:
        self._fields = fields

    def register(
        self, record: ViewRecord, topic_id: str = "", *, again: bool = False,
        at_ms: int | None = None,
    ) -> int:  # fmt: skip
        """Add a version of a view; the fingerprint that readers get.

        That is this one if the view is new; a changed view is not shown to readers before
        :meth:`activate`. A version that was retired begins anew, unless it is told ``again`` only
        because the registry may have been lost. Raises DefinitionError when another application
        has a view of that name,
        or the topic was registered with another number of partitions (every key would be looked
        for in the wrong place); LogTruncatedError when it was registered with another
        ``topic_id``: its records are not those that the rows were computed from;
        ViewVersionError while the version is being erased.
        """
        key = registry_key(record.app)
        self._check_topic(key, record, topic_id)
        retired = self.retired(record.app, record.name, record.fingerprint)
        if retired is None or not again:
            if retired is not None:
                self._revive(key, retired)
            self._fields.set(key, _field(record.name, record.fingerprint), record.to_json())
            if at_ms is not None:
                self._fields.set_absent(key, _since(record), str(at_ms).encode())
            target = _alias(record.app, record.fingerprint)
            if self._fields.set_absent(ALIASES, record.name, target):
                self._note(record, at_ms)
                return record.fingerprint
        app, fingerprint = self._alias_of(record.name) or (record.app, record.fingerprint)
        if app != record.app:
            raise DefinitionError(
                record.name, f"application {app!r} has a view of this name; choose another"
            )
        return fingerprint

    def activate(self, app: str, view: str, fingerprint: int, at_ms: int | None = None) -> None:
        """Let readers get this version from now on, with one write.

        Raises UnknownNameError, ViewVersionError if it is retired at this moment.
        """
        record = self.record(app, view, fingerprint)
        before = self._fields.get(ALIASES, view)
        self._fields.set(ALIASES, view, _alias(app, fingerprint))
        if self.retired(app, view, fingerprint) is not None:
            if before is not None:
                self._fields.set(ALIASES, view, before)
            raise ViewVersionError(f"{record.version} was retired meanwhile")
        self._note(record, at_ms)

    def active(self, view: str) -> tuple[str, int, int | None]:
        """(application, fingerprint) that readers of ``view`` get, and since when (ms) if known.

        Raises UnknownNameError, which lists names like it.
        """
        target = self._alias_of(view)
        if target is None:
            raise unknown_name("view", view, self.views())
        noted = self._fields.get(registry_key(target[0]), f"active:{view}")
        note = json.loads(noted) if noted is not None else {}
        known = note.get("fingerprint") == f"{target[1]:016x}"
        return *target, note["at_ms"] if known else None

    def retire(
        self, app: str, view: str, fingerprint: int, at_ms: int, *, served: bool = False
    ) -> Retired:
        """Let nobody keep this version up any more. Again, it is what was said the first time.

        Its rows are to be erased next; then :meth:`erased`. Raises UnknownNameError, and
        ViewVersionError for the version that readers get, unless ``served``: then there is no
        such view for them from now on.
        """
        retired = self.retired(app, view, fingerprint)
        if retired is None:
            record = self.record(app, view, fingerprint)
            if served and self._alias_of(view) == (app, fingerprint):
                self._fields.delete(ALIASES, view)
            self._refuse_active(record)
            retired = Retired(record, at_ms, erased=False)
            self._mark(retired)
            try:
                self._refuse_active(record)  # it may have been activated in between
            except ViewVersionError:
                self._fields.delete(registry_key(app), _mark(view, fingerprint))
                raise
        self._fields.delete(registry_key(app), _field(view, fingerprint))
        return retired

    def erased(self, retired: Retired) -> None:
        """Nothing is stored of it any more: a program that defines it may start again."""
        self._mark(dataclasses.replace(retired, erased=True))

    def since_ms(self, app: str, view: str, fingerprint: int) -> int:
        """When this version was registered first; -1 if that is not known."""
        found = self._fields.get(registry_key(app), f"since:{view}:{fingerprint:016x}")
        return -1 if found is None else int(found)

    def retired(self, app: str, view: str, fingerprint: int) -> Retired | None:
        """Whether this version was retired."""
        name = _mark(view, fingerprint)
        data = self._fields.get(registry_key(app), name)
        if data is None:
            return None
        where = f"pipeline:{app} {name}"
        try:
            fields = json.loads(data)
            record = json.dumps(fields["record"]).encode()
            at_ms, erased = int(fields["at_ms"]), bool(fields["erased"])
        except (ValueError, KeyError, TypeError) as problem:
            raise CorruptRowError(f"{where} is not a note of a version: {problem}") from problem
        return Retired(ViewRecord.from_json(record, where), at_ms, erased)

    def unerased(self, app: str, view: str) -> list[int]:
        """Fingerprints of the versions of a view that were retired and are not erased yet."""
        start = _mark(view, 0)[:-16]
        fields = self._fields.get_all(registry_key(app))
        prints = [int(name.removeprefix(start), 16) for name in fields if name.startswith(start)]
        found = ((p, self.retired(app, view, p)) for p in sorted(prints))
        return [p for p, retired in found if retired is not None and not retired.erased]

    def resolve(self, view: str, app: str | None = None) -> ViewRecord:
        """What readers get for ``view``; of application ``app`` only, if named.

        Raises UnknownNameError, which lists names like it.
        """
        target = self._alias_of(view)
        if target is None or app not in (None, target[0]):
            raise unknown_name("view", view, self.views(app))
        return self._record(target[0], view, target[1])

    def views(self, app: str | None = None) -> list[str]:
        """Names of the views that readers can get, sorted."""
        aliases = self._fields.get_all(ALIASES)
        return sorted(
            name for name, target in aliases.items() if app in (None, _parse(name, target)[0])
        )

    def versions(self, app: str, view: str | None = None) -> list[ViewRecord]:
        """All versions of a view, or of all views, by name and fingerprint; none retired."""
        start = "view:" if view is None else f"view:{view}:"
        fields = self._fields.get_all(registry_key(app))
        return [
            ViewRecord.from_json(fields[name], f"pipeline:{app} {name}")
            for name in sorted(fields)
            if name.startswith(start) and f"retired:{name.removeprefix('view:')}" not in fields
        ]

    def record(self, app: str, view: str, fingerprint: int) -> ViewRecord:
        """One version. Raises UnknownNameError, for one that was retired too."""
        name = _field(view, fingerprint)
        data = self._fields.get(registry_key(app), name)
        if data is None or self.retired(app, view, fingerprint) is not None:
            raise UnknownNameError(f"pipeline:{app} has no {name}: was it removed?")
        return ViewRecord.from_json(data, f"pipeline:{app} {name}")

    def _record(self, app: str, view: str, fingerprint: int) -> ViewRecord:
        name = _field(view, fingerprint)
        data = self._fields.get(registry_key(app), name)
        if data is None:
            raise UnknownNameError(f"pipeline:{app} has no {name}: was it removed?")
        return ViewRecord.from_json(data, f"pipeline:{app} {name}")

    def _refuse_active(self, record: ViewRecord) -> None:
        if self._alias_of(record.name) == (record.app, record.fingerprint):
            raise ViewVersionError(
                f"{record.version} is what readers get: activate another version first"
            )

    def _revive(self, key: bytes, retired: Retired) -> None:
        if not retired.erased:
            raise ViewVersionError(
                f"{retired.record.version} is being erased: wait until 'pipeline views retire' is "
                "done with it, or run it again"
            )
        self._fields.delete(key, _since(retired.record))
        self._fields.delete(key, _mark(retired.record.name, retired.record.fingerprint))

    def _mark(self, retired: Retired) -> None:
        record = retired.record
        note = {
            "at_ms": retired.at_ms,
            "erased": retired.erased,
            "record": json.loads(record.to_json()),
        }
        name = _mark(record.name, record.fingerprint)
        self._fields.set(registry_key(record.app), name, json.dumps(note).encode())

    def _note(self, record: ViewRecord, at_ms: int | None) -> None:
        """Since when readers get it; for people, and of no consequence."""
        if at_ms is not None:
            note = {"fingerprint": f"{record.fingerprint:016x}", "at_ms": at_ms}
            key = registry_key(record.app)
            self._fields.set(key, f"active:{record.name}", json.dumps(note).encode())

    def _alias_of(self, view: str) -> tuple[str, int] | None:
        target = self._fields.get(ALIASES, view)
        return None if target is None else _parse(view, target)

    def _check_topic(self, key: bytes, record: ViewRecord, topic_id: str) -> None:
        name = f"topic:{record.topic}"
        value = json.dumps({"partitions": record.partitions, "topic_id": topic_id}).encode()
        if self._fields.set_absent(key, name, value):
            return
        stored = json.loads(self._fields.get(key, name) or value)
        if stored["partitions"] != record.partitions:
            raise DefinitionError(
                f"{record.topic}.partitions",
                f"the topic has {record.partitions} partitions, but rows of application "
                f"{record.app!r} were written for {stored['partitions']}: use a topic with "
                f"{stored['partitions']}, or a new application name and a backfill",
            )
        known = stored.get("topic_id", "")
        if topic_id and known and topic_id != known:
            raise LogTruncatedError(
                f"topic {record.topic!r} has id {topic_id}, but rows of application "
                f"{record.app!r} were computed from id {known}: it was deleted and created again, "
                "or is of another Kafka. Use a new application name"
            )


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """An error that lists the known names most like ``name``."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        hint = f"did you mean {' or '.join(map(repr, close))}?"
    else:
        hint = f"known: {', '.join(names[:10]) or 'none'}"
    return UnknownNameError(f"no {kind} {name!r}; {hint}")


def _field(view: str, fingerprint: int) -> str:
    return f"view:{view}:{fingerprint:016x}"


def _mark(view: str, fingerprint: int) -> str:
    return f"retired:{view}:{fingerprint:016x}"


def _since(record: ViewRecord) -> str:
    return f"since:{record.name}:{record.fingerprint:016x}"


def _alias(app: str, fingerprint: int) -> bytes:
    return f"{app}/{fingerprint:016x}".encode()


def _parse(view: str, target: bytes) -> tuple[str, int]:
    app, _, fingerprint = target.decode().partition("/")
    try:
        return app, int(fingerprint, 16)
    except ValueError as problem:
        raise CorruptRowError(f"pipeline:views {view}: {target!r} names no view") from problem
