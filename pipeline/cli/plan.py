"""``pipeline plan``: what a definition keeps and costs, before anything is started."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from pipeline.cli.options import APP_HELP, load_app
from pipeline.cli.screen import console, plain, table
from pipeline.units import format_duration, format_size

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.features.plan import Feature, Plan
    from pipeline.features.view import FeatureView, Trigger

__all__ = ["DESCRIPTION", "EXAMPLES", "HELP", "USAGE", "add_arguments", "command", "row_bytes"]

HELP = "show what an application's views keep and cost; needs no server"
USAGE = "pipeline plan APP [--view NAME] [settings]"
DESCRIPTION = """\
Compile the views of an application and show, for each, its features, the state
they share (rings of tiles, bounded lists), the largest possible row, and the
work done per event."""
EXAMPLES = """\
  pipeline plan features.py:app
  pipeline plan shop.features:app --view household_activity
"""

# Row layout v2, docs/row-layout.md. A varint of 64 bits takes up to 10 bytes.
_HEADER = 56
_VARINT = 10
_FLOAT = 8
_COUNT = 7  # of a value, or an error: at most 2**47
_BEYOND = {"DISTINCT": "a sample", "COUNTS": "buckets", "FREQUENT": "the frequent ones"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """APP, --view."""
    parser.add_argument("app", metavar="APP", help=APP_HELP)
    parser.add_argument("--view", metavar="NAME", help="only this view")


def command(arguments: argparse.Namespace) -> int:
    """Print every view."""
    from pipeline.errors import UnknownNameError
    from pipeline.settings import suggest

    app = load_app(arguments.app)
    names = [view.name for view in app.views]
    if arguments.view is not None and arguments.view not in names:
        raise UnknownNameError(f"no view {arguments.view!r}{suggest(arguments.view, names)}")
    out = console()
    for view in app.views:
        if arguments.view in (None, view.name):
            _print_view(out, app.conf.id, view, [t for t in app.triggers if t.view is view])
    return 0


def _print_view(out: Console, app: str, view: FeatureView, triggers: list[Trigger]) -> None:
    plan = view.plan
    ttl = f"after {format_duration(plan.ttl_ns)} without events" if plan.ttl_ns else "never"
    out.print(
        plain(f"view {plan.view}", "bold"), plain(f"fingerprint {plan.fingerprint:016x}", "dim")
    )
    entity = ", ".join(f"{name} ({kind})" for name, kind in plan.entities.items())
    out.print(plain(f"  one row per {entity}, from topic {view.stream.topic_in(app)}"))
    _print_repartition(out, view)
    out.print(plain(f"  a row expires {ttl}"))
    for lookup in plan.lookups:
        for column, position in zip(lookup.columns, lookup.features, strict=True):
            name = f"{lookup.plan.view}:{lookup.plan.features[position].name}"
            out.print(plain(f"  looks up {column} = {name}"))
        size = format_size(row_bytes(lookup.plan))
        out.print(plain(f"  keeps rows of {lookup.plan.view} of its own for that, at most {size}"))
    if plan.filter >= 0:
        out.print(plain(f"  only events where {_expression(plan.masks[plan.filter])}"))
    if plan.reject >= 0:
        out.print(plain(f"  dead-lettered where {_expression(plan.masks[plan.reject])}"))
    if plan.long >= 0:
        out.print(plain("  dead-lettered where a string is longer than max_bytes"))
    if not view.publish_changes:
        out.print(plain("  changed rows are not published"))
    out.print()
    _print_features(out, plan)
    _print_state(out, plan)
    _print_cost(out, plan)
    for trigger in triggers:
        when = "every event" if trigger.when is None else _condition(trigger)
        out.print(plain(f"  trigger {trigger.name}: {when}, sends {len(trigger.sent)} features"))
    out.print()


def _print_repartition(out: Console, view: FeatureView) -> None:
    from pipeline.app.retention import longest_window_ns
    from pipeline.features.repartition import Repartition

    if not isinstance(view.stream, Repartition):
        return
    reach = longest_window_ns([view.plan])
    keep = f"keep {format_duration(reach)} at least" if reach >= 0 else "keep everything"
    sources = ", ".join(f"{s.topic} (by {'|'.join(s.key_fields)})" for s in view.sources)
    out.print(plain(f"  a repartition of {sources}: made by the application, with the partitions"))
    out.print(plain(f"  of {view.sources[0].topic}; the truth of its views: {keep}, never compact"))


def _print_features(out: Console, plan: Plan) -> None:
    rows = table("feature", "is", "window", "slide", "type")
    for feature in plan.features:
        window = format_duration(feature.window_ns) if feature.window_ns else "-"
        if feature.delay_ns:
            window += f", {format_duration(feature.delay_ns)} ago"
        slide = format_duration(feature.slide_ns) if feature.slide_ns else "-"
        if feature.window_ns and not feature.slide_ns:
            slide = "exact"
        rows.add_row(
            *map(plain, (feature.name, _definition(plan, feature), window, slide, _type(feature)))
        )
    out.print(rows)
    out.print()


def _print_state(out: Console, plan: Plan) -> None:
    from pipeline.features.plan import GROUPED_OPS, TILE_BOUND_KINDS, ListKind
    from pipeline.features.windows import FOREVER

    rows = table("state", "keeps", "at most", "bytes", right=("bytes",))
    for index, ring in enumerate(plan.rings):
        inside = [a for a in plan.accumulators if a.ring == index and a.op not in GROUPED_OPS]
        names = [_accumulator(plan, a.op.name, a.input, a.mask) for a in inside]
        keeps = ", ".join(names) or "positions of lists"
        reach = format_duration(ring.width_ns * ring.tiles)
        at_most = f"{ring.tiles} tiles of {format_duration(ring.width_ns)} = {reach}"
        rows.add_row(
            *map(plain, (f"ring {index}", keeps, at_most, format_size(_ring_bytes(plan, index))))
        )
    for index, kept in enumerate(plan.lists):
        name = f"{kept.kind.name.lower()}({_input(plan, kept.input) if kept.input >= 0 else ''})"
        if kept.mask >= 0:
            name += f" where {_expression(plan.masks[kept.mask])}"
        at_most = _count(kept.bound, "value")
        if kept.kind.name in _BEYOND:
            at_most += f", then {_BEYOND[kept.kind.name]}"
        if kept.kind in TILE_BOUND_KINDS:
            at_most += " a tile"
        if kept.kind in (ListKind.EVENTS, ListKind.IDS):
            noun = "event" if kept.kind is ListKind.EVENTS else "id"
            reach = format_duration(kept.horizon_ns) if kept.horizon_ns < FOREVER else "any time"
            at_most = f"{_count(kept.bound, noun)} of {reach}"
        if kept.kind is ListKind.DECAYED:
            at_most = f"half after {format_duration(kept.horizon_ns)}"
        rows.add_row(
            *map(plain, (f"list {index}", name, at_most, format_size(_list_bytes(plan, index))))
        )
    rows.add_row(
        plain("row", "bold"), plain(""), plain("worst case, all full"),
        plain(format_size(row_bytes(plan)), "bold"),
    )  # fmt: skip
    out.print(rows)
    out.print()


def _print_cost(out: Console, plan: Plan) -> None:
    cells = len(plan.accumulators)
    out.print(
        plain(
            f"  per event: {_count(len(plan.inputs), 'input')}, "
            f"{_count(len(plan.masks), 'condition')}, {_count(cells, 'cell')} "
            f"in {_count(len(plan.rings), 'ring')}, {_count(len(plan.lists), 'list update')}"
        )
    )
    bounds = [kept.bound for kept in plan.lists if kept.bound > 1]
    if bounds:
        steps = sum(bound.bit_length() for bound in bounds)
        out.print(
            plain(f"  lists are searched in up to {steps} steps an event, and shift on insert")
        )
    per_read = sum(plan.rings[r].tiles for r in range(len(plan.rings)))
    cells_out = _count(plan.cells, "output cell")
    out.print(plain(f"  per read: one row, up to {_count(per_read, 'tile')}, {cells_out}"))


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _definition(plan: Plan, feature: Feature) -> str:
    shown = _aggregation(plan, feature)
    if feature.nulls >= 0:
        return f"{shown}, null if {_expression(plan.masks[plan.accumulators[feature.nulls].mask])}"
    return shown


def _aggregation(plan: Plan, feature: Feature) -> str:
    from pipeline.features.plan import LIST_OPS, FeatureOp

    op = feature.op
    if op is FeatureOp.COUNT:
        return _accumulator_at(plan, feature.a)
    if op is FeatureOp.RATIO:
        return f"{_accumulator_at(plan, feature.a)} / {_accumulator_at(plan, feature.b)}"
    used = plan.lists[feature.a] if op in LIST_OPS else plan.accumulators[feature.a]
    many = f", n={feature.width}" if feature.width > 1 else ""
    if op in (FeatureOp.MAX_N, FeatureOp.MIN_N):
        many = f", n={feature.width}"
    if op is FeatureOp.TOP_K:
        many = f", k={feature.width}"
    if op is FeatureOp.QUANTILE:
        many = f", q={feature.q:g}"
    if op in (FeatureOp.VAR, FeatureOp.STD) and feature.ddof != 1:
        many = f", ddof={feature.ddof}"
    name, inside = op.name.lower(), _input(plan, used.input) if used.input >= 0 else ""
    if feature.words:
        inside = inside.removesuffix("[0:8]")
    if op in (FeatureOp.DECAYED, FeatureOp.EWMA):
        name = {"decayed": "decayed_sum" if inside else "decayed_count"}.get(name, name)
        many = format_duration(plan.lists[feature.a].horizon_ns)
        many = f", {many}" if inside else many
    where = f" where {_expression(plan.masks[used.mask])}" if used.mask >= 0 else ""
    return f"{name}({inside}{many}){where}"


def _accumulator_at(plan: Plan, index: int) -> str:
    used = plan.accumulators[index]
    return _accumulator(plan, used.op.name, used.input, used.mask)


def _accumulator(plan: Plan, op: str, source: int, mask: int) -> str:
    name = op.lower().partition("_")[0]
    inside = _input(plan, source) if source >= 0 else ""
    where = f" where {_expression(plan.masks[mask])}" if mask >= 0 else ""
    return f"{name}({inside}){where}"


def _input(plan: Plan, index: int) -> str:
    return _expression(plan.inputs[index])


def _expression(text: str) -> str:
    """A field name as it is, a polars expression in its own short form."""
    if not text.startswith("{"):
        return text
    import io

    import polars as pl

    from pipeline.features.texts import WORD, text_of_word

    word = text_of_word(text)
    if word is not None:  # bytes 0 to 7 of a string: name[0:8]
        start = WORD * word[1]
        return f"{_expression(word[0])}[{start}:{start + WORD}]"

    shown = str(pl.Expr.deserialize(io.StringIO(text), format="json"))
    return _readable(shown)


def _readable(expression: str) -> str:
    """polars writes ``[(col("a")) > (dyn int: 0)]``; a person writes ``a > 0``."""
    text = re.sub(r'col\("([^"]*)"\)', r"\1", expression)
    text = re.sub(r"dyn (?:int|float|str): ", "", text)
    text = re.sub(r"(?<!\w)\(([\w.\"-]+)\)", r"\1", text)
    inner = text[1:-1]
    if text.startswith("[") and text.endswith("]") and "[" not in inner:
        return inner
    return text


def _condition(trigger: Trigger) -> str:
    from pipeline.features.view import Changed

    if isinstance(trigger.when, Changed):
        return f"when {trigger.when.column} changes"
    return f"when {_readable(str(trigger.when))}"


def _type(feature: Feature) -> str:
    from pipeline.features.plan import CellType, FeatureOp
    from pipeline.state.columns import FLOAT_OPS

    many = f"[{feature.width}]" if feature.width > 1 else ""
    if feature.op in (FeatureOp.COUNT, FeatureOp.DISTINCT):
        return "int64"
    if feature.op in FLOAT_OPS:
        return "float64"
    names = {
        CellType.INT: "int64",
        CellType.FLOAT: "float64",
        CellType.DECIMAL: "float64",
        CellType.TIME: "timestamp",
        CellType.BOOL: "bool",
        CellType.HASH: "hash",
        CellType.TEXT: "string",
        CellType.BINARY: "bytes",
    }
    return names[feature.type] + many


def _ring_bytes(plan: Plan, ring: int) -> int:
    """Largest encoded size: every tile present, every integer at its longest."""
    from pipeline.features.plan import WORD_OPS

    cells = [a for a in plan.accumulators if a.ring == ring]
    cell_bytes = sum(_FLOAT if a.op in WORD_OPS else _VARINT for a in cells)
    tile_delta = _varint_bytes(plan.rings[ring].tiles)
    count = _varint_bytes(plan.rings[ring].tiles)
    return count + _VARINT + plan.rings[ring].tiles * (cell_bytes + tile_delta) - tile_delta


def _list_bytes(plan: Plan, index: int) -> int:
    from pipeline.features.plan import COUNT_KINDS, CellType, ListKind
    from pipeline.features.size import most_entries

    kept = plan.lists[index]
    if kept.kind is ListKind.DECAYED:
        return 1 + _VARINT + _FLOAT * (1 if kept.input < 0 else 2)
    head = _varint_bytes(kept.bound) + 1 + _VARINT
    if kept.kind is ListKind.DISTINCT:
        steps = 64 * _varint_bytes(plan.rings[kept.ring].tiles)
        return head + steps + kept.bound * (_VARINT + _varint_bytes(plan.rings[kept.ring].tiles))
    if kept.kind in COUNT_KINDS:
        tiles, n = plan.rings[kept.ring].tiles, _varint_bytes(kept.bound)
        note = _COUNT if kept.kind is ListKind.FREQUENT else 1
        tile = _varint_bytes(tiles) + n + note
        entries = most_entries(plan, kept)
        head += _varint_bytes(entries) - n
        return head + _varint_bytes(tiles) + _VARINT + tiles * tile + entries * (_VARINT + _COUNT)
    value = _FLOAT if kept.type is CellType.FLOAT else _VARINT if kept.input >= 0 else 0
    return head + kept.bound * (2 * _VARINT + value)


def row_bytes(plan: Plan) -> int:
    """Largest possible encoded row, in bytes: every tile and list full, every integer longest."""
    rings = sum(_ring_bytes(plan, r) for r in range(len(plan.rings)))
    return _HEADER + rings + sum(_list_bytes(plan, i) for i in range(len(plan.lists)))


def _varint_bytes(largest: int) -> int:
    return max(1, (largest.bit_length() + 6) // 7)
