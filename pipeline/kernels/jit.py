"""The one place that says how kernels are compiled.

A kernel is a plain function over arrays. It is compiled with the GIL released
and without ``fastmath`` (float sums must keep their order), and cached on disk
in a directory private to the user. ``PIPELINE_JIT=off`` leaves every kernel as the plain
Python function, which the test-suite uses to prove both ways equal.

Four primitives let a kernel work on memory that C owns: :func:`load_i64`, :func:`copy_bytes`,
:func:`call_i64` and :func:`call_void`. Addresses are int64; whoever passes one vouches for it.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar, cast

__all__ = [
    "JIT_ENABLED",
    "Int",
    "bare",
    "cache_directory",
    "call_i64",
    "call_void",
    "copy_bytes",
    "inline",
    "inlined",
    "is_warm",
    "jit",
    "load_i64",
    "part",
]

F = TypeVar("F", bound=Callable[..., Any])
Int: TypeAlias = Any  # integer scalar of a kernel: int64 when compiled, else int or a NumPy scalar

JIT_ENABLED = os.environ.get("PIPELINE_JIT", "on") != "off"


def cache_directory() -> Path:
    """Directory of compiled kernels: ``$PIPELINE_CACHE``, or below the user's cache directory."""
    named = os.environ.get("PIPELINE_CACHE")
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(named) if named else Path(root) / "pipeline" / "kernels"


def is_warm() -> bool:
    """Return whether the largest kernel of this text is compiled already on this machine."""
    largest = Path(__file__).with_name("apply.py")
    return any(_directory_of(largest).glob("*.nbc"))


@cache
def _texts(path: Path) -> dict[Path, bytes]:
    """Return the text of a file of kernels, and of all kernels that it imports."""
    texts = {path: path.read_bytes()}
    for name in _IMPORTED.findall(texts[path].decode()):
        inner = Path(__file__).with_name(f"{name}.py")
        if inner not in texts:
            texts.update(_texts(inner))
    return texts


