"""Feature views and triggers: the definitions a user writes, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import polars as pl

from pipeline.contracts.contract import Contract
from pipeline.errors import DefinitionError
from pipeline.features.aggregations import Aggregation
from pipeline.features.compile import check_name, compile_plan
from pipeline.features.entity import entity_fields, entity_name
from pipeline.features.expressions import output_type, serialize
from pipeline.features.inputs import Inputs
from pipeline.features.lookups import FeatureReference, resolve
from pipeline.features.plan import ListKind, Plan
from pipeline.features.repartition import Repartition, stream_of
from pipeline.features.stream import EventStream
from pipeline.units import parse_duration

__all__ = ["Changed", "Changes", "FeatureView", "Trigger", "changed"]


@dataclass(frozen=True, eq=False)
class FeatureView:
    """Features of one entity, computed from one stream or several.

    ``source``    a stream, or a list of streams whose events are taken together: fields by name,
                  null where a stream lacks one
    ``entity``    field or fields of the contract that name the entity. Where that is not the
                  topic's key, and for several streams, the events go through a repartition topic
    ``ttl``       a row expires this long after its last event (None: never)
    ``where``     events for which this is not true are counted as ``filtered``
    ``features``  name -> aggregation, see :mod:`pipeline.features.aggregations`
    ``lookups``   name of a column -> ``view["feature"]`` of another view of the same stream and
                  entity, see :mod:`pipeline.features.lookups`
    ``publish_changes``  whether changed rows go to the view's changes topic. Without it a worker
                  saves a fifth of its work and the broker a message a batch; agents get them
                  in any case

    Raises :class:`DefinitionError`, which names the feature and the argument.
    """

    name: str
    source: EventStream | Sequence[EventStream]
    entity: str | Sequence[str]
    features: Mapping[str, Aggregation]
    ttl: str | int | timedelta | None = None
    where: pl.Expr | None = None
    lookups: Mapping[str, FeatureReference] = field(default_factory=dict)
    publish_changes: bool = True
    plan: Plan = field(init=False, repr=False)
    columns: Contract = field(init=False, repr=False)
    stream: EventStream | Repartition = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            ttl_ns = 0 if self.ttl is None else parse_duration(self.ttl)
        except ValueError as error:
            raise DefinitionError(f"{self.name}.ttl", str(error)) from error
        if self.ttl is not None and ttl_ns <= 0:
            raise DefinitionError(f"{self.name}.ttl", "must be longer than 0")
        entity = entity_fields(f"{self.name}.entity", self.entity)
        stream = stream_of(self.name, self.source, entity)
        lookups, columns = resolve(self.name, stream, entity_name(entity), self.lookups)
        plan = compile_plan(
            self.name, stream, entity, ttl_ns, self.where, self.features, columns, lookups
        )
        object.__setattr__(self, "entity", entity[0] if len(entity) == 1 else entity)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "stream", stream)
        object.__setattr__(self, "plan", plan)

    def __getitem__(self, feature: str) -> FeatureReference:
        """A scalar feature, for the ``lookups`` of another view."""
        scalars = [f.name for f in self.plan.features if f.scalar]
        if feature not in scalars:
            raise DefinitionError(
                f"{self.name}[{feature!r}]",
                f"the view has no such scalar feature; it has: {', '.join(scalars)}",
            )
        return FeatureReference(self, feature)

    @property
    def sources(self) -> tuple[EventStream, ...]:
        """The streams whose events it is computed from."""
        return self.stream.sources if isinstance(self.stream, Repartition) else (self.stream,)

    @property
    def changes(self) -> Changes:
        """The rows that changed, as ``pyarrow.RecordBatch``: what ``@app.agent`` takes."""
        return Changes(self)


@dataclass(frozen=True)
class Changes:
    """The changed rows of a view, batch by batch, after each commit."""

    view: FeatureView


@dataclass(frozen=True)
class Changed:
    """A trigger condition: the value of ``column`` differs from the entity's last one."""

    column: str


def changed(column: str) -> Changed:
    """True at an event whose ``column`` (not null) differs from the entity's newest before it.

    The view must keep that value as a feature ``pp.last(column)`` (any ``n``, no ``where``).
    """
    return Changed(column)


@dataclass(frozen=True, eq=False)
class Trigger:
    """Asks for a prediction at certain events of a view.

    Evaluated per event, in offset order, after the event was applied; the request holds the
    features as of that event. ``when`` is None (every event), a polars expression over the event,
    or :func:`changed`. ``features`` names what is sent (default: every scalar feature of the view).
    """

    name: str
    view: FeatureView = field(repr=False)
    when: pl.Expr | Changed | None = None
    features: Sequence[str] | None = None
    mask: str | None = field(init=False, repr=False, default=None)
    list_index: int = field(init=False, repr=False, default=-1)
    sent: tuple[str, ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        check_name("Trigger.name", self.name)
        where = f"Trigger({self.name!r})"
        plan = self.view.plan
        scalars = tuple(f.name for f in plan.features if f.scalar)
        sent = scalars if self.features is None else tuple(self.features)
        for name in sent:
            if name not in scalars:
                raise DefinitionError(
                    f"{where}.features",
                    f"view {plan.view!r} has no scalar feature {name!r}; "
                    f"it has: {', '.join(scalars)}",
                )
        object.__setattr__(self, "sent", sent)
        if isinstance(self.when, Changed):
            object.__setattr__(self, "list_index", self._last_list(where, self.when.column))
        elif self.when is not None:
            contract = self.view.columns
            object.__setattr__(self, "mask", serialize(self.when, contract, f"{where}.when"))
            if output_type(self.when, contract, f"{where}.when") != pl.Boolean():
                raise DefinitionError(f"{where}.when", "must be true or false")

    def _last_list(self, where: str, column: str) -> int:
        plan = self.view.plan
        for index, state in enumerate(plan.lists):
            if (
                state.kind is ListKind.LAST
                and state.mask < 0
                and plan.inputs[state.input] == column
            ):
                return index
        if Inputs(self.view.columns).text(column, where) is not None:
            raise DefinitionError(f"{where}.when", "changed() of a string is not supported")
        raise DefinitionError(
            f"{where}.when",
            f"changed({column!r}) needs the last value: add a feature pp.last({column!r}) "
            f"to view {plan.view!r}",
        )
