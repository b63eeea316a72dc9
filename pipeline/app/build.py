"""Builds a data plane: checks the servers, compiles the kernels, registers the views."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from functools import cache

from pipeline.app.audit import Audit
from pipeline.app.freshness import shortened
from pipeline.app.outputs import TopicNames
from pipeline.app.partition import view_plans
from pipeline.app.plane import DataPlane, PlaneSettings
from pipeline.app.retention import repartition_topic
from pipeline.app.sender import Sender
from pipeline.app.stored import Registration, kept_up, stored_views
from pipeline.app.topic import Place, Topic, arrange
from pipeline.app.warm import warm_up
from pipeline.config import AppConfig, BrokerConfig, Config
from pipeline.errors import PipelineError
from pipeline.features.stored import AnyView
from pipeline.features.view import FeatureView, Trigger
from pipeline.ingest.lane import Lane, LaneConfig
from pipeline.ingest.native import NativeLane
from pipeline.ingest.portable import PortableLane
from pipeline.ingest.selfcheck import self_check
from pipeline.produce.publisher import Publisher
from pipeline.produce.topics import OUTPUT_CONFIG, TopicInfo, describe, ensure_topic
from pipeline.store.open import open_store

__all__ = ["build_plane", "find_topics", "lane_config", "open_audit", "open_lane"]

log = logging.getLogger(__name__)

LINGER_MS = 5  # outputs of a batch go out together
FETCH_WAIT_MS = 100  # at most, however old features may be
FETCH_BYTES = 1 << 16  # enough not to wait for more, and less than a partition's part of a fetch
FRESH_RECORDS = 20_000  # most of a batch where features are to be fresh: tens of ms
APART_RECORDS = 20_000  # a view that is further behind is read apart
OUTPUT_PARTITIONS = 1  # dead letters and late records are few


def build_plane(
    app: str,
    views: Sequence[FeatureView],
    triggers: Sequence[Trigger],
    config: Config,
    *,
    delivered: Collection[str] = (),
    again: bool = False,
) -> DataPlane:
    """A plane that is ready to join its group; kernels are compiled before that.

    Agents take the changed rows of the views ``delivered``. It keeps up ``views``, and every other
    version that is registered for the application. A view that was retired begins anew, unless the
    plane is only built ``again``: then it is left out.
    Raises :class:`ConfigurationError`, :class:`ViewVersionError` (a view is being erased) and
    :class:`UnavailableError` with what to do.
    """
    names = TopicNames.of(app, config.app)
    store = open_store(config.store.url, timeout_ms=config.store.timeout_ms)
    store.verify()

    @cache
    def find(topic: str) -> Place:
        return _place(describe(config.broker, topic))

    def make(topic: str, count: int, over: Sequence[AnyView]) -> Place:
        return _place(repartition_topic(config.broker, topic, count, over))

    defined = kept_up(store.registry, app, views) if again else views
    plans = view_plans(defined, triggers, delivered)
    Registration.of(store.registry, app, arrange(app, plans, find, make)).tell(_clock_ms())
    others = stored_views(store.registry, app, defined, find)
    for view in others:
        log.info("keeping up %s %016x until it is retired", view.name, view.plan.fingerprint)
    topics = arrange(app, [*plans, *view_plans(others, [])], find, make)
    registration = Registration.of(store.registry, app, topics)
    _output_topics(config.broker, names, topics)
    started = time.monotonic()
    warm_up(topics)
    log.info("kernels ready in %.1f s", time.monotonic() - started)
    linger_ms = shortened(LINGER_MS, config.app.freshness_ms)
    publisher = Publisher(config.broker, tickets=True, linger_ms=linger_ms)
    return DataPlane(
        names=names,
        topics=topics,
        settings=PlaneSettings(
            max_records=_most_records(config.app),
            max_wait_ms=shortened(config.app.max_wait_ms, config.app.freshness_ms),
            under_way=config.app.under_way,
            threads=config.app.compute_threads,
            cache_bytes=config.app.cache_bytes,
            check_interval_ms=config.store.check_interval_ms,
            commit_interval_ms=config.app.commit_interval_ms,
            replay_horizon_ms=config.store.replay_horizon_ms,
            sweep_keys_per_s=config.store.sweep_keys_per_s,
            apart=min(config.app.max_records, APART_RECORDS),
            apart_records_per_s=config.app.catch_up_records_per_s,
        ),
        lane=open_lane(f"{app}.features", config),
        store=store,
        sender=Sender(names, publisher, _clock_ms),
        clock_ms=_clock_ms,
        monotonic=time.monotonic,
        open_lane=lambda: open_lane(f"{app}.features", config),
        registration=registration,
    )


def open_audit(
    app: str,
    views: Sequence[FeatureView],
    config: Config,
    *,
    sample: int,
    keys: Sequence[bytes] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> Audit:
    """An audit of ``sample`` rows of each view, or of these message ``keys``; nothing is created.

    Raises :class:`ConfigurationError` and :class:`UnavailableError` with what to do.
    """
    topics = find_topics(app, views, config)
    return Audit(
        app,
        topics,
        open_store(config.store.url, timeout_ms=config.store.timeout_ms),
        open_lane(f"{app}.verify-{uuid.uuid4().hex[:8]}", config),
        sample=-(-sample // max(t.partitions for t in topics)),
        keys=keys,
        now_ns=time.time_ns(),
        progress=progress,
    )


def find_topics(app: str, views: Sequence[AnyView], config: Config) -> list[Topic]:
    """The topics of these views as they are; none is created. Raises UnknownNameError."""

    def find(topic: str) -> Place:
        return _place(describe(config.broker, topic))

    return arrange(app, view_plans(views, []), find, lambda topic, *_: find(topic))


def lane_config(group: str, config: Config) -> LaneConfig:
    """How the lane reads. Heartbeats come at a third of the session timeout, or sooner. Where
    features are to be fresh, a fetch waits for a share of that time."""
    properties = config.broker.client_properties()
    brokers = properties.pop("bootstrap.servers")
    timeout_ms = config.app.session_timeout_ms
    properties.setdefault("session.timeout.ms", str(timeout_ms))
    properties.setdefault("heartbeat.interval.ms", str(min(3000, timeout_ms // 3)))
    if config.app.freshness_ms:
        # The broker waits a little for all partitions instead of answering for each by itself:
        # of the two ways to the same freshness the one that costs it half as much.
        wait_ms = shortened(FETCH_WAIT_MS, config.app.freshness_ms)
        properties.setdefault("fetch.wait.max.ms", str(wait_ms))
        properties.setdefault("fetch.min.bytes", str(FETCH_BYTES))
    return LaneConfig(
        brokers=brokers,
        group=group,
        max_value_bytes=config.app.max_value_bytes,
        properties=properties,
    )


def open_lane(group: str, config: Config) -> Lane:
    """The lane that the configuration asks for; ``auto`` says why when it is not the native one."""
    settings = lane_config(group, config)
    if config.app.lane == "portable":
        return PortableLane(settings)
    try:
        self_check()
    except PipelineError as error:
        if config.app.lane == "native":
            raise
        log.warning("reading through the portable lane: %s", error)
        return PortableLane(settings)
    return NativeLane(settings)


def _most_records(app: AppConfig) -> int:
    return min(app.max_records, FRESH_RECORDS) if app.freshness_ms else app.max_records


def _place(found: TopicInfo) -> Place:
    return found.topic_id, found.partitions


def _output_topics(broker: BrokerConfig, names: TopicNames, topics: Sequence[Topic]) -> None:
    """Output topics that follow a source topic have its number of partitions."""
    for topic in topics:
        for plan in topic.views:
            if plan.view.publish_changes:
                name = names.changes(plan.view.name)
                ensure_topic(broker, name, topic.partitions, OUTPUT_CONFIG)
            for trigger in plan.triggers:
                ensure_topic(broker, names.requests(trigger.name), topic.partitions, OUTPUT_CONFIG)
    ensure_topic(broker, names.dead_letters, OUTPUT_PARTITIONS, OUTPUT_CONFIG)
    ensure_topic(broker, names.late, OUTPUT_PARTITIONS, OUTPUT_CONFIG)


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000
