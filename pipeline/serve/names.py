"""From names of features to the views that have them, as the registry knows them now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.errors import DefinitionError, UnknownNameError
from pipeline.features.plan import Plan
from pipeline.features.planjson import from_json
from pipeline.state.columns import FeatureColumns
from pipeline.store.registry import Registry, ViewRecord, unknown_name

__all__ = ["AskedView", "Column", "Selection", "select"]

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AskedView:
    """A view as registered, and the features asked of it: names, and positions in the plan."""

    record: ViewRecord
    plan: Plan
    features: tuple[str, ...]
    positions: I64
    columns: FeatureColumns = field(compare=False)


@dataclass(frozen=True, slots=True)
class Column:
    """An output column: feature number ``feature`` of those asked of view number ``view``."""

    name: str
    view: int
    feature: int


@dataclass(frozen=True, slots=True)
class Selection:
    """What a query reads: views in the order first named, columns in the order asked for."""

    views: tuple[AskedView, ...]
    columns: tuple[Column, ...]

    @property
    def entities(self) -> dict[str, str]:
        """Fields of the views' entities -> ``int64``, ``string``, ``uuid`` or ``bytes``."""
        return {n: kind for view in self.views for n, kind in view.plan.entities.items()}

    def refuse_lists(self) -> None:
        """Raise DefinitionError if a feature holds a list or a string."""
        for view in self.views:
            for position in view.positions.tolist():
                feature = view.plan.features[position]
                if feature.width > 1:
                    raise DefinitionError(
                        f"{view.record.name}:{feature.name}",
                        f"is a list of up to {feature.width}; a matrix takes scalars: use read()",
                    )
                if feature.words:
                    raise DefinitionError(
                        f"{view.record.name}:{feature.name}",
                        "is a string; a matrix takes numbers: use read()",
                    )


def select(
    registry: Registry, asked: Sequence[str], app: str | None, before: Selection | None = None
) -> Selection:
    """Look up ``"view:feature"`` and ``"view"`` (all its features); repeated names count once.

    Plans that ``before`` has are not read again. Raises UnknownNameError, which lists names like
    the unknown one, and DefinitionError for views that disagree on an entity's type.
    """
    if isinstance(asked, str) or not asked:
        raise UnknownNameError(f"no features asked for: {asked!r} is no list of 'view:feature'")
    plans = {view.record: view.plan for view in before.views} if before else {}
    found: dict[str, tuple[ViewRecord, Plan]] = {}
    pairs: dict[tuple[str, str], None] = {}
    for item in asked:
        view, _, feature = item.partition(":")
        if view not in found:
            record = registry.resolve(view, app)
            found[view] = (record, plans.get(record) or from_json(record.plan))
        names = _features(view, found[view][1], feature)
        pairs |= dict.fromkeys((view, name) for name in names)
    views = tuple(
        _asked_view(record, plan, [feature for name, feature in pairs if name == view])
        for view, (record, plan) in found.items()
    )
    _refuse_two_types(views)
    return Selection(views, _columns(list(pairs), views))


def _features(view: str, plan: Plan, asked: str) -> list[str]:
    names = [feature.name for feature in plan.features]
    if asked and asked not in names:
        raise unknown_name(f"feature of view {view!r} named", asked, names)
    return [asked] if asked else names


def _asked_view(record: ViewRecord, plan: Plan, features: list[str]) -> AskedView:
    names = [feature.name for feature in plan.features]
    positions = np.array([names.index(name) for name in features], dtype=np.int64)
    return AskedView(record, plan, tuple(features), positions, FeatureColumns(plan, features))


def _columns(pairs: list[tuple[str, str]], views: Sequence[AskedView]) -> tuple[Column, ...]:
    """Short names, and long ones where a short one would stand twice or hide a key column."""
    short = [feature for _, feature in pairs] + list(
        {name for v in views for name in v.plan.entities}
    )
    number = {view.record.name: i for i, view in enumerate(views)}
    return tuple(
        Column(
            name=f"{view}__{feature}" if short.count(feature) > 1 else feature,
            view=number[view],
            feature=views[number[view]].features.index(feature),
        )
        for view, feature in pairs
    )


def _refuse_two_types(views: Sequence[AskedView]) -> None:
    types: dict[str, str] = {}
    for view in views:
        for name, kind in view.plan.entities.items():
            if types.setdefault(name, kind) != kind:
                raise DefinitionError(
                    f"{view.record.name}.{name}",
                    f"is {kind}, but {types[name]} in another view of the query: make two queries",
                )
