"""Runs an inference worker for an application's triggers in this process."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pipeline import metrics
from pipeline.app.application import App
from pipeline.app.build import open_lane
from pipeline.app.outputs import TopicNames
from pipeline.config import Config
from pipeline.errors import ConfigurationError, DefinitionError
from pipeline.inference.delivery import InferenceSettings, Step
from pipeline.inference.manifest import ModelManifest
from pipeline.inference.model import load_file
from pipeline.inference.prediction import Outcome
from pipeline.inference.warm import warm_up
from pipeline.inference.worker import InferenceWorker
from pipeline.produce.publisher import Publisher
from pipeline.produce.topics import OUTPUT_CONFIG, describe, ensure_topic
from pipeline.store.open import open_store

__all__ = ["run_inference"]

log = logging.getLogger(__name__)


def run_inference(app: App, *, web_port: int | None = None) -> None:
    """Answer the requests of all triggers of ``app`` until SIGTERM or Ctrl-C.

    ``web_port`` serves ``/metrics`` on the loopback interface. Raises ConfigurationError and
    UnavailableError with what to do, and what stops the worker.
    """
    config = app.plane_config
    if not app.triggers:
        raise DefinitionError(f"App({app.conf.id!r}).triggers", "there is nothing to predict")
    if not config.inference.model:
        raise ConfigurationError("inference.model is not set: give --model FILE (a manifest)")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    registry = metrics.Registry()
    with ExitStack() as opened:
        worker, manifest = _build(app, config, opened)
        worker.start()
        if web_port is not None:
            opened.callback(_serve_metrics(registry, web_port))
        log.info("model %s %s is ready", manifest.name, manifest.version)
        while not stopping.is_set():
            _observe(registry, manifest, worker.step())
            registry.gauge(metrics.PARTITIONS).set(len(worker.partitions))
        deadline = time.monotonic() + config.app.shutdown_timeout_ms / 1000
        while not worker.idle and time.monotonic() < deadline:
            _observe(registry, manifest, worker.step())


def _build(app: App, config: Config, opened: ExitStack) -> tuple[InferenceWorker, ModelManifest]:
    name = app.conf.id
    names = TopicNames.of(name, config.app)
    warm_up()
    manifest, model = load_file(config.inference.model)
    opened.callback(model.close)
    for trigger in app.triggers:
        unsent = [f.name for f in manifest.features if f.name not in trigger.sent]
        if unsent:
            raise DefinitionError(
                f"Trigger({trigger.name!r}).features",
                f"model {manifest.name} needs {', '.join(unsent)}, which is not sent",
            )
    store = open_store(config.store.url, timeout_ms=config.store.timeout_ms)
    opened.callback(store.close)
    store.verify()
    topics = {
        names.requests(t.name): describe(config.broker, names.requests(t.name))
        for t in app.triggers
    }
    consumer = f"{name}.{manifest.name}.{manifest.version}"
    predictions = f"{name}-{manifest.name}-predictions"
    ensure_topic(
        config.broker, predictions, max(t.partitions for t in topics.values()), OUTPUT_CONFIG
    )
    ensure_topic(config.broker, names.dead_letters, 1, OUTPUT_CONFIG)
    publisher = opened.enter_context(Publisher(config.broker, linger_ms=0, tickets=True))
    worker = InferenceWorker(
        app=consumer,
        topic_ids={topic: found.topic_id for topic, found in topics.items()},
        manifest=manifest,
        model=model,
        lane=open_lane(consumer, config),
        store=store,
        publisher=publisher,
        settings=InferenceSettings(
            predictions_topic=predictions,
            dead_letter_topic=names.dead_letters,
            slo_ms=config.inference.slo_ms,
            max_batch=config.inference.max_batch,
            defer=config.inference.defer,
            check_interval_ms=config.store.check_interval_ms,
        ),
        clock_ns=time.time_ns,
        monotonic_ns=time.monotonic_ns,
    )
    opened.callback(worker.close)
    return worker, manifest


def _observe(registry: metrics.Registry, manifest: ModelManifest, step: Step) -> None:
    model = f"{manifest.name}/{manifest.version}"
    for outcome, rows in step.rows.items():
        if rows:
            reason = "" if outcome is Outcome.PREDICTED else outcome.name.lower()
            kind = "fallback" if reason else "predicted"
            registry.counter(metrics.INFERENCE_ROWS, model, kind, reason).add(rows)
    for rows, service_ns in step.runs:
        registry.histogram(metrics.INFERENCE_BATCH, model).observe(rows)
        registry.histogram(metrics.INFERENCE_SERVICE_SECONDS, model).observe(service_ns / 1e9)
    for latency_ms in step.latency_ms:
        registry.histogram(metrics.INFERENCE_SECONDS, model).observe(latency_ms / 1000)
    if step.on_time:
        registry.counter(metrics.INFERENCE_ON_TIME, model).add(step.on_time)
    if step.resets:
        registry.counter(metrics.REWINDS, "reset").add(step.resets)


def _serve_metrics(registry: metrics.Registry, port: int) -> Callable[[], None]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = registry.exposition().encode()
            self.send_response(200 if self.path.partition("?")[0] == "/metrics" else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            log.debug(format, *args)

    server = ThreadingHTTPServer(("127.0.0.1", port), Page)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return stop
