"""Which node of a Redis Cluster serves which key.

Source: the Redis Cluster specification, "Key distribution model" and "Redirection".
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import StoreUnavailableError
from pipeline.store.wire import ServerError

__all__ = ["MOVING", "SLOTS", "Node", "SlotMap", "key_slot", "target_of"]

I16 = npt.NDArray[np.int16]

SLOTS = 16_384
MOVING = frozenset({"ASK", "TRYAGAIN"})
"""Codes of errors of a slot that is on its way to another node."""


class Node(NamedTuple):
    """A server of the cluster."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class SlotMap:
    """Who serves what: ``owner`` int16[16384], index of a node, -1 for nobody."""

    nodes: tuple[Node, ...]
    owner: I16

    @classmethod
    def of(cls, served: Mapping[int, Node]) -> SlotMap:
        """The map of slot -> node."""
        nodes = tuple(sorted(set(served.values())))
        numbers = {node: number for number, node in enumerate(nodes)}
        owner = np.full(SLOTS, -1, dtype=np.int16)
        for slot, node in served.items():
            owner[slot] = numbers[node]
        return cls(nodes, owner)

    def node(self, slot: int) -> Node:
        """The node that serves ``slot``; raises StoreUnavailableError where none does."""
        number = int(self.owner[slot])
        if number < 0:
            raise StoreUnavailableError(
                f"no node of the cluster serves slot {slot}: see CLUSTER INFO"
            )
        return self.nodes[number]

    def moved(self, slot: int, node: Node) -> SlotMap:
        """This map with one slot elsewhere."""
        nodes = self.nodes if node in self.nodes else (*self.nodes, node)
        owner = self.owner.copy()
        owner[slot] = nodes.index(node)
        return SlotMap(nodes, owner)


def key_slot(key: bytes) -> int:
    """Hash slot of a key: CRC-16 (XMODEM) of its hash tag, or of all of it, modulo 16384."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS


def target_of(error: ServerError, asked: Node) -> tuple[int, Node]:
    """Slot and node that ``MOVED slot host:port`` or ``ASK slot host:port`` names.

    An empty host means the one that was ``asked``. Raises StoreUnavailableError.
    """
    try:
        _, slot, place = error.text.split(" ")
        host, _, port = place.rpartition(":")
        return int(slot), Node(host.strip("[]") or asked.host, int(port))
    except ValueError as wrong:
        raise StoreUnavailableError(f"{asked} answered {error.text!r}") from wrong
