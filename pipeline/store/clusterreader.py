"""Rows for readers of a Redis Cluster: keys grouped by node, all nodes asked at once.

One command names keys of one partition only, for they share a slot; the marker is read by the same
command as the rows. A reader follows the cluster: ``MOVED`` corrects its map; while a slot is on
its way (``ASK``, ``TRYAGAIN``) its keys are asked for one by one, the missing ones at the target.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import StoreUnavailableError
from pipeline.state.batch import PackedRows
from pipeline.store.partition import Fetched, RowRead
from pipeline.store.pool import Answer, Asked, LinkPool
from pipeline.store.reader import PartitionKeys, highest, partition_keys, unpack_marker
from pipeline.store.replies import error_of
from pipeline.store.slots import MOVING, Node, SlotMap, key_slot, target_of
from pipeline.store.transaction import Scratch, encode_mget
from pipeline.store.wire import Link, Reply, ServerError, command

__all__ = ["ClusterReader", "Topology"]

I64 = npt.NDArray[np.int64]

_KEYS_PER_MGET = 1 << 14
_ROUNDS = 5
_PAUSE_S = 0.02  # a slot changes hands in milliseconds; nodes tell each other within a second


class Topology(Protocol):
    """What is known of who serves what."""

    def current(self) -> SlotMap:
        """The map, asked for if there is none yet; raises StoreUnavailableError."""

    def newer(self, than: SlotMap) -> SlotMap:
        """A map that was asked for after ``than``; raises StoreUnavailableError."""

    def learn(self, slot: int, node: Node) -> SlotMap:
        """The map, corrected by what a node said."""


class _Part:
    """The keys of one partition in one read: marker if wanted, then rows."""

    def __init__(
        self, read: RowRead, keys: PartitionKeys, partition: int, index: I64, marker: bool
    ) -> None:
        self.slot = key_slot(keys.tags[partition])
        self.partition = partition
        self.index = index
        self.marker_key = keys.markers[partition] if marker else None
        self.values: list[bytes | None] | None = None
        self._read = read
        self._keys = keys

    def request(self, scratch: Scratch) -> bytes:
        """MGET of all."""
        read, which = self._read, np.full(len(self.index), self.partition, dtype=np.int32)
        before = () if self.marker_key is None else (self.marker_key,)
        sent = encode_mget(
            scratch, self._keys.prefixes, which, read.keys, read.key_offsets, self.index,
            before=before,
        )  # fmt: skip
        return bytes(sent)

    def names(self) -> list[bytes]:
        """All of its keys."""
        prefixes, read = self._keys.prefixes, self._read
        first, last = prefixes.offsets[self.partition : self.partition + 2]
        prefix = prefixes.data[first:last].tobytes()
        rows = [
            prefix + read.keys[read.key_offsets[i] : read.key_offsets[i + 1]].tobytes()
            for i in self.index.tolist()
        ]
        return rows if self.marker_key is None else [self.marker_key, *rows]


class ClusterReader:
    """Reads over a few connections a node; safe to use from several threads."""

    def __init__(
        self,
        topology: Topology,
        connect: Callable[[Node], Link],
        address: str,
        scratch: Scratch,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._topology = topology
        self._connect = connect
        self._address = address
        self._scratch = scratch
        self._sleep = sleep
        self._pools: dict[Node, LinkPool] = {}
        self._lock = threading.Lock()

    def fetch(self, reads: Sequence[RowRead]) -> list[Fetched]:
        """Answers to all ``reads``: one round trip where no slot has moved."""
        prepared = [_parts(read) for read in reads]
        left = [part for parts in prepared for part in parts]
        slots = self._topology.current() if left else None
        lost: StoreUnavailableError | None = None
        for turn in range(_ROUNDS + 1):
            left = [part for part in left if part.values is None]
            if not left or slots is None:
                return [_fetched(read, p) for read, p in zip(reads, prepared, strict=True)]
            if turn == _ROUNDS:
                break
            if turn > 1:
                self._sleep(_PAUSE_S * turn)
            try:
                self._ask(left, slots)
                slots = self._topology.current()
            except StoreUnavailableError as error:
                lost = error  # its node may be gone: look who has its slots now
                if turn:
                    raise
                slots = self._topology.newer(slots)
        raise lost or StoreUnavailableError(
            f"the slots of {len(left)} partitions at {self._address} go from node to node: try "
            "again later"
        )

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            pools = list(self._pools.values())
        for pool in pools:
            pool.close()

    def _ask(self, parts: Sequence[_Part], slots: SlotMap) -> None:
        """Ask every node for its parts; those that moved meanwhile are left without values."""
        by_node: dict[Node, list[_Part]] = {}
        for part in parts:
            by_node.setdefault(slots.node(part.slot), []).append(part)
        begun: list[tuple[Node, list[_Part], Asked]] = []
        try:
            for node, wanted in by_node.items():
                request = b"".join(part.request(self._scratch) for part in wanted)
                begun.append((node, wanted, self._pool(node).begin(request)))
            while begun:
                node, wanted, asked = begun.pop()
                answers = self._pool(node).finish(asked, len(wanted))
                for part, answer in zip(wanted, answers, strict=True):
                    self._take(part, answer, node)
        finally:
            for node, _, asked in begun:
                self._pool(node).abandon(asked)

    def _take(self, part: _Part, answer: Answer, node: Node) -> None:
        if not isinstance(answer, ServerError):
            part.values = list(answer)
        elif answer.code == "MOVED":
            self._topology.learn(*target_of(answer, node))
        elif answer.code in MOVING:
            part.values = self._one_by_one(part.names(), node)
        else:
            raise error_of(answer, self._address)

    def _one_by_one(self, keys: list[bytes], node: Node) -> list[bytes | None] | None:
        """Values of keys whose slot is leaving ``node``; None if it has left meanwhile."""
        pool = self._pool(node)
        asked = pool.begin(b"".join(command(b"GET", key) for key in keys))
        found = pool.finish_each(asked, len(keys))
        elsewhere: dict[Node, list[int]] = {}
        for i, value in enumerate(found):
            if isinstance(value, ServerError):
                if value.code != "ASK":
                    self._refuse_unless_moving(value, node)
                    return None
                elsewhere.setdefault(target_of(value, node)[1], []).append(i)
        values: list[Reply] = list(found)
        for target, wanted in elsewhere.items():
            request = b"".join(command(b"ASKING") + command(b"GET", keys[i]) for i in wanted)
            pool = self._pool(target)
            answers = pool.finish_each(pool.begin(request), 2 * len(wanted))[1::2]
            for i, value in zip(wanted, answers, strict=True):
                if isinstance(value, ServerError):
                    self._refuse_unless_moving(value, target)
                    return None
                values[i] = value
        return [value if isinstance(value, bytes) else None for value in values]

    def _refuse_unless_moving(self, error: ServerError, node: Node) -> None:
        """Raise what is wrong, unless it is only that the slot has moved on."""
        if error.code == "MOVED":
            self._topology.learn(*target_of(error, node))
        elif error.code not in MOVING:
            raise error_of(error, self._address)

    def _pool(self, node: Node) -> LinkPool:
        with self._lock:
            pool = self._pools.get(node)
            if pool is None:
                pool = self._pools[node] = LinkPool(lambda: self._connect(node))
            return pool


def _parts(read: RowRead) -> list[_Part]:
    """The read cut by partition."""
    if not len(read.partition):
        return []
    keys = partition_keys(
        read.app, read.topic, read.fingerprint, highest(read.partition), read.quarantined
    )
    order = np.argsort(read.partition, kind="stable").astype(np.int64)
    partitions, starts = np.unique(read.partition[order], return_index=True)
    parts = []
    for partition, index in zip(
        partitions.tolist(), np.split(order, starts[1:].tolist()), strict=True
    ):
        for first in range(0, len(index), _KEYS_PER_MGET):
            some = index[first : first + _KEYS_PER_MGET]
            parts.append(_Part(read, keys, partition, some, read.with_markers and first == 0))
    return parts


def _fetched(read: RowRead, parts: Iterable[_Part]) -> Fetched:
    rows: list[bytes | None] = [None] * len(read.partition)
    markers = {}
    for part in parts:
        values = list(part.values or ())
        if part.marker_key is not None:
            markers[part.partition] = unpack_marker(values.pop(0), part.marker_key)
        for i, value in zip(part.index.tolist(), values, strict=True):
            rows[i] = value
    return Fetched(PackedRows.of(rows), markers)
