"""The demo: everything at once on this machine, then every number checked."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import polars as pl
from rich.console import Console

import pipeline as pp
from pipeline import metrics
from pipeline.app.outputs import TopicNames
from pipeline.app.partition import view_plans
from pipeline.app.plane import Topic
from pipeline.app.warm import warm_up
from pipeline.config import BrokerConfig, Config
from pipeline.demo import html
from pipeline.demo.dataset import ENTITY, TIME, events
from pipeline.demo.oracle import requested
from pipeline.demo.progress import DemoProgress
from pipeline.demo.report import DemoReport, Machine, Predictions, Quantiles, versions
from pipeline.demo.sample import Sample
from pipeline.demo.terminal import render
from pipeline.demo.verify import published_rows, read_stored, time_reads, verify
from pipeline.demo.views import TOPIC, household, new_basket, purchases
from pipeline.demo.watch import AppWatch, scrape
from pipeline.demo.workers import Worker, start_app, start_inference
from pipeline.embedded.servers import EmbeddedServers
from pipeline.errors import ConfigurationError, PipelineError, UnavailableError
from pipeline.ingest.selfcheck import self_check
from pipeline.kernels.caching import is_warm
from pipeline.produce.topics import OUTPUT_CONFIG, ensure_topic

__all__ = ["main"]

APP = "grocery"
PARTITIONS = 12
CHUNK = 10_000
LOOK_S = 0.25
READY_TIMEOUT_S = 60.0
STALL_TIMEOUT_S = 60.0
KEPT_VARIABLES = ("PIPELINE_JIT", "PIPELINE_CACHE")
SLO_MS = 2_000  # every core of a small machine is busy with the features themselves


def main(arguments: argparse.Namespace) -> int:
    """Run the demo; 0 if every number was right, 1 if one was not."""
    console = Console()
    _check_outputs(arguments)
    signal.signal(signal.SIGTERM, _terminated)  # as Ctrl-C: servers and files are put away
    with ExitStack() as stack:
        demo = _Demo(arguments, console, stack)
        try:
            report, samples, shown = demo.run()
        except (KeyboardInterrupt, SystemExit):
            stack.callback(demo.clean)
            raise
        console.print(render(report))
        if arguments.json is not None:
            report.write(arguments.json)
            console.print(f"report: {arguments.json}", style="dim")
        if arguments.html is not None:
            html.write(arguments.html, report, samples, shown)
            console.print(f"page: {arguments.html}", style="dim")
        if arguments.keep:
            demo.keep()
    demo.clean()  # not after an error: its message names a log in there
    return report.exit_code


class _Demo:
    """Servers, workers and what was seen of them."""

    def __init__(self, arguments: argparse.Namespace, console: Console, stack: ExitStack) -> None:
        self._arguments = arguments
        self._console = console
        self._stack = stack
        self._seconds: dict[str, float] = {}
        self._servers = EmbeddedServers()
        self._view = household(purchases())
        self._trigger = new_basket(self._view)
        self._events = events(arguments.events).with_columns(
            pl.col(TIME).dt.replace_time_zone("UTC")
        )
        self._baskets = _new_baskets(self._events)
        self._directory = Path(tempfile.mkdtemp(prefix="pipeline-demo-"))
        self._produced = 0
        self._producer_error: PipelineError | None = None
        self._stopping = threading.Event()

    def run(self) -> tuple[DemoReport, list[Sample], pl.DataFrame | None]:
        """All phases; the report, the samples, and the rows of the busiest household."""
        cold = not is_warm()
        words = "compiling kernels (half a minute, once per machine)" if cold else "loading kernels"
        with self._phase("kernels", words):
            plans = tuple(view_plans([self._view], [self._trigger]))
            warm_up([Topic(self._view.stream, "", PARTITIONS, plans)], answers=True)
            self_check()
        with self._phase("servers", "starting the embedded broker and Redis"):
            self._stack.enter_context(self._servers)
            ensure_topic(self._servers.brokers, TOPIC, PARTITIONS)
        with self._phase("workers", "starting the application and the inference worker"):
            producer = pp.EventProducer(self._view.sources[0], brokers=self._servers.brokers)
            self._stack.enter_context(producer)
            app, inference = self._start_workers()
            watch = AppWatch(app.metrics_url, self._view.name)
            self._wait_until_assigned(app, inference)
        with self._phase("events", f"publishing {len(self._events):,} purchases"):
            samples = self._follow(watch, app, inference, producer)
        with self._phase("verification", "comparing with DuckDB"):
            report, shown = self._judge(watch, inference, samples)
        return report, samples, shown

    def keep(self) -> None:
        """Leave everything running until Ctrl-C, and say how to look around."""
        store = self._servers.redis_url
        self._console.print(
            f"\nThe servers are up until Ctrl-C. In another terminal:\n"
            f"  pipeline read {self._view.name} 1 900 2000 --at event --store {store}\n"
            f"  pipeline doctor pipeline.demo.app:app "
            f"--brokers {self._servers.brokers} --store {store}\n"
            f"  redis-cli -u {store} --scan --pattern '*:lease'\n",
            highlight=False,
            soft_wrap=True,
        )
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            self._console.print("stopping")

    def clean(self) -> None:
        """Remove the workers' logs."""
        shutil.rmtree(self._directory, ignore_errors=True)

    @contextmanager
    def _phase(self, name: str, words: str) -> Iterator[None]:
        self._console.print(f"· {words}", style="dim", highlight=False)
        started = time.monotonic()
        yield
        self._seconds[name] = round(time.monotonic() - started, 2)

    @property
    def _environment(self) -> Mapping[str, str]:
        """What the workers get: ours, and nothing that is set for the user's own servers."""
        return {
            **{name: text for name, text in os.environ.items() if not _is_setting(name)},
            "PIPELINE_CONFIG": os.devnull,  # nor a pipeline.toml of the working directory
            "F_DATADIR": str(self._directory / "faust"),
            "PIPELINE_BROKER__BROKERS": self._servers.brokers,
            "PIPELINE_STORE__URL": self._servers.redis_url,
            "PIPELINE_INFERENCE__SLO_MS": str(SLO_MS),
            # The embedded broker lets a new group wait for half of the session timeout.
            "PIPELINE_APP__SESSION_TIMEOUT_MS": "6000",
        }

    def _start_workers(self) -> tuple[Worker, Worker]:
        app = start_app(self._directory, self._environment)
        self._stack.callback(app.process.stop)
        names = TopicNames.of(APP, Config().app)
        ensure_topic(
            self._servers.brokers, names.requests(self._trigger.name), PARTITIONS, OUTPUT_CONFIG
        )
        inference = start_inference(self._directory, self._environment)
        self._stack.callback(inference.process.stop)
        return app, inference

    def _wait_until_assigned(self, *workers: Worker) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        for worker in workers:
            while _owned(worker) < PARTITIONS:
                worker.check()
                if time.monotonic() > deadline:
                    raise UnavailableError(f"a worker got no partitions (log: {worker.log})")
                time.sleep(0.05)

    def _follow(
        self, watch: AppWatch, app: Worker, inference: Worker, producer: pp.EventProducer
    ) -> list[Sample]:
        """Produce in a thread; look four times a second until everything has its outcome."""
        total = len(self._events)
        publishing = threading.Thread(target=self._produce, args=(watch, producer), daemon=True)
        self._stack.callback(self._stopping.set)
        samples: list[Sample] = []
        started = moved = time.monotonic()
        publishing.start()
        with DemoProgress(total, self._console, requests=self._baskets) as progress:
            while True:
                app.check()
                inference.check()
                if self._producer_error is not None:
                    raise self._producer_error
                answered, _ = _predictions(inference)
                sample = watch.look(time.monotonic() - started, self._produced, answered)
                if not samples or (sample.applied, answered) != (
                    samples[-1].applied,
                    samples[-1].predicted,
                ):
                    moved = time.monotonic()
                samples.append(sample)
                progress.update(sample)
                if sample.applied >= total and answered >= self._baskets:
                    return samples
                if time.monotonic() - moved > STALL_TIMEOUT_S:
                    raise UnavailableError(
                        f"nothing moved for {STALL_TIMEOUT_S:g} s: {sample} (log: {app.log})"
                    )
                time.sleep(LOOK_S)

    def _produce(self, watch: AppWatch, producer: pp.EventProducer) -> None:
        """Publish in file order; wait while more than ``--max-lag`` events are not applied."""
        try:
            for start in range(0, len(self._events), CHUNK):
                while self._produced - watch.applied > self._arguments.max_lag:
                    if self._stopping.wait(0.02):
                        return
                self._produced += producer.send(self._events[start : start + CHUNK])
            producer.flush()
        except PipelineError as error:
            self._producer_error = error

    def _judge(
        self, watch: AppWatch, inference: Worker, samples: list[Sample]
    ) -> tuple[DemoReport, pl.DataFrame | None]:
        plan, url = self._view.plan, self._servers.redis_url
        households = self._events[ENTITY].unique().sort()
        names = TopicNames.of(APP, Config().app)
        broker = BrokerConfig(brokers=self._servers.brokers)
        changes = published_rows(broker, names.changes(self._view.name))
        requests = published_rows(broker, names.requests(self._trigger.name))
        raw = self._events.with_columns(pl.col(TIME).dt.replace_time_zone(None))
        oracle, baskets = verify(raw, changes, requests, url, plan)
        stored = read_stored(url, APP, plan, PARTITIONS, households)
        answered, fallback = _predictions(inference)
        report = DemoReport(
            events=len(self._events),
            entities=len(households),
            events_per_s=round(len(self._events) / _last_applied_s(samples)),
            partitions=stored.partitions,
            seconds=self._seconds,
            machine=Machine.read(),
            versions=versions(),
            freshness_ms=_freshness(watch),
            read_ms=time_reads(url, plan, households),
            read_keys=100,
            bytes_per_entity=round(stored.bytes_per_entity, 1),
            oracle=oracle,
            predictions=Predictions(answered, answered - fallback, fallback),
            expected_requests=baskets,
            command="pipeline demo",
            notes=(
                f"the producer waited whenever more than {self._arguments.max_lag:,} events were "
                "not applied; broker, Redis, workers and producer shared this machine",
            ),
        )
        asked = requested(requests)  # a row a basket: finer than the changes of a whole batch
        busiest = asked[ENTITY].value_counts(sort=True)[ENTITY][0]
        return report, asked.filter(pl.col(ENTITY) == busiest).sort("source_offset")


