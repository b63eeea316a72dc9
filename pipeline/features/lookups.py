"""Look-ups: a scalar feature of one view as a column of the events of another.

For each event the value is that of the entity's row in the looked-up view once that has applied
every record up to and including this event, as of the event's time (or of the row's newest event,
where that is later); null where the row is missing or expired.

A view that looks up keeps rows of the looked-up view of its own, which begin where it begins
itself and are committed with it. So its values follow from the log alone: not from how far the
looked-up view is, when either was added, or whether the application runs the other at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.contracts.contract import Contract, Field, FieldType
from pipeline.errors import DefinitionError
from pipeline.features.compile import check_name
from pipeline.features.plan import CellType, Feature, FeatureOp, Lookup, Plan
from pipeline.features.repartition import Repartition
from pipeline.features.stream import EventStream

if TYPE_CHECKING:
    from pipeline.features.view import FeatureView

__all__ = ["FeatureReference", "column_type", "own_rows", "resolve", "row_plans"]

INTEGERS = {FeatureOp.COUNT, FeatureOp.DISTINCT}
VALUES = {
    FeatureOp.TOP_K,
    FeatureOp.MAX_N,
    FeatureOp.MIN_N,
    FeatureOp.SUM,
    FeatureOp.MIN,
    FeatureOp.MAX,
    FeatureOp.FIRST,
    FeatureOp.LAST,
}
FIELD_TYPES = {
    CellType.INT: FieldType.INT64,
    CellType.FLOAT: FieldType.FLOAT64,
    CellType.DECIMAL: FieldType.FLOAT64,
    CellType.TIME: FieldType.TIMESTAMP,
    CellType.BOOL: FieldType.BOOL,
}


@dataclass(frozen=True, slots=True)
class FeatureReference:
    """A feature of a view, ``view["feature"]``, to be looked up by another one."""

    view: FeatureView
    feature: str


def resolve(
    view: str,
    source: EventStream | Repartition,
    entity: str,
    lookups: Mapping[str, FeatureReference],
) -> tuple[tuple[Lookup, ...], Contract]:
    """What a view's plan has to know of its look-ups, and the columns that its events have.

    Raises :class:`DefinitionError`, which names ``<view>.lookups.<column>``.
    """
    found: dict[int, tuple[Plan, dict[str, int]]] = {}
    fields = list(source.schema.fields)
    for column, reference in lookups.items():
        where = f"{view}.lookups.{column}"
        feature = _feature(view, source, entity, where, column, reference)
        fields.append(_field(where, column, feature))
        plan, columns = found.setdefault(reference.view.plan.fingerprint, (reference.view.plan, {}))
        columns[column] = plan.features.index(feature)
    made = tuple(
        Lookup(plan, tuple(columns), tuple(columns.values())) for plan, columns in found.values()
    )
    return made, dataclasses.replace(source.schema, fields=tuple(fields)) if made else source.schema


def column_type(feature: Feature) -> FieldType | None:
    """Type of a scalar feature as a column; None for one that has none."""
    if not feature.scalar:
        return None
    if feature.op in INTEGERS:
        return FieldType.INT64
    if feature.op not in VALUES:
        return FieldType.FLOAT64
    if feature.op is FeatureOp.SUM and feature.type is CellType.BOOL:
        return FieldType.INT64
    return FIELD_TYPES.get(feature.type)


def own_rows(owner: Plan, lookup: Lookup) -> Plan:
    """The looked-up plan as the rows that ``owner`` keeps of it are stored: under a fingerprint of
    their own, the first 8 bytes of the SHA-256 of both fingerprints, little-endian."""
    pair = owner.fingerprint.to_bytes(8, "little") + lookup.plan.fingerprint.to_bytes(8, "little")
    fingerprint = int.from_bytes(hashlib.sha256(pair).digest()[:8], "little")
    return dataclasses.replace(lookup.plan, fingerprint=fingerprint)


def row_plans(plan: Plan) -> Iterator[Plan]:
    """``plan``, and the plans of all rows that it keeps for its look-ups, theirs included."""
    yield plan
    for lookup in plan.lookups:
        yield from row_plans(own_rows(plan, lookup))


def _feature(
    view: str, source: EventStream | Repartition, entity: str, where: str, column: str,
    reference: FeatureReference,
) -> Feature:  # fmt: skip
    check_name(f"{view}.lookups", column)
    if not isinstance(reference, FeatureReference):
        raise DefinitionError(
            where, f'is a {type(reference).__name__}, not a feature such as view["name"]'
        )
    if column in source.schema.names:
        raise DefinitionError(where, "the contract has a field of that name")
    plan = reference.view.plan
    if any(p.view == view for p in row_plans(plan)):
        raise DefinitionError(where, f"view {plan.view!r} would look itself up through this one")
    if reference.view.stream != source:
        raise DefinitionError(
            where, f"view {plan.view!r} is not over the same stream, {source.topic!r}"
        )
    if plan.entity != entity:
        raise DefinitionError(
            where, f"view {plan.view!r} has the entity {plan.entity}, this one {entity}"
        )
    return next(f for f in plan.features if f.name == reference.feature)


def _field(where: str, column: str, feature: Feature) -> Field:
    type_ = column_type(feature)
    if type_ is None:
        raise DefinitionError(where, f"{feature.name!r} is a list or a string: look up a number")
    unit = "ns" if type_ is FieldType.TIMESTAMP else ""
    return Field(column, type_, nullable=True, unit=unit)
