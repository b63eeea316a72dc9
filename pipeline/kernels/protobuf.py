"""Table-driven Protobuf reader: messages of one type to columns.

:func:`scan` reads every message of a batch once, field by field as they come. It does not know the
message, only tables (:mod:`pipeline.ingest.prototable`):

``nodes``    int64[k, NODE_COLUMNS]    messages within the message; what is below one is contiguous
``direct``   int64[k * 256]            by node and tag of one byte: where the entry begins, or -1
``slots``    int64[..]                 an open-addressing hash table a node: entry of a field number
``entries``  int64[m * COLUMNS]        one row a field on the wire, back to back
``initial``  int64[f, 4]               what a column is when its message begins
``symbols``  int64[.., 4]              enums, ascending: number; start, length and hash of texts

An entry is known by the position where its row begins, and a cell by its field times n plus its
record: arrays of one dimension take no multiplication, and an unsigned position no look at its
sign. Nearly all tags have one byte; those of a field on its own wire type that is in no oneof are
found in ``direct``, the others by their number.

Source: Protocol Buffers, "Encoding" and the language guide of proto3.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.binary import (
    UUID_LENGTH,
    float_bits,
    is_text,
    low_varint,
    lower_uuid,
    span,
    word32,
    word64,
)
from pipeline.kernels.hash import hash_text, xxh64
from pipeline.kernels.jit import Int, bare, inlined, part
from pipeline.kernels.protowire import clock, sign32, skip_field, symbol_row, tag_at
from pipeline.kernels.text import at
from pipeline.kernels.varint import unzigzag

__all__ = ["COLUMNS", "NODE_COLUMNS", "scan"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

# Columns of ``nodes``
SLOTS, MASK = 0, 1  # where its hash table is in ``slots``; its size - 1
FIELD, FIELD_END = 2, 3  # columns below
NODE_END, ONEOF, ONEOF_END = 4, 5, 6  # nodes and oneofs below
PARENT, MUST = 7, 8  # the node around it, -1 for the message; 1: must be there if that is
CLOCK = 9  # column of a Timestamp, else -1
NODE_COLUMNS = 10

# Columns of ``entries``: CELL is the field, TEXT its row among the texts
KIND, CELL, TEXT, ARG, MORE, CHILD, GROUP, NUMBER, WIRE = 0, 1, 2, 3, 4, 5, 6, 7, 8
COLUMNS = 9
TAGS = 256  # of one byte, in ``direct``; those from 128 on are longer

# Kinds. ARG of numbers: ns of a unit, else 1, MORE: the largest that fits; of ENUM: its first
# symbol, MORE: how many.
SKIP = 0
INT64, INT32, UINT32, UINT64, SINT32, SINT64, BOOL, ENUM = 1, 2, 3, 4, 5, 6, 7, 8
FIXED32, SFIXED32, FLOAT = 9, 10, 11
FIXED64, SFIXED64, DOUBLE = 12, 13, 14
STRING, BYTES, UUID, MESSAGE = 15, 16, 17, 18
SECONDS, NANOS = 19, 20

# Columns of ``initial``: value, 1 if not null, start in the known texts, length
VALUE, PRESENT, START, LENGTH = 0, 1, 2, 3

# Codes: values of pipeline.ingest.batch.Reason
GOOD, DECODE, SCHEMA, RANGE = 0, 6, 7, 8


@inlined
def _worse(a: Int, b: Int) -> Int:
    """The reason that comes first of two, where GOOD comes last."""
    if b == GOOD or (a != GOOD and a < b):
        return a
    return b


@inlined
def _of(entries: I64, entry: Int, column: Int) -> Int:
    """A column of the entry that begins at ``entry``."""
    return entries[np.uint64(entry + column)]


@inlined
def _begin(
    node: Int, i: Int, n: Int, nodes: I64, owner: I64, initial: I64, base: Int, out: I64,
    valid: U8, rows: I64, start: I64, length: I64, present: U8, case: I64, clocks: I64,
) -> None:  # fmt: skip
    """A message begins: its fields have their defaults, messages within it are absent."""
    for field in range(nodes[node, FIELD], nodes[node, FIELD_END]):
        cell = field * n + i
        here = owner[field] == node
        out[cell] = initial[field, VALUE]
        valid[cell] = 1 if here and initial[field, PRESENT] else 0
        if rows[field] >= 0:
            start[rows[field] * n + i] = base + initial[field, START]
            length[rows[field] * n + i] = initial[field, LENGTH]
    for k in range(node, nodes[node, NODE_END]):
        present[k] = 0
        clocks[k, 0] = 0
        clocks[k, 1] = 0
    present[node] = 1
    for k in range(nodes[node, ONEOF], nodes[node, ONEOF_END]):
        case[k] = -1


@inlined
def _begin_all(
    n: Int, owner: I64, initial: I64, base: Int, out: I64, valid: U8, rows: I64, start: I64,
    length: I64,
) -> None:  # fmt: skip
    """Every message begins: column by column, which is what they are stored in."""
    for field in range(len(owner)):
        value, present = initial[field, VALUE], owner[field] == 0 and initial[field, PRESENT] != 0
        out[field * n : field * n + n] = value
        valid[field * n : field * n + n] = present
        row = rows[field]
        if row >= 0:
            start[row * n : row * n + n] = base + initial[field, START]
            length[row * n : row * n + n] = initial[field, LENGTH]


@inlined
def _switch(
    entry: Int, i: Int, n: Int, nodes: I64, entries: I64, valid: U8, present: U8, case: I64
) -> None:
    """The oneof of ``entry`` holds it from here on: what it held before is no more."""
    before = case[_of(entries, entry, GROUP)]
    if before >= 0 and before != entry:
        child = _of(entries, before, CHILD)
        if child >= 0:
            for field in range(nodes[child, FIELD], nodes[child, FIELD_END]):
                valid[field * n + i] = 0
            for k in range(child, nodes[child, NODE_END]):
                present[k] = 0
        elif _of(entries, before, CELL) >= 0:
            valid[_of(entries, before, CELL) * n + i] = 0
    case[_of(entries, entry, GROUP)] = entry


@inlined
def _integer(kind: Int, bits: Int) -> Int:
    """The value of a number's bits, cut to 32 bits where the kind has no more."""
    if kind == INT64:
        return bits
    if kind == INT32 or kind == ENUM or kind == SFIXED32 or kind == NANOS:  # noqa: SIM109
        return sign32(bits)
    if kind == UINT32:
        return bits & 0xFFFFFFFF
    if kind == SINT32:
        return unzigzag(bits & 0xFFFFFFFF)
    if kind == SINT64:
        return unzigzag(bits)
    if kind == BOOL:
        return np.int64(1) if bits != 0 else np.int64(0)
    return bits