@cache
def _directory_of(path: Path) -> Path:
    """Return where the kernels of a file are kept: the same for the same texts, wherever they lie.

    Numba looks only at the file of a kernel itself and names its directory after the place of that
    file: a change in a kernel that it calls would go unseen, and an image could not bring its own.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for _, text in sorted(_texts(path).items(), key=lambda item: item[0].name):
        digest.update(text)
    if os.environ.get("NUMBA_BOUNDSCHECK", "0") != "0":
        digest.update(b"checked")
    return cache_directory() / f"{path.stem}-{digest.hexdigest()[:16]}"


_IMPORTED = re.compile(r"^from pipeline\.kernels\.(\w+) import", re.MULTILINE)

if JIT_ENABLED:
    import numba
    from numba.core.caching import CompileResultCacheImpl, FunctionCache, UserProvidedCacheLocator

    class _Locator(UserProvidedCacheLocator):
        """Where a kernel is kept."""

        def __init__(self, kernel: Any, file: str) -> None:
            self._py_file = file
            self._lineno = kernel.__code__.co_firstlineno
            self._cache_path = str(_directory_of(Path(file)))

        @classmethod
        def from_function(cls, kernel: Any, file: str) -> _Locator:
            return cls(kernel, file)

        def ensure_cache_path(self) -> None:
            Path(self._cache_path).mkdir(mode=0o700, parents=True, exist_ok=True)

    class _CacheImpl(CompileResultCacheImpl):
        _locator_classes: ClassVar[list[type[object]]] = [_Locator]

    class _Cache(FunctionCache):
        _impl_class = _CacheImpl

    def _cached(dispatcher: Any) -> Any:
        dispatcher._cache = _Cache(dispatcher.py_func)  # type: ignore[no-untyped-call]
        return dispatcher

    _OPTIONS: dict[str, Any] = {
        "nogil": True,
        "fastmath": False,
        "error_model": "numpy",
    }
    _BARE: dict[str, Any] = {**_OPTIONS, "_nrt": False}

    def jit(kernel: F) -> F:
        """Compile ``kernel`` on first call for its argument types; releases the GIL."""
        return cast(F, _cached(numba.njit(**_OPTIONS)(kernel)))

    def inline(kernel: F) -> F:
        """As :func:`jit`, for a small function that other kernels call in their inner loop."""
        return cast(F, _cached(numba.njit(inline="never", **_OPTIONS)(kernel)))

    def bare(kernel: F) -> F:
        """As :func:`jit`, without reference counts, for a kernel that allocates no array.

        Counting every array at every inner call was 1.3 of 1.5 us an event in the JSON scanner.
        A kernel that allocates does not compile this way.
        """
        return cast(F, _cached(numba.njit(**_BARE)(kernel)))

    def part(kernel: F) -> F:
        """As :func:`bare`, for a kernel that only kernels call: compiled as a part of them."""
        return cast(F, _part(numba.njit(**_BARE)(kernel)))

    def inlined(kernel: F) -> F:
        """As :func:`part`, and always copied into its callers: passing an array is seven words."""
        return cast(F, _part(numba.njit(forceinline=True, **_BARE)(kernel)))

    from llvmlite import ir
    from numba.core import cgutils, codegen, types
    from numba.extending import intrinsic

    # Numba links the optimised code of every kernel that a kernel calls into it and optimises all
    # of that again, so a kernel six calls deep was optimised seven times: 160 s for all. A part is
    # left as it is until it is linked into a kernel that Python calls.
    _depth = threading.local()

    def _part(dispatcher: Any) -> Any:
        compile_whole = dispatcher.compile

        def compile_part(signature: Any) -> Any:
            _depth.parts = getattr(_depth, "parts", 0) + 1
            try:
                return compile_whole(signature)
            finally:
                _depth.parts -= 1

        dispatcher.compile = compile_part
        return dispatcher

    _OPTIMIZE = "_optimize_final_module"
    _optimize_whole = getattr(codegen.CPUCodeLibrary, _OPTIMIZE, None)

    def _optimize(library: Any) -> None:
        if not getattr(_depth, "parts", 0) and _optimize_whole is not None:
            _optimize_whole(library)

    if _optimize_whole is not None:  # a Numba that names it otherwise takes longer, no more
        setattr(codegen.CPUCodeLibrary, _OPTIMIZE, _optimize)

    _WORD = ir.IntType(64)
    memcpy: Any = cgutils.raw_memcpy

    def _load_i64(typing: Any, address: Any) -> Any:
        """Return the int64 stored at ``address``."""

        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load(builder.inttoptr(args[0], _WORD.as_pointer()))

        return types.int64(types.int64), lower

    def _copy_bytes(typing: Any, target: Any, source: Any, size: Any) -> Any:
        """Copy ``size`` bytes from address ``source`` to address ``target``; no overlap."""

        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            byte = ir.IntType(8).as_pointer()
            to, start = (builder.inttoptr(a, byte) for a in args[:2])
            memcpy(builder, to, start, args[2], 1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), lower

    def _call_i64(typing: Any, function: Any, first: Any, second: Any) -> Any:
        """Call the C function at address ``function``: two words in, an int64 out."""

        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = ir.FunctionType(_WORD, [_WORD, _WORD])
            return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

        return types.int64(types.int64, types.int64, types.int64), lower

    def _call_void(typing: Any, function: Any, first: Any) -> Any:
        """Call the C function at address ``function``: one word in, nothing out."""

        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = ir.FunctionType(ir.VoidType(), [_WORD])
            builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), lower

    load_i64: Callable[[int], int] = cast(Any, intrinsic(_load_i64))
    copy_bytes: Callable[[int, int, int], None] = cast(Any, intrinsic(_copy_bytes))
    call_i64: Callable[[int, int, int], int] = cast(Any, intrinsic(_call_i64))
    call_void: Callable[[int, int], None] = cast(Any, intrinsic(_call_void))

else:
    import ctypes

    _CALL_I64 = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
    _CALL_VOID = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

    def _load_i64_plain(address: int) -> int:
        """Return the int64 stored at ``address``."""
        return ctypes.c_int64.from_address(int(address)).value

    def _copy_bytes_plain(target: int, source: int, size: int) -> None:
        """Copy ``size`` bytes from address ``source`` to address ``target``; no overlap."""
        ctypes.memmove(int(target), int(source), int(size))

    def _call_i64_plain(function: int, first: int, second: int) -> int:
        """Call the C function at address ``function``: two words in, an int64 out."""
        return int(_CALL_I64(int(function))(int(first), int(second)))

    def _call_void_plain(function: int, first: int) -> None:
        """Call the C function at address ``function``: one word in, nothing out."""
        _CALL_VOID(int(function))(int(first))

    load_i64 = _load_i64_plain
    copy_bytes = _copy_bytes_plain
    call_i64 = _call_i64_plain
    call_void = _call_void_plain

    def jit(kernel: F) -> F:
        """Leave ``kernel`` as plain Python."""
        return kernel

    def inline(kernel: F) -> F:
        """Leave ``kernel`` as plain Python."""
        return kernel

    def bare(kernel: F) -> F:
        """Leave ``kernel`` as plain Python."""
        return kernel

    def part(kernel: F) -> F:
        """Leave ``kernel`` as plain Python."""
        return kernel

    def inlined(kernel: F) -> F:
        """Leave ``kernel`` as plain Python."""
        return kernel
