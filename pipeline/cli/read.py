"""``pipeline read``: features by key, with what each value is worth."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pipeline.cli.keys import key_columns
from pipeline.cli.options import load_config
from pipeline.cli.screen import console, plain, table
from pipeline.errors import ConfigurationError, UnknownNameError
from pipeline.units import format_duration, parse_duration

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["DESCRIPTION", "EXAMPLES", "HELP", "HINTS", "USAGE", "add_arguments", "command"]

HELP = "read features by key"
USAGE = "pipeline read VIEW[:FEATURE,...] KEY... [--at TIME] [--json] [settings]"
DESCRIPTION = """\
Read features from the store. Every answer says what it is: present, missing (no
such key), expired (no event for longer than the view's ttl), stale (the worker
is behind), estimated (from a sketch, within its error) or degraded (a bounded
list dropped what the window needs, or --at is before the row's newest event).
Values are as of --at: windows end there, so a quiet key decays."""
EXAMPLES = """\
  pipeline read household_activity 900
  pipeline read household_activity:spend_7d,spend_30d 900 1228 --at event
  pipeline read household_activity 900 --at 2017-12-31T00:00:00Z
  pipeline read household_activity 900 --json | jq .spend_7d
  pipeline read transfers 'ann|bob'
"""

HINTS = {UnknownNameError: "'pipeline run APP' registers the views of an application"}

_STYLES = {"present": "green", "missing": "red", "expired": "yellow"}
_LABELS = ("status", "event time", "age")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """VIEW, KEY, --at, --max-staleness, --json."""
    parser.add_argument(
        "view", metavar="VIEW[:FEATURE,...]", help="a view, or some of its features"
    )
    parser.add_argument(
        "keys", metavar="KEY", nargs="+", help="an entity key; of several fields a|b"
    )
    parser.add_argument(
        "--at",
        default="now",
        metavar="TIME",
        help="now (default), event (each row's newest event), or a time such as 2017-12-31T00:00Z",
    )
    parser.add_argument(
        "--max-staleness", metavar="TIME", help="stale if the worker is further behind, such as 10s"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per key and line")


def command(arguments: argparse.Namespace) -> int:
    """Read once and print."""
    from pipeline.serve.client import FeatureClient

    at = _at(arguments.at)
    staleness = _staleness(arguments.max_staleness)
    store = load_config(arguments).store
    view, _, features = arguments.view.partition(":")
    asked = [f"{view}:{name}" for name in re.split(r"[,\s]+", features) if name] or [view]
    with FeatureClient(store.url, timeout_ms=store.timeout_ms) as client:
        query = client.prepare(asked)
        keys = key_columns(query.entities, arguments.keys)
        found = query.read(keys, at=at, max_staleness=staleness).to_pylist()
    rows = [_Row(view, list(keys), query.features, values) for values in found]
    if arguments.json:
        for row in rows:
            print(row.json())
    else:
        _print(console(), rows)
    return 0


class _Row:
    """One key's answer."""

    def __init__(
        self, view: str, fields: Sequence[str], features: Sequence[str], values: Mapping[str, Any]
    ) -> None:
        self._keys = {name: _shown(values[name]) for name in fields}
        self.entity = "|".join(fields)
        self.key = "|".join(map(str, self._keys.values()))
        self.status = str(values[f"{view}__status"])
        self.event_time = values[f"{view}__event_time"]
        self.age = values[f"{view}__age"]
        self.features = {name: values[name] for name in features}

    def json(self) -> str:
        """One line; times as text, age in seconds."""
        fields: dict[str, object] = {
            **self._keys,
            "status": self.status,
            "event_time": None if self.event_time is None else _time_text(self.event_time),
            "age_s": None if self.age is None else _nanoseconds(self.age) / 1e9,
            **self.features,
        }
        return json.dumps(fields, default=str, ensure_ascii=False)


def _print(out: Console, rows: Sequence[_Row]) -> None:
    """Features down, keys across: as many keys side by side as fit."""
    for group in _groups(rows, out.width):
        shown = table(group[0].entity, *(row.key for row in group))
        for column in shown.columns[1:]:
            column.justify = "right"
        cells: list[Callable[[_Row], tuple[str, str]]] = [
            lambda row: (row.status, _STYLES.get(row.status, "yellow")),
            lambda row: ("-" if row.event_time is None else _time_text(row.event_time), "dim"),
            lambda row: ("-" if row.age is None else _age_text(_nanoseconds(row.age)), "dim"),
        ]
        for label, cell in zip(_LABELS, cells, strict=True):
            shown.add_row(plain(label, "dim"), *(plain(*cell(row)) for row in group))
        shown.add_section()
        for name in group[0].features:
            shown.add_row(plain(name), *(plain(_text(row.features[name])) for row in group))
        out.print(shown)
        if group[-1] is not rows[-1]:
            out.print()


def _groups(rows: Sequence[_Row], width: int) -> Iterator[Sequence[_Row]]:
    label = max(map(len, (rows[0].entity, *_LABELS, *rows[0].features)))
    start = 0
    while start < len(rows):
        end, used = start, label + 2
        while end < len(rows):
            used += max(_column_width(rows[end]), 8) + 2
            if used > width and end > start:
                break
            end += 1
        yield rows[start:end]
        start = end


def _column_width(row: _Row) -> int:
    texts = [_text(value) for value in row.features.values()]
    time = [] if row.event_time is None else [_time_text(row.event_time)]
    return max(map(len, (row.key, row.status, *time, *texts)))


def _shown(key: object) -> object:
    return key.hex() if isinstance(key, bytes) else key


def _at(text: str) -> Any:
    if text in {"now", "event"}:
        return text
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(
            f"--at {text!r}: expected now, event, or a time such as 2017-12-31T00:00:00Z"
        ) from error
    if at.tzinfo is None:
        raise ConfigurationError(f"--at {text!r} has no time zone; UTC is {at.isoformat()}Z")
    return at


def _staleness(text: str | None) -> timedelta | None:
    if text is None:
        return None
    try:
        return timedelta(microseconds=parse_duration(text) / 1_000)
    except ValueError as error:
        raise ConfigurationError(f"--max-staleness: {error}") from error


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value) or "-"
    if isinstance(value, float):
        return f"{value:,.4f}".rstrip("0").rstrip(".")
    return _time_text(value) if isinstance(value, datetime) else str(value)


def _time_text(time: datetime) -> str:
    """RFC 3339 in UTC, without the digits that are 0."""
    return time.isoformat(sep=" ").removesuffix("+00:00").removesuffix(".000000") + "Z"


def _nanoseconds(span: Any) -> int:
    """Of a timedelta, or of what pandas makes of a duration where it is installed."""
    return int(span.value) if hasattr(span, "value") else span // timedelta(microseconds=1) * 1_000


def _age_text(ns: int) -> str:
    """The two largest units: 3d4h, 12ms."""
    sign = "-" if ns < 0 else ""
    return sign + "".join(re.findall(r"\d+[a-z]+", format_duration(abs(ns)))[:2])
