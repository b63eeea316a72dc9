"""``pipeline views``: versions of views; which one readers get, and an end to those that served."""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.cli.options import load_config
from pipeline.cli.screen import console, error_console, plain, table
from pipeline.errors import ConfigurationError, UnknownNameError, ViewVersionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.app.versions import Version
    from pipeline.store.partition import Store

__all__ = ["DESCRIPTION", "EXAMPLES", "HELP", "HINTS", "USAGE", "add_arguments", "command"]

HELP = "versions of views: list, activate, retire"
USAGE = "pipeline views list|activate|retire [NAME] [FINGERPRINT] [settings]"
DESCRIPTION = """\
A changed view is a new version, with a fingerprint and rows of its own. It is
filled from the log beside the version that readers get, which workers keep up
until it is retired, whether they have its definition or not.

'list' shows every version: since when readers get it, whether a worker keeps it
up (two looks at its markers, --pause apart), how many records it is behind the
active one, and when its slowest partition was read last. 'activate' moves all
readers to a version with one write, and back just as fast; prepared queries
follow within ten seconds. A version that is not where the active one is, in
every partition, is refused with exit code 1, unless --force. 'retire' ends a
version that readers do not get: workers stop keeping it up, its registration,
markers and rows are removed. If it is interrupted, run it again. With --force
it takes away the view itself, which readers do not find then; --app finds what
is left of it. FINGERPRINT may be cut short where the rest is clear. Only the
store is asked."""
EXAMPLES = """\
  pipeline views list
  pipeline views list spending --json
  pipeline views activate spending 5f0c62b1d2e34a97
  pipeline views retire spending 9e1 --rate 5000
  pipeline views retire gone_from_the_code 7b9 --force
  pipeline views list --app shop
"""
HINTS = {
    ViewVersionError: "'pipeline views list' shows every version, and how far each is",
}

