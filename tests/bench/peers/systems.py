"""The systems beside ours: how each is installed, and the command of its job."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PEERS", "Peer", "PeerError", "Took", "Where"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
BUILD = ROOT / "build"
ENVIRONMENT = BUILD / "bench-env"
STREAMS = BUILD / "bench-streams"

_INSTALL_TIMEOUT_S = 900
_JOB_TIMEOUT_S = 300


class PeerError(Exception):
    """A peer cannot be installed, or its job did not end well; why."""


@dataclass(frozen=True, slots=True)
class Where:
    """The servers of a run and the topic to read."""

    brokers: str
    redis_url: str
    topic: str
    events: int


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds from the first record to the last row: wall, and CPU of the system's process."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Peer:
    """``prepare`` installs it once and returns the command of its job, less the arguments."""

    name: str
    target: str
    goal: float
    events: int
    prepare: Callable[[], list[str]]

    def run(self, group: str, where: Where) -> Took:
        """One job in a process of its own, from nothing; :class:`PeerError` says what it wrote."""
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            done = _call(
                [
                    *self.prepare(),
                    f"--brokers={where.brokers}",
                    f"--topic={where.topic}",
                    f"--group={group}",
                    f"--redis={where.redis_url}",
                    f"--directory={directory}",
                    f"--events={where.events}",
                ],
                _JOB_TIMEOUT_S,
            )
        try:
            line = json.loads(done.splitlines()[-1])
        except (IndexError, ValueError) as error:
            raise PeerError(f"no result line but: {done[-500:]}") from error
        if line["events"] != where.events:
            raise PeerError(f"processed {line['events']} of {where.events} events")
        return Took(line["seconds"], line["cpu_seconds"])


def _call(argv: list[str], timeout_s: float) -> str:
    """Standard output of a command that ended well."""
    try:
        done = subprocess.run(
            argv, cwd=ROOT, check=False, capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"{Path(argv[0]).name} was not done after {timeout_s:.0f} s") from error
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip()
        if len(said) > 1_000:  # Java names the error first, Python last
            said = f"{said[:500]}\n...\n{said[-500:]}"
        raise PeerError(f"{Path(argv[0]).name} ended with {done.returncode}: {said}")
    return done.stdout


def _current(mark: Path, sources: list[Path]) -> bool:
    """Whether ``mark`` was left by these very sources; :func:`_leave` leaves it."""
    return mark.exists() and mark.read_text() == _digest(sources)


def _digest(sources: list[Path]) -> str:
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _python(module: str) -> Callable[[], list[str]]:
    def prepare() -> list[str]:
        wanted = HERE / "requirements.txt"
        mark = ENVIRONMENT / ".installed"
        program = str(ENVIRONMENT / "bin" / "python")
        if not _current(mark, [wanted]):
            _call([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], _INSTALL_TIMEOUT_S)
            pip = [program, "-m", "pip", "install", "--quiet", "-r", str(wanted)]
            _call(pip, _INSTALL_TIMEOUT_S)
            mark.write_text(_digest([wanted]))
        return [program, "-m", f"tests.bench.peers.{module}"]

    return prepare


def _streams() -> list[str]:
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            raise PeerError(f"{tool} is not on PATH")
    pom = HERE / "streams" / "pom.xml"
    sources = [pom, *sorted(pom.parent.glob("src/**/*.java"))]
    mark = STREAMS / ".built"
    if not _current(mark, sources):
        goals = ["compiler:compile", "dependency:copy-dependencies"]
        options = ["--batch-mode", "--quiet", "-Dstyle.color=never", f"-Dbench.target={STREAMS}"]
        _call(["mvn", *options, "-f", str(pom), *goals], _INSTALL_TIMEOUT_S)
        mark.write_text(_digest(sources))
    path = f"{STREAMS / 'classes'}:{STREAMS / 'libraries'}/*"
    return ["java", "-XX:+UseG1GC", "-Xms1g", "-Xmx2g", "-cp", path, "bench.Activity"]


PEERS = (
    Peer("Quix Streams", "P1", 10.0, 250_000, _python("quix_job")),
    Peer("Bytewax", "P1", 10.0, 1_000_000, _python("bytewax_job")),
    Peer("Faust", "P1", 10.0, 30_000, _python("faust_job")),
    Peer("Kafka Streams", "P2", 3.0, 1_000_000, _streams),
)
