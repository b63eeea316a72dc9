"""Take the messages of one fetch out of C memory, grouped by partition.

Two passes over an array of ``rd_kafka_message_t*``. :func:`index_messages` reads every message
struct once and counts what each partition needs; the caller then sizes the buffers and
:func:`copy_messages` fills them and releases the messages. Two passes because the size of a
partition's share is unknown before all messages were seen, and a buffer that grows would copy
payloads twice.

The struct (librdkafka's public header, 64 bit), in words of 8 bytes: error code and padding,
topic handle, partition and padding, payload, its length, key, its length, offset, private.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.jit import call_i64, call_void, copy_bytes, jit, load_i64

__all__ = [
    "F_KEY",
    "F_KEY_SIZE",
    "F_OFFSET",
    "F_TIMESTAMP",
    "F_VALUE",
    "F_VALUE_SIZE",
    "G_COUNT",
    "G_KEY_BYTES",
    "G_LAST",
    "G_PARTITION",
    "G_TOPIC",
    "G_VALUE_BYTES",
    "N_FIELDS",
    "N_GROUP_FIELDS",
    "copy_messages",
    "index_messages",
    "release_messages",
]

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

# Rows of `fields`, one column a message.
F_VALUE, F_VALUE_SIZE, F_KEY, F_KEY_SIZE, F_OFFSET, F_TIMESTAMP = range(6)
N_FIELDS = 6

# Rows of `groups`, one column a partition seen in the fetch.
G_TOPIC, G_PARTITION, G_COUNT, G_VALUE_BYTES, G_KEY_BYTES, G_LAST = range(6)
N_GROUP_FIELDS = 6

_LOW = np.int64(0xFFFFFFFF)
_SIGN = np.int64(0x80000000)


@jit
def index_messages(
    handles: I64,
    begin: int,
    n_groups: int,
    n_errors: int,
    timestamp_function: int,
    max_value_bytes: int,
    group_of: I32,
    fields: I64,
    groups: I64,
    errors: I64,
) -> tuple[int, int]:
    """Read message structs from ``begin`` on; return the number of partitions and of errors.

    ``handles`` int64[n] holds message addresses, 0 for a message that was taken back. Fills
    ``group_of`` int32[n..] (column in ``groups``, -1 for errors and zeros), ``fields``
    int64[N_FIELDS, n..], ``groups`` int64[N_GROUP_FIELDS, n..] and the first entries of
    ``errors`` int64[n..] with the indexes of error messages. ``n_groups`` and ``n_errors`` are
    what the call for the messages before ``begin`` returned.
    ``G_VALUE_BYTES`` counts only values that are not over ``max_value_bytes``; ``G_LAST`` is the
    index of the partition's last message. ``timestamp_function`` is the address of
    ``rd_kafka_message_timestamp``. O(n) as messages come in runs of one partition.
    """
    current = -1
    for i in range(begin, len(handles)):
        message = handles[i]
        group_of[i] = -1
        if message == 0:
            continue
        if load_i64(message) & _LOW != 0:
            errors[n_errors] = i
            n_errors += 1
            continue
        topic = load_i64(message + 8)
        partition = ((load_i64(message + 16) & _LOW) ^ _SIGN) - _SIGN
        same = (
            current >= 0
            and groups[G_TOPIC, current] == topic
            and groups[G_PARTITION, current] == partition
        )
        if not same:
            current = 0
            while current < n_groups and not (
                groups[G_TOPIC, current] == topic and groups[G_PARTITION, current] == partition
            ):
                current += 1
            if current == n_groups:
                n_groups += 1
                groups[:, current] = 0
                groups[G_TOPIC, current] = topic
                groups[G_PARTITION, current] = partition
        size = load_i64(message + 32)
        key_size = load_i64(message + 48)
        fields[F_VALUE, i] = load_i64(message + 24)
        fields[F_VALUE_SIZE, i] = size
        fields[F_KEY, i] = load_i64(message + 40)
        fields[F_KEY_SIZE, i] = key_size
        fields[F_OFFSET, i] = load_i64(message + 56)
        fields[F_TIMESTAMP, i] = call_i64(timestamp_function, message, 0)
        group_of[i] = current
        groups[G_COUNT, current] += 1
        groups[G_LAST, current] = i
        groups[G_KEY_BYTES, current] += key_size
        if size <= max_value_bytes:
            groups[G_VALUE_BYTES, current] += size
    return n_groups, n_errors


@jit
def copy_messages(
    handles: I64,
    destroy_function: int,
    max_value_bytes: int,
    group_of: I32,
    fields: I64,
    starts: I64,
    payload: U8,
    value_offsets: I64,
    value_null: U8,
    value_size: I64,
    keys: U8,
    key_offsets: I64,
    key_null: U8,
    offsets: I64,
    timestamps_ms: I64,
) -> None:
    """Copy what :func:`index_messages` found into columns, then release every message.

    ``starts`` int64[3, g]: where a partition's records, value bytes and key bytes begin in the
    shared buffers; a record start of -1 leaves the partition out. It is used as a cursor and is
    changed. The offset columns hold one more entry a partition than records, so partition ``g``
    begins there at ``starts[0, g] + g``; its offsets count from its own first byte. Values over
    ``max_value_bytes`` become empty slices, ``value_size`` keeps the wire size. Each handle,
    errors and left-out partitions too, goes to ``destroy_function``
    (``rd_kafka_message_destroy``) while it is still in the cache, and becomes 0.
    """
    payload_at = payload.ctypes.data
    keys_at = keys.ctypes.data
    first_value = starts[1].copy()
    first_key = starts[2].copy()
    for g in range(starts.shape[1]):
        if starts[0, g] >= 0:
            value_offsets[starts[0, g] + g] = 0
            key_offsets[starts[0, g] + g] = 0
    for i in range(len(handles)):
        g = group_of[i]
        if g >= 0 and starts[0, g] >= 0:
            row = starts[0, g]
            size = fields[F_VALUE_SIZE, i]
            value_size[row] = size
            value_null[row] = 1 if fields[F_VALUE, i] == 0 else 0
            if size <= max_value_bytes and size > 0:
                copy_bytes(payload_at + starts[1, g], fields[F_VALUE, i], size)
                starts[1, g] += size
            value_offsets[row + g + 1] = starts[1, g] - first_value[g]
            key_size = fields[F_KEY_SIZE, i]
            key_null[row] = 1 if fields[F_KEY, i] == 0 else 0
            if key_size > 0:
                copy_bytes(keys_at + starts[2, g], fields[F_KEY, i], key_size)
                starts[2, g] += key_size
            key_offsets[row + g + 1] = starts[2, g] - first_key[g]
            offsets[row] = fields[F_OFFSET, i]
            timestamps_ms[row] = fields[F_TIMESTAMP, i]
            starts[0, g] = row + 1
        if handles[i] != 0:
            call_void(destroy_function, handles[i])
            handles[i] = 0


@jit
def release_messages(handles: I64, destroy_function: int) -> None:
    """Give every message back to librdkafka without copying it; handles become 0."""
    for i in range(len(handles)):
        if handles[i] != 0:
            call_void(destroy_function, handles[i])
            handles[i] = 0
