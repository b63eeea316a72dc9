"""The gather kernels against their twin, over message structs built here."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.kernels import gather as kernel
from tests.reference import gather as reference

TIMESTAMP = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
DESTROY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
MAX_VALUE = 24

records = st.tuples(
    st.sampled_from([0, 0, 0, 0, -191, 1]),  # error code
    st.sampled_from([0x1000, 0x2000]),  # topic handle
    st.integers(-1, 3),  # partition
    st.none() | st.binary(max_size=40),
    st.none() | st.binary(max_size=12),
    st.integers(0, 2**62),
)


def _address(function: object) -> int:
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)  # type: ignore[arg-type]


def _timestamp(handle: int) -> int:
    offset: int = reference.MessageStruct.from_address(handle).offset
    return offset // 3 - 1


@dataclass
class Messages:
    """C structs of ``rows`` and everything that keeps them alive."""

    rows: list[tuple[int, int, int, bytes | None, bytes | None, int]]
    structs: list[reference.MessageStruct] = field(default_factory=list)
    buffers: list[ctypes.Array[ctypes.c_char]] = field(default_factory=list)
    destroyed: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for err, rkt, partition, value, key, offset in self.rows:
            payload, size = self._stored(value)
            key_at, key_size = self._stored(key)
            self.structs.append(
                reference.MessageStruct(
                    err, rkt, partition, payload, size, key_at, key_size, offset, None
                )
            )
        self.timestamp = TIMESTAMP(lambda handle, _kind: _timestamp(handle))
        self.destroy = DESTROY(self.destroyed.append)
        self.handles = np.array([ctypes.addressof(s) for s in self.structs], np.int64)

    def _stored(self, data: bytes | None) -> tuple[int | None, int]:
        if data is None:
            return None, 0
        self.buffers.append(ctypes.create_string_buffer(data, len(data) + 1))
        return ctypes.addressof(self.buffers[-1]), len(data)


class Index:
    """Outputs of ``index_messages``, filled in chunks that end at ``cuts``."""

    def __init__(self, messages: Messages, cuts: list[int]) -> None:
        n = max(1, len(messages.handles))
        self.group_of = np.full(n, 77, np.int32)
        self.fields = np.empty((kernel.N_FIELDS, n), np.int64)
        self.groups = np.empty((kernel.N_GROUP_FIELDS, n), np.int64)
        self.errors = np.empty(n, np.int64)
        self.n_groups = self.n_errors = begin = 0
        for end in [*sorted(c for c in cuts if c < len(messages.handles)), len(messages.handles)]:
            self.n_groups, self.n_errors = kernel.index_messages(
                messages.handles[:end],
                begin,
                self.n_groups,
                self.n_errors,
                _address(messages.timestamp),
                MAX_VALUE,
                self.group_of,
                self.fields,
                self.groups,
                self.errors,
            )
            begin = end


def _copied(messages: Messages, index: Index, leave_out: int) -> dict[int, reference.Group]:
    """Run the copy; return what the columns hold by group number."""
    counts = index.groups[:, : index.n_groups].copy()
    keep = np.arange(index.n_groups) != leave_out
    sizes = counts[[kernel.G_COUNT, kernel.G_VALUE_BYTES, kernel.G_KEY_BYTES]] * keep
    ends = sizes.cumsum(axis=1)
    starts = ends - sizes
    n, value_bytes, key_bytes = sizes.sum(axis=1).tolist()
    cursors = starts.copy()
    cursors[0, ~keep] = -1
    payload, keys = np.empty(value_bytes, np.uint8), np.empty(key_bytes, np.uint8)
    value_offsets = np.empty(n + index.n_groups, np.int64)
    key_offsets = np.empty(n + index.n_groups, np.int64)
    value_null, key_null = np.empty(n, np.uint8), np.empty(n, np.uint8)
    value_size, offsets, times = (np.empty(n, np.int64) for _ in range(3))
    kernel.copy_messages(
        messages.handles,
        _address(messages.destroy),
        MAX_VALUE,
        index.group_of,
        index.fields,
        cursors,
        payload,
        value_offsets,
        value_null,
        value_size,
        keys,
        key_offsets,
        key_null,
        offsets,
        times,
    )
    found = {}
    for g in np.flatnonzero(keep).tolist():
        (first, value, key), (last, value_end, key_end) = starts[:, g], ends[:, g]
        bounds = slice(first + g, last + g + 1)
        found[g] = reference.Group(
            _slices(payload[value:value_end], value_offsets[bounds], value_null[first:last]),
            value_size[first:last].tolist(),
            _slices(keys[key:key_end], key_offsets[bounds], key_null[first:last]),
            offsets[first:last].tolist(),
            times[first:last].tolist(),
            int(counts[kernel.G_LAST, g]),
        )
    return found


def _slices(data: np.ndarray, offsets: np.ndarray, null: np.ndarray) -> list[bytes | None]:
    assert offsets[0] == 0
    assert offsets[-1] == len(data)
    return [
        None if null[i] else data[offsets[i] : offsets[i + 1]].tobytes() for i in range(len(null))
    ]


@settings(deadline=None)
@given(
    st.lists(records, max_size=40),
    st.lists(st.integers(0, 40), max_size=3),
    st.sets(st.integers(0, 39), max_size=4),
    st.integers(-1, 3),
)
def test_columns_equal_the_twin(
    rows: list[tuple[int, int, int, bytes | None, bytes | None, int]],
    cuts: list[int],
    taken_back: set[int],
    leave_out: int,
) -> None:
    messages = Messages(rows)
    for i in taken_back & set(range(len(rows))):
        messages.handles[i] = 0
    handles = messages.handles.tolist()
    expected, errors = reference.gather(handles, _timestamp, MAX_VALUE)
    index = Index(messages, cuts)
    named = index.groups[[kernel.G_TOPIC, kernel.G_PARTITION], : index.n_groups].T.tolist()
    assert [tuple(pair) for pair in named] == list(expected)
    assert index.errors[: index.n_errors].tolist() == errors
    found = _copied(messages, index, leave_out)
    groups = list(expected.values())
    assert found == {g: group for g, group in enumerate(groups) if g != leave_out}
    assert messages.destroyed == [h for h in handles if h]
    assert not messages.handles.any()


def test_release_gives_back_each_message_once() -> None:
    messages = Messages([(0, 1, 0, b"v", None, 5), (-191, 1, 0, None, None, 6)])
    addresses = messages.handles.tolist()
    for _ in range(2):
        kernel.release_messages(messages.handles, _address(messages.destroy))
    assert messages.destroyed == addresses
