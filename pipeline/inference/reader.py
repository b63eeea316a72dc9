"""Request messages of a batch to rows and the model's inputs, many messages at a time.

The first message of a layout (schema, origin, triggers, number of rows: the bytes before its record
batch) is read by :func:`~pipeline.inference.request.decode_requests`, which takes nothing on trust.
Of others that begin with the same bytes only the record batch is looked at, by kernels; what
they are not sure of is again read in full, so a message is accepted, refused and read the same way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pipeline.inference.ipc import RefusedError
from pipeline.inference.request import (
    COLUMNS,
    RequestBatch,
    RequestOrigin,
    RequestRows,
    decode_requests,
)
from pipeline.ingest.batch import BinaryBatch, Reason
from pipeline.kernels.requests import HEAD, gather_features, gather_rows, locate, places, prefixes

__all__ = ["Read", "Refused", "RequestReader"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

LAYOUT_BYTES = 16 << 20  # of prefixes that are remembered; the least recently used goes
MOST_TRIGGERS = 1 << 15  # an index of the dictionary is an int16


@dataclass(frozen=True, slots=True)
class Read:
    """Messages ``first`` to ``last`` of a batch; message ``first + i`` has the rows ``ends[i]`` to
    ``ends[i + 1]`` (int64[last - first + 1]). ``block`` float32[n, F]: the model's inputs."""

    first: int
    last: int
    requests: RequestRows
    ends: I64
    block: F32


@dataclass(frozen=True, slots=True)
class Refused:
    """Message ``first`` of a batch is refused; ``problem`` says more than its reason."""

    first: int
    reason: Reason
    problem: str

    @property
    def last(self) -> int:
        """It is alone."""
        return self.first + 1


