"""Where compiled kernels are kept: by the text that they come from.

Numba looks only at the file of a kernel itself, and names its directory after the place of that
file: a change in a kernel that it calls would go unseen, and an image could not bring its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from numba.core import caching
from numba.core.caching import CompileResultCacheImpl, FunctionCache, UserProvidedCacheLocator

__all__ = ["alone", "cache_directory", "is_warm", "keep"]

HERE = Path(__file__).parent
IMPORTED = re.compile(r"^from pipeline\.kernels\.(\w+) import", re.MULTILINE)
_log = logging.getLogger(__name__)

# An index or code that was cut short when the machine went down.
TORN = (EOFError, caching.pickle.UnpicklingError)  # type: ignore[attr-defined]
COMPILERS = ("caching.py", "jit.py", "parts.py")  # a change in them compiles all again


def cache_directory() -> Path:
    """Directory of compiled kernels: ``$PIPELINE_CACHE``, or below the user's cache directory."""
    named = os.environ.get("PIPELINE_CACHE")
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(named) if named else Path(root) / "pipeline" / "kernels"


def is_warm() -> bool:
    """Return whether the largest kernel of this text is compiled already on this machine."""
    return any(_directory_of(HERE / "apply.py").glob("*.nbc"))


@contextmanager
def alone(kernel: Any) -> Iterator[None]:
    """Let one process at a time compile a kernel; the others find what it kept.

    A kernel within a kernel takes its own after the outer one's, and no kernel is within itself:
    two processes cannot wait for each other.
    """
    place = _directory_of(Path(kernel.py_func.__code__.co_filename))
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (place / f"{kernel.py_func.__qualname__}.lock").open("w")
    except OSError:  # nothing can be kept there, so there is nothing to wait for
        yield
        return
    with lock:
        with suppress(OSError):  # a file system without locks: each compiles its own
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def keep(dispatcher: Any) -> Any:
    """Let what a dispatcher compiles be found again by every process of this user."""
    dispatcher._cache = _Cache(dispatcher.py_func)  # type: ignore[no-untyped-call]
    return dispatcher


@cache
def _directory_of(path: Path) -> Path:
    """Return the directory of a file of kernels: one for one text, wherever it lies."""
    digest = hashlib.sha256()
    for name in COMPILERS:
        digest.update((HERE / name).read_bytes())
    for _, text in sorted(_texts(path).items(), key=lambda item: item[0].name):
        digest.update(text)
    if os.environ.get("NUMBA_BOUNDSCHECK", "0") != "0":
        digest.update(b"checked")
    return cache_directory() / f"{path.stem}-{digest.hexdigest()[:16]}"


@cache
def _texts(path: Path) -> dict[Path, bytes]:
    """Return the text of a file of kernels, and of all kernels that it imports."""
    texts = {path: path.read_bytes()}
    for name in IMPORTED.findall(texts[path].decode()):
        texts.update(_texts(HERE / f"{name}.py"))
    return texts


class _Locator(UserProvidedCacheLocator):
    """Where a kernel is kept."""

    def __init__(self, kernel: Any, file: str) -> None:
        self._py_file = file
        self._lineno = kernel.__code__.co_firstlineno
        self._cache_path = str(_directory_of(Path(file)))

    @classmethod
    def from_function(cls, kernel: Any, file: str) -> _Locator:
        return cls(kernel, file)

    def get_source_stamp(self) -> str:
        return Path(self._cache_path).name  # some versions of Numba take the time of the file

    def ensure_cache_path(self) -> None:
        Path(self._cache_path).mkdir(mode=0o700, parents=True, exist_ok=True)


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes = (_Locator,)  # type: ignore[assignment]  # a sequence is enough


class _Cache(FunctionCache):
    """Numba's index and files of one kernel; what cannot be read or written stops nobody."""

    _impl_class = _CacheImpl

    def load_overload(self, signature: Any, target: Any) -> Any:
        try:
            return super().load_overload(signature, target)  # type: ignore[no-untyped-call]
        except OSError as error:
            _tell(error.strerror)
        except TORN:
            self._try_flush()
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        try:
            super().save_overload(signature, result)  # type: ignore[no-untyped-call]
        except OSError as error:
            _tell(error.strerror)

    def _try_flush(self) -> None:
        try:
            self.flush()  # type: ignore[no-untyped-call]
        except OSError as error:
            _tell(error.strerror)


@cache
def _tell(why: str) -> None:
    """Warn, once and not for each of a hundred kernels."""
    _log.warning(
        "compiled kernels cannot be kept in %s (%s): the next start compiles them again",
        cache_directory(), why,
    )  # fmt: skip