@inlined
def _number(
    kind: Int, bits: Int, entry: Int, i: Int, n: Int, node: Int, entries: I64, symbols: I64,
    base: Int, out: I64, start: I64, length: I64, clocks: I64,
) -> Int:  # fmt: skip
    """Take the bits of a varint or word: a code."""
    cell = np.uint64(_of(entries, entry, CELL) * n + i)
    if kind == DOUBLE:
        out[cell] = bits
        return GOOD
    if kind == FLOAT:
        out[cell] = float_bits(bits)
        return GOOD
    value = _integer(kind, bits)
    if kind == SECONDS or kind == NANOS:  # noqa: SIM109  (a tuple is searched by a loop)
        clocks[node, kind - SECONDS] = value
        return GOOD
    argument, more = _of(entries, entry, ARG), _of(entries, entry, MORE)
    if kind == ENUM:
        symbol = symbol_row(value, argument, more, symbols)
        if symbol < 0:
            return SCHEMA
        text = np.uint64(_of(entries, entry, TEXT) * n + i)
        start[text] = base + symbols[symbol, 1]
        length[text] = symbols[symbol, 2]
        out[cell] = symbols[symbol, 3]
        return GOOD
    if value < 0 and (kind == UINT64 or kind == FIXED64):  # noqa: SIM109
        return RANGE
    fits = -more <= value <= more or argument == 1
    out[cell] = value * argument if fits else 0
    return GOOD if fits else RANGE


