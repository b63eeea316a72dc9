"""One Apache Kafka node, broker and controller in one process, from the broker's own libraries.

Used where the embedded broker is not enough: transactions, aborted records, real group
coordination, fault tests. Needs Java 17 or newer and the libraries that
``infra/kafka/pom.xml`` resolves (``make kafka``).
"""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from pipeline.embedded.probe import kafka_answers
from pipeline.embedded.process import LOOPBACK, ServerCommand, ServerProcess, free_port
from pipeline.errors import BrokerUnavailableError, ConfigurationError

__all__ = ["SHORT_LIVED", "KafkaNode"]

SHORT_LIVED = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""Options of a JVM that will not run for long: it starts in half of the CPU and serves slower."""

_PORT_TRIES = 5  # another process may take a free port before the node binds it
_FORMAT_TIMEOUT_S = 120.0
_START_TIMEOUT_S = 120.0  # a JVM on a busy two-core machine

_LOGGING = """\
status = warn
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %m (%c)%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
"""


class KafkaNode:
    """A single KRaft node on free loopback ports.

    ``libraries`` is the directory of the resolved jars. ``directory`` holds log and metadata
    and outlives the node; by default it is a temporary one that :meth:`close` removes.
    ``settings`` are broker settings on top of the ones for a node without replicas, ``java``
    options of its JVM. After :meth:`stop` or :meth:`kill`, :meth:`start` brings the same log back
    at the same address. Raises ConfigurationError without Java or libraries,
    BrokerUnavailableError when the node does not come up.
    """

    def __init__(
        self,
        libraries: Path,
        *,
        directory: Path | None = None,
        port: int = 0,
        heap: str = "768m",
        settings: Mapping[str, str] | None = None,
        java: Sequence[str] = ("-XX:+UseG1GC",),
    ) -> None:
        self._libraries = libraries
        self._java_options = tuple(java)
        self._given_directory = directory
        self._directory: Path | None = None
        self._heap = heap
        self._settings = dict(settings or {})
        self._port = port
        self._server: ServerProcess | None = None

    @staticmethod
    def available(libraries: Path) -> bool:
        """Whether a node can be started here: ``java`` on ``PATH``, libraries resolved."""
        return shutil.which("java") is not None and any(libraries.glob("kafka_2*.jar"))

    @property
    def brokers(self) -> str:
        """``bootstrap.servers`` of the running node."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def pid(self) -> int | None:
        """Process id, or None when not running."""
        return self._server.pid if self._server is not None and self._server.running else None

    def start(self) -> KafkaNode:
        """Format the storage on the first start, start the node, wait until it answers."""
        if self.pid is not None:
            return self
        if not self.available(self._libraries):
            raise ConfigurationError(
                f"a Kafka node needs java on PATH and jars in {self._libraries}: run `make kafka`"
            )
        if self._directory is None:
            self._directory = self._given_directory or Path(tempfile.mkdtemp(prefix="kafka-node-"))
        try:
            self._server = self._start_on_port(self._directory)
        except BaseException:
            self.close()
            raise
        return self

    def stop(self) -> None:
        """Stop the node in order and keep its log. Harmless when it is not running."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def kill(self) -> None:
        """End the node at once, as a crash would, and keep its log."""
        if self._server is not None:
            self._server.kill()
            self._server = None

    def close(self) -> None:
        """Stop the node and remove the directory that was made for it."""
        self.stop()
        if self._directory is not None and self._given_directory is None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._directory = None

    def _start_on_port(self, directory: Path) -> ServerProcess:
        if self._port:
            return self._start(directory, self._port)
        tries = 1
        while True:
            port = free_port()
            try:
                server = self._start(directory, port)
            except BrokerUnavailableError as failure:
                if tries == _PORT_TRIES or "in use" not in str(failure):
                    raise
                tries += 1
                continue
            self._port = port
            return server

    def _start(self, directory: Path, port: int) -> ServerProcess:
        data = directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        properties = directory / "server.properties"
        properties.write_text(_properties(data, port, free_port(), self._settings))
        logging = directory / "log4j2.properties"
        logging.write_text(_LOGGING)
        cluster = _cluster_of(data) or self._format(data, properties)
        log = directory / "node.log"
        log.unlink(missing_ok=True)
        return ServerProcess.start(
            ServerCommand(
                name="Kafka node",
                argv=[
                    *self._java(
                        *self._java_options,
                        f"-Dlog4j2.configurationFile={logging}",
                        f"-Xmx{self._heap}",
                    ),
                    "kafka.Kafka",
                    str(properties),
                ],
                answers=lambda _pid: kafka_answers(LOOPBACK, port, cluster),
                log=log,
                error=BrokerUnavailableError,
                start_timeout_s=_START_TIMEOUT_S,
                stop_timeout_s=30.0,
            )
        )

    def _format(self, data: Path, properties: Path) -> str:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        tool = [*self._java(*SHORT_LIVED, "-Xmx256m"), "kafka.tools.StorageTool", "format"]
        done = subprocess.run(
            [*tool, f"--cluster-id={cluster}", f"--config={properties}"],
            check=False,
            capture_output=True,
            text=True,
            timeout=_FORMAT_TIMEOUT_S,
        )
        if done.returncode != 0:
            raise BrokerUnavailableError(
                f"the storage of the Kafka node in {data} could not be formatted: "
                f"{(done.stdout + done.stderr).strip()}"
            )
        return cluster

    def _java(self, *options: str) -> list[str]:
        return ["java", *options, "-cp", f"{self._libraries}/*"]

    def __enter__(self) -> KafkaNode:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _cluster_of(data: Path) -> str | None:
    """Cluster id that the storage was formatted with, or None when it was not."""
    try:
        text = (data / "meta.properties").read_text()
    except FileNotFoundError:
        return None
    found = re.search(r"^cluster\.id=(\S+)$", text, re.MULTILINE)
    return found.group(1) if found else None


def _properties(data: Path, port: int, controller_port: int, settings: Mapping[str, str]) -> str:
    single_node = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(data),
        "default.replication.factor": "1",
        "min.insync.replicas": "1",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "broker.session.timeout.ms": "3000",  # how long a start after a kill waits
        "broker.heartbeat.interval.ms": "500",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "auto.create.topics.enable": "false",
        "num.network.threads": "2",
        "num.io.threads": "4",
    }
    return "".join(f"{name}={value}\n" for name, value in {**single_node, **settings}.items())
