"""How much memory one row of a plan can take."""

from __future__ import annotations

from pipeline.features.plan import COUNT_KINDS, ListKind, Plan
from pipeline.features.size import most_entries
from pipeline.kernels import rings
from pipeline.kernels.arena import block_words
from pipeline.kernels.counts import counts_words
from pipeline.kernels.distinct import DISTINCT_WORDS, MAX_STEPS
from pipeline.kernels.ids import roomy
from pipeline.kernels.lists import LAST_WORDS
from pipeline.kernels.ranking import scratch_words
from pipeline.kernels.tiles import spacious

__all__ = ["scratch_needed", "words_needed"]


def words_needed(plan: Plan) -> int:
    """Words of the arena that one event, or one loaded row, can take at most."""
    entries = [1 + sum(a.ring == r for a in plan.accumulators) for r in range(len(plan.rings))]
    # narrow tiles, which a number that does not fit makes wide
    words = [
        2 * block_words(rings.roomy(ring.tiles + 1) * entry)
        for ring, entry in zip(plan.rings, entries, strict=True)
    ]
    for state in plan.lists:
        if state.kind is ListKind.DISTINCT:
            most = state.bound * DISTINCT_WORDS + MAX_STEPS
        elif state.kind in COUNT_KINDS:
            ring = plan.rings[state.ring]
            most = spacious(counts_words(ring.tiles + 1, most_entries(plan, state) + 1), 1)
        elif state.kind is ListKind.EVENTS:
            most = spacious(state.bound + 1, LAST_WORDS)
        elif state.kind is ListKind.IDS:
            # as loaded, before there is room for the filter
            words.append(block_words(state.bound * LAST_WORDS))
            most = roomy(state.bound + 1)
        else:
            most = state.bound * LAST_WORDS
        words.append(block_words(most))
    return int(sum(words))


def scratch_needed(plan: Plan) -> int:
    """Words that counting or ranking the values of a list takes at most."""
    kinds = COUNT_KINDS | {ListKind.EVENTS}
    bounds = [most_entries(plan, s) for s in plan.lists if s.kind in kinds and s.input >= 0]
    return int(scratch_words(max(bounds))) if bounds else 1
