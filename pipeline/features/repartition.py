"""Repartitions: events of one or more streams, brought together by another field than their keys.

A row belongs to the partition of the topic whose message key is its entity. A view whose entity is
another field than the topic's key, or that reads several streams, therefore reads a topic of the
application's own, to which the events are sent again, keyed by the entity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pipeline.contracts.contract import Contract, Field
from pipeline.errors import DefinitionError
from pipeline.features.entity import entity_type
from pipeline.features.stream import EventStream

__all__ = ["Repartition", "stream_of"]

MAX_TOPIC = 249  # Kafka's own limit
MAX_SOURCES = 64


@dataclass(frozen=True)
class Repartition:
    """Events of ``sources`` by the fields ``entity``, which name the entity.

    ``schema`` is the union of the contracts by field name. A field that one of them lacks is null
    in its events. It stands where an :class:`EventStream` does: ``topic`` is the name without the
    application's (:meth:`topic_in`), ``key`` the entity.

    Raises :class:`DefinitionError`, which names ``view`` and the argument.
    """

    view: str = field(repr=False, compare=False)
    sources: tuple[EventStream, ...]
    entity: tuple[str, ...]
    schema: Contract = field(init=False, repr=False)
    event_id: str | None = field(init=False, repr=False)
    dedup_ns: int = field(init=False, repr=False)
    dedup_bound: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        where = f"{self.view}.source"
        topics = [source.topic for source in self.sources]
        if len(set(topics)) < len(topics):
            raise DefinitionError(where, f"names a topic twice: {', '.join(topics)}")
        if len(topics) > MAX_SOURCES:
            raise DefinitionError(where, f"{len(topics)} streams; at most {MAX_SOURCES}")
        if len(self.topic) >= MAX_TOPIC:
            raise DefinitionError(
                where, f"the repartition topic's name {self.topic!r} is too long for Kafka"
            )
        object.__setattr__(self, "schema", _union(where, self.sources))
        for name in self.entity:
            self._check_entity(name)
        entity_type(f"{self.view}.entity", self.schema, self.entity)
        rule = _one_rule(where, self.sources)
        for name, value in zip(("event_id", "dedup_ns", "dedup_bound"), rule, strict=True):
            object.__setattr__(self, name, value)

    @property
    def topic(self) -> str:
        """``<sources joined by .>-by-<entity joined by .>``."""
        return f"{'.'.join(s.topic for s in self.sources)}-by-{'.'.join(self.entity)}"

    @property
    def key(self) -> str | tuple[str, ...]:
        """The entity, as an :class:`EventStream` gives its key."""
        return self.entity[0] if len(self.entity) == 1 else self.entity

    @property
    def key_fields(self) -> tuple[str, ...]:
        """The fields that the entity is made of."""
        return self.entity

    @property
    def key_type(self) -> str:
        """As :attr:`EventStream.key_type`."""
        return entity_type(f"{self.view}.entity", self.schema, self.entity)

    def topic_in(self, app: str) -> str:
        """Name of the topic of application ``app``; :class:`DefinitionError` if it is too long."""
        topic = f"{app}-{self.topic}"
        if len(topic) > MAX_TOPIC:
            raise DefinitionError(
                f"{self.view}.source",
                f"the repartition topic would be called {topic!r}, {len(topic)} characters of at "
                f"most {MAX_TOPIC}",
            )
        return topic

    def _check_entity(self, name: str) -> None:
        where = f"{self.view}.entity"
        for source in self.sources:
            if name not in source.schema.names:
                raise DefinitionError(
                    where,
                    f"topic {source.topic!r} has no field {name!r}; "
                    f"it has: {', '.join(source.schema.names)}",
                )


def stream_of(
    view: str, source: EventStream | Sequence[EventStream], entity: Sequence[str]
) -> EventStream | Repartition:
    """What a view of ``entity`` reads: its one stream if that is keyed so, else a repartition.

    Raises :class:`DefinitionError`, which names ``view`` and the argument.
    """
    sources = (source,) if isinstance(source, EventStream) else tuple(source)
    if not sources or not all(isinstance(s, EventStream) for s in sources):
        raise DefinitionError(f"{view}.source", "is an EventStream, or a list of them")
    if len(sources) == 1 and not sources[0].rerouted and sources[0].key_fields == tuple(entity):
        return sources[0]
    return Repartition(view, sources, tuple(entity))


def _union(where: str, sources: Sequence[EventStream]) -> Contract:
    """The fields of all contracts by name; two of one name have one type."""
    fields: dict[str, tuple[Field, str]] = {}
    for source in sources:
        for found in source.schema.fields:
            known, topic = fields.get(found.name, (found, source.topic))
            if (known.type, known.scale) != (found.type, found.scale):
                raise DefinitionError(
                    where,
                    f"field {found.name!r} is {_type(known)} in topic {topic!r} and "
                    f"{_type(found)} in {source.topic!r}",
                )
            nullable = known.nullable or found.nullable
            fields[found.name] = (replace(known, nullable=nullable), topic)
    everywhere = set.intersection(*(set(source.schema.names) for source in sources))
    union = tuple(
        f if f.name in everywhere else replace(f, nullable=True, required=False)
        for f, _ in fields.values()
    )
    return Contract(".".join(source.schema.name for source in sources), 1, union)


def _one_rule(where: str, sources: Sequence[EventStream]) -> tuple[str | None, int, int]:
    """Field, time and bound by which events are told apart, one rule for all with the field."""
    rules = {(s.event_id, s.dedup_ns, s.dedup_bound): s for s in sources if s.event_id is not None}
    first = sources[0]
    if not rules:
        return None, first.dedup_ns, first.dedup_bound
    rule, *others = rules
    plain = [s.topic for s in sources if s.event_id is None and rule[0] in s.schema.names]
    if others or plain:
        raise DefinitionError(
            where,
            "the streams tell events apart in different ways: give event_id, dedup and dedup_bound "
            f"alike to all that have the field{f' (topic {plain[0]!r} has it)' if plain else ''}",
        )
    return rule


def _type(found: Field) -> str:
    return f"{found.type.value}({found.scale})" if found.scale else found.type.value
