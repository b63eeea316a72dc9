"""One server child process: started, waited for, stopped by its own pid.

The child runs in a session of its own, so Ctrl-C in a terminal reaches only the parent, which then
stops its servers in order. When the parent is killed (``kill -9`` included) the kernel ends the
child with it: ``prctl(PR_SET_PDEATHSIG)``, Linux only. On other systems a killed parent leaves
its servers behind; they are memory-only or log-structured, so ending them by hand loses nothing.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import UnavailableError

__all__ = ["LOOPBACK", "ServerCommand", "ServerProcess", "free_port"]

LOOPBACK = "127.0.0.1"

_PR_SET_PDEATHSIG = 1
_LOG_TAIL_BYTES = 4096
_FIRST_PROBE_S = 0.005  # both embedded servers answer within 10 ms of their start
_SLOWEST_PROBE_S = 0.25


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass(frozen=True)
class ServerCommand:
    """What to run and how to ask whether it answers.

    ``answers`` is given the child's process id and speaks the server's own protocol. It returns
    False, or raises OSError, while the server is not ready, and must be able to tell this server
    from another one that took the same port. ``error`` is raised when the server cannot be
    started. ``environment`` is added to this process's own, or is all of it without ``inherits``.
    """

    name: str
    argv: Sequence[str]
    answers: Callable[[int], bool]
    log: Path
    error: type[UnavailableError] = UnavailableError
    environment: Mapping[str, str] = field(default_factory=dict)
    inherits: bool = True
    start_timeout_s: float = 30.0
    stop_timeout_s: float = 10.0


class ServerProcess:
    """A running server. :meth:`start` returns one that already answers.

    Start it from a thread that lives at least as long as the server: Linux ends the child
    when the *thread* that started it ends.
    """

    def __init__(self, command: ServerCommand, child: subprocess.Popen[bytes]) -> None:
        self._command = command
        self._child = child

    @classmethod
    def start(cls, command: ServerCommand) -> ServerProcess:
        """Start ``command`` and wait until it answers.

        Raises ``command.error`` with the last lines of the server's log when the program cannot
        be run, ends early, or does not answer in time; no process is left behind then, nor when
        the wait is interrupted.
        """
        server = cls(command, _spawn(command))
        try:
            server._wait_until_ready()
        except BaseException:
            server.kill()
            raise
        return server

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive (it may still not answer)."""
        return self._child.poll() is None

    def stop(self) -> None:
        """End the server: SIGTERM, then SIGKILL after ``stop_timeout_s``. Harmless when ended."""
        if not self.running:
            return
        self._child.terminate()
        try:
            self._child.wait(self._command.stop_timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the server at once with SIGKILL, as a crash would."""
        if self.running:
            self._child.kill()
            self._child.wait()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._command.start_timeout_s
        pause = _FIRST_PROBE_S
        while time.monotonic() < deadline:
            status = self._child.poll()
            if status is not None:
                raise self._failure(f"ended with status {status} before it answered")
            if self._answers():
                return
            time.sleep(pause)
            pause = min(pause * 2, _SLOWEST_PROBE_S)
        raise self._failure(f"did not answer within {self._command.start_timeout_s:g} s")

    def _answers(self) -> bool:
        try:
            return self._command.answers(self._child.pid)
        except OSError:  # refused, reset or timed out: not ready yet
            return False

    def _failure(self, what: str) -> UnavailableError:
        command = self._command
        return command.error(f"{command.name} {what}; its log ends with:\n{log_tail(command.log)}")


def log_tail(log: Path) -> str:
    """The last 4 KiB of a log, indented, or ``(empty)``."""
    try:
        text = log.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace").strip()
    except FileNotFoundError:
        text = ""
    return "\n".join(f"    {line}" for line in (text or "(empty)").splitlines())


def _spawn(command: ServerCommand) -> subprocess.Popen[bytes]:
    with command.log.open("ab") as log:
        try:
            return subprocess.Popen(
                list(command.argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**(os.environ if command.inherits else {}), **command.environment},
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )
        except (OSError, subprocess.SubprocessError) as failure:
            raise command.error(
                f"{command.name} cannot be started from {command.argv[0]}: {failure}"
            ) from failure


def _die_with_parent() -> Callable[[], None] | None:
    """What the forked child runs before ``exec``; everything it needs is looked up beforehand."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def request() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent died between fork and prctl
            os._exit(1)

    return request
