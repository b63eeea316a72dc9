"""Where the values of a window are kept: in tiles, in an events list, or in neither."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.errors import DefinitionError
from pipeline.features.aggregations import Aggregation
from pipeline.features.plan import FeatureOp
from pipeline.units import format_duration

__all__ = ["FOREVER", "MAX_BOUND", "MAX_TILES", "Window", "place"]

MAX_TILES = (
    20_000  # per ring: a row read touches every tile, and a full ring must stay a value of Redis
)
MAX_BOUND = 65_536
BOUNDED = {FeatureOp.DISTINCT, FeatureOp.TOP_K, FeatureOp.QUANTILE}  # by an argument of their own
EVENTS_KEPT = 4096  # by an exact window that does not say
FOREVER = 2**63 - 1  # the horizon of a list that no time makes forget


@dataclass(frozen=True, slots=True)
class Window:
    """``tiles`` of ``width`` ns, or the newest ``keep`` events of ``horizon`` ns; all 0: neither,
    the last values have a list of their own."""

    width: int = 0
    tiles: int = 0
    keep: int = 0
    horizon: int = 0


def place(ttl_name: str, ttl_ns: int, where: str, aggregation: Aggregation) -> Window:
    """How the window of an aggregation is kept.

    Raises :class:`DefinitionError` for ``where`` and the argument that is wrong, or for
    ``ttl_name`` if rows expire (``ttl_ns``, 0: never) inside the window.
    """
    op, window, slide = aggregation.op, aggregation.window_ns, aggregation.slide_ns
    if op in {FeatureOp.DECAYED, FeatureOp.EWMA}:
        if window or slide or aggregation.exact:
            raise DefinitionError(f"{where}.over", "what decays has no window: leave it out")
        return Window()
    if window == 0 and slide == 0:
        if op is FeatureOp.LAST:
            return Window()
        raise DefinitionError(where, 'has no window: add .over("7d") or .over("7d", slide="1h")')
    if window <= 0:
        raise DefinitionError(f"{where}.over", "the window must be longer than 0")
    if not aggregation.exact and not 0 < slide <= window:
        raise DefinitionError(
            f"{where}.slide", "the slide must be longer than 0 and at most the window"
        )
    reach = window + slide + aggregation.delay_ns
    if reach >= 2**63:
        raise DefinitionError(f"{where}.over", "window, slide and delay exceed 292 years")
    if ttl_ns and ttl_ns < reach:
        parts = "window + slide + delay" if aggregation.delay_ns else "window + slide"
        raise DefinitionError(
            ttl_name,
            f"{format_duration(ttl_ns)} is shorter than {parts} of {where} "
            f"({format_duration(reach)}): rows would expire inside their window",
        )
    return _exact(where, aggregation) if aggregation.exact else _tiled(where, aggregation, reach)


def _tiled(where: str, aggregation: Aggregation, reach: int) -> Window:
    op, window, slide = aggregation.op, aggregation.window_ns, aggregation.slide_ns
    if aggregation.keep is not None:
        raise DefinitionError(
            f"{where}.bound", "is of a window without a slide; this one is kept in tiles"
        )
    if aggregation.delay_ns and op in {FeatureOp.DISTINCT, FeatureOp.LAST}:
        raise DefinitionError(
            f"{where}.delay",
            f"with a slide {op.name.lower()} keeps only the newest values, which say nothing of "
            "an earlier window: leave the slide out",
        )
    if op is FeatureOp.LAST:
        return Window()
    width = math.gcd(window, slide)
    if aggregation.delay_ns % width:
        raise DefinitionError(
            f"{where}.delay",
            f"must be a multiple of {format_duration(width)}, the width of the tiles that window "
            "and slide need: else the window would begin and end inside a tile",
        )
    tiles = reach // width
    if tiles > MAX_TILES:
        raise DefinitionError(
            f"{where}.slide",
            f"window and slide need {tiles} tiles of {format_duration(width)} "
            f"(at most {MAX_TILES}): choose a longer slide, or a window that is a multiple "
            f"of it",
        )
    return Window(width=width, tiles=tiles)


def _exact(where: str, aggregation: Aggregation) -> Window:
    """A window of events; for the last values of one that ends now, those are enough."""
    op, keep = aggregation.op, aggregation.keep
    if op is FeatureOp.LAST and not aggregation.delay_ns:
        if keep is not None:
            raise DefinitionError(f"{where}.bound", "last() keeps its n values: leave it out")
        return Window()
    if keep is None:
        keep = aggregation.bound if op in BOUNDED else EVENTS_KEPT
    if not max(1, aggregation.n) <= keep <= MAX_BOUND:
        name = "k" if op is FeatureOp.TOP_K else "n"
        least = f"{aggregation.n}, which is {name}," if aggregation.n > 1 else "1"
        raise DefinitionError(f"{where}.bound", f"must be {least} to {MAX_BOUND}")
    return Window(keep=keep, horizon=aggregation.window_ns + aggregation.delay_ns)