ACTIONS = ("list", "activate", "retire")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """ACTION, NAME, FINGERPRINT, --app, --pause, --force, --rate, --json."""
    parser.add_argument("action", metavar="ACTION", choices=ACTIONS, help=", ".join(ACTIONS))
    parser.add_argument("name", metavar="NAME", nargs="?", help="the view")
    parser.add_argument("fingerprint", metavar="FINGERPRINT", nargs="?", help="of the version")
    parser.add_argument("--app", metavar="APP", help="only views of this application, by its name")
    parser.add_argument(
        "--pause", type=float, default=2.0, metavar="S", help="list: between looks (default: 2)"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="activate: though it is not caught up; retire: though readers get it",
    )
    parser.add_argument(
        "--rate", type=int, default=20_000, metavar="N",
        help="retire: keys of the store looked at in a second (default: 20000)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="list: one JSON object a version")


def command(arguments: argparse.Namespace) -> int:
    """One action."""
    from pipeline.store.open import open_store

    _check(arguments)
    config = load_config(arguments)
    store = open_store(config.store.url, timeout_ms=config.store.timeout_ms)
    try:
        if arguments.action == "list":
            return _list(store, arguments)
        if arguments.action == "activate":
            return _activate(store, arguments)
        return _retire(store, arguments)
    finally:
        store.close()


def _check(arguments: argparse.Namespace) -> None:
    action = arguments.action
    if action == "list" and arguments.fingerprint is not None:
        raise ConfigurationError("list takes a NAME at most")
    if action != "list" and arguments.fingerprint is None:
        raise ConfigurationError(f"{action}: write 'pipeline views {action} NAME FINGERPRINT'")
    if arguments.rate < 1:
        raise ConfigurationError(f"--rate: must be at least 1, got {arguments.rate}")
    if arguments.pause < 0:
        raise ConfigurationError(f"--pause: must not be negative, got {arguments.pause:g}")


def _activate(store: Store, arguments: argparse.Namespace) -> int:
    from pipeline.app.versions import activate, find, look

    versions = look(store, arguments.name, arguments.app or _app_of(store, arguments.name))
    chosen = find(versions, arguments.name, arguments.fingerprint)
    current = next((v for v in versions if v.active), None)
    if chosen.active:
        print(f"readers of {arguments.name} get {chosen.record.fingerprint:016x} already")
        return 0
    activate(store, chosen, None if arguments.force else current, _now_ms())
    before = "" if current is None else f", before it {current.record.fingerprint:016x}"
    print(f"readers of {arguments.name} get {chosen.record.fingerprint:016x}{before}")
    return 0


def _retire(store: Store, arguments: argparse.Namespace) -> int:
    from pipeline.app.versions import find, look, retire

    name = arguments.name
    app = arguments.app or _app_of(store, name)
    fingerprint = _retired_before(store, app, arguments)
    if fingerprint is None:
        versions = look(store, name, app)
        fingerprint = find(versions, name, arguments.fingerprint).record.fingerprint
    out, shown = error_console(), 0

    def progress(rows: int) -> None:
        nonlocal shown
        if rows >= shown + 100_000:
            shown = rows
            out.print(f"[dim]{rows:,} rows removed[/]")

    gone = retire(
        store, app, name, fingerprint, keys_per_s=arguments.rate, served=arguments.force,
        clock_ms=_now_ms, progress=progress,
    )  # fmt: skip
    print(f"retired {name} {fingerprint:016x}: {gone.markers} markers, {gone.rows:,} rows removed")
    if gone.done:
        return 0
    print("a worker still keeps it up: stop those that are older than this command, run it again")
    return 1


def _app_of(store: Store, name: str) -> str:
    try:
        return store.registry.active(name)[0]
    except UnknownNameError as error:
        raise UnknownNameError(
            f"{error}. Versions that no reader gets are found by their application: --app APP"
        ) from error


def _retired_before(store: Store, app: str, arguments: argparse.Namespace) -> int | None:
    """The version that was retired and is to be erased further; one that was, by its whole
    fingerprint."""
    name, text = arguments.name, arguments.fingerprint.lower()
    begun = [p for p in store.registry.unerased(app, name) if f"{p:016x}".startswith(text)]
    live = store.registry.versions(app, name)
    if len(begun) == 1 and not any(f"{v.fingerprint:016x}".startswith(text) for v in live):
        return begun[0]
    try:
        fingerprint = int(text, 16)
    except ValueError:
        return None
    return None if store.registry.retired(app, name, fingerprint) is None else fingerprint


def _list(store: Store, arguments: argparse.Namespace) -> int:
    from pipeline.app.versions import look

    before = {v.record.version: v for v in look(store, arguments.name, arguments.app)}
    time.sleep(arguments.pause)
    versions = look(store, arguments.name, arguments.app)
    lines = [_fields(v, before.get(v.record.version), versions) for v in versions]
    if arguments.json:
        for line in lines:
            print(json.dumps(line))
        return 0
    _print(lines)
    return 0


def _fields(
    version: Version, before: Version | None, versions: Sequence[Version]
) -> dict[str, object]:
    record = version.record
    same = (v for v in versions if v.active and v.record.name == record.name)
    active = next(same, None)
    return {
        "app": record.app,
        "view": record.name,
        "fingerprint": f"{record.fingerprint:016x}",
        "active": version.active,
        "since_ms": version.since_ms,
        "topic": record.topic,
        "partitions": record.partitions,
        "begun": version.begun,
        "kept_up": before is not None and version.moved_since(before),
        "behind": None if active is None else version.behind(active),
        "through_ms": version.through_ms,
    }


def _print(lines: Sequence[dict[str, object]]) -> None:
    shown = table("view", "fingerprint", "readers", "workers", "partitions", "behind",
                  "read through", right=("partitions", "behind"))  # fmt: skip
    for x in lines:
        since = f"since {_time(x['since_ms'])}" if x["since_ms"] is not None else "active"
        behind = x["behind"]
        shown.add_row(
            plain(str(x["view"]), "bold" if x["active"] else ""),
            plain(str(x["fingerprint"])),
            plain(since, "green") if x["active"] else plain("-"),
            plain("keep it up", "green") if x["kept_up"] else plain("none", "red"),
            plain(f"{x['begun']} of {x['partitions']}"),
            plain(f"{behind:,}" if isinstance(behind, int) else "-"),
            plain(_time(x["through_ms"])),
        )
    console().print(shown if lines else plain("no views"))


def _time(at_ms: object) -> str:
    if not isinstance(at_ms, int) or at_ms < 0:
        return "-"
    return f"{datetime.fromtimestamp(at_ms // 1000, tz=UTC):%Y-%m-%dT%H:%M:%S}Z"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
