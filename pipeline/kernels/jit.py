"""The one place that says how kernels are compiled.

A kernel is a plain function over arrays. It is compiled with the GIL released
and without ``fastmath`` (float sums must keep their order), and cached on disk
in a directory private to the user. ``PIPELINE_JIT=off`` leaves every kernel as the plain
Python function, which the test-suite uses to prove both ways equal; so does ``NUMBA_DISABLE_JIT``.

Four primitives let a kernel work on memory that C owns: :func:`load_i64`, :func:`copy_bytes`,
:func:`call_i64` and :func:`call_void`. Addresses are int64; whoever passes one vouches for it.
:func:`prefetch` has a cache line brought while other work goes on; it changes no result.
:func:`load_half`, :func:`load_word`, :func:`store_half`, :func:`store_word` and
:func:`move_halves` see an int64 array as one of halves of words.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

__all__ = [
    "JIT_ENABLED",
    "Int",
    "bare",
    "call_i64",
    "call_void",
    "copy_bytes",
    "inline",
    "inlined",
    "jit",
    "load_half",
    "load_i64",
    "load_word",
    "move_halves",
    "part",
    "prefetch",
    "store_half",
    "store_word",
]

F = TypeVar("F", bound=Callable[..., Any])
Int: TypeAlias = Any  # integer scalar of a kernel: int64 when compiled, else int or a NumPy scalar

JIT_ENABLED = os.environ.get("PIPELINE_JIT", "on") != "off" and os.environ.get(
    "NUMBA_DISABLE_JIT", "0"
) in {"", "0"}

if JIT_ENABLED:
    import numba
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    from pipeline.kernels.caching import keep
    from pipeline.kernels.parts import as_part, as_whole

    _OPTIONS: dict[str, Any] = {
        "nogil": True,
        "fastmath": False,
        "error_model": "numpy",
    }
    _BARE: dict[str, Any] = {**_OPTIONS, "_nrt": False}

    def jit(kernel: F) -> F:
        """Compile ``kernel`` on first call for its argument types; releases the GIL."""
        return cast(F, as_whole(keep(numba.njit(**_OPTIONS)(kernel))))

    def inline(kernel: F) -> F:
        """As :func:`jit`, for a small function that other kernels call in their inner loop."""
        return cast(F, as_whole(keep(numba.njit(inline="never", **_OPTIONS)(kernel))))

    def bare(kernel: F) -> F:
        """As :func:`jit`, without reference counts, for a kernel that allocates no array.

        Counting every array at every inner call was 1.3 of 1.5 us an event in the JSON scanner.
        A kernel that allocates does not compile this way.
        """
        return cast(F, as_whole(keep(numba.njit(**_BARE)(kernel))))

    def part(kernel: F) -> F:
        """As :func:`bare`, for a kernel that only kernels call: compiled as a part of them."""
        return cast(F, as_part(numba.njit(**_BARE)(kernel)))

    def inlined(kernel: F) -> F:
        """As :func:`part`, and always copied into its callers: passing an array is seven words."""
        return cast(F, as_part(numba.njit(forceinline=True, **_BARE)(kernel)))

    _WORD = ir.IntType(64)
    memcpy: Any = cgutils.raw_memcpy
    memmove: Any = cgutils.raw_memmove
    declared: Any = cgutils.get_or_insert_function

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

    def _prefetch(typing: Any, array: Any, position: Any) -> Any:
        """Ask for the cache line of an element of ``array``, counted without its dimensions.

        A hint that any position may be given to: nothing is read.
        """
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        to_read, to_keep, of_data = 0, 3, 1

        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, args[0]).data
            place = builder.bitcast(builder.gep(data, [args[1]]), byte)
            kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
            hint = declared(builder.module, kind, "llvm.prefetch.p0")
            builder.call(hint, [place, word(to_read), word(to_keep), word(of_data)])
            return context.get_dummy_value()

        return types.void(array, types.int64), lower

    _HALF = ir.IntType(32)

    def _place(context: Any, builder: Any, kind: Any, value: Any, position: Any, of: Any) -> Any:
        data = context.make_array(kind)(context, builder, value).data
        return builder.gep(builder.bitcast(data, of.as_pointer()), [position])

    def _load_half(typing: Any, array: Any, position: Any) -> Any:
        """Return half a word of an int64 ``array``, number ``position`` of its halves."""

        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = _place(context, builder, signature.args[0], args[0], args[1], _HALF)
            return builder.sext(builder.load(place, align=4), _WORD)

        return types.int64(array, types.int64), lower

    def _store_half(typing: Any, array: Any, position: Any, value: Any) -> Any:
        """Write the low half of ``value`` to half ``position`` of an int64 ``array``."""

        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = _place(context, builder, signature.args[0], args[0], args[1], _HALF)
            builder.store(builder.trunc(args[2], _HALF), place, align=4)
            return context.get_dummy_value()

        return types.void(array, types.int64, types.int64), lower

    def _load_word(typing: Any, array: Any, position: Any) -> Any:
        """Return the word that begins with half ``position`` of an int64 ``array``."""

        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = _place(context, builder, signature.args[0], args[0], args[1], _HALF)
            place = builder.bitcast(place, _WORD.as_pointer())
            return builder.load(place, align=4)

        return types.int64(array, types.int64), lower

    def _store_word(typing: Any, array: Any, position: Any, value: Any) -> Any:
        """Write ``value`` to the word that begins with half ``position`` of an int64 ``array``."""

        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = _place(context, builder, signature.args[0], args[0], args[1], _HALF)
            place = builder.bitcast(place, _WORD.as_pointer())
            builder.store(args[2], place, align=4)
            return context.get_dummy_value()

        return types.void(array, types.int64, types.int64), lower

    def _move_halves(typing: Any, array: Any, target: Any, source: Any, size: Any) -> Any:
        """Move ``size`` halves of an int64 ``array``; they may overlap."""

        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            to, start = (
                _place(context, builder, signature.args[0], args[0], a, _HALF) for a in args[1:3]
            )
            memmove(builder, to, start, args[3], 4, align=4)
            return context.get_dummy_value()

        return types.void(array, types.int64, types.int64, types.int64), lower

    load_i64: Callable[[int], int] = cast(Any, intrinsic(_load_i64))
    copy_bytes: Callable[[int, int, int], None] = cast(Any, intrinsic(_copy_bytes))
    call_i64: Callable[[int, int, int], int] = cast(Any, intrinsic(_call_i64))
    call_void: Callable[[int, int], None] = cast(Any, intrinsic(_call_void))
    prefetch: Callable[[Any, Int], None] = cast(Any, intrinsic(_prefetch))
    load_half: Callable[[Any, Int], Int] = cast(Any, intrinsic(_load_half))
    load_word: Callable[[Any, Int], Int] = cast(Any, intrinsic(_load_word))
    store_half: Callable[[Any, Int, Int], None] = cast(Any, intrinsic(_store_half))
    store_word: Callable[[Any, Int, Int], None] = cast(Any, intrinsic(_store_word))
    move_halves: Callable[[Any, Int, Int, Int], None] = cast(Any, intrinsic(_move_halves))

else:
    import ctypes

    import numpy as np

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

    def _prefetch_plain(array: Any, position: Int) -> None:
        """Nothing."""

    def _load_half_plain(array: Any, position: Int) -> Int:
        """Return half a word of an int64 ``array``, number ``position`` of its halves."""
        return np.int64(array.view(np.int32)[position])

    def _store_half_plain(array: Any, position: Int, value: Int) -> None:
        """Write the low half of ``value`` to half ``position`` of an int64 ``array``."""
        array.view(np.int32)[position] = np.int64(value).astype(np.int32)

    def _load_word_plain(array: Any, position: Int) -> Int:
        """Return the word that begins with half ``position`` of an int64 ``array``."""
        return array.view(np.int32)[position : position + 2].copy().view(np.int64)[0]

    def _store_word_plain(array: Any, position: Int, value: Int) -> None:
        """Write ``value`` to the word that begins with half ``position`` of an int64 ``array``."""
        array.view(np.int32)[position : position + 2] = np.array([value], np.int64).view(np.int32)

    def _move_halves_plain(array: Any, target: Int, source: Int, size: Int) -> None:
        """Move ``size`` halves of an int64 ``array``; they may overlap."""
        halves = array.view(np.int32)
        halves[target : target + size] = halves[source : source + size].copy()

    load_i64 = _load_i64_plain
    copy_bytes = _copy_bytes_plain
    call_i64 = _call_i64_plain
    call_void = _call_void_plain
    prefetch = _prefetch_plain
    load_half = _load_half_plain
    load_word = _load_word_plain
    store_half = _store_half_plain
    store_word = _store_word_plain
    move_halves = _move_halves_plain

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
