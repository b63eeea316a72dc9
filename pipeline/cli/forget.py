"""``pipeline forget``: erase an entity from every view of an application."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from pipeline.cli.options import APP_HELP, load_app, load_config
from pipeline.errors import ConfigurationError, UnknownNameError
from pipeline.settings import suggest
from pipeline.units import parse_duration

if TYPE_CHECKING:
    from pipeline.features.stored import AnyView

__all__ = ["DESCRIPTION", "EXAMPLES", "HELP", "USAGE", "add_arguments", "command"]

HELP = "erase an entity"
USAGE = "pipeline forget APP KEY --entity FIELD [--wait TIME] [settings]"
DESCRIPTION = """\
Delete the rows of one entity: a message without a value goes into each topic
whose views are keyed by --entity, and the workers delete the row, its cached copy
and everything computed from it. Older events cannot bring it back, a rollback of
the store neither. Copies of corrupt rows are removed, open dead letters of the
key are closed. Versions of views that are only registered are erased too. The
events themselves leave Kafka with the topic's retention or compaction. Exits
with 1 if no worker did it within --wait; it is done as soon as one runs."""
EXAMPLES = """\
  pipeline forget shop.py:app 42 --entity user_id
  pipeline forget shop.py:app 'eu|42' --entity region,user_id
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """APP, KEY, --entity, --wait."""
    parser.add_argument("app", metavar="APP", help=APP_HELP)
    parser.add_argument("key", metavar="KEY", help="the entity as a message key")
    parser.add_argument(
        "--entity", required=True, metavar="FIELD,...", help="the field or fields it is a value of"
    )
    parser.add_argument(
        "--wait", default="10s", metavar="TIME", help="for workers to have done it (default: 10s)"
    )


def command(arguments: argparse.Namespace) -> int:
    """Send the deletions, wait, report."""
    from pipeline.app.build import find_topics
    from pipeline.app.forget import forget
    from pipeline.app.outputs import TopicNames
    from pipeline.app.stored import stored_views
    from pipeline.store.open import open_store

    try:
        wait_s = parse_duration(arguments.wait) / 1e9
    except ValueError as error:
        raise ConfigurationError(f"--wait: {error}") from error
    app, config = load_app(arguments.app), load_config(arguments)
    views: list[AnyView] = [v for v in app.views if _keyed(v, arguments.entity)]
    if not views:
        known = sorted({v.plan.entity.replace("|", ",") for v in app.views})
        raise UnknownNameError(
            f"no view is keyed by {arguments.entity!r}{suggest(arguments.entity, known)}"
        )
    if views[0].plan.entity_type == "int64":
        _check_integer(arguments.key, arguments.entity)
    store = open_store(config.store.url, timeout_ms=config.store.timeout_ms)
    others = stored_views(store.registry, app.conf.id, app.views, lambda topic: topic)
    views += [v for v in others if _keyed(v, arguments.entity)]
    done = forget(
        TopicNames.of(app.conf.id, config.app),
        find_topics(app.conf.id, views, config),
        arguments.key.encode(),
        config.broker,
        store,
        timeout_s=wait_s,
        clock_ms=lambda: time.time_ns() // 1_000_000,
    )
    print(
        f"deletion sent to {', '.join(done.topics)}; dead letters closed: {done.letters}, "
        f"copies of corrupt rows removed: {done.copies}"
    )
    if done.waiting:
        print(f"not yet deleted: {', '.join(done.waiting)} (is the application running?)")
        return 1
    print(f"deleted from {', '.join(dict.fromkeys(v.name for v in views))}")
    return 0


def _keyed(view: AnyView, entity: str) -> bool:
    return view.plan.entity.split("|") == entity.split(",")


def _check_integer(key: str, entity: str) -> None:
    try:
        canonical = str(int(key)) == key and -(2**63) <= int(key) < 2**63
    except ValueError:
        canonical = False
    if not canonical:
        raise ConfigurationError(f"{entity} is a 64-bit integer, {key!r} is none")
