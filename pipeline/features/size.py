"""How large a row of a plan can become."""

from __future__ import annotations

from pipeline.errors import DefinitionError
from pipeline.features.plan import COUNT_KINDS, TILE_BOUND_KINDS, ListState, Plan

__all__ = ["MAX_ROW_WORDS", "check_size", "most_entries"]

MAX_ROW_WORDS = 1 << 21  # 16 MiB: what a worker sets aside, twice, per view and partition


def check_size(plan: Plan) -> None:
    """:class:`DefinitionError` if the largest row would not be one that is read at every event."""
    words = sum(_list_words(plan, state) for state in plan.lists)
    for number, ring in enumerate(plan.rings):
        words += ring.tiles * (1 + sum(a.ring == number for a in plan.accumulators))
    if words > MAX_ROW_WORDS:
        raise DefinitionError(
            f"{plan.view}.features",
            f"a full row would take {words * 8 >> 20} MiB (at most {MAX_ROW_WORDS * 8 >> 20}): "
            "choose longer slides, smaller bounds, or several views",
        )


def most_entries(plan: Plan, state: ListState) -> int:
    """Entries of a full list."""
    if state.kind in TILE_BOUND_KINDS:
        return state.bound * plan.rings[state.ring].tiles
    return state.bound


def _list_words(plan: Plan, state: ListState) -> int:
    """What a full list takes in memory: tiles have three words, their entries two."""
    if state.kind in COUNT_KINDS:
        return 3 * plan.rings[state.ring].tiles + 2 * most_entries(plan, state)
    return 3 * state.bound
