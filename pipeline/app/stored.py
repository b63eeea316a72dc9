"""Versions of views that are registered and not defined here: kept up until they are retired."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipeline.app.topic import Topic, view_record
from pipeline.errors import ConfigurationError, DefinitionError, UnknownNameError
from pipeline.features.stored import StoredView
from pipeline.features.stream import EventStream
from pipeline.features.view import FeatureView
from pipeline.store.registry import Registry, ViewRecord

__all__ = ["Registration", "kept_up", "stored_views"]

log = logging.getLogger(__name__)


def stored_views(
    registry: Registry,
    app: str,
    views: Sequence[FeatureView],
    find: Callable[[str], object],
) -> list[StoredView]:
    """The versions of ``app`` that none of ``views`` is, those that readers get first.

    ``find`` raises UnknownNameError for a topic that is gone. A version that cannot be kept up here
    is told of and left as it is; if readers get it, ConfigurationError says what to do. One with
    triggers that is newer than every view here is left to the programs that define it: what this
    one read for it would ask for no predictions.
    """
    newest = max(registry.since_ms(app, v.name, v.plan.fingerprint) for v in views)
    mine = {view.plan.fingerprint for view in views}
    streams = {s.topic: s for view in views for s in view.sources}
    active = {name: registry.active(name)[:2] for name in registry.views(app)}
    found: list[tuple[bool, StoredView]] = []
    for record in registry.versions(app):
        if record.fingerprint in mine:
            continue
        served = active.get(record.name) == (app, record.fingerprint)
        try:
            view = _stored(record, streams.get, find)
        except (DefinitionError, UnknownNameError) as problem:
            _refuse(record, served, problem)
            continue
        if view.triggers and registry.since_ms(app, record.name, record.fingerprint) > newest:
            log.warning(
                "view %s is left to workers that define it: it is newer than this program, and "
                "has triggers (%s)", record.version, ", ".join(view.triggers),
            )  # fmt: skip
            continue
        found.append((served, view))
    found.sort(key=lambda one: not one[0])
    return [view for _, view in found]


def _stored(
    record: ViewRecord,
    known: Callable[[str], EventStream | None],
    find: Callable[[str], object],
) -> StoredView:
    def registry(topic: str) -> object:
        stream = known(topic)
        return None if stream is None else stream.registry

    view = StoredView.of(record.plan, record.source, registry)  # type: ignore[arg-type]
    for source in view.sources:
        find(source.topic)
    return view


def _refuse(record: ViewRecord, served: bool, problem: Exception) -> None:
    if served:
        raise ConfigurationError(
            f"view {record.version} is what readers get, and cannot be kept up by this program: "
            f"{problem}. Leave workers running that define it until readers get another version "
            "('pipeline views activate', with --force if need be), then start this one; a view "
            "that nobody wants any more is taken away with 'pipeline views retire --force'"
        ) from problem
    log.warning(
        "view %s stands still, nobody keeps it up: %s. If it served, 'pipeline views retire' "
        "removes it", record.version, problem,
    )  # fmt: skip


def kept_up(registry: Registry, app: str, views: Sequence[FeatureView]) -> list[FeatureView]:
    """Those of ``views`` that were not retired. Raises ConfigurationError if none is left."""
    left = [v for v in views if registry.retired(app, v.name, v.plan.fingerprint) is None]
    if not left:
        raise ConfigurationError(f"every view that {app!r} defines was retired: nothing is left")
    return left


@dataclass(frozen=True)
class Registration:
    """What an application keeps up, in the store's registry; stored versions come first there, so
    that readers of a registry that was lost get what they had."""

    registry: Registry
    records: tuple[tuple[ViewRecord, str], ...]

    @classmethod
    def of(cls, registry: Registry, app: str, topics: Iterable[Topic]) -> Registration:
        """Of every view of ``topics``; nothing is written yet."""
        pairs = [(topic, plan) for topic in topics for plan in topic.views]
        pairs.sort(key=lambda pair: not pair[1].stored)
        return cls(
            registry,
            tuple((view_record(app, topic, plan), topic.topic_id) for topic, plan in pairs),
        )

    def tell(self, at_ms: int) -> None:
        """At the start: what was retired begins anew. Raises as :meth:`Registry.register`."""
        for record, topic_id in self.records:
            self.registry.register(record, topic_id, at_ms=at_ms)

    def again(self) -> None:
        """Once more, in case the store lost it too."""
        for record, topic_id in self.records:
            self.registry.register(record, topic_id, again=True)

    def outdated(self) -> bool:
        """Whether one of them was retired since. Raises UnavailableError."""
        return any(
            self.registry.retired(record.app, record.name, record.fingerprint) is not None
            for record, _ in self.records
        )
