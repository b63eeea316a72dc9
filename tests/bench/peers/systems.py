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

__all__ = ["HERE", "PEERS", "ROOT", "Peer", "PeerError", "Took", "Where", "environment"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
BUILD = ROOT / "build"
TILES = HERE / "streams/src/main/java/bench/Tiles.java"

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
        return [environment("env", "requirements.txt"), "-m", f"tests.bench.peers.{module}"]

    return prepare


def environment(name: str, requirements: str) -> str:
    """Interpreter of ``build/bench-<name>``, where what ``requirements`` names is installed."""
    wanted, directory = HERE / requirements, BUILD / f"bench-{name}"
    mark = directory / ".installed"
    program = str(directory / "bin" / "python")
    if not _current(mark, [wanted]):
        _call([sys.executable, "-m", "venv", "--clear", str(directory)], _INSTALL_TIMEOUT_S)
        _call([program, "-m", "pip", "install", "--quiet", "-r", str(wanted)], _INSTALL_TIMEOUT_S)
        mark.write_text(_digest([wanted]))
    return program


def _java(name: str, main: str, *options: str) -> Callable[[], list[str]]:
    """A peer in ``peers/<name>``, with the tiles of Kafka Streams', in ``build/bench-<name>``."""

    def prepare() -> list[str]:
        for tool in ("java", "javac", "mvn"):
            if shutil.which(tool) is None:
                raise PeerError(f"{tool} is not on PATH")
        pom, built = HERE / name / "pom.xml", BUILD / f"bench-{name}"
        sources = [*sorted((HERE / name).glob("src/**/*.java")), TILES]
        mark = built / ".built"
        if not _current(mark, [pom, *sources]):
            quiet = ["--batch-mode", "--quiet", "-Dstyle.color=never", f"-Dbench.target={built}"]
            goal = "dependency:copy-dependencies"
            _call(["mvn", *quiet, "-f", str(pom), goal], _INSTALL_TIMEOUT_S)
            compiler = ["javac", "--release", "17", "-cp", f"{built / 'libraries'}/*"]
            files = [str(source) for source in dict.fromkeys(sources)]
            _call([*compiler, "-d", str(built / "classes"), *files], _INSTALL_TIMEOUT_S)
            mark.write_text(_digest([pom, *sources]))
        path = f"{built / 'classes'}:{built / 'libraries'}/*"
        return ["java", "-XX:+UseG1GC", "-Xms1g", "-Xmx2g", *options, "-cp", path, main]

    return prepare


def _goka() -> list[str]:
    if shutil.which("go") is None:
        raise PeerError("go is not on PATH")
    sources = sorted(path for path in (HERE / "goka").iterdir() if path.is_file())
    program, mark = BUILD / "bench-goka" / "goka", BUILD / "bench-goka" / ".built"
    if not _current(mark, sources):
        _call(["go", "build", "-C", str(HERE / "goka"), "-o", str(program)], _INSTALL_TIMEOUT_S)
        mark.write_text(_digest(sources))
    return [str(program)]


_OPENED = "--add-opens=java.base/java.util=ALL-UNNAMED"  # as Flink's own start script does

PEERS = (
    Peer("Quix Streams", "P1", 10.0, 250_000, _python("quix_job")),
    Peer("Bytewax", "P1", 10.0, 1_000_000, _python("bytewax_job")),
    Peer("Faust", "P1", 10.0, 30_000, _python("faust_job")),
    Peer("Kafka Streams", "P2", 3.0, 1_000_000, _java("streams", "bench.Activity")),
    Peer("Flink", "P2", 3.0, 1_000_000, _java("flink", "bench.FlinkActivity", _OPENED)),
    Peer("Goka", "P2", 3.0, 500_000, _goka),
)