@inlined
def _text(
    data: U8, p: Int, stop: Int, kind: Int, entry: Int, i: Int, n: Int, entries: I64, out: I64,
    start: I64, length: I64, side: U8, side_base: Int,
) -> Int:  # fmt: skip
    """Take ``data[p:stop]``: a code. Each uuid has its own place in ``side``."""
    cell = np.uint64(_of(entries, entry, CELL) * n + i)
    text = np.uint64(_of(entries, entry, TEXT) * n + i)
    if kind == UUID:
        used = (i * _of(entries, entry, MORE) + _of(entries, entry, ARG)) * UUID_LENGTH
        if not is_text(data, p, stop):
            return DECODE
        if not lower_uuid(data, p, stop, side, used):
            return SCHEMA
        out[cell] = np.int64(xxh64(side, used, used + UUID_LENGTH))
        start[text] = side_base + used
        length[text] = UUID_LENGTH
        return GOOD
    hashed, plain = hash_text(data, p, stop, np.uint64(0))
    if not plain and kind == STRING and not is_text(data, p, stop):
        return DECODE
    out[cell] = np.int64(hashed)
    start[text] = p
    length[text] = stop - p
    return GOOD


@part
def _end(i: Int, n: Int, nodes: I64, out: I64, valid: U8, present: U8, clocks: I64) -> Int:
    """The message ended: what must be there, and Timestamps as ns: a code."""
    worst = np.int64(GOOD)
    for node in range(1, len(nodes)):
        if not present[node]:
            if nodes[node, MUST] and present[nodes[node, PARENT]]:
                worst = _worse(worst, np.int64(SCHEMA))
        elif nodes[node, CLOCK] >= 0:
            time, code = clock(clocks[node, 0], clocks[node, 1])
            worst = _worse(worst, code)
            if code == GOOD:
                out[nodes[node, CLOCK] * n + i] = time
                valid[nodes[node, CLOCK] * n + i] = 1
    return worst


@inlined
def _entry(number: Int, node: Int, nodes: I64, slots: I64, entries: I64) -> Int:
    """The entry of a field number in a node, or -1."""
    mask = nodes[node, MASK]
    slot = number & mask
    while True:
        entry = slots[nodes[node, SLOTS] + slot]
        if entry < 0 or _of(entries, entry, NUMBER) == number:
            return entry
        slot = (slot + 1) & mask


@part
def _find(
    data: U8, p: Int, stop: Int, i: Int, n: Int, node: Int, nodes: I64, slots: I64, entries: I64,
    valid: U8, present: U8, case: I64, groups: I64,
) -> tuple[Int, Int, Int]:  # fmt: skip
    """The field whose tag is at ``p``, long, wrong, in a oneof or unknown as it may be.

    Its entry, the position of its value, GOOD; an entry of -1 where the value is skipped, with the
    position after it and SCHEMA where another wire type was wanted; position -1 for DECODE.
    """
    tag, p = tag_at(data, p, stop)
    if p < 0:
        return np.int64(-1), p, DECODE
    entry = _entry(tag >> 3, node, nodes, slots, entries)
    skip = entry < 0 or _of(entries, entry, KIND) == SKIP
    wrong = not skip and tag & 7 != _of(entries, entry, WIRE)
    if skip or wrong:
        p = skip_field(data, p, stop, tag, groups)
        if p < 0:
            return np.int64(-1), p, DECODE
    if entry >= 0 and not wrong and _of(entries, entry, GROUP) >= 0:
        _switch(entry, i, n, nodes, entries, valid, present, case)
    return np.int64(-1) if skip or wrong else entry, p, SCHEMA if wrong else GOOD


