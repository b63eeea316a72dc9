"""The demo's two workers: the application and the inference worker, as child processes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.embedded.process import LOOPBACK, ServerCommand, ServerProcess, free_port
from pipeline.errors import UnavailableError

__all__ = ["MODEL", "Worker", "start_app", "start_inference"]

APP = "pipeline.demo.app:app"
MODEL = Path(__file__).parent / "next_week_spend.json"
MAIN = "import sys; from pipeline.cli import main; sys.exit(main())"


class Worker:
    """A running worker and its metrics page."""

    def __init__(self, process: ServerProcess, log: Path, port: int) -> None:
        self.process = process
        self.log = log
        self.metrics_url = _metrics_url(port)

    def check(self) -> None:
        """:class:`UnavailableError` with the end of the log if the worker has ended."""
        if not self.process.running:
            tail = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            raise UnavailableError(
                f"{self.log.stem} ended: {' '.join(tail) or 'no message'} (log: {self.log})"
            )


def start_app(directory: Path, environment: Mapping[str, str]) -> Worker:
    """Start the application; it has partitions once its metrics page says so."""
    return _start("app", directory, environment, ["run", APP])


def start_inference(directory: Path, environment: Mapping[str, str]) -> Worker:
    """Start the inference worker over the demo's model."""
    return _start("inference", directory, environment, ["infer", APP, "--model", str(MODEL)])


def _start(
    name: str, directory: Path, environment: Mapping[str, str], arguments: Sequence[str]
) -> Worker:
    port = free_port()
    log = directory / f"{name}.log"
    command = ServerCommand(
        name=f"the demo's {name} worker",
        argv=[sys.executable, "-c", MAIN, *arguments, "--web-port", str(port)],
        answers=lambda pid: True,  # both workers start at once; whoever needs one waits for it
        log=log,
        environment=environment,
        inherits=False,
    )
    return Worker(ServerProcess.start(command), log, port)


def _metrics_url(port: int) -> str:
    return f"http://{LOOPBACK}:{port}/metrics"
