"""Table-driven Avro reader: binary records of known writer schemas to columns.

:func:`scan` interprets a program, one for each writer schema, compiled by
:mod:`pipeline.ingest.avroprogram` with schema resolution already done: it says for each value that
comes next what it is and where it goes. Many programs share the tables:

``ops``      int64[m * COLUMNS] instructions back to back, see the constants below
``jumps``    int64[..]          where the branches of unions begin
``targets``  int64[..]          lists of fields that become null together
``symbols``  int64[..., 3]      texts known beforehand (symbols, defaults): start and length in
                                ``known``, hash; start -1: no text of the reader's

Source: Apache Avro 1.12 specification, "Binary encoding" and "Schema resolution".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.binary import (
    UUID_LENGTH,
    big_endian,
    float_bits,
    is_text,
    lower_uuid,
    rescaled,
    show_uuid,
    span,
    varint,
    word32,
    word64,
)
from pipeline.kernels.hash import hash_text, xxh64
from pipeline.kernels.jit import Int, bare, inlined, part
from pipeline.kernels.text import at
from pipeline.kernels.timestamps import OUT_OF_RANGE, TIMED, timestamp
from pipeline.kernels.varint import unzigzag

__all__ = ["COLUMNS", "STACK", "scan"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

# Columns of ``ops``. ARG and MORE depend on the operation.
OP, FIELD, TEXT, ARG, MORE = 0, 1, 2, 3, 4
COLUMNS = 5

# Operations. Where nothing else is said a value is read into FIELD; TEXT is the row of a text.
LONG = 0  # times ARG, ns of a unit; MORE: the largest that fits then; TEXT 1: only 32 bits
DOUBLE = 1
STRING = 2  # UTF-8
UNION = 3  # goes to jumps[ARG + branch]; MORE branches
NULL = 4  # reads nothing: targets[ARG:MORE] are null
BOOLEAN = 5
FLOAT = 6
REAL_LONG = 7  # an integer as float64; TEXT as in LONG
DECIMAL = 8  # bytes; times ARG, divided by MORE
ENUM = 9  # symbols[ARG + index]; MORE symbols
BYTES = 10
FIXED = 11  # ARG bytes
FIXED_DECIMAL = 12  # bytes in TEXT; times ARG, divided by MORE
TIME_TEXT = 13  # RFC 3339; ARG 1: text without an offset is UTC
UUID_TEXT = 14
UUID_FIXED = 15
GOTO = 16  # to ARG
END = 17  # of the record
SKIP_LONG = 18
SKIP_BYTES = 19  # bytes or a string
SKIP = 20  # ARG bytes
BLOCKS = 21  # begin of an array or map, then one item, then ITEM; ARG: behind that
ITEM = 22  # end of an item; ARG: its BLOCKS
CALL = 23  # go on at ARG until RETURN
RETURN = 24
REFUSE = 25  # reads nothing: what is written here is not what is wanted
CONSTANT = 26  # reads nothing: FIELD is ARG
KNOWN_TEXT = 27  # reads nothing: FIELD is symbols[ARG]
NOTHINGS = 28  # BLOCKS whose items have no bytes

STACK = 128  # of calls and blocks within each other

# Codes: values of pipeline.ingest.batch.Reason
GOOD, DECODE, SCHEMA, RANGE = 0, 6, 7, 8

_LEAST32, _MOST32 = -(2**31), 2**31 - 1


@inlined
def _worse(a: Int, b: Int) -> Int:
    """The reason that comes first of two, where GOOD comes last."""
    if b == GOOD or (a != GOOD and a < b):
        return a
    return b


@inlined
def _of(ops: I64, pc: Int, column: Int) -> Int:
    """A column of an instruction. The unsigned index spares the check for a negative one."""
    return ops[np.uint64(pc * COLUMNS + column)]


@inlined
def _number(
    data: U8, p: Int, end: Int, pc: Int, i: Int, n: Int, ops: I64, out: I64, real: F64
) -> Int:  # fmt: skip
    """LONG and REAL_LONG: (position, code)."""
    bits, p = varint(data, p, end)
    if p < 0:
        return p, DECODE
    value, cell = unzigzag(bits), np.uint64(_of(ops, pc, FIELD) * n + i)
    if _of(ops, pc, TEXT) == 1 and (value < _LEAST32 or value > _MOST32):
        return np.int64(-1), DECODE
    if _of(ops, pc, OP) == REAL_LONG:
        real[cell] = value
        return p, GOOD
    factor, most = _of(ops, pc, ARG), _of(ops, pc, MORE)
    fits = factor == 1 or -most <= value <= most
    out[cell] = value * factor if fits else 0
    return p, GOOD if fits else RANGE


@inlined
def _decimal(data: U8, p: Int, stop: Int, pc: Int, i: Int, n: Int, ops: I64, out: I64) -> Int:
    value, fits = big_endian(data, p, stop)
    if fits:
        value, fits = rescaled(value, _of(ops, pc, ARG), _of(ops, pc, MORE))
    out[_of(ops, pc, FIELD) * n + i] = value
    return GOOD if fits else RANGE


@inlined
def _text(
    data: U8, p: Int, stop: Int, pc: Int, i: Int, n: Int, ops: I64, out: I64, start: I64,
    length: I64, side: U8, used: Int, base: Int,
) -> tuple[Int, Int]:  # fmt: skip
    """Take ``data[p:stop]`` as a text: (code, bytes used of ``side``)."""
    op = _of(ops, pc, OP)
    cell, row = (
        np.uint64(_of(ops, pc, FIELD) * n + i), np.uint64(_of(ops, pc, TEXT) * n + i)
    )  # fmt: skip
    if op == STRING or op == BYTES or op == FIXED:  # noqa: SIM109
        hashed, plain = hash_text(data, p, stop, np.uint64(0))
        if not plain and op == STRING and not is_text(data, p, stop):
            return DECODE, used
        out[cell] = np.int64(hashed)
        start[row] = p
        length[row] = stop - p
        return GOOD, used
    if op == TIME_TEXT:
        time, status = timestamp(data, p, stop, _of(ops, pc, ARG) == 1)
        out[cell] = time
        if status == TIMED:
            return GOOD, used
        return RANGE if status == OUT_OF_RANGE else SCHEMA, used
    if op == UUID_FIXED:
        show_uuid(data, p, side, used)
    elif not lower_uuid(data, p, stop, side, used):
        return SCHEMA, used
    out[cell] = np.int64(xxh64(side, used, used + UUID_LENGTH))
    start[row] = base + used
    length[row] = UUID_LENGTH
    return GOOD, used + UUID_LENGTH


@inlined
def _known(
    symbol: Int, i: Int, n: Int, pc: Int, ops: I64, symbols: I64, size: Int, out: I64, start: I64,
    length: I64,
) -> Int:  # fmt: skip
    """Take a text known beforehand, or SCHEMA where the reader has no such symbol."""
    if symbols[symbol, 0] < 0:
        return SCHEMA
    row = _of(ops, pc, TEXT) * n + i
    start[row] = size + symbols[symbol, 0]
    length[row] = symbols[symbol, 1]
    out[_of(ops, pc, FIELD) * n + i] = symbols[symbol, 2]
    return GOOD


@inlined
def _next_block(data: U8, p: Int, end: Int) -> tuple[Int, Int]:
    """Items of the block at ``p``, 0 at the end; blocks that say their size are skipped."""
    while True:
        bits, p = varint(data, p, end)
        count = unzigzag(bits)
        if p < 0 or count >= 0:
            return count, p
        bits, p = varint(data, p, end)
        p = span(unzigzag(bits), p, end)
        if p < 0:
            return count, p


@inlined
def _skip(data: U8, p: Int, end: Int, pc: Int, ops: I64) -> Int:
    """SKIP_LONG, SKIP_BYTES, SKIP and NOTHINGS: position after it, or -1."""
    op = _of(ops, pc, OP)
    if op == SKIP:
        return span(_of(ops, pc, ARG), p, end)
    if op == NOTHINGS:
        count = np.int64(1)
        while p >= 0 and count != 0:
            count, p = _next_block(data, p, end)
        return p
    bits, p = varint(data, p, end)
    if op == SKIP_BYTES:
        return span(unzigzag(bits), p, end)
    return p


@part
def _record(
    data: U8, p: Int, end: Int, i: Int, n: Int, pc: Int, ops: I64, jumps: I64, targets: I64,
    nullable: U8, symbols: I64, base: Int, out: I64, real: F64, valid: U8, start: I64, length: I64,
    side: U8, used: Int, stack: I64,
) -> tuple[Int, Int]:  # fmt: skip
    """Run the program at ``pc`` over ``data[p:end]``, into row ``i``: (code, used of ``side``)."""
    worst, top = np.int64(GOOD), np.int64(0)
    while True:
        op, code = _of(ops, pc, OP), np.int64(GOOD)
        follow = pc + 1
        if op == LONG or op == REAL_LONG:  # noqa: SIM109  (a tuple is searched by a loop)
            p, code = _number(data, p, end, pc, i, n, ops, out, real)
        elif op == STRING or op == DECIMAL or BYTES <= op <= UUID_FIXED:  # noqa: SIM109
            if op == UUID_FIXED:
                q = span(np.int64(16), p, end)
            elif op == FIXED:
                q = span(_of(ops, pc, ARG), p, end)
            elif op == FIXED_DECIMAL:
                q = span(_of(ops, pc, TEXT), p, end)
            else:
                bits, p = varint(data, p, end)
                q = span(unzigzag(bits), p, end)
            if q >= 0:
                if op == DECIMAL or op == FIXED_DECIMAL:  # noqa: SIM109
                    code = _decimal(data, p, q, pc, i, n, ops, out)
                else:
                    code, used = _text(
                        data, p, q, pc, i, n, ops, out, start, length, side, used, base
                    )
            p = q
        elif op == UNION:
            bits, p = varint(data, p, end)
            branch = unzigzag(bits)
            if p < 0 or branch < 0 or branch >= _of(ops, pc, MORE):
                return DECODE, used
            follow = jumps[_of(ops, pc, ARG) + branch]
        elif op == NULL:
            for k in range(_of(ops, pc, ARG), _of(ops, pc, MORE)):
                valid[targets[k] * n + i] = 0
                if not nullable[targets[k]]:
                    code = np.int64(SCHEMA)
        elif op == DOUBLE:
            bits, p = word64(data, p, end)
            out[np.uint64(_of(ops, pc, FIELD) * n + i)] = bits
        elif op == FLOAT:
            bits, p = word32(data, p, end)
            out[np.uint64(_of(ops, pc, FIELD) * n + i)] = float_bits(bits)
        elif op == BOOLEAN:
            if p >= end or at(data, p) > 1:
                return DECODE, used
            out[np.uint64(_of(ops, pc, FIELD) * n + i)] = at(data, p)
            p += 1
        elif op == ENUM:
            bits, p = varint(data, p, end)
            index = unzigzag(bits)
            if p < 0 or index < 0 or index >= _of(ops, pc, MORE):
                return DECODE, used
            code = _known(
                _of(ops, pc, ARG) + index, i, n, pc, ops, symbols, len(data), out, start, length
            )
        elif op == GOTO:
            follow = _of(ops, pc, ARG)
        elif op == END:
            return (worst if p == end else DECODE), used
        elif SKIP_LONG <= op <= SKIP or op == NOTHINGS:
            p = _skip(data, p, end, pc, ops)
        elif op == BLOCKS:
            count, p = _next_block(data, p, end)
            if count == 0:
                follow = _of(ops, pc, ARG)
            elif p < 0 or top == STACK:
                return DECODE, used
            else:
                stack[top] = count
                top += 1
        elif op == ITEM:
            stack[top - 1] -= 1
            follow = _of(ops, pc, ARG)
            if stack[top - 1] > 0:
                follow += 1
            else:
                top -= 1
        elif op == CALL:
            if top == STACK:
                return DECODE, used
            stack[top] = follow
            top += 1
            follow = _of(ops, pc, ARG)
        elif op == RETURN:
            top -= 1
            follow = stack[top]
        elif op == REFUSE:
            code = np.int64(SCHEMA)
        elif op == CONSTANT:
            out[np.uint64(_of(ops, pc, FIELD) * n + i)] = _of(ops, pc, ARG)
        else:
            code = _known(_of(ops, pc, ARG), i, n, pc, ops, symbols, len(data), out, start, length)
        if p < 0 or code == DECODE:
            return DECODE, used
        worst = _worse(worst, code)
        pc = follow


@bare
def scan(
    data: U8, value_offsets: I64, header: Int, entry: I64, ops: I64, jumps: I64, targets: I64,
    nullable: U8, symbols: I64, known: Int, reason: U8, out: I64, real: F64, valid: U8, start: I64,
    length: I64, side: U8, stack: I64,
) -> Int:  # fmt: skip
    """Read every record whose ``reason`` is 0; returns the bytes used of ``side``.

    ``data`` uint8[..], ``value_offsets`` int64[n+1]; a record begins ``header`` bytes after its
    value does and is read by the program at ``entry`` int64[n] (-1: SCHEMA). ``nullable``
    uint8[f]; ``known``: bytes of known texts. Written: ``reason`` uint8[n] (DECODE, SCHEMA or
    RANGE; the first that applies), ``out`` int64[f * n] with ``real`` its view as float64,
    ``valid`` uint8[f * n] (1 on entry), ``start`` and ``length`` int64[s * n] of texts (a start
    from ``len(data)`` on is in the known texts, from ``len(data) + known`` on in ``side``),
    ``side`` uint8[36 for each uuid field and record]. ``stack`` int64[STACK] is scratch space.
    """
    used = np.int64(0)
    base = len(data) + known
    for i in range(len(reason)):
        if reason[i] == GOOD:
            if entry[i] < 0:
                reason[i] = SCHEMA
            else:
                code, used = _record(
                    data,
                    value_offsets[i] + header,
                    value_offsets[i + 1],
                    i,
                    len(reason),
                    entry[i],
                    ops,
                    jumps,
                    targets,
                    nullable,
                    symbols,
                    base,
                    out,
                    real,
                    valid,
                    start,
                    length,
                    side,
                    used,
                    stack,
                )
                reason[i] = code
    return used
