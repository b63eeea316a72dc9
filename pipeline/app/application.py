"""The application: a Faust app whose events are batches of changed feature rows."""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import faust
from faust.exceptions import AlreadyConfiguredWarning
from mode.types import ServiceT
from yarl import URL

from pipeline.app.build import build_plane
from pipeline.app.plane import DataPlane
from pipeline.app.service import PlaneService
from pipeline.app.topic import check_topics
from pipeline.config import Config
from pipeline.errors import ConfigurationError, DefinitionError
from pipeline.features.view import Changes, FeatureView, Trigger
from pipeline.metrics import Registry
from pipeline.units import parse_duration

__all__ = ["App"]

FAUST = "0.15.3"  # its settings and transports are reached into below; see also pyproject.toml
APP_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
DATADIR_VARIABLES = {"APP_DATADIR", "F_DATADIR"}
CHANNEL_BATCHES = 16  # a few seconds of batches: an agent that is slower holds the plane back


class App(faust.App):
    """Feature views and triggers, run by a Faust worker.

    Everything of :class:`faust.App` works: agents, timers, web views, commands. What is new is the
    data plane, a service that reads the views' topics, keeps their rows in the store and
    feeds ``@app.agent(view.changes)``.

    ``freshness``  age ("20ms") at which features are to hold an event: waits are shortened to it,
                 events that were older are counted and reported. ``app.freshness_ms`` overrides it
    ``config``   where the servers are (default: file and environment, see :class:`Config`)
    ``options``  passed to Faust as they are

    Raises :class:`DefinitionError` for views or triggers that do not fit together.
    """

    def __init__(
        self,
        id: str,
        *,
        views: Sequence[FeatureView],
        triggers: Sequence[Trigger] = (),
        freshness: str | int | timedelta | None = None,
        config: Config | None = None,
        **options: Any,
    ) -> None:
        _check_faust(faust.__version__)
        _check(id, views, triggers)
        self.views = tuple(views)
        self.triggers = tuple(triggers)
        self.metrics = Registry()
        self._freshness_ms = _freshness_ms(id, freshness)
        self.plane_config = config or Config.load()
        options.setdefault("web_host", "127.0.0.1")
        options.setdefault("topic_disable_leader", True)
        if not DATADIR_VARIABLES & os.environ.keys():
            options.setdefault("datadir", _data_directory(id))
        # Faust groups its own topics under the application's id; the data plane's group is
        # "<id>.features", so that the two never share offsets.
        super().__init__(id, broker=_faust_brokers(self.plane_config), **options)
        self._changes = {v.name: self.channel(maxsize=CHANNEL_BATCHES) for v in self.views}
        self._wanted: set[str] = set()
        self._plane: PlaneService | None = None
        self._built = False
        self.on_plane_failure: Callable[[], object] | None = None
        self._control()
        self.page("/metrics")(_metrics_page(self.metrics))
        self.configure(self.plane_config)

    def configure(self, config: Config) -> None:
        """Use other servers; before the application starts."""
        if not config.app.freshness_ms:
            app = dataclasses.replace(config.app, freshness_ms=self._freshness_ms)
            config = dataclasses.replace(config, app=app)
        self.plane_config = config
        brokers = _faust_brokers(config)
        if self.conf.broker != brokers:
            with warnings.catch_warnings():
                # Faust warns that parts may hold the old value: the transports, renewed below.
                warnings.simplefilter("ignore", AlreadyConfiguredWarning)
                self.conf.broker = self.conf.broker_consumer = self.conf.broker_producer = brokers
            self.transport.url = self.producer_transport.url = self.conf.broker
        self.conf.broker_session_timeout = config.app.session_timeout_ms / 1000
        self.conf.broker_heartbeat_interval = config.app.session_timeout_ms / 3000

    def agent(self, channel: Any = None, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        """As :meth:`faust.App.agent`; ``view.changes`` is a channel of ``pyarrow.RecordBatch``."""
        if isinstance(channel, Changes):
            if channel.view.name not in self._changes:
                raise DefinitionError(
                    f"agent({channel.view.name}.changes)", f"app {self.conf.id!r} has no such view"
                )
            self._wanted.add(channel.view.name)
            channel = self._changes[channel.view.name]
        decorate: Callable[[Callable[..., Any]], Any] = super().agent(channel, **options)
        return decorate

    def on_init_dependencies(self) -> Iterable[ServiceT]:
        """Faust's own services, then the data plane: agents are listening when it starts."""
        self._plane = PlaneService(
            self._build,
            {name: self._deliver(name) for name in self._wanted},
            self.metrics,
            lambda: time.time_ns() // 1_000_000,
            self.on_plane_failure,
            self.plane_config.app.freshness_ms,
            loop=self.loop,
            beacon=self.beacon,
        )
        # After the agents that it feeds, and so ended before them. Faust's tables, of which there
        # are none, wait for a second when they start.
        services = [*super().on_init_dependencies()]
        services.insert(services.index(self.tables), self._plane)
        return services

    @property
    def failure(self) -> BaseException | None:
        """What stopped the data plane, if anything did."""
        return None if self._plane is None else self._plane.failure

    def _build(self) -> DataPlane:
        again, self._built = self._built, True
        return build_plane(
            self.conf.id, self.views, self.triggers, self.plane_config,
            delivered=self._wanted, again=again,
        )  # fmt: skip

    def _deliver(self, view: str) -> Callable[[Any], Any]:
        channel = self._changes[view]
        return lambda batch: channel.send(value=batch)

    def _control(self) -> None:
        """A topic of its own: an app whose agents listen to channels only would not start."""
        topic = self.topic(f"{self.conf.id}-control", partitions=1, value_serializer="raw")

        @self.agent(topic, name=f"{self.conf.id}.control")
        async def control(messages: Any) -> None:
            async for _ in messages:
                continue


def _check_faust(version: str) -> None:
    if version != FAUST:
        raise ConfigurationError(
            f"faust-streaming {version} is installed and this package works with {FAUST}: "
            f"pip install 'faust-streaming=={FAUST}'"
        )


def _data_directory(id: str) -> Path:
    """Where Faust may keep tables of the user's own; it would litter the working directory."""
    return Path(tempfile.gettempdir()) / f"pipeline-{os.getuid()}-{id}"


def _faust_brokers(config: Config) -> list[URL]:
    return [URL(f"kafka://{broker.strip()}") for broker in config.broker.brokers.split(",")]


def _metrics_page(registry: Registry) -> Callable[..., Any]:
    async def metrics(view: Any, request: Any) -> Any:
        if request.query.get("format") == "json":
            return view.json(registry.snapshot())
        return view.text(registry.exposition(), content_type="text/plain; version=0.0.4")

    return metrics


def _check(id: str, views: Sequence[FeatureView], triggers: Sequence[Trigger]) -> None:
    where = f"App({id!r})"
    if not APP_NAME.fullmatch(id):
        raise DefinitionError(
            f"{where}.id", "the name begins those of topics: 1 to 100 of A-Z a-z 0-9 . _ -"
        )
    if not views:
        raise DefinitionError(f"{where}.views", "an application needs at least one view")
    names: set[str] = set()
    for view in views:
        if view.name in names:
            raise DefinitionError(f"{where}.views", f"two views are called {view.name!r}")
        names.add(view.name)
    check_topics(id, views)
    seen: set[str] = set()
    for trigger in triggers:
        if trigger.view not in views:
            raise DefinitionError(
                f"{where}.triggers",
                f"{trigger.name!r} is of view {trigger.view.name!r}, not in views",
            )
        if trigger.name in seen:
            raise DefinitionError(f"{where}.triggers", f"two triggers are called {trigger.name!r}")
        seen.add(trigger.name)


def _freshness_ms(app: str, freshness: str | int | timedelta | None) -> int:
    if freshness is None:
        return 0
    try:
        ns = parse_duration(freshness)
    except ValueError as error:
        raise DefinitionError(f"App({app!r}).freshness", str(error)) from error
    if ns < 1_000_000:
        raise DefinitionError(f"App({app!r}).freshness", "must be at least 1ms")
    return ns // 1_000_000