def _new_baskets(purchases: pl.DataFrame) -> int:
    """How often a household's basket differs from the one before: requests to wait for."""
    before = pl.col("basket_id").shift(1).over(ENTITY)
    return int(purchases.select((before.is_null() | (before != pl.col("basket_id"))).sum()).item())


def _predictions(inference: Worker) -> tuple[int, int]:
    """(rows answered, of which fallbacks) so far."""
    answered = fallback = 0.0
    for name, labels, value in scrape(inference.metrics_url):
        if name == metrics.INFERENCE_ROWS.name:
            answered += value
            fallback += value if labels["outcome"] == "fallback" else 0
    return int(answered), int(fallback)


def _owned(worker: Worker) -> int:
    """Partitions that a worker owns now; 0 while it is starting."""
    try:
        page = list(scrape(worker.metrics_url))
    except OSError:
        return 0
    return sum(int(value) for name, _, value in page if name == metrics.PARTITIONS.name)


def _freshness(watch: AppWatch) -> Quantiles | None:
    p50, p99 = (watch.quantile_ms(watch.total, q) for q in (0.5, 0.99))
    return None if p50 is None or p99 is None else Quantiles(round(p50, 1), round(p99, 1))


def _last_applied_s(samples: list[Sample]) -> float:
    """When everything was applied, seconds after the first event was produced."""
    total = samples[-1].applied
    return next(s.t_s for s in samples if s.applied >= total)


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Before the work: a report that cannot be written is noticed now, not at the end."""
    for option, path in (("--json", arguments.json), ("--html", arguments.html)):
        if path is None:
            continue
        directory = path.resolve().parent
        if path.is_dir():
            raise ConfigurationError(f"{option} {path}: is a directory; give the name of a file")
        if not directory.is_dir():
            raise ConfigurationError(f"{option} {path}: no directory {str(directory)!r}")
        if not os.access(directory, os.W_OK):
            raise ConfigurationError(f"{option} {path}: no right to write in {str(directory)!r}")


def _is_setting(name: str) -> bool:
    return name.startswith("PIPELINE_") and name not in KEPT_VARIABLES


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
