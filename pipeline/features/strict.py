"""Rows on which the strict steps of expressions fail, found for a whole column at a time.

One value that a strict step (a cast, the format of a date) does not take makes polars refuse the
column. Done leniently, the same step makes null of it: where a step got a value and gives none, it
would have failed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.features.expressions import FAILURES, deserialize

__all__ = ["StrictSteps"]

Bools = npt.NDArray[np.bool_]
DECODERS = {"HexDecode", "Base64Decode"}


class StrictSteps:
    """The strict steps of serialised expressions."""

    def __init__(self, texts: Sequence[str]) -> None:
        trees = [json.loads(text) for text in texts]
        steps = {step for tree in trees for step in _steps(tree)}
        choices = {choice for tree in trees for choice in _choices(tree)}
        fails = [deserialize(a).is_not_null() & deserialize(b).is_null() for a, b in sorted(steps)]
        takes = [deserialize(choice) for choice in sorted(choices)]
        self._steps = len(fails)
        self._checks = [
            check.cast(pl.Int8).fill_null(-1).alias(f"{i}")
            for i, check in enumerate([*fails, *takes])
        ]

    def failing(self, frame: pl.DataFrame, succeeds: Callable[[pl.DataFrame], bool]) -> Bools:
        """bool[n], true for rows of ``frame`` on which a strict step fails; others may fail too.

        A step that polars leaves out (in a branch that no row takes) fails nothing: one row stands
        for all that fail the same steps and take the same branches, and ``succeeds`` tells whether
        it can be computed alone.
        """
        failed = np.zeros(len(frame), dtype=np.bool_)
        if not self._steps:
            return failed
        try:
            flags = frame.select(self._checks)
        except FAILURES:
            return failed  # something else than these steps fails: rows have to be tried
        table = np.broadcast_to(flags.to_numpy(), (len(frame), len(self._checks)))
        kinds, first, kind = np.unique(table, axis=0, return_index=True, return_inverse=True)
        for number, row in enumerate(first.tolist()):
            if kinds[number, : self._steps].any() and not succeeds(frame[row : row + 1]):
                failed |= kind == number
        return failed


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every node of a tree; there is none in a literal."""
    if isinstance(tree, list):
        for part in tree:
            yield from _nodes(part)
    if not isinstance(tree, dict) or "Literal" in tree:
        return
    for part in tree.values():
        yield from _nodes(part)
    yield tree


def _steps(tree: Any) -> Iterator[tuple[str, str]]:
    """Every strict step in a tree: what it gets and what it makes of that, leniently, as JSON."""
    for node in _nodes(tree):
        taken = _taken(node)
        if taken is not None:
            yield json.dumps(_lenient(taken)), json.dumps(_lenient(node))


def _choices(tree: Any) -> Iterator[str]:
    """The condition of every branch in a tree, leniently, as JSON."""
    for node in _nodes(tree):
        if "Ternary" in node:
            yield json.dumps(_lenient(node["Ternary"]["predicate"]))


def _taken(node: dict[str, Any]) -> Any:
    """What a strict step takes its values from; None for any other node."""
    if node.get("Cast", {}).get("options") == "Strict":
        return node["Cast"]["expr"]
    if _lenient_function(node) is None:
        return None
    first, *others = node["Function"]["input"]
    return first if all("Literal" in other for other in others) else None


def _lenient(tree: Any) -> Any:
    """The tree with every strict step made lenient."""
    if isinstance(tree, list):
        return [_lenient(part) for part in tree]
    if not isinstance(tree, dict) or "Literal" in tree:
        return tree
    made = {name: _lenient(part) for name, part in tree.items()}
    if _taken(tree) is None:
        return made
    if "Cast" in made:
        return {"Cast": made["Cast"] | {"options": "NonStrict"}}
    return {"Function": made["Function"] | {"function": _lenient_function(tree)}}


def _lenient_function(node: dict[str, Any]) -> Any:
    """The lenient form of a strict function, None for any other node."""
    function = node.get("Function", {}).get("function")
    if not isinstance(function, dict):
        return None
    (family, member), *_ = function.items()
    if family != "StringExpr" or not isinstance(member, dict):
        return None
    (name, options), *_ = member.items()
    if name in DECODERS and options is True:
        return {family: {name: False}}
    if name == "ToInteger" and options["strict"]:
        return {family: {name: options | {"strict": False}}}
    if name == "Strptime" and options[1]["strict"]:
        return {family: {name: [options[0], options[1] | {"strict": False}]}}
    return None
