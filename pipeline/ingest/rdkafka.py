"""librdkafka's public C API through ctypes: prototypes, structs, version.

The library is the one inside the ``confluent-kafka`` wheel; a symbol look-up on its extension
module searches the library's dependencies too. Only names of ``rdkafka.h`` and
``rdkafka_mock.h`` are used.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_ssize_t,
    c_void_p,
)
from functools import cache
from typing import Any

import confluent_kafka

from pipeline.errors import ConfigurationError, NativeLaneError
from pipeline.ingest.batch import TopicPartition

__all__ = [
    "ASSIGN_PARTITIONS",
    "CONSUMER",
    "MINIMUM_VERSION",
    "OFFSET_INVALID",
    "PRODUCER",
    "CommitCallback",
    "ErrorCallback",
    "LogCallback",
    "Message",
    "PartitionList",
    "RebalanceCallback",
    "StatsCallback",
    "address_of",
    "code_name",
    "code_text",
    "library",
    "new_client",
    "partition_list",
    "read_partitions",
    "take_error",
    "version_text",
]

MINIMUM_VERSION = 0x02_01_00_FF  # first with rd_kafka_message_leader_epoch
_MAJOR = 2
PRODUCER, CONSUMER = 0, 1
ASSIGN_PARTITIONS = -175
OFFSET_INVALID = -1001


class Message(ctypes.Structure):
    """rd_kafka_message_t."""

    _fields_ = (
        ("err", c_int),
        ("rkt", c_void_p),
        ("partition", c_int32),
        ("payload", c_void_p),
        ("len", c_size_t),
        ("key", c_void_p),
        ("key_len", c_size_t),
        ("offset", c_int64),
        ("private", c_void_p),
    )


class _Partition(ctypes.Structure):
    """rd_kafka_topic_partition_t."""

    _fields_ = (
        ("topic", c_char_p),
        ("partition", c_int32),
        ("offset", c_int64),
        ("metadata", c_void_p),
        ("metadata_size", c_size_t),
        ("opaque", c_void_p),
        ("err", c_int),
        ("private", c_void_p),
    )


class PartitionList(ctypes.Structure):
    """rd_kafka_topic_partition_list_t."""

    _fields_ = (("cnt", c_int), ("size", c_int), ("elems", POINTER(_Partition)))


_List = POINTER(PartitionList)
RebalanceCallback = CFUNCTYPE(None, c_void_p, c_int, _List, c_void_p)
ErrorCallback = CFUNCTYPE(None, c_void_p, c_int, c_char_p, c_void_p)
LogCallback = CFUNCTYPE(None, c_void_p, c_int, c_char_p, c_char_p)
StatsCallback = CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, c_void_p)
CommitCallback = CFUNCTYPE(None, c_void_p, c_int, _List, c_void_p)

_P, _S, _I, _I32, _I64 = c_void_p, c_char_p, c_int, c_int32, c_int64
_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "rd_kafka_version": (_I, []),
    "rd_kafka_version_str": (_S, []),
    "rd_kafka_err2name": (_S, [_I]),
    "rd_kafka_err2str": (_S, [_I]),
    "rd_kafka_error_code": (_I, [_P]),
    "rd_kafka_error_string": (_S, [_P]),
    "rd_kafka_error_destroy": (None, [_P]),
    "rd_kafka_conf_new": (_P, []),
    "rd_kafka_conf_destroy": (None, [_P]),
    "rd_kafka_conf_set": (_I, [_P, _S, _S, _S, c_size_t]),
    "rd_kafka_conf_set_rebalance_cb": (None, [_P, RebalanceCallback]),
    "rd_kafka_conf_set_error_cb": (None, [_P, ErrorCallback]),
    "rd_kafka_conf_set_log_cb": (None, [_P, LogCallback]),
    "rd_kafka_conf_set_stats_cb": (None, [_P, StatsCallback]),
    "rd_kafka_conf_set_offset_commit_cb": (None, [_P, CommitCallback]),
    "rd_kafka_new": (_P, [_I, _P, _S, c_size_t]),
    "rd_kafka_destroy": (None, [_P]),
    "rd_kafka_fatal_error": (_I, [_P, _S, c_size_t]),
    "rd_kafka_poll_set_consumer": (_I, [_P]),
    "rd_kafka_set_log_queue": (_I, [_P, _P]),
    "rd_kafka_queue_get_consumer": (_P, [_P]),
    "rd_kafka_queue_destroy": (None, [_P]),
    "rd_kafka_consume_batch_queue": (c_ssize_t, [_P, _I, _P, c_size_t]),
    "rd_kafka_consumer_close": (_I, [_P]),
    "rd_kafka_subscribe": (_I, [_P, _List]),
    "rd_kafka_unsubscribe": (_I, [_P]),
    "rd_kafka_assign": (_I, [_P, _List]),
    "rd_kafka_incremental_assign": (_P, [_P, _List]),
    "rd_kafka_incremental_unassign": (_P, [_P, _List]),
    "rd_kafka_assignment_lost": (_I, [_P]),
    "rd_kafka_rebalance_protocol": (_S, [_P]),
    "rd_kafka_seek_partitions": (_P, [_P, _List, _I]),
    "rd_kafka_pause_partitions": (_I, [_P, _List]),
    "rd_kafka_resume_partitions": (_I, [_P, _List]),
    "rd_kafka_commit": (_I, [_P, _List, _I]),
    "rd_kafka_committed": (_I, [_P, _List, _I]),
    "rd_kafka_get_watermark_offsets": (_I, [_P, _S, _I32, POINTER(_I64), POINTER(_I64)]),
    "rd_kafka_query_watermark_offsets": (_I, [_P, _S, _I32, POINTER(_I64), POINTER(_I64), _I]),
    "rd_kafka_consumer_group_metadata": (_P, [_P]),
    "rd_kafka_consumer_group_metadata_generation_id": (_I32, [_P]),
    "rd_kafka_consumer_group_metadata_destroy": (None, [_P]),
    "rd_kafka_topic_name": (_S, [_P]),
    "rd_kafka_message_destroy": (None, [_P]),
    "rd_kafka_message_timestamp": (_I64, [_P, _P]),
    "rd_kafka_message_leader_epoch": (_I32, [_P]),
    "rd_kafka_message_errstr": (_S, [_P]),
    "rd_kafka_topic_partition_list_new": (_List, [_I]),
    "rd_kafka_topic_partition_list_add": (POINTER(_Partition), [_List, _S, _I32]),
    "rd_kafka_topic_partition_list_destroy": (None, [_List]),
    "rd_kafka_topic_partition_set_leader_epoch": (None, [POINTER(_Partition), _I32]),
    "rd_kafka_mock_cluster_new": (_P, [_P, _I]),
    "rd_kafka_mock_cluster_destroy": (None, [_P]),
    "rd_kafka_mock_cluster_bootstraps": (_S, [_P]),
    "rd_kafka_mock_topic_create": (_I, [_P, _S, _I, _I]),
    "rd_kafka_mock_topic_set_error": (None, [_P, _S, _I]),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [_P, _I32]),
    "rd_kafka_mock_broker_set_down": (_I, [_P, _I32]),
    "rd_kafka_mock_broker_set_up": (_I, [_P, _I32]),
}


@cache
def library() -> Any:
    """Return the loaded library with prototypes set.

    Raises ``NativeLaneError`` if it is another version than this module was written for or lacks
    a function.
    """
    loaded = ctypes.CDLL(confluent_kafka.cimpl.__file__)
    for name, (result, arguments) in _PROTOTYPES.items():
        try:
            function = getattr(loaded, name)
        except AttributeError as error:
            raise NativeLaneError(f"librdkafka has no function {name}") from error
        function.restype, function.argtypes = result, arguments
    version = int(loaded.rd_kafka_version())
    if version < MINIMUM_VERSION or version >> 24 != _MAJOR:
        raise NativeLaneError(
            f"librdkafka {version_text(loaded)} is not supported: 2.1 or later, below 3, is needed"
        )
    return loaded


def version_text(loaded: Any) -> str:
    """Return the version of the loaded library, such as ``2.12.1``."""
    return str(loaded.rd_kafka_version_str().decode())


def address_of(function: Any) -> int:
    """Return the address of a C function or callback object."""
    return int(ctypes.cast(function, c_void_p).value or 0)


def code_name(loaded: Any, code: int) -> str:
    """Return the name of an error code, such as ``_TRANSPORT``."""
    return str(loaded.rd_kafka_err2name(code).decode())


def code_text(loaded: Any, code: int) -> str:
    """Return the description of an error code."""
    return str(loaded.rd_kafka_err2str(code).decode())


def take_error(loaded: Any, error: int | None) -> tuple[int, str] | None:
    """Return (code, text) of an ``rd_kafka_error_t*`` and free it; None for NULL."""
    if not error:
        return None
    code = int(loaded.rd_kafka_error_code(error))
    text = loaded.rd_kafka_error_string(error).decode(errors="replace")
    loaded.rd_kafka_error_destroy(error)
    return code, text


def new_client(
    loaded: Any,
    kind: int,
    settings: Mapping[str, str],
    configure: Callable[[int], None] = lambda conf: None,
) -> int:
    """Create a client of ``kind``; ``configure`` may set callbacks on its configuration.

    Raises ``ConfigurationError`` that names the property which librdkafka refuses.
    """
    message = ctypes.create_string_buffer(512)
    conf = loaded.rd_kafka_conf_new()
    for name, value in settings.items():
        if loaded.rd_kafka_conf_set(conf, name.encode(), value.encode(), message, len(message)):
            loaded.rd_kafka_conf_destroy(conf)
            raise ConfigurationError(f"lane.properties.{name}: {_text(message)}")
    configure(conf)
    client = loaded.rd_kafka_new(kind, conf, message, len(message))
    if not client:
        loaded.rd_kafka_conf_destroy(conf)
        raise ConfigurationError(f"lane.properties: {_text(message)}")
    return int(client)


def _text(message: ctypes.Array[ctypes.c_char]) -> str:
    return message.value.decode(errors="replace")


@contextmanager
def partition_list(loaded: Any, offsets: Mapping[TopicPartition, int]) -> Iterator[Any]:
    """Yield an ``rd_kafka_topic_partition_list_t*`` of the partitions with these offsets."""
    partitions = loaded.rd_kafka_topic_partition_list_new(len(offsets))
    try:
        for source, offset in offsets.items():
            added = loaded.rd_kafka_topic_partition_list_add(
                partitions, source.topic.encode(), source.partition
            )
            added.contents.offset = offset
        yield partitions
    finally:
        loaded.rd_kafka_topic_partition_list_destroy(partitions)


def read_partitions(partitions: Any) -> list[tuple[TopicPartition, int, int]]:
    """Return (partition, offset, error code) of each element of a partition list."""
    listed = partitions.contents
    elements = (listed.elems[i] for i in range(listed.cnt))
    return [(TopicPartition(e.topic.decode(), e.partition), e.offset, e.err) for e in elements]
