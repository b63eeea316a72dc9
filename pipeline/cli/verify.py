"""``pipeline verify``: live rows against what the log says, byte by byte."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from pipeline.cli.options import APP_HELP, load_app, load_config
from pipeline.cli.screen import console, error_console, plain, table
from pipeline.errors import ConfigurationError, UnknownNameError
from pipeline.settings import suggest

if TYPE_CHECKING:
    from pipeline.app.audit import Difference, Result
    from pipeline.features.plan import Plan

__all__ = ["DESCRIPTION", "EXAMPLES", "HELP", "USAGE", "add_arguments", "command"]

HELP = "recompute a sample of live rows from the log and compare"
USAGE = "pipeline verify APP [--view VIEW] [--sample N] [--key KEY] [settings]"
DESCRIPTION = """\
Draw a sample of entities from the log, read their live rows, apply their events
again up to what each row includes, and compare bytes. The application goes on
meanwhile; nothing is written. Exits with 1 if a row differs, and shows how. A
row that may hold events which the log no longer has is counted as unknown.
The rows that a view keeps for its look-ups are compared too, as VIEW/LOOKED-UP.
'quarantined' counts entities of which the copy of a corrupt row is still kept."""
EXAMPLES = """\
  pipeline verify shop.py:app
  pipeline verify shop.py:app --view spending --sample 10000
  pipeline verify shop.py:app --view spending --key 42 --key 43
"""

DIFFERENCES_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """APP, --view, --sample, --key, --json."""
    parser.add_argument("app", metavar="APP", help=APP_HELP)
    parser.add_argument("--view", metavar="VIEW", help="only this view")
    parser.add_argument(
        "--sample", type=int, default=1000, metavar="N", help="rows of a view (default: 1000)"
    )
    parser.add_argument(
        "--key", action="append", default=[], metavar="KEY", help="these entities, not a sample"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a view")


def command(arguments: argparse.Namespace) -> int:
    """Compare and report; 1 if a row differs."""
    from pipeline.app.build import open_audit

    if arguments.sample < 1:
        raise ConfigurationError(f"--sample: must be at least 1, got {arguments.sample}")
    app = load_app(arguments.app)
    views = [view for view in app.views if arguments.view in (None, view.name)]
    if not views:
        names = [view.name for view in app.views]
        raise UnknownNameError(
            f"{arguments.app} has no view {arguments.view!r}{suggest(arguments.view, names)}"
        )
    read, started = 0, time.monotonic()
    out = error_console()

    def progress(records: int) -> None:
        nonlocal read
        read += records

    audit = open_audit(
        app.conf.id,
        views,
        load_config(arguments),
        sample=arguments.sample,
        keys=[key.encode() for key in arguments.key],
        progress=progress,
    )
    results = audit.run()
    out.print(f"[dim]{read:,} records read in {time.monotonic() - started:.1f} s[/]")
    for result in results:
        if arguments.json:
            print(json.dumps(_fields(result)))
    if not arguments.json:
        _print(results)
    return 1 if any(result.differing for result in results) else 0


def _print(results: list[Result]) -> None:
    counted = ("equal", "differ", "unknown", "expired", "quarantined")
    shown = table("view", *counted, right=counted)
    for x in results:
        style = "bold red" if x.differing else "green"
        cells = (x.equal, len(x.differing), x.unknown, x.expired, x.quarantined)
        shown.add_row(plain(x.name), *(plain(f"{n:,}", style) for n in cells))
    console().print(shown)
    for result in results:
        for difference in result.differing[:DIFFERENCES_SHOWN]:
            console().print()
            _print_difference(result.plan, difference)
        if len(result.differing) > DIFFERENCES_SHOWN:
            console().print(f"and {len(result.differing) - DIFFERENCES_SHOWN:,} more")


def _print_difference(plan: Plan, difference: Difference) -> None:
    key = difference.key.decode("utf-8", errors="backslashreplace")
    title = f"{difference.view} {key} ({difference.source}): {_where(difference)}"
    console().print(plain(title, "bold red"))
    stored, computed = _decoded(plan, difference.stored), _decoded(plan, difference.computed)
    shown = table("", "stored", "computed", right=("stored", "computed"))
    for name in computed or stored:
        ours, theirs = computed.get(name, "-"), stored.get(name, "-")
        style = "" if ours == theirs else "red"
        shown.add_row(plain(name, style), plain(theirs, style), plain(ours, style))
    console().print(shown)


def _where(difference: Difference) -> str:
    stored, computed = difference.stored, difference.computed
    if stored is None or computed is None:
        return "there is no stored row" if stored is None else "there should be no row"
    at = next(
        (i for i, (a, b) in enumerate(zip(stored, computed, strict=False)) if a != b),
        min(len(stored), len(computed)),
    )
    return f"{len(stored)} bytes stored, {len(computed)} computed, the first to differ is {at}"


def _decoded(plan: Plan, row: bytes | None) -> dict[str, str]:
    """Header and features of a row as of its newest event; empty if it cannot be read."""
    import numpy as np

    from pipeline.state.columns import feature_columns
    from pipeline.state.table import StateTable

    if row is None:
        return {}
    state = StateTable(plan)
    slots = state.lookup(np.frombuffer(bytearray(b"k"), dtype=np.uint8), np.array([0, 1])).slots
    if state.load(slots, [row]):
        return {"row": "corrupt"}
    final = state.finalize(slots, "event")
    names = [f.name for f in plan.features]
    columns: list[Any] = feature_columns(plan, final.cells, final.valid, names)
    header = {
        "(event time)": str(np.datetime64(int(state.event_time(slots)[0]), "ns")),
        "(known time)": str(int(state.known_time(slots)[0])),
        "(source offset)": str(int(state.source_offset(slots)[0])),
    }
    values = zip(names, columns, strict=True)
    return header | {name: str(column[0].as_py()) for name, column in values}


def _fields(result: Result) -> dict[str, object]:
    return {
        "view": result.name,
        "equal": result.equal,
        "unknown": result.unknown,
        "expired": result.expired,
        "quarantined": result.quarantined,
        "differing": [
            {
                "key": x.key.decode("utf-8", errors="backslashreplace"),
                "partition": x.source.partition,
                "stored": None if x.stored is None else x.stored.hex(),
                "computed": None if x.computed is None else x.computed.hex(),
            }
            for x in result.differing
        ],
    }
