"""A view with its triggers, ready to be computed: what all its partitions share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.app.lookups import LookupPlan, lookup_plans
from pipeline.features.derive import Derivation
from pipeline.features.stored import AnyView, StoredView
from pipeline.features.streamjson import stream_to_json
from pipeline.features.view import Trigger
from pipeline.state.batch import TriggerKind, TriggerTables

__all__ = ["ViewPlan", "view_plans"]


@dataclass(frozen=True)
class ViewPlan:
    """A view with its triggers and what they need per event; shared by all partitions.

    ``reads`` is its stream as text: views whose texts differ read a topic in their own ways.
    ``delivered``: an agent takes its changed rows.
    """

    view: AnyView
    triggers: tuple[Trigger, ...]
    derivation: Derivation
    tables: TriggerTables | None
    lookups: tuple[LookupPlan, ...]
    reads: str
    delivered: bool = False

    @property
    def tells(self) -> bool:
        """Whether anybody wants to know of changed rows."""
        return self.delivered or self.view.publish_changes

    @property
    def stored(self) -> bool:
        """Whether it is kept up from its record, without a definition."""
        return isinstance(self.view, StoredView)

    @property
    def label(self) -> str:
        """Its name; with the fingerprint where it stands beside the version that is defined."""
        if not self.stored:
            return self.view.name
        return f"{self.view.name}@{self.view.plan.fingerprint:016x}"

    @classmethod
    def build(
        cls, view: AnyView, triggers: Sequence[Trigger], *, delivered: bool = False
    ) -> ViewPlan:
        """Trigger conditions become masks after the plan's own."""
        extra = [t.mask for t in triggers if t.mask is not None]
        rows = []
        for trigger in triggers:
            if trigger.list_index >= 0:
                rows.append((TriggerKind.CHANGED, trigger.list_index, 0))
            elif trigger.mask is not None:
                rows.append((TriggerKind.MASK, len(view.plan.masks) + extra.index(trigger.mask), 0))
            else:
                rows.append((TriggerKind.EVERY, -1, 0))
        tables = TriggerTables(np.array(rows, dtype=np.int64).reshape(-1, 3)) if rows else None
        derivation, lookups = Derivation(view.plan, extra), lookup_plans(view.plan)
        reads = stream_to_json(view.stream)
        return cls(view, tuple(triggers), derivation, tables, lookups, reads, delivered)


def view_plans(
    views: Sequence[AnyView], triggers: Sequence[Trigger], delivered: Collection[str] = ()
) -> list[ViewPlan]:
    """Each view with its triggers; agents take the changed rows of those named ``delivered``."""
    return [
        ViewPlan.build(v, [t for t in triggers if t.view is v], delivered=v.name in delivered)
        for v in views
    ]
