"""Polars expressions inside definitions: serialised, typed, and held to one row at a time.

A feature must not depend on how the log is cut into batches, so an expression
may look at its own row only: aggregations, sorts, shifts, windows and Python
functions are refused when the view is defined.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import polars as pl

from pipeline.contracts.contract import Contract, FieldType
from pipeline.errors import DefinitionError

__all__ = [
    "FAILURES",
    "canonical",
    "deserialize",
    "frame_schema",
    "output_type",
    "roots",
    "serialize",
]

FAILURES = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What polars raises for values that an expression cannot take; a panic is no error of its own."""

NODES = {"Column", "Literal", "BinaryExpr", "Cast", "Ternary", "Alias", "Function"}
FUNCTIONS = {
    *("Negate", "FillNull", "Abs", "Round", "Floor", "Ceil", "Clip", "Log", "Log1p", "Exp"),
    *("Sign", "Coalesce", "MinHorizontal", "MaxHorizontal", "SumHorizontal", "MeanHorizontal"),
    *("Hash", "Reinterpret", "Atan2", "RoundSF"),
}
FAMILIES = {
    "StringExpr": None,  # every member but the joins looks at one row
    "TemporalExpr": None,
    "BinaryExpr": {"Size"},
    "Boolean": {"IsBetween", "IsIn", "IsNull", "IsNotNull", "IsNan", "IsNotNan", "IsFinite",
                "IsInfinite", "IsClose", "Not", "AnyHorizontal", "AllHorizontal"},
    "Trigonometry": None,
    "Pow": None,
}  # fmt: skip
NOT_ROWWISE_STRINGS = {"ConcatVertical"}
POLARS_TYPES: dict[FieldType, pl.DataType] = {
    FieldType.INT64: pl.Int64(),
    FieldType.FLOAT64: pl.Float64(),
    FieldType.DECIMAL: pl.Float64(),
    FieldType.BOOL: pl.Boolean(),
    FieldType.STRING: pl.String(),
    FieldType.UUID: pl.String(),
    FieldType.BYTES: pl.Binary(),
    FieldType.TIMESTAMP: pl.Datetime("ns", "UTC"),
}


def frame_schema(contract: Contract) -> dict[str, pl.DataType]:
    """Column types an expression sees: decimals as Float64, timestamps as Datetime(ns, UTC)."""
    return {field.name: POLARS_TYPES[field.type] for field in contract.fields}


def serialize(expression: pl.Expr, contract: Contract, where: str) -> str:
    """The expression as canonical JSON.

    :class:`DefinitionError` at ``where`` if it reads a field that the contract
    lacks or does more than look at its own row.
    """
    text = canonical(expression, where)
    for node in _refused(json.loads(text)):
        raise DefinitionError(
            where,
            f"{node!r} looks at more than its own row (or is not supported); "
            "the result would depend on how events are batched",
        )
    known = frame_schema(contract)
    for name in expression.meta.root_names():
        if name not in known:
            raise DefinitionError(
                where, f"the contract has no field {name!r}; it has: {', '.join(known)}"
            )
    return text


def canonical(expression: pl.Expr, where: str) -> str:
    """The same, whatever it looks at."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the JSON form is marked as bound to a polars version
        try:
            tree = json.loads(expression.meta.serialize(format="json"))
        except (pl.exceptions.ComputeError, ValueError, UnicodeDecodeError) as error:
            raise DefinitionError(
                where, f"this polars expression has no stable form: {error}"
            ) from error
    _settle_sets(tree)
    return json.dumps(tree, sort_keys=True, separators=(",", ":"))


def deserialize(text: str) -> pl.Expr:
    """Inverse of :func:`serialize`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pl.Expr.deserialize(BytesIO(text.encode()), format="json")


def roots(text: str) -> list[str]:
    """Fields that a serialised expression reads."""
    return deserialize(text).meta.root_names()


def output_type(expression: pl.Expr, contract: Contract, where: str) -> pl.DataType:
    """Type of the expression's result; :class:`DefinitionError` if the types do not fit.

    It is computed over no rows, for its type, and over rows without values, where a pattern or
    format that can never be used shows.
    """
    schema = frame_schema(contract)
    empty = pl.DataFrame(schema=schema)
    blank = pl.DataFrame({name: [None, None] for name in schema}, schema=schema)
    try:
        result = empty.select(expression.alias("result"))["result"]
        blank.select(expression)
    except FAILURES as error:
        raise DefinitionError(where, f"the expression cannot be computed: {error}") from error
    if len(result) > 1:
        raise DefinitionError(where, f"the expression gives {len(result)} values for every row")
    return result.dtype


def _settle_sets(tree: Any) -> None:
    """Sort the values of every ``is_in``, in place: a set of strings has another order in every
    process, and equal definitions must have equal texts."""
    if isinstance(tree, list):
        for part in tree:
            _settle_sets(part)
    if not isinstance(tree, dict):
        return
    for part in tree.values():
        _settle_sets(part)
    if _is_in(tree.get("function")) and "Literal" in tree["input"][1]:
        values = pl.select(deserialize(json.dumps(tree["input"][1]))).to_series()
        if isinstance(values.dtype, pl.List) and len(values) == 1:
            values = values.explode()
        settled = pl.lit(values.unique().sort().alias("").implode())
        tree["input"][1] = json.loads(settled.meta.serialize(format="json"))


def _is_in(function: Any) -> bool:
    return isinstance(function, dict) and "IsIn" in (function.get("Boolean") or {})


def _refused(tree: Any) -> Iterator[str]:
    """Names of the parts of an expression tree that are not known to be row-wise."""
    if isinstance(tree, str):
        yield tree
        return
    (kind, body), *_ = tree.items()
    if kind not in NODES:
        yield kind
    elif kind == "BinaryExpr":
        yield from _refused(body["left"])
        yield from _refused(body["right"])
    elif kind == "Cast":
        if "Categorical" in json.dumps(body["dtype"]):
            yield "Categorical"
        yield from _refused(body["expr"])
    elif kind == "Alias":
        yield from _refused(body[0])
    elif kind == "Ternary":
        for part in ("predicate", "truthy", "falsy"):
            yield from _refused(body[part])
    elif kind == "Function":
        yield from _refused_function(body["function"])
        if _is_in(body["function"]) and "Literal" not in body["input"][1]:
            yield "is_in(column)"
        for argument in body["input"]:
            yield from _refused(argument)


def _refused_function(function: Any) -> Iterator[str]:
    family, member = (function, None) if isinstance(function, str) else next(iter(function.items()))
    name = member if isinstance(member, str) else next(iter(member), None) if member else None
    if family in FUNCTIONS:
        return
    if family not in FAMILIES or name in NOT_ROWWISE_STRINGS:
        yield family if name is None else f"{family}.{name}"
        return
    if isinstance(member, dict) and name == "Strptime" and member[name][1]["format"] is None:
        yield "a format that is guessed from the first value"
    allowed = FAMILIES[family]
    if allowed is not None and name not in allowed:
        yield f"{family}.{name}"