@inlined
def _message(
    data: U8, p: Int, end: Int, i: Int, n: Int, nodes: I64, direct: I64, slots: I64, entries: I64,
    owner: I64, rows: I64, initial: I64, symbols: I64, side_base: Int, out: I64, valid: U8,
    start: I64, length: I64, side: U8, present: U8, case: I64, clocks: I64, stack: I64,
    groups: I64,
) -> Int:  # fmt: skip
    """Read the message ``data[p:end]`` into row ``i``, which has begun: a code."""
    base = len(data)
    worst, node, stop, top = np.int64(GOOD), np.int64(0), end, np.int64(0)
    while True:
        while p == stop:
            if top == 0:
                return worst
            top -= 1
            node, stop = stack[top, 0], stack[top, 1]
        entry = direct[np.uint64(TAGS * node + at(data, p))]
        p += 1
        if entry < 0:
            entry, p, code = _find(
                data, p - 1, stop, i, n, node, nodes, slots, entries, valid, present, case, groups
            )
            if p < 0:
                return np.int64(DECODE)
            worst = _worse(worst, code)
            if entry < 0:
                continue
        kind = _of(entries, entry, KIND)
        if kind < STRING or kind >= SECONDS:
            if FIXED32 <= kind <= FLOAT:
                bits, p = word32(data, p, stop)
            elif FIXED64 <= kind <= DOUBLE:
                bits, p = word64(data, p, stop)
            else:
                bits, p = low_varint(data, p, stop)
            if p < 0:
                return np.int64(DECODE)
            code = _number(
                kind, bits, entry, i, n, node, entries, symbols, base, out, start, length, clocks
            )
            if kind >= SECONDS:
                continue
        else:
            bits, p = low_varint(data, p, stop)
            q = span(bits, p, stop)
            if q < 0:
                return np.int64(DECODE)
            if kind == MESSAGE:
                stack[top, 0] = node
                stack[top, 1] = stop
                top += 1
                node, stop = _of(entries, entry, CHILD), q
                if not present[node]:
                    _begin(
                        node, i, n, nodes, owner, initial, base, out, valid, rows, start, length,
                        present, case, clocks,
                    )  # fmt: skip
                continue
            code = _text(
                data, p, q, kind, entry, i, n, entries, out, start, length, side, side_base
            )
            p = q
            if code == DECODE:
                return np.int64(DECODE)
        valid[np.uint64(_of(entries, entry, CELL) * n + i)] = 1
        worst = _worse(worst, code)


@bare
def scan(
    data: U8, starts: I64, value_offsets: I64, nodes: I64, direct: I64, slots: I64, entries: I64,
    owner: I64, rows: I64, initial: I64, symbols: I64, known: Int, reason: U8, out: I64, valid: U8,
    start: I64, length: I64, side: U8, present: U8, case: I64, clocks: I64, stack: I64,
    groups: I64,
) -> None:  # fmt: skip
    """Read every message whose ``reason`` is 0.

    ``data`` uint8[..]; message ``i`` is ``data[starts[i]:value_offsets[i+1]]``. ``owner`` int64[f]:
    the node that a column is directly in; ``rows`` int64[f]: its row among the texts, -1: none;
    ``known``: bytes of known texts. Written: ``reason`` uint8[n] (DECODE, SCHEMA or RANGE; the
    first that applies), ``out`` int64[f * n], ``valid`` uint8[f * n], ``start`` and ``length``
    int64[s * n] of texts (a start from ``len(data)`` on is in the known texts, from
    ``len(data) + known`` on in ``side``), ``side`` uint8[36 for each uuid field and record]. A
    record that is not read has the columns of an empty message.
    Scratch space: ``present`` uint8[k], ``case`` int64[oneofs], ``clocks`` int64[k, 2], ``stack``
    int64[k, 2], ``groups`` int64[MAX_GROUPS].

    Every occurrence of a field is checked, though only the last one counts.
    """
    n = len(reason)
    _begin_all(n, owner, initial, len(data), out, valid, rows, start, length)
    for i in range(n):
        if reason[i] == GOOD:
            for k in range(len(present)):
                present[k] = k == 0
                clocks[k, 0] = 0
                clocks[k, 1] = 0
            for k in range(len(case)):
                case[k] = -1
            code = _message(
                data, starts[i], value_offsets[i + 1], i, n, nodes, direct, slots, entries, owner,
                rows, initial, symbols, len(data) + known, out, valid, start, length, side, present,
                case, clocks, stack, groups,
            )  # fmt: skip
            if code != DECODE and len(present) > 1:
                code = _worse(code, _end(i, n, nodes, out, valid, present, clocks))
            reason[i] = code
