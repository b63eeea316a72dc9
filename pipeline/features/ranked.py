"""Which values can be ranked: the arguments of aggregations that do, checked."""

from __future__ import annotations

from pipeline.errors import DefinitionError
from pipeline.features.aggregations import Aggregation
from pipeline.features.plan import CellType, FeatureOp, ListKind, exact_q

__all__ = ["RANKED_OPS", "ranked_list"]

RANKED_OPS = frozenset({FeatureOp.TOP_K, FeatureOp.QUANTILE, FeatureOp.MAX_N, FeatureOp.MIN_N})
MAX_N = 1024  # values of a tile, each of them one of the feature's cells

NUMBERS = {CellType.INT, CellType.FLOAT, CellType.DECIMAL, CellType.BOOL}


def ranked_list(where: str, aggregation: Aggregation, type_: CellType) -> ListKind:
    """The kind of list that keeps the values of a tiled window.

    Raises :class:`DefinitionError` for ``where`` and the argument that is wrong.
    """
    if aggregation.op is FeatureOp.QUANTILE:
        q = aggregation.q
        if isinstance(q, bool) or not isinstance(q, int | float) or not 0 <= q <= 1:
            raise DefinitionError(f"{where}.q", f"must be a number from 0 to 1, but is {q!r}")
        try:
            exact_q(q)
        except ValueError as error:
            raise DefinitionError(f"{where}.q", f"{error}: {q!r}") from error
        if type_ not in NUMBERS:
            raise DefinitionError(
                where, f"quantiles are of numbers, but the column is {type_.name.lower()}"
            )
        return ListKind.COUNTS
    if aggregation.op in {FeatureOp.MAX_N, FeatureOp.MIN_N}:
        n, name = aggregation.n, aggregation.op.name.lower()
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_N:
            raise DefinitionError(f"{where}.n", f"must be 1 to {MAX_N}, but is {n!r}")
        if type_ is CellType.HASH:
            raise DefinitionError(where, f"{name}() of a string is not supported: it has no order")
        return ListKind.LARGEST if aggregation.op is FeatureOp.MAX_N else ListKind.SMALLEST
    k, bound = aggregation.n, aggregation.bound
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= bound:
        raise DefinitionError(f"{where}.k", f"must be 1 to {bound}, which is bound, but is {k!r}")
    return ListKind.FREQUENT
