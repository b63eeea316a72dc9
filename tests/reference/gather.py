"""The slow twin of :mod:`pipeline.kernels.gather`: plain Python over the C structs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["Group", "MessageStruct", "gather"]


class MessageStruct(ctypes.Structure):
    """rd_kafka_message_t as its public header has it, written down a second time on purpose."""

    _fields_ = (
        ("err", ctypes.c_int),
        ("rkt", ctypes.c_void_p),
        ("partition", ctypes.c_int32),
        ("payload", ctypes.c_void_p),
        ("len", ctypes.c_size_t),
        ("key", ctypes.c_void_p),
        ("key_len", ctypes.c_size_t),
        ("offset", ctypes.c_int64),
        ("_private", ctypes.c_void_p),
    )


@dataclass
class Group:
    """Records of one partition; ``last`` is the index of the last in the fetch."""

    values: list[bytes | None] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    timestamps_ms: list[int] = field(default_factory=list)
    last: int = -1


def gather(
    handles: Sequence[int], timestamp_of: Callable[[int], int], max_value_bytes: int
) -> tuple[dict[tuple[int, int], Group], list[int]]:
    """Return records by (topic handle, partition) in order of appearance, and error indexes."""
    groups: dict[tuple[int, int], Group] = {}
    errors: list[int] = []
    for index, handle in enumerate(handles):
        if handle == 0:
            continue
        message = MessageStruct.from_address(handle)
        if message.err != 0:
            errors.append(index)
            continue
        group = groups.setdefault((message.rkt or 0, message.partition), Group())
        value = _bytes(message.payload, message.len)
        if value is not None and len(value) > max_value_bytes:
            value = b""
        group.values.append(value)
        group.sizes.append(message.len)
        group.keys.append(_bytes(message.key, message.key_len))
        group.offsets.append(message.offset)
        group.timestamps_ms.append(timestamp_of(handle))
        group.last = index
    return groups, errors


def _bytes(address: int | None, size: int) -> bytes | None:
    return None if address is None else ctypes.string_at(address, size)
