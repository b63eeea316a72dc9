"""A million events through the native lane, decoded and applied, leave no Python object behind."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from pipeline.features.derive import Derivation
from pipeline.ingest.batch import BinaryBatch
from pipeline.ingest.decode import JsonDecoder
from pipeline.ingest.envelope import Envelope
from pipeline.ingest.native import NativeLane
from pipeline.kernels.jit import JIT_ENABLED
from pipeline.state.table import StateTable
from tests.bench.peers.workload import Log, view
from tests.contract.lanes import Kind, Reader

pytestmark = pytest.mark.skipif(not JIT_ENABLED, reason="a million events take compiled kernels")

LOGGED, EVENTS, ROUND = 20_000, 1_000_000, 100_000
FLAT = 1_000  # blocks: caches of NumPy and the interpreter fill slowly, to some hundreds
Work = Callable[[BinaryBatch], object]


@pytest.fixture
def kind() -> Kind:
    return NativeLane


@pytest.fixture
def reader(open_reader: Callable[..., Reader], send: Callable[..., None]) -> Reader:
    """A lane over a short log, which the mock broker can hold."""
    send(list(Log("events", LOGGED, users=500).records()))
    found = open_reader()
    found.join()
    return found


@pytest.fixture
def work() -> Work:
    """What the stream does with a batch, up to the rows that it writes."""
    activity = view("events")
    stream, plan = activity.sources[0], activity.plan
    decoder = JsonDecoder.within(
        stream.schema, Envelope(stream.schema, stream.key_fields, stream.time, 1)
    )
    derivation, table = Derivation(plan), StateTable(plan)

    def run(batch: BinaryBatch) -> None:
        events = decoder.decode(batch)
        assert not events.reason.any(), events.rejects().counts()
        derived = derivation.compute(events)
        found = table.lookup(batch.keys, batch.key_offsets)
        new = found.slots[found.missing]
        table.load(new, [None] * len(new))
        applied = table.apply(
            found.slots, batch.offsets, batch.timestamps_ms, events.event_time,
            np.ones(len(batch), dtype=np.uint8), derived.inputs, derived.valid, derived.masks,
        )  # fmt: skip
        table.encode(applied.dirty)
        table.settle(applied.dirty)

    return run


def polled(reader: Reader) -> Iterator[BinaryBatch]:
    """Batches without end: the log again and again."""
    source, position = reader.assigned[0], 0
    while True:
        for batch in reader.lane.poll(10_000, 50):
            source, position = batch.source, batch.next_offset
            yield batch
        if position == LOGGED:
            position = 0
            reader.lane.seek(source, 0)


def blocks_after(reader: Reader, work: Work, events: int) -> list[int]:
    """Allocated blocks after each hundred thousand events, once the first have warmed up."""
    found: list[int] = []
    seen = 0
    for batch in polled(reader):
        seen += len(batch)
        work(batch)
        if seen >= ROUND * (len(found) + 1):
            gc.collect()
            found.append(sys.getallocatedblocks())
        if seen >= events + ROUND:
            break
    return found


def test_blocks_stay_flat_over_a_million_events(reader: Reader, work: Work) -> None:
    blocks = blocks_after(reader, work, EVENTS)
    assert max(blocks) - blocks[0] < FLAT, blocks


def test_a_batch_holds_no_object_per_event(reader: Reader, work: Work) -> None:
    held: list[BinaryBatch] = []
    batches = polled(reader)
    work(next(batches))
    before = sys.getallocatedblocks()
    while sum(map(len, held)) < ROUND:
        held.append(next(batches))
        work(held[-1])
    assert sys.getallocatedblocks() - before < FLAT + 40 * len(held) < ROUND / 20


def test_one_object_kept_of_a_hundred_events_is_noticed(reader: Reader, work: Work) -> None:
    kept: list[bytes | None] = []

    def leaking(batch: BinaryBatch) -> None:
        work(batch)
        kept.extend(batch.value(i) for i in range(0, len(batch), 100))

    blocks = blocks_after(reader, leaking, 3 * ROUND)
    assert max(blocks) - blocks[0] > FLAT, blocks
