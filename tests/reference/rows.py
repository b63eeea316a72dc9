"""Obvious twin of row layout v2, from ``docs/row-layout.md``: Python integers and bytes."""

from __future__ import annotations

import itertools
import struct

from pipeline.features.plan import (
    COUNT_KINDS,
    COUNT_OPS,
    AccOp,
    CellType,
    ListKind,
    ListState,
    Plan,
)
from tests.reference.hash import xxh64
from tests.reference.sketches import Tally
from tests.reference.state import FLOATS, Number, Row, bits_of, tile_of

__all__ = ["decode_row", "encode_row", "reseal"]


def zigzag(value: int) -> int:
    """0, -1, 1, -2, ... as 0, 1, 2, 3, ..."""
    return 2 * value if value >= 0 else -2 * value - 1


def varint(value: int) -> bytes:
    """Unsigned LEB128."""
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def encode_row(plan: Plan, row: Row) -> bytes:
    """The bytes of a row."""
    body = b"" if row.deleted is None else struct.pack("<q", row.deleted)
    if not row.live:
        return _with_header(plan, row, body)
    for ring, tiles in enumerate(row.tiles):
        ops = [a.op for a in plan.accumulators if a.ring == ring]
        body += varint(len(tiles))
        before: int | None = None
        for tile in sorted(tiles):
            body += varint(zigzag(tile) if before is None else tile - before)
            before = tile
            for op, cell in zip(ops, tiles[tile], strict=True):
                body += _cell(op, cell)
    for i, state in enumerate(plan.lists):
        body += LISTS[state.kind](plan, row, i)
    return _with_header(plan, row, body)


def _with_header(plan: Plan, row: Row, body: bytes) -> bytes:
    header = struct.pack(
        "<2sBBIQqqqQ", b"FR", 2, row.deleted is not None, 48 + len(body), plan.fingerprint,
        row.time, row.known, row.offset, 0,
    )  # fmt: skip
    return reseal(header + body)


def reseal(row: bytes) -> bytes:
    """The row with the checksum it should have."""
    blank = row[:40] + bytes(8) + row[48:]
    return row[:40] + struct.pack("<Q", xxh64(blank)) + row[48:]


def _cell(op: AccOp, cell: Number) -> bytes:
    if op in COUNT_OPS:
        return varint(int(cell))
    if op in FLOATS:
        return struct.pack("<q", bits_of(float(cell)))
    return varint(zigzag(int(cell)))


def _distinct(plan: Plan, row: Row, i: int) -> bytes:
    newest = tile_of(row.time, plan.rings[plan.lists[i].ring].width_ns)
    dropped, steps = row.dropped[i], row.steps.get(i, [])
    out = varint(len(row.values[i]))
    if dropped is not None:
        out += b"\1" + varint(zigzag(dropped))
    elif steps:
        out += varint(len(steps) + 1) + varint(zigzag(steps[0]))
        out += b"".join(varint(a - b) for a, b in itertools.pairwise(steps))
    else:
        out += b"\0"
    before: int | None = None
    for bits, tile in sorted((bits_of(value), tile) for value, tile in row.values[i].items()):
        out += varint(zigzag(bits) if before is None else bits - before) + varint(newest - tile)
        before = bits
    return out


def _last(plan: Plan, row: Row, i: int) -> bytes:
    out = varint(len(row.last[i])) + b"\0"
    for time, offset, value in row.last[i]:
        out += varint(row.time - time) + varint(row.offset - offset)
        if plan.lists[i].type is CellType.FLOAT:
            out += struct.pack("<q", bits_of(float(value)))
        else:
            out += varint(zigzag(int(value)))
    return out


def _events(plan: Plan, row: Row, i: int) -> bytes:
    state, dropped = plan.lists[i], row.dropped[i]
    out = varint(len(row.last[i])) + (b"\0" if dropped is None else b"\1" + varint(zigzag(dropped)))
    before: tuple[int, int] | None = None
    for time, offset, value in row.last[i]:
        if before is None:
            out += varint(row.time - time) + varint(row.offset - offset)
        else:
            out += varint(time - before[0]) + varint(zigzag(offset - before[1]))
        before = time, offset
        if state.type is CellType.FLOAT:
            out += struct.pack("<q", bits_of(float(value)))
        elif state.input >= 0:
            out += varint(zigzag(int(value)))
    return out


def _counts(plan: Plan, row: Row, i: int) -> bytes:
    tiles, dropped = row.counts.get(i, {}), row.dropped[i]
    out = varint(sum(len(tally.counts) for tally in tiles.values()))
    out += b"\0" if dropped is None else b"\1" + varint(zigzag(dropped))
    out += varint(len(tiles))
    before: int | None = None
    for tile in sorted(tiles):
        out += varint(zigzag(tile) if before is None else tile - before)
        before, tally = tile, tiles[tile]
        out += varint(len(tally.counts)) + varint(tally.note)
        stored = sorted((ordered(value), count) for value, count in tally.counts.items())
        for k, (value, count) in enumerate(stored):
            out += varint(zigzag(value) if k == 0 else value - stored[k - 1][0]) + varint(count)
    return out


def ordered(value: Number) -> int:
    """An integer of the same order: a float's bits, those of a negative one inverted but for the
    sign."""
    bits = bits_of(value)
    return bits ^ (2**63 - 1) if isinstance(value, float) and bits < 0 else bits


