"""Kernels that only kernels call are compiled as a part of these: typed and lowered, no more.

Numba takes every kernel to machine code before another may call it, links it into each caller, and
optimises and emits all of it again there: 160 s for all kernels. A part stays as it is until it is
linked into a whole kernel, one that Python calls. Called from Python, as tests do, it is compiled
once more, as a whole kernel.

Four private methods of Numba are taken round for that. Where one is not found, parts are compiled
as whole kernels: slower to start, with the same code.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import codegen, cpu, dispatcher
from numba.core.compiler_lock import global_compiler_lock

from pipeline.kernels.caching import alone

__all__ = ["as_part", "as_whole"]

_log = logging.getLogger(__name__)

TOLD_S = 0.5  # a kernel that took less is not worth a line
WRAPPERS = ("no_cpython_wrapper", "no_cfunc_wrapper")


class _Within(threading.local):
    """What a thread is compiling."""

    kernels = 0  # one within the other
    part = False  # whether the innermost is a part


_within = _Within()


@contextmanager
def _compiling(part: bool) -> Iterator[bool]:
    """Compile a kernel within others; whether to leave it unfinished."""
    before = _within.kernels, _within.part
    unfinished = _PARTS and part and _within.kernels > 0
    _within.kernels, _within.part = before[0] + 1, unfinished
    # The collector walks Numba's trees again and again, a quarter of the time, and frees little.
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield unfinished
    finally:
        _within.kernels, _within.part = before
        if collecting:
            gc.enable()


def as_whole(kernel: Any) -> Any:
    """Compile for callers in Python, and for other kernels."""
    compile_whole = kernel.compile

    def compile(signature: Any) -> Any:
        began, missed = time.monotonic(), sum(kernel.stats.cache_misses.values())
        with global_compiler_lock, alone(kernel), _compiling(part=False):
            entry = compile_whole(signature)
        took_s = time.monotonic() - began
        if (
            took_s > TOLD_S
            and not _within.kernels
            and sum(kernel.stats.cache_misses.values()) > missed
        ):
            _log.info("kernel %s compiled in %.1f s", kernel.py_func.__name__, took_s)
        return entry

    kernel.compile = compile
    return kernel


def as_part(kernel: Any) -> Any:
    """Compile for the kernel around it; for callers in Python only once they call."""
    compile_whole = kernel.compile

    def compile(signature: Any) -> Any:
        with global_compiler_lock, _compiling(part=True) as unfinished:
            if not unfinished:
                found = kernel.overloads.get(tuple(signature))
                if found is not None and isinstance(found.entry_point, _Unfinished):
                    del kernel.overloads[tuple(signature)]
            kernel.targetoptions.update(dict.fromkeys(WRAPPERS, unfinished))
            return compile_whole(signature)

    kernel.compile = compile
    return kernel


class _Unfinished:
    """Stands where the entry point of a part would be: other kernels know the part by it."""


def _take_round() -> bool:
    """Take the four methods round; whether all of them were there."""
    library: Any = codegen.CPUCodeLibrary
    context: Any = cpu.CPUContext
    owner: Any = dispatcher._DispatcherBase
    try:
        optimize, finalize = library._optimize_final_module, library._finalize_final_module
        executable, add = context.get_executable, owner.add_overload
    except AttributeError:
        return False

    def optimize_whole(library: Any) -> None:
        if not _within.part:
            optimize(library)

    def finalize_whole(library: Any) -> None:
        if not _within.part:
            finalize(library)
        else:
            library._finalize_dynamic_globals()
            library._finalized = True

    def executable_of_whole(context: Any, library: Any, description: Any, environment: Any) -> Any:
        if not _within.part:
            return executable(context, library, description, environment)
        library._ensure_finalized()
        return _Unfinished()

    def add_whole(owner: Any, result: Any) -> None:
        if isinstance(result.entry_point, _Unfinished):  # nothing that Python could call
            owner.overloads[tuple(result.signature.args)] = result
        else:
            add(owner, result)

    library._optimize_final_module = optimize_whole
    library._finalize_final_module = finalize_whole
    context.get_executable = executable_of_whole
    owner.add_overload = add_whole
    return True


_PARTS = _take_round()
