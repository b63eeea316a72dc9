"""A view without its definition: the plan and the stream that were registered of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from pipeline.errors import DefinitionError
from pipeline.features.derive import Derivation
from pipeline.features.lookups import row_plans
from pipeline.features.plan import Plan
from pipeline.features.planjson import fingerprint_of, from_json
from pipeline.features.repartition import Repartition
from pipeline.features.stream import EventStream
from pipeline.features.streamjson import Registries, stream_from_json, stream_to_json
from pipeline.features.view import FeatureView

__all__ = ["AnyView", "StoredView", "source_json"]


@dataclass(frozen=True, eq=False)
class StoredView:
    """A version of a view that was registered; it stands where a :class:`FeatureView` does.

    ``sent`` are the fields that the repartition topic of such a view was given when its program
    ran: the way there goes on under the same marker. ``triggers`` are names of what only programs
    that define it can evaluate.
    """

    name: str
    plan: Plan = field(repr=False)
    stream: EventStream | Repartition = field(repr=False)
    sent: tuple[str, ...] = field(repr=False, default=())
    triggers: tuple[str, ...] = field(repr=False, default=())
    publish_changes: bool = True

    @classmethod
    def of(cls, plan: str, source: str, registries: Registries) -> StoredView:
        """From the plan and the source of a view's record.

        Raises :class:`DefinitionError`, which names the view, for what this program cannot compute
        as the one that wrote it did: another row format, expressions of another polars.
        """
        compiled = from_json(plan)
        where = f"{compiled.view} {compiled.fingerprint:016x}"
        if not source:
            raise DefinitionError(where, "its record does not say what its events come from")
        if any(fingerprint_of(p) != p.fingerprint for p in _own(compiled)):
            raise DefinitionError(where, "another version of this program computes its rows")
        try:
            fields = json.loads(source)
            stream, sent = json.dumps(fields["stream"]), tuple(fields["sent"])
            triggers, written = tuple(fields["triggers"]), str(fields["polars"])
            publish = bool(fields["publish_changes"])
        except (ValueError, KeyError, TypeError) as problem:
            raise DefinitionError(f"{where}.source", str(problem)) from problem
        made = stream_from_json(stream, where, registries)
        view = cls(compiled.view, compiled, made, sent, triggers, publish)
        view._check_expressions(where, written)
        return view

    @property
    def sources(self) -> tuple[EventStream, ...]:
        """The streams whose events it is computed from."""
        return self.stream.sources if isinstance(self.stream, Repartition) else (self.stream,)

    def _check_expressions(self, where: str, written: str) -> None:
        try:
            for plan in row_plans(self.plan):
                Derivation(plan)
        except (pl.exceptions.PolarsError, ValueError) as problem:
            raise DefinitionError(
                where,
                f"its expressions were written by polars {written}, and {pl.__version__} cannot "
                f"read them: {problem}",
            ) from problem


AnyView = FeatureView | StoredView
"""What a worker keeps up."""


def source_json(view: AnyView, sent: Sequence[str], triggers: Sequence[str] = ()) -> str:
    """What a view's record says of its source; see :class:`StoredView`."""
    stream = json.loads(stream_to_json(view.stream))
    fields = {
        "stream": stream,
        "sent": list(sent),
        "triggers": list(triggers),
        "publish_changes": view.publish_changes,
        "polars": pl.__version__,
    }
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def _own(plan: Plan) -> list[Plan]:
    """The plan and those it looks up, as their views have them."""
    return [plan, *(inner for lookup in plan.lookups for inner in _own(lookup.plan))]
