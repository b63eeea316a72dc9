"""The topics of an application: what lies in each, which views read it, which routes leave it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.app.arrival import RowDecoder
from pipeline.app.partition import ViewPlan
from pipeline.app.routing import Route
from pipeline.errors import DefinitionError
from pipeline.features.planjson import to_json
from pipeline.features.repartition import Repartition
from pipeline.features.stored import AnyView, StoredView, source_json
from pipeline.features.stream import EventStream
from pipeline.features.streamjson import stream_to_json
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
    that begin there. ``name`` is its own only for a repartition topic; ``source_ids`` has the ids
    of the topics that such ones are made of. ``stream`` is how most of its views read it."""

    stream: EventStream | Repartition
    topic_id: str
    partitions: int
    views: tuple[ViewPlan, ...]
    routes: tuple[Route, ...] = ()
    name: str = ""
    source_ids: Mapping[str, str] = field(default_factory=dict)

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self.name or self.stream.topic

    @property
    def fixed(self) -> bool:
        """Whether the partition of a key, and so its number of partitions, matters."""
        ways = [self.stream, *self.others().values()]
        return not all(isinstance(way, EventStream) and way.rerouted for way in ways)

    def decoder(self) -> Decoder:
        """What makes events of its records."""
        return self._decoder(self.stream, stream_to_json(self.stream))

    def others(self) -> dict[str, EventStream | Repartition]:
        """The streams of views and routes that read it in ways of their own."""
        streams: dict[str, EventStream | Repartition] = {v.reads: v.view.stream for v in self.views}
        streams |= {route.reads: route.source for route in self.routes}
        streams.pop(stream_to_json(self.stream), None)
        return streams

    def other_decoders(self) -> dict[str, Decoder]:
        """What makes events for these."""
        return {reads: self._decoder(stream, reads) for reads, stream in self.others().items()}

    def _decoder(self, stream: EventStream | Repartition, reads: str) -> Decoder:
        if isinstance(stream, EventStream):
            return decoder(stream, self.partitions)
        used = used_fields(stream, [plan for plan in self.views if plan.reads == reads])
        fields = [stream.schema.field(name) for name in used]
        ids = tuple(self.source_ids[source.topic] for source in stream.sources)
        return RowDecoder(stream, fields, ids, self.partitions)


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


def used_fields(stream: EventStream | Repartition, plans: Sequence[ViewPlan]) -> tuple[str, ...]:
    """Fields of a stream that its views read, in the order of its schema."""
    used = frozenset[str]().union(*(plan.derivation.fields for plan in plans))
    return tuple(name for name in stream.schema.names if name in used)


def arrange(
    app: str,
    plans: Sequence[ViewPlan],
    find: Callable[[str], Place],
    make: Callable[[str, int, Sequence[AnyView]], Place],
) -> list[Topic]:
    """Every topic of an application: sources first, then repartition topics.

    ``find`` tells of a source topic; ``make`` of a repartition topic, which it creates with so many
    partitions, for these views, unless it is there. Views that are defined come before stored ones:
    a topic's stream is that of the first. A stored view has its own ways to its repartition topic,
    as they were when it was defined, so that nothing is sent again for it.
    """
    streams: dict[str, EventStream] = {}
    for source in (s for plan in plans for s in plan.view.sources):
        streams.setdefault(source.topic, source)
    places = {topic: find(topic) for topic in streams}
    routes: dict[str, list[Route]] = {topic: [] for topic in streams}
    repartitions: list[Topic] = []
    for name, over in _repartitioned(app, plans).items():
        stream = over[0].view.stream
        if not isinstance(stream, Repartition):
            continue
        wanted = places[stream.sources[0].topic][1]
        topic_id, partitions = make(name, wanted, [plan.view for plan in over])
        ids = {topic: found_id for topic, (found_id, _) in places.items()}
        repartitions.append(
            Topic(stream, topic_id, partitions, tuple(over), name=name, source_ids=ids)
        )
        for route in _routes(name, over, partitions):
            leaving = routes[route.source.topic]
            if all(route.fingerprint != known.fingerprint for known in leaving):
                leaving.append(route)
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


def view_record(app: str, topic: Topic, plan: ViewPlan) -> ViewRecord:
    """What readers have to know of a view over ``topic``, and workers that do not define it."""
    compiled, stream = plan.view.plan, plan.view.stream
    sent: tuple[str, ...] = ()
    triggers = tuple(trigger.name for trigger in plan.triggers)
    if isinstance(plan.view, StoredView):
        sent, triggers = plan.view.sent, plan.view.triggers
    elif isinstance(stream, Repartition):
        sent = used_fields(stream, _defined(topic.views))
    return ViewRecord(
        name=compiled.view,
        app=app,
        topic=topic.topic,
        partitions=topic.partitions,
        plan=to_json(compiled),
        fingerprint=compiled.fingerprint,
        source=source_json(plan.view, sent, triggers),
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


def _routes(name: str, over: Sequence[ViewPlan], partitions: int) -> Iterator[Route]:
    """The ways to a repartition topic: that of the views that are defined, then of stored ones."""
    defined = _defined(over)
    ways = [(p.view.stream, used_fields(p.view.stream, defined)) for p in defined[:1]]
    ways += [(p.view.stream, p.view.sent) for p in over if isinstance(p.view, StoredView)]
    for stream, used in ways:
        if isinstance(stream, Repartition):
            for source in stream.sources:
                yield Route.build(name, stream, source, used, partitions)


def _defined(plans: Sequence[ViewPlan]) -> list[ViewPlan]:
    return [plan for plan in plans if not plan.stored]


def _repartitioned(app: str, plans: Sequence[ViewPlan]) -> dict[str, list[ViewPlan]]:
    """Repartition topic -> the views that read it."""
    found: dict[str, list[ViewPlan]] = {}
    for plan in plans:
        stream = plan.view.stream
        if isinstance(stream, Repartition):
            found.setdefault(stream.topic_in(app), []).append(plan)
    return found