def _decayed(plan: Plan, row: Row, i: int) -> bytes:
    if i not in row.decayed:
        return varint(0)
    reference, weight, total = row.decayed[i]
    out = varint(1) + varint(zigzag(reference - row.time)) + struct.pack("<d", weight)
    return out + (struct.pack("<q", bits_of(total)) if plan.lists[i].input >= 0 else b"")


LISTS = {
    ListKind.DISTINCT: _distinct,
    ListKind.LAST: _last,
    ListKind.EVENTS: _events,
    ListKind.DECAYED: _decayed,
    ListKind.IDS: _events,
    ListKind.COUNTS: _counts,
    ListKind.FREQUENT: _counts,
    ListKind.LARGEST: _counts,
    ListKind.SMALLEST: _counts,
}


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def signed(self) -> int:
        value = self.varint()
        return value // 2 if value % 2 == 0 else -(value + 1) // 2

    def word(self) -> int:
        self.at += 8
        return int(struct.unpack("<q", self.data[self.at - 8 : self.at])[0])

    def real(self) -> float:
        return float(struct.unpack("<d", struct.pack("<q", self.word()))[0])


def decode_row(plan: Plan, data: bytes) -> Row:
    """A row from trusted bytes; ``ValueError`` if header or checksum are not right."""
    magic, version, flags, size, layout, time, known, offset, _ = struct.unpack(
        "<2sBBIQqqqQ", data[:48]
    )
    if (magic, size, layout) != (b"FR", len(data), plan.fingerprint):
        raise ValueError("no row of this plan")
    if (version, flags) not in {(1, 0), (2, 0), (2, 1)}:
        raise ValueError("another format")
    if reseal(data) != data:
        raise ValueError("wrong checksum")
    read = _Reader(data[48:])
    n, rings = len(plan.lists), len(plan.rings)
    row = Row(
        time, known, offset, [{} for _ in range(rings)], [{} for _ in range(n)],
        [[] for _ in range(n)], [None] * n,
    )  # fmt: skip
    if flags:
        row.deleted = read.word()
        row.live = read.at != len(read.data)
    if not row.live:
        return row
    for ring in range(len(plan.rings)):
        row.tiles[ring] = _read_tiles(plan, ring, read)
    for i in range(n):
        _read_list(plan, row, i, read)
    if read.at != len(read.data):
        raise ValueError("bytes are left over")
    return row


def _read_tiles(plan: Plan, ring: int, read: _Reader) -> dict[int, list[Number]]:
    ops = [a.op for a in plan.accumulators if a.ring == ring]
    tiles: dict[int, list[Number]] = {}
    tile = 0
    for k in range(read.varint()):
        tile = read.signed() if k == 0 else tile + read.varint()
        tiles[tile] = [
            read.varint() if op in COUNT_OPS else read.real() if op in FLOATS else read.signed()
            for op in ops
        ]
    return tiles


def _read_list(plan: Plan, row: Row, i: int, read: _Reader) -> None:
    state = plan.lists[i]
    count = read.varint()
    if state.kind is ListKind.DECAYED:
        if count:
            reference, weight = row.time + read.signed(), read.real()
            total = read.real() if state.input >= 0 else weight
            row.decayed[i] = reference, weight, total
        return
    flag = read.varint()
    if flag > 1:
        row.steps[i] = [read.signed()]
        row.steps[i] += [-read.varint() for _ in range(flag - 2)]
        row.steps[i] = list(itertools.accumulate(row.steps[i]))
    elif flag:
        row.dropped[i] = read.signed()
    if state.kind in COUNT_KINDS:
        _read_counts(state, row.counts.setdefault(i, {}), read)
        return
    if state.kind in (ListKind.EVENTS, ListKind.IDS):
        _read_events(state, row, row.last[i], count, read)
        return
    value = 0
    for k in range(count):
        if state.kind is ListKind.LAST:
            time, offset = row.time - read.varint(), row.offset - read.varint()
            real = state.type is CellType.FLOAT
            row.last[i].append((time, offset, read.real() if real else read.signed()))
            continue
        value = read.signed() if k == 0 else value + read.varint()
        tile = tile_of(row.time, plan.rings[state.ring].width_ns) - read.varint()
        typed: Number = value
        if state.type is CellType.FLOAT:
            typed = struct.unpack("<d", struct.pack("<q", value))[0]
        row.values[i][typed] = tile


def _read_counts(state: ListState, into: dict[int, Tally], read: _Reader) -> None:
    tile = 0
    for k in range(read.varint()):
        tile = read.signed() if k == 0 else tile + read.varint()
        n = read.varint()
        tally = into[tile] = Tally(read.varint())
        raw = state.kind is not ListKind.COUNTS or tally.note == 0
        value = 0
        for e in range(n):
            value = read.signed() if e == 0 else value + read.varint()
            typed: Number = value
            if raw and state.type is CellType.FLOAT:
                bits = value ^ (2**63 - 1) if value < 0 else value
                typed = struct.unpack("<d", struct.pack("<q", bits))[0]
            tally.counts[typed] = read.varint()


def _read_events(
    state: ListState, row: Row, into: list[tuple[int, int, Number]], count: int, read: _Reader
) -> None:
    time = offset = 0
    for k in range(count):
        if k == 0:
            time, offset = row.time - read.varint(), row.offset - read.varint()
        else:
            time, offset = time + read.varint(), offset + read.signed()
        value: Number = 0
        if state.type is CellType.FLOAT:
            value = read.real()
        elif state.input >= 0:
            value = read.signed()
        into.append((time, offset, value))
