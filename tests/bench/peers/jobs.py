"""Python jobs of this folder that are not whole systems: in which environment each runs."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable

from tests.bench.peers.systems import BUILD, HERE, PeerError

__all__ = ["python_job"]

_INSTALL_TIMEOUT_S = 900


def python_job(
    module: str, name: str = "env", requirements: str = "requirements.txt"
) -> Callable[[], list[str]]:
    """How a job is prepared: what ``requirements`` names is installed into ``build/bench-<name>``,
    again when that has changed; then its command. Raises :class:`PeerError`."""

    def prepare() -> list[str]:
        wanted, directory = HERE / requirements, BUILD / f"bench-{name}"
        mark, program = directory / ".installed", str(directory / "bin" / "python")
        digest = hashlib.sha256(wanted.read_bytes()).hexdigest()
        if not mark.exists() or mark.read_text() != digest:
            _call([sys.executable, "-m", "venv", "--clear", str(directory)])
            _call([program, "-m", "pip", "install", "--quiet", "-r", str(wanted)])
            mark.write_text(digest)
        return [program, "-m", f"tests.bench.peers.{module}"]

    return prepare


def _call(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_INSTALL_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"{command[0]} was not done after {_INSTALL_TIMEOUT_S} s") from error
    if done.returncode:
        raise PeerError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
