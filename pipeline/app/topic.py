"""The topics of an application: what lies in each, which views read it, which routes leave it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.app.arrival import RowDecoder
from pipeline.app.partition import ViewPlan
from pipeline.app.routing import Route
from pipeline.errors import DefinitionError
from pipeline.features.plan import Plan
from pipeline.features.planjson import to_json
from pipeline.features.repartition import Repartition
from pipeline.features.stream import EventStream
from pipeline.features.view import FeatureView
from pipeline.ingest.envelope import Decoder, Envelope
from pipeline.ingest.formats import make_decoder
from pipeline.store.registry import ViewRecord

__all__ = ["Place", "Topic", "arrange", "check_topics", "decoder", "used_fields", "view_record"]

Place = tuple[str, int]
"""Id ("" where there is none) and number of partitions of a topic."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A source or repartition topic as the broker describes it, the views over it, and the routes
    that begin there. ``name`` is its own only for a repartition topic, whose sources have
    ``source_ids``."""

    stream: EventStream | Repartition
    topic_id: str
    partitions: int
    views: tuple[ViewPlan, ...]
    routes: tuple[Route, ...] = ()
    name: str = ""
    source_ids: tuple[str, ...] = ()

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self.name or self.stream.topic

    @property
    def fixed(self) -> bool:
        """Whether the partition of a key, and so its number of partitions, matters."""
        return not isinstance(self.stream, EventStream) or not self.stream.rerouted

    def decoder(self) -> Decoder:
        """What makes events of its records."""
        if isinstance(self.stream, EventStream):
            return decoder(self.stream, self.partitions)
        fields = [self.stream.schema.field(n) for n in used_fields(self.stream, self.views)]
        return RowDecoder(self.stream, fields, self.source_ids, self.partitions)


def decoder(stream: EventStream, partitions: int) -> Decoder:
    """The decoder of a stream whose topic has so many partitions.

    Records that may lie anywhere are those of a topic with one. Raises
    :class:`~pipeline.errors.MissingExtraError` where a registry needs an extra.
    """
    envelope = Envelope(
        contract=stream.schema,
        key=stream.key_fields,
        time_field=stream.time,
        partitions=1 if stream.rerouted else partitions,
        max_future_ms=stream.max_future_ms,
        earliest_ns=stream.earliest_ns,
        max_value_bytes=stream.max_value_bytes,
    )
    return make_decoder(
        stream.format,
        stream.schema,
        envelope,
        registry=stream.registry,
        framing=stream.framing,
        compressed=stream.compressed,
    )


def used_fields(stream: Repartition, plans: Sequence[ViewPlan]) -> tuple[str, ...]:
    """Fields of a repartition that its views read, in the order of its schema."""
    used = frozenset[str]().union(*(plan.derivation.fields for plan in plans))
    return tuple(name for name in stream.schema.names if name in used)


def arrange(
    app: str,
    plans: Sequence[ViewPlan],
    find: Callable[[str], Place],
    make: Callable[[str, int, Sequence[FeatureView]], Place],
) -> list[Topic]:
    """Every topic of an application: sources first, then repartition topics.

    ``find`` tells of a source topic; ``make`` of a repartition topic, which it creates with so many
    partitions, for these views, unless it is there.
    """
    streams = {s.topic: s for plan in plans for s in plan.view.sources}
    places = {topic: find(topic) for topic in streams}
    routes: dict[str, list[Route]] = {topic: [] for topic in streams}
    repartitions: list[Topic] = []
    for name, over in _repartitioned(app, plans).items():
        stream = over[0].view.stream
        if not isinstance(stream, Repartition):
            continue
        wanted = places[stream.sources[0].topic][1]
        topic_id, partitions = make(name, wanted, [plan.view for plan in over])
        ids = tuple(places[source.topic][0] for source in stream.sources)
        repartitions.append(
            Topic(stream, topic_id, partitions, tuple(over), name=name, source_ids=ids)
        )
        used = used_fields(stream, over)
        for source in stream.sources:
            routes[source.topic].append(Route.build(name, stream, source, used, partitions))
    sources = [
        Topic(
            stream,
            *places[topic],
            tuple(p for p in plans if p.view.stream.topic_in(app) == topic),
            tuple(routes[topic]),
        )
        for topic, stream in streams.items()
    ]
    return sources + repartitions


def view_record(app: str, topic: Topic, plan: Plan) -> ViewRecord:
    """What readers have to know of a view over ``topic``."""
    return ViewRecord(
        name=plan.view,
        app=app,
        topic=topic.topic,
        partitions=topic.partitions,
        plan=to_json(plan),
        fingerprint=plan.fingerprint,
    )


def check_topics(app: str, views: Sequence[FeatureView]) -> None:
    """:class:`DefinitionError` for views that describe one topic in two ways."""
    where = f"App({app!r}).views"
    streams = {s.topic: s for view in views for s in view.sources}
    repartitions: dict[str, Repartition] = {}
    for view in views:
        for source in view.sources:
            if source != streams[source.topic]:
                raise DefinitionError(
                    where, f"{view.name!r} describes topic {source.topic!r} differently"
                )
        if not isinstance(view.stream, Repartition):
            continue
        topic = view.stream.topic_in(app)
        if topic in streams:
            raise DefinitionError(
                where, f"{topic!r} is a source and the repartition topic of {view.name!r}"
            )
        if repartitions.setdefault(topic, view.stream) != view.stream:
            raise DefinitionError(
                where,
                f"{view.name!r} and {repartitions[topic].view!r} would share the repartition topic "
                f"{topic!r} of different streams; rename a topic",
            )


def _repartitioned(app: str, plans: Sequence[ViewPlan]) -> dict[str, list[ViewPlan]]:
    """Repartition topic -> the views that read it."""
    found: dict[str, list[ViewPlan]] = {}
    for plan in plans:
        stream = plan.view.stream
        if isinstance(stream, Repartition):
            found.setdefault(stream.topic_in(app), []).append(plan)
    return found
