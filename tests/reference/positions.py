"""Slow twin of :mod:`pipeline.kernels.positions`: one dictionary, one row at a time."""

from __future__ import annotations

from collections.abc import Iterable

Place = tuple[int, int]


def repeated(
    rows: Iterable[tuple[Place, int, bool]], highest: dict[Place, int]
) -> tuple[list[bool], dict[Place, int]]:
    """Whether each (place, offset, selected) was seen, and the highest offsets afterwards."""
    known, found = dict(highest), []
    for place, offset, selected in rows:
        seen = selected and place in known and offset <= known[place]
        if selected and not seen:
            known[place] = offset
        found.append(seen)
    return found, known
