"""Request messages read one by one, each in full: what reading many at a time has to equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.inference.ipc import RefusedError
from pipeline.inference.request import decode_requests
from pipeline.ingest.batch import BinaryBatch, Reason

__all__ = ["Message", "read_each"]

Message = Any  # a reason, or a tuple of everything that a message says


def read_each(batch: BinaryBatch, names: Sequence[str], null_value: float) -> list[Message]:
    """Each message of a batch: why it is refused, or origin, rows and the model's inputs."""
    found: list[Message] = []
    for i in range(len(batch)):
        value = batch.value(i)
        if value is None:
            found.append(Reason.TOMBSTONE)
            continue
        try:
            requests = decode_requests(value, names)
        except RefusedError as refused:
            found.append(refused.reason)
            continue
        rows = []
        for k in range(len(requests)):
            begin, end = requests.key_offsets[k : k + 2]
            rows.append((
                requests.keys[begin:end].tobytes(), int(requests.source_partition[k]),
                int(requests.source_offset[k]), requests.triggers[requests.trigger[k]],
                int(requests.event_time[k]), int(requests.requested_at_ms[k]),
            ))  # fmt: skip
        found.append((requests.origin, rows, requests.block(names, null_value).tobytes()))
    return found
