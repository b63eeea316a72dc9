"""The null policy of an aggregation as conditions on an event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from operator import or_
from typing import get_args

import polars as pl

from pipeline.errors import DefinitionError
from pipeline.features.aggregations import Aggregation, Nulls
from pipeline.features.inputs import Inputs

__all__ = ["any_of", "null_conditions"]


def null_conditions(
    inputs: Inputs, where: str, aggregation: Aggregation
) -> tuple[pl.Expr | None, pl.Expr | None]:
    """When an event makes the feature null, and when it is to be rejected; None for never.

    Of a ratio the parts are asked. :class:`DefinitionError` for a policy that there is not, or that
    has no column.
    """
    found: dict[str, list[pl.Expr]] = {"propagate": [], "reject": []}
    for name, part in _asked(where, aggregation):
        if part.nulls not in get_args(Nulls):
            raise DefinitionError(
                f"{name}.nulls", f"{part.nulls!r} is none of {', '.join(get_args(Nulls))}"
            )
        if part.nulls == "ignore":
            continue
        if part.column is None:
            raise DefinitionError(f"{name}.nulls", "is about a column, and none is named")
        found[part.nulls].append(inputs.null(part.column, part.where, name))
    return any_of(found["propagate"]), any_of(found["reject"])


def any_of(conditions: Sequence[pl.Expr]) -> pl.Expr | None:
    """True where one of the conditions is; None if there are none."""
    return reduce(or_, conditions) if conditions else None


def _asked(where: str, aggregation: Aggregation) -> Iterator[tuple[str, Aggregation]]:
    if not aggregation.parts:
        yield where, aggregation
    for name, part in zip(("numerator", "denominator"), aggregation.parts, strict=False):
        yield f"{where}.{name}", part
