"""``pipeline dlq``: look at dead letters, publish their records again after a fix."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.cli.options import application_name, load_config
from pipeline.cli.screen import console, plain, table
from pipeline.errors import ConfigurationError, UnknownNameError

if TYPE_CHECKING:
    from pipeline.ingest.deadletter import DeadLetter

__all__ = ["DESCRIPTION", "EXAMPLES", "HELP", "HINTS", "USAGE", "add_arguments", "command"]

HELP = "dead letters: count, list, show, replay"
USAGE = "pipeline dlq count|list|show|replay APP [ID...] [--reason R,...] [settings]"
DESCRIPTION = """\
Records that could not be applied are kept as dead letters, each with the reason
and the position of its record. 'count' sums them by topic, view and reason;
'list' is one line a letter; 'show' prints letters whole. 'replay' publishes the
records again to the topics they came from, whole and under their keys, and
closes their letters: do it once the cause is mended and the new version runs. A
record that only one view refused is never published again, since the others have
applied it: change the view, and the new one reads the log from its start."""
EXAMPLES = """\
  pipeline dlq count grocery
  pipeline dlq list grocery --reason schema,range --limit 20
  pipeline dlq show grocery purchases/3/1234
  pipeline dlq replay grocery --reason schema
  pipeline dlq replay grocery purchases/3/1234 purchases/3/1250
"""
HINTS = {UnknownNameError: "the topic is made when the application first runs"}

ACTIONS = ("count", "list", "show", "replay")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """ACTION, APP, ID, --reason, --view, --limit, --all, --json."""
    parser.add_argument("action", metavar="ACTION", choices=ACTIONS, help=", ".join(ACTIONS))
    parser.add_argument("app", metavar="APP", help="the application: its name, or as for 'run'")
    parser.add_argument("ids", metavar="ID", nargs="*", help="letters, as 'list' names them")
    parser.add_argument("--reason", metavar="R,...", help="only letters with one of these reasons")
    parser.add_argument("--view", metavar="VIEW", help="only letters of this view")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N letters")
    parser.add_argument("--all", action="store_true", help="replay every letter")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def command(arguments: argparse.Namespace) -> int:
    """One action; 1 if a letter that was asked for could not be replayed."""
    from pipeline.app.outputs import TopicNames
    from pipeline.produce.letters import open_letters

    config = load_config(arguments)
    topic = TopicNames.of(application_name(arguments.app), config.app).dead_letters
    chosen = bool(arguments.ids or arguments.reason or arguments.all)
    if arguments.action == "replay" and not chosen:
        raise ConfigurationError("replay: name letters, or --reason R, or --all")
    letters = _chosen(open_letters(config.broker, topic), arguments)
    if arguments.action == "count":
        _count(letters, arguments.json)
    elif arguments.action == "replay":
        return _replay(arguments, topic, letters)
    elif arguments.action == "show" or arguments.json:
        for letter in letters:
            print(json.dumps(_fields(letter), indent=None if arguments.json else 2))
    else:
        _list(letters)
    return 0


def _chosen(letters: Sequence[DeadLetter], arguments: argparse.Namespace) -> list[DeadLetter]:
    if arguments.ids:
        known = {letter.id for letter in letters}
        for name in arguments.ids:
            if name not in known:
                raise UnknownNameError(f"no open dead letter {name!r}; 'list' names them")
    reasons = arguments.reason.split(",") if arguments.reason else None
    found = [
        letter
        for letter in letters
        if (not arguments.ids or letter.id in arguments.ids)
        and (reasons is None or letter.reason in reasons)
        and arguments.view in (None, letter.view)
    ]
    return found[: arguments.limit]


def _count(letters: Sequence[DeadLetter], as_json: bool) -> None:
    counts = Counter((x.topic, x.view or "", x.reason) for x in letters)
    shown = table("topic", "view", "reason", "letters", right=("letters",))
    for (topic, view, reason), n in sorted(counts.items()):
        if as_json:
            row = {"topic": topic, "view": view or None, "reason": reason, "letters": n}
            print(json.dumps(row))
        shown.add_row(plain(topic), plain(view or "all"), plain(reason), plain(f"{n:,}"))
    if not as_json:
        console().print(shown if counts else plain("no dead letters", "green"))


def _list(letters: Sequence[DeadLetter]) -> None:
    shown = table("letter", "reason", "time", "bytes", "key", "value", right=("bytes",))
    for x in letters:
        time = "-" if x.timestamp_ms < 0 else _time(x.timestamp_ms)
        value = "-" if x.value is None else _text(x.value)[:60]
        key = "-" if x.key is None else _text(x.key)[:40]
        cells = (x.id, x.reason, time, f"{x.size:,}", key, value)
        shown.add_row(*(plain(cell) for cell in cells))
    console().print(shown if letters else plain("no dead letters", "green"))


def _replay(arguments: argparse.Namespace, topic: str, letters: Sequence[DeadLetter]) -> int:
    from pipeline.produce.letters import replay

    done = replay(load_config(arguments).broker, topic, letters)
    print(f"{done.sent:,} of {len(letters):,} records published again")
    for reason, n in sorted(done.kept.items()):
        print(f"{n:,} kept: {reason}")
    return 1 if done.kept else 0


def _fields(letter: DeadLetter) -> dict[str, object]:
    return {
        "id": letter.id,
        "reason": letter.reason,
        "view": letter.view,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "time": None if letter.timestamp_ms < 0 else _time(letter.timestamp_ms),
        "size": letter.size,
        "key": None if letter.key is None else _text(letter.key),
        "value": None if letter.value is None else _text(letter.value),
    }


def _text(data: bytes) -> str:
    """Bytes as text, those that are none as ``\\xNN``."""
    text = data.decode("utf-8", errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _time(timestamp_ms: int) -> str:
    moment = datetime.fromtimestamp(timestamp_ms // 1000, tz=UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{timestamp_ms % 1000:03d}Z"