@dataclass(frozen=True, slots=True)
class _Kind:
    """What messages have to have in common to be put together."""

    origin: RequestOrigin
    triggers: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a prefix says; ``slots`` int64[columns of features]: the model's input, or -1.

    ``head``, ``fixed``, ``varying``: see :func:`~pipeline.kernels.requests.locate`.
    """

    kind: _Kind
    rows: int
    slots: I64
    head: U8
    fixed: I64
    varying: I64


class RequestReader:
    """Reads requests for the model inputs ``names``; null and NaN become ``null_value``."""

    def __init__(self, names: Sequence[str], null_value: float) -> None:
        self._names = tuple(names)
        self._null_value = null_value
        self._layouts: OrderedDict[bytes, _Layout] = OrderedDict()
        self._held = 0

    def read(self, batch: BinaryBatch, first: int = 0) -> Iterator[Read | Refused]:
        """The messages of ``batch`` from ``first`` on, in order; each one once."""
        n = len(batch)
        length, same = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.uint8)
        prefixes(batch.payload, batch.value_offsets, length, same)
        absent = (batch.value_null != 0) | (batch.value_size != np.diff(batch.value_offsets))
        length[absent], same[absent] = -1, 0
        where = np.empty((n, HEAD + 2 * len(self._names)), dtype=np.int64)
        where[:, 0] = -1
        kinds: list[_Kind | None] = [None] * n
        alone: dict[int, Read | Refused] = {}
        same[first:][:1] = 0
        starts = (np.flatnonzero(same[first:] == 0) + first).tolist()
        for at, stop in pairwise([*starts, n]):
            prefix = self._prefix(batch, at, int(length[at]))
            layout = self._layouts.get(prefix)
            if layout is None:
                alone[at] = self._whole(batch, at, prefix)
                layout = self._layouts.get(prefix)
                at += 1
            if layout is not None and at < stop:
                self._layouts.move_to_end(prefix)
                locate(
                    batch.payload, batch.value_offsets, at, stop, len(prefix), layout.rows,
                    len(layout.kind.triggers), layout.head, layout.fixed, layout.varying,
                    layout.slots, where,
                )  # fmt: skip
                kinds[at:stop] = [layout.kind] * (stop - at)
        return self._gathered(batch, first, where, kinds, alone)

    def _gathered(
        self, batch: BinaryBatch, first: int, where: I64, kinds: Sequence[_Kind | None],
        alone: Mapping[int, Read | Refused],
    ) -> Iterator[Read | Refused]:  # fmt: skip
        located: list[bool] = (where[:, 0] > 0).tolist()
        while first < len(batch):
            last, kind = first + 1, kinds[first]
            if kind is None or not located[first]:
                found = alone.get(first)
                yield self._whole(batch, first, b"") if found is None else found
            else:
                while last < len(batch) and located[last] and kinds[last] == kind:
                    last += 1
                yield self._together(batch, first, last, kind, where[first:last])
            first = last

    def _together(self, batch: BinaryBatch, first: int, last: int, kind: _Kind, where: I64) -> Read:
        """Located messages of one kind, as if they were one."""
        ends = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(where[:, 0])])
        n = int(ends[-1])
        requests = RequestRows(
            origin=kind.origin,
            keys=np.empty(int(where[:, 1].sum()), dtype=np.uint8),
            key_offsets=np.empty(n + 1, dtype=np.int64),
            source_partition=np.empty(n, dtype=np.int32),
            source_offset=np.empty(n, dtype=np.int64),
            trigger=np.empty(n, dtype=np.int32),
            triggers=kind.triggers,
            event_time=np.empty(n, dtype=np.int64),
            requested_at_ms=np.empty(n, dtype=np.int64),
        )
        gather_rows(
            batch.payload, where, requests.keys, requests.key_offsets, requests.source_partition,
            requests.source_offset, requests.trigger, requests.event_time,
            requests.requested_at_ms,
        )  # fmt: skip
        block = np.empty((n, len(self._names)), dtype=np.float32)
        gather_features(batch.payload, where, np.float32(self._null_value), block)
        return Read(first, last, requests, ends, block)

    def _whole(self, batch: BinaryBatch, at: int, prefix: bytes) -> Read | Refused:
        """One message, read in full; its prefix is remembered if there is one."""
        value = batch.value(at)
        try:
            if value is None:
                raise RefusedError(Reason.TOMBSTONE, "a null value")
            if int(batch.value_size[at]) > len(value):
                raise RefusedError(Reason.TOO_LARGE, f"{int(batch.value_size[at])} bytes")
            requests = decode_requests(value, self._names)
        except RefusedError as refused:
            return Refused(at, refused.reason, str(refused))
        if prefix:
            self._remember(batch, at, prefix, requests)
        ends = np.array([0, len(requests)], dtype=np.int64)
        return Read(at, at + 1, requests, ends, requests.block(self._names, self._null_value))

    def _prefix(self, batch: BinaryBatch, at: int, length: int) -> bytes:
        start = int(batch.value_offsets[at])
        return batch.payload[start : start + max(length, 0)].tobytes()

    def _remember(self, batch: BinaryBatch, at: int, prefix: bytes, requests: RequestBatch) -> None:
        """A layout that kernels can read: triggers in a dictionary, each there once."""
        names = tuple(requests.batch.schema.names[len(COLUMNS) :])
        triggers = requests.triggers
        plain = requests.batch.schema.field("trigger").type == COLUMNS["trigger"]
        if not plain or len(set(triggers)) != len(triggers) or len(triggers) > MOST_TRIGGERS:
            return
        varying = np.empty(4, dtype=np.int64)
        start, end = int(batch.value_offsets[at]) + len(prefix), int(batch.value_offsets[at + 1])
        columns = len(COLUMNS) + len(names)
        if not places(batch.payload, start, end, columns, varying):
            return
        size = 8 + int(batch.payload[start + 4 : start + 8].view("<i4")[0])
        widths = [8, 8, 16 * columns, 16 * (2 * columns + 1)]
        gaps = sorted(zip(varying.tolist(), widths, strict=True))
        begins = [0, *(place + width for place, width in gaps)]
        ends = [*(place for place, _ in gaps), size]
        if any(begin > end for begin, end in zip(begins, ends, strict=True)):
            return
        inputs = {name: i for i, name in enumerate(self._names)}
        slots = np.array([inputs.get(name, -1) for name in names], dtype=np.int64)
        kind = _Kind(requests.origin, triggers, names)
        self._layouts[prefix] = _Layout(
            kind,
            len(requests),
            slots,
            head=batch.payload[start : start + size].copy(),
            fixed=np.array([begins, ends], dtype=np.int64).T.copy(),
            varying=varying,
        )
        self._held += len(prefix)
        while self._held > LAYOUT_BYTES:
            gone, _ = self._layouts.popitem(last=False)
            self._held -= len(gone)
