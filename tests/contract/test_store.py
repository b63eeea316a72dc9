"""One suite for every store: what a commit, a lease and a marker promise."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.embedded.redis import EmbeddedRedis
from pipeline.errors import (
    CorruptRowError,
    FencedError,
    MissingExtraError,
    PipelineError,
    StoreUnavailableError,
)
from pipeline.ingest.batch import TopicPartition
from pipeline.state.batch import EncodedRows
from pipeline.store.keys import lease_key, marker_key, partition_tag, row_key
from pipeline.store.marker import Marker
from pipeline.store.memory import MemoryStore
from pipeline.store.partition import PartitionStore, RowExpiry, RowRead, RowWrite, Store
from pipeline.store.redis import RedisStore
from pipeline.store.rediscluster import ClusterStore
from tests.rediscluster import ClusterServers
from tests.reference.hash import xxh64

SOURCE = TopicPartition("views", 3)
TAG = partition_tag("shop", SOURCE)
VIEW = 0xFEDCBA9876543210
OTHER = 0x1
TOPIC_ID = "AAECAwQFBgcICQoLDA0ODw"


def columns(values: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int64)
    return np.array(bytearray(b"".join(values)), dtype=np.uint8), offsets


def write(rows: dict[bytes, bytes], view: int = VIEW) -> RowWrite:
    return RowWrite(view, EncodedRows(*columns(list(rows)), *columns(list(rows.values()))))


def marker(next_offset: int, view: int = VIEW, **fields: Any) -> Marker:
    return Marker(view, TOPIC_ID, SOURCE.partition, next_offset, **fields)


def read(partition: PartitionStore, *keys: bytes, view: int = VIEW) -> list[bytes | None]:
    return [*partition.read(view, *columns(list(keys)), np.arange(len(keys), dtype=np.int64))]


class Bed:
    """A store under test, and a way to change what it holds behind its back."""

    def __init__(
        self, store: Store, put: Callable[[bytes, bytes], object], wipe: Callable[[], object]
    ) -> None:
        self.store = store
        self.put = put
        self.wipe = wipe

    def open(self, generation: int = 1) -> PartitionStore:
        """A partition whose lease is taken and whose markers are read."""
        partition = self.store.open_partition("shop", SOURCE)
        partition.acquire(generation)
        partition.markers([VIEW])
        return partition


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    try:
        server = EmbeddedRedis().start()
    except MissingExtraError as missing:
        pytest.skip(str(missing))
    yield server
    server.close()


@pytest.fixture(params=["memory", "redis", "unix", "cluster"])
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    if request.param == "memory":
        memory = MemoryStore(clock_ms=lambda: time.time_ns() // 1_000_000)
        yield Bed(memory, memory.values.__setitem__, memory.values.clear)
        return
    import redis

    if request.param == "cluster":
        cluster: ClusterServers = request.getfixturevalue("redis_cluster")
        spread = ClusterStore(cluster.url, timeout_ms=5_000)
        with cluster.client() as all_nodes:
            yield Bed(spread, lambda key, value: all_nodes.set(key, value), cluster.flush)
        spread.close()
        return
    server = request.getfixturevalue("server")
    client = redis.Redis.from_url(server.url)
    client.flushall()
    url = server.unix_url if request.param == "unix" else server.url
    store = RedisStore(url, timeout_ms=5_000)
    yield Bed(store, lambda key, value: client.set(key, value), client.flushall)
    store.close()
    client.close()


def test_rows_and_markers_are_read_back(bed: Bed) -> None:
    first = bed.open()
    wanted = marker(
        7, consumed=15, applied=1, duplicate=2, late=3, dead_lettered=4, filtered=5, leader_epoch=9
    )
    first.commit([write({b"1": b"one", b"2": b""})], [wanted])
    assert read(first, b"2", b"absent", b"1") == [b"", None, b"one"]
    first.commit([write({b"1": b"uno"})], [replace(wanted, next_offset=8)])
    second = bed.store.open_partition("shop", SOURCE)
    lease = second.acquire(2)
    assert (lease.epoch, lease.generation) == (2, 2)
    assert second.markers([OTHER, VIEW]) == [None, replace(wanted, next_offset=8)]
    assert read(second, b"1") == [b"uno"]


def test_keys_lie_where_the_layout_says(bed: Bed) -> None:
    partition = bed.open()
    partition.commit([write({b"k": b"row"})], [marker(1)])
    bed.put(row_key(TAG, VIEW, b"other"), b"put there")
    assert read(partition, b"k", b"other") == [b"row", b"put there"]
    assert row_key(TAG, VIEW, b"k") == b"{shop:views:3}:r:fedcba9876543210:k"
    assert lease_key(TAG) == b"{shop:views:3}:lease"
    assert marker_key(TAG, OTHER) == b"{shop:views:3}:m:0000000000000001"


def test_binary_keys_and_rows(bed: Bed) -> None:
    rows = {
        b"{other}": b"}{",
        b"a\r\nb": b"$3\r\nx\r\n",
        b"\x00": b"\x00\x00",
        bytes(range(256)): bytes(range(256)) * 40,
        b"k" * 65_536: b"long key",
    }
    partition = bed.open()
    partition.commit([write(rows)], [marker(1)])
    assert read(partition, *rows) == list(rows.values())


def test_views_of_one_commit_are_written_together(bed: Bed) -> None:
    partition = bed.open()
    partition.markers([OTHER])
    partition.commit(
        [write({b"k": b"a"}), write({b"k": b"b"}, OTHER)], [marker(1), marker(2, OTHER)]
    )
    assert read(partition, b"k") == [b"a"]
    assert read(partition, b"k", view=OTHER) == [b"b"]
    partition.commit([], [marker(3)])  # a heartbeat has no rows
    assert partition.markers([VIEW, OTHER]) == [marker(3), marker(2, OTHER)]


def test_twenty_thousand_rows(bed: Bed) -> None:
    rows = {b"%d" % i: b"%0100d" % i for i in range(20_000)}
    partition = bed.open()
    partition.commit([write(rows)], [marker(20_000)])
    assert read(partition, *rows, b"none") == [*rows.values(), None]


def test_second_owner_fences_the_first(bed: Bed) -> None:
    first = bed.open()
    first.commit([write({b"k": b"first"})], [marker(1)])
    second = bed.open(2)
    with pytest.raises(FencedError):
        first.commit([write({b"k": b"zombie", b"new": b"zombie"})], [marker(2)])
    assert not first.held
    assert read(second, b"k", b"new") == [b"first", None]
    assert second.markers([VIEW]) == [marker(1)]
    with pytest.raises(FencedError):
        first.commit([], [marker(3)])
    assert first.check() is False
    second.commit([write({b"k": b"second"})], [marker(2)])
    assert second.check() is True


def test_older_generation_is_refused(bed: Bed) -> None:
    second = bed.open(5)
    first = bed.store.open_partition("shop", SOURCE)
    with pytest.raises(FencedError, match=r"generation 5.*ours, 4"):
        first.acquire(4)
    assert not first.held
    second.commit([], [marker(1)])
    assert first.acquire(-1).generation == 5  # unknown: allowed, and the known one is kept
    with pytest.raises(FencedError):
        second.commit([], [marker(2)])


def test_acquired_again_goes_on(bed: Bed) -> None:
    first, second = bed.open(1), bed.open(1)
    with pytest.raises(FencedError):
        first.commit([], [marker(1)])
    assert first.acquire(1).epoch == 3
    assert first.markers([VIEW]) == [None]
    first.commit([], [marker(1)])
    assert second.check() is False


def test_store_that_lost_everything(bed: Bed) -> None:
    partition = bed.open()
    partition.commit([write({b"k": b"row"})], [marker(1)])
    bed.wipe()
    assert partition.check() is False
    with pytest.raises(StoreUnavailableError, match="lost writes"):
        partition.commit([write({b"j": b"row"})], [marker(2)])
    assert partition.acquire(1).epoch == 2  # never an epoch twice
    assert partition.markers([VIEW]) == [None]
    assert read(partition, b"k", b"j") == [None, None]


def test_commit_onto_a_marker_that_went_back_is_refused(bed: Bed) -> None:
    partition = bed.open()
    partition.commit([], [marker(1)])
    partition.commit([write({b"k": b"2"})], [marker(2)])
    bed.put(marker_key(TAG, VIEW), marker(1).pack())  # same lease, older marker: rolled back
    with pytest.raises(StoreUnavailableError, match="lost writes"):
        partition.commit([write({b"k": b"3"})], [marker(3)])
    assert not partition.held
    partition.acquire(1)
    assert partition.markers([VIEW]) == [marker(1)]
    assert read(partition, b"k") == [b"2"]


def test_marker_read_again_is_not_taken_for_ours_when_it_went_back(bed: Bed) -> None:
    partition = bed.open()
    partition.commit([], [marker(1)])
    bed.put(marker_key(TAG, VIEW), marker(0).pack())
    with pytest.raises(StoreUnavailableError, match="lost writes"):
        partition.markers([VIEW])
    assert not partition.held


def test_rows_that_a_view_keeps_of_another_go_with_its_marker(bed: Bed) -> None:
    partition = bed.open()
    kept = replace(write({b"k": b"looked up"}, OTHER), owner=VIEW)
    with pytest.raises(PipelineError, match="without its marker"):
        partition.commit([kept], [])
    partition.commit([kept, write({b"k": b"own"})], [marker(1)])
    assert read(partition, b"k") == [b"own"]
    assert read(partition, b"k", view=OTHER) == [b"looked up"]


def test_commits_that_break_a_promise_are_refused(bed: Bed) -> None:
    partition = bed.open()
    with pytest.raises(PipelineError, match="without its marker"):
        partition.commit([write({b"k": b"row"})], [])
    with pytest.raises(PipelineError, match="two markers"):
        partition.commit([], [marker(1), marker(2)])
    with pytest.raises(PipelineError, match="was not called"):
        partition.commit([], [marker(1, OTHER)])
    partition.commit([write({b"k": b"row"})], [marker(1)])


def test_calls_out_of_order_are_refused(bed: Bed) -> None:
    partition = bed.store.open_partition("shop", SOURCE)
    with pytest.raises(PipelineError, match="acquire"):
        partition.commit([], [])
    partition.acquire(1)
    partition.markers([VIEW])
    with pytest.raises(PipelineError, match="begin_commit"):
        partition.finish_commit()
    partition.begin_commit([], [marker(1)])
    with pytest.raises(PipelineError, match="finish_commit"):
        partition.begin_commit([], [marker(2)])
    with pytest.raises(PipelineError, match="finish_commit"):
        partition.check()
    partition.finish_commit()
    partition.close()
    partition.close()
    with pytest.raises(PipelineError, match="closed"):
        partition.commit([], [marker(2)])


def test_it_is_told_when_an_answer_arrives(bed: Bed) -> None:
    partition = bed.open()
    partition.begin_commit([write({b"k": b"one"})], [marker(1)])
    deadline = time.monotonic() + 20
    while not partition.answering():
        assert time.monotonic() < deadline, "no answer was seen to arrive"
    partition.finish_commit()
    partition.begin_commit([write({b"k": b"two"})], [marker(2)])
    partition.close()
    assert partition.answering()  # there will be none
    with pytest.raises(PipelineError):
        partition.finish_commit()


def test_a_read_awaits_the_commit_under_way(bed: Bed) -> None:
    partition = bed.open()
    partition.begin_commit([write({b"k": b"one"})], [marker(1)])
    assert read(partition, b"k", b"none") == [b"one", None]
    with pytest.raises(PipelineError, match="finish_commit"):
        partition.begin_commit([], [marker(2)])
    partition.finish_commit()
    with pytest.raises(PipelineError, match="begin_commit"):
        partition.finish_commit()
    partition.commit([write({b"k": b"two"})], [marker(2)])
    assert read(partition, b"k") == [b"two"]


def test_a_read_raises_what_the_commit_under_way_raises(bed: Bed) -> None:
    partition = bed.open()
    bed.open(2)
    partition.begin_commit([write({b"k": b"a zombie's"})], [marker(1)])
    with pytest.raises(FencedError):
        read(partition, b"k")
    with pytest.raises(FencedError):
        partition.finish_commit()


def test_a_commit_that_a_read_awaited_is_known_to_be_applied_whatever_follows(bed: Bed) -> None:
    partition = bed.open()
    partition.begin_commit([write({b"k": b"one"})], [marker(1)])
    assert not partition.settled
    assert read(partition, b"k") == [b"one"]
    assert partition.settled
    bed.open(2)
    with pytest.raises(FencedError):
        read(partition, b"k")
    assert not partition.held
    assert partition.settled
    partition.finish_commit()
    assert not partition.settled


def test_what_was_settled_is_forgotten_when_the_partition_is_taken_again(bed: Bed) -> None:
    partition = bed.open()
    partition.begin_commit([write({b"k": b"one"})], [marker(1)])
    assert read(partition, b"k") == [b"one"]
    partition.acquire(2)
    assert not partition.settled
    assert partition.markers([VIEW]) == [marker(1)]
    partition.commit([write({b"k": b"two"})], [marker(2)])


def test_many_partitions_are_sent_before_the_first_is_awaited(bed: Bed) -> None:
    partitions = []
    for number in range(4):
        partition = bed.store.open_partition("shop", TopicPartition("views", number))
        partition.acquire(1)
        partition.markers([VIEW])
        partitions.append(partition)
    for number, partition in enumerate(partitions):
        mark = Marker(VIEW, TOPIC_ID, number, 1)
        partition.begin_commit([write({b"k": b"%d" % number})], [mark])
    for partition in partitions:
        partition.finish_commit()
    assert [read(p, b"k") for p in partitions] == [[b"0"], [b"1"], [b"2"], [b"3"]]


def ask(partition: PartitionStore, *keys: bytes) -> int:
    return partition.begin_read(VIEW, *columns(list(keys)), np.arange(len(keys), dtype=np.int64))


def test_reads_under_way_are_finished_in_turn(bed: Bed) -> None:
    partition = bed.open()
    many = {b"%d" % i: b"row %d" % i for i in range(20_000)}
    partition.commit([write(many)], [marker(1)])
    few, none = ask(partition, b"1", b"none"), ask(partition)
    all_, one = ask(partition, *many), ask(partition, b"2")
    assert [*partition.finish_read(few)] == [b"row 1", None]
    assert [*partition.finish_read(none)] == []
    assert [*partition.finish_read(all_)] == list(many.values())
    absent = ask(partition, *([b"none"] * 5))
    assert [*partition.finish_read(one)] == [b"row 2"]
    assert [*partition.finish_read(absent)] == [None] * 5
    partition.commit([write({b"1": b"new"})], [marker(2)])
    assert read(partition, b"1", b"2") == [b"new", b"row 2"]


def test_many_partitions_are_asked_before_the_first_is_awaited(bed: Bed) -> None:
    partitions = []
    for number in range(4):
        partition = bed.store.open_partition("shop", TopicPartition("views", number))
        partition.acquire(1)
        partition.markers([VIEW])
        mark = Marker(VIEW, TOPIC_ID, number, 1)
        partition.commit([write({b"k": b"%d" % number})], [mark])
        partitions.append(partition)
    asked = [(partition, ask(partition, b"k")) for partition in partitions]
    assert [[*p.finish_read(number)] for p, number in asked] == [[b"0"], [b"1"], [b"2"], [b"3"]]


def test_rows_asked_for_before_another_took_over_are_ours_and_refused_after(bed: Bed) -> None:
    partition = bed.open()
    partition.commit([write({b"k": b"ours"})], [marker(1)])
    before = ask(partition, b"k")
    second = bed.open(2)
    second.commit([write({b"k": b"theirs"})], [marker(2)])
    assert [*partition.finish_read(before)] == [b"ours"]
    with pytest.raises(FencedError):
        read(partition, b"k")
    assert not partition.held
    assert read(second, b"k") == [b"theirs"]


def test_rows_that_were_asked_for_and_never_taken_end_the_connection(bed: Bed) -> None:
    partition = bed.open()
    partition.commit([write({b"k": b"one"})], [marker(1)])
    ask(partition, b"k")
    with pytest.raises(StoreUnavailableError, match="never taken"):
        partition.commit([write({b"k": b"two"})], [marker(2)])
    assert not partition.held
    partition.acquire(1)
    assert partition.markers([VIEW]) == [marker(1)]
    assert read(partition, b"k") == [b"one"]


def test_rows_are_never_given_to_a_read_that_did_not_ask_for_them(bed: Bed) -> None:
    partition = bed.open()
    partition.commit([write({b"a": b"A", b"b": b"B"})], [marker(1)])
    left, asked = ask(partition, b"a"), ask(partition, b"b")
    with pytest.raises(StoreUnavailableError, match="never taken"):
        partition.finish_read(asked)
    assert not partition.held
    partition.acquire(1)
    partition.markers([VIEW])
    ask(partition, b"b")
    with pytest.raises(StoreUnavailableError, match="never taken"):  # of the time before
        partition.finish_read(left)
    partition.acquire(1)
    partition.markers([VIEW])
    ask(partition, b"a")
    with pytest.raises(StoreUnavailableError, match="never taken"):
        read(partition, b"b")
    partition.acquire(1)
    with pytest.raises(StoreUnavailableError, match="never taken"):  # nothing was asked for
        partition.finish_read(left)


def test_corrupt_marker_and_lease_are_named(bed: Bed) -> None:
    partition = bed.open()
    broken = bytearray(marker(1).pack())
    broken[50] ^= 1
    bed.put(marker_key(TAG, VIEW), bytes(broken))
    fresh = bed.store.open_partition("shop", SOURCE)
    fresh.acquire(1)
    with pytest.raises(CorruptRowError, match=r"\{shop:views:3\}:m:fedc"):
        fresh.markers([VIEW])
    bed.put(lease_key(TAG), b"FL nonsense")
    with pytest.raises(CorruptRowError, match=r"\{shop:views:3\}:lease"):
        partition.acquire(1)


def test_racing_owners_leave_exactly_one(bed: Bed) -> None:
    """Twenty owners in turn, in threads: every commit that returned is in the store."""
    applied: list[int] = []

    def work(number: int) -> None:
        partition = bed.store.open_partition("shop", SOURCE)
        for _ in range(20):
            try:
                partition.acquire(1)
                (found,) = partition.markers([VIEW])
                at = found.next_offset if found else 0
                partition.commit([write({b"n": b"%d" % (at + 1)})], [marker(at + 1)])
            except (FencedError, StoreUnavailableError):
                continue
            applied.append(at + 1)
        partition.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(applied) == list(range(1, len(applied) + 1))
    last = bed.open()
    assert last.markers([VIEW]) == [marker(len(applied))]
    assert read(last, b"n") == [b"%d" % len(applied)]


def test_readers_get_rows_and_markers_of_many_partitions(bed: Bed) -> None:
    for number in (0, 2):
        partition = bed.store.open_partition("shop", TopicPartition("views", number))
        partition.acquire(1)
        partition.markers([VIEW])
        partition.commit(
            [write({b"a%d" % number: b"row %d" % number})], [Marker(VIEW, TOPIC_ID, number, 1)]
        )
    keys, offsets = columns([b"a2", b"a0", b"a1", b"a0"])
    where = np.array([2, 0, 1, 0], dtype=np.int32)
    plain = RowRead("shop", "views", VIEW, keys, offsets, where)
    asked = replace(plain, with_markers=True)
    first, second = bed.store.fetch([plain, asked])
    assert list(first.rows) == list(second.rows) == [b"row 2", b"row 0", None, b"row 0"]
    assert first.markers == {}
    wanted = {0: Marker(VIEW, TOPIC_ID, 0, 1), 1: None, 2: Marker(VIEW, TOPIC_ID, 2, 1)}
    assert second.markers == wanted
    assert bed.store.fetch([]) == []


# -- expiry


def expiry(delay_ms: int, *keys: bytes, view: int = VIEW) -> RowExpiry:
    return RowExpiry(view, *columns(list(keys)), np.full(len(keys), delay_ms, dtype=np.int64))


def packed(event_ms: int = 0, known_ms: int = 0, flags: int = 0, magic: bytes = b"FR") -> bytes:
    """A row that is all header; the sweep looks no further, but at the checksum."""
    head = struct.pack("<2sBBIQqqq", magic, 2, flags, 48, VIEW, event_ms * 10**6, known_ms, 0)
    return head + xxh64(head + bytes(8)).to_bytes(8, "little")


def test_rows_expire_unless_they_are_written_again(bed: Bed) -> None:
    partition = bed.open()
    partition.commit([write({b"a": b"1", b"b": b"1", b"c": b"1", b"d": b"1"})], [marker(1)])
    # Set and written by one transaction: written last.
    partition.commit(
        [write({b"a": b"2"})], [marker(2)], [expiry(150, b"a", b"b"), expiry(150, b"c")]
    )
    partition.commit([], [marker(3)], [expiry(60_000, b"d"), expiry(150, b"absent").part(0, 1)])
    partition.commit([write({b"c": b"2"})], [marker(4)])
    assert read(partition, b"a", b"b", b"c", b"d") == [b"2", b"1", b"2", b"1"]
    time.sleep(0.25)
    assert read(partition, b"a", b"b", b"c", b"d") == [b"2", None, b"2", b"1"]
    assert partition.check()
    assert partition.markers([VIEW]) == [marker(4)]


def test_a_zombie_lets_no_row_expire(bed: Bed) -> None:
    zombie = bed.open()
    zombie.commit([write({b"a": b"1"})], [marker(1)])
    owner = bed.open(2)
    with pytest.raises(FencedError):
        zombie.commit([], [], [expiry(1, b"a")])
    time.sleep(0.05)
    assert read(owner, b"a") == [b"1"]


def test_the_sweep_finds_rows_without_an_expiry_and_nothing_else(bed: Bed) -> None:
    partition = bed.open()
    partition.markers([OTHER])
    now = 10_000_000_000
    rows = {
        b"old": packed(5, 5),
        b"old too": packed(now + 60_000, 5),  # its newest event is a minute ahead
        b"lately": packed(5, now - 1_000),
        b"deleted": packed(5, 5, flags=1),
        b"short": b"FR",
        b"odd": packed(5, 5, magic=b"XX"),
        b"corrupt": packed(5, 5)[:-1] + b"?",
        b"longer": packed(5, 5) + b"?",
        b"of another": packed(5, 5)[:8] + bytes(8) + packed(5, 5)[16:],
        b"leaves": packed(5, 5),
    }
    partition.commit(
        [write(rows), write({b"old": packed(5, 5)}, OTHER)], [marker(1), marker(1, OTHER)]
    )
    partition.commit([], [marker(2)], [expiry(60_000, b"leaves")])
    foreign = row_key(partition_tag("shop2", SOURCE), VIEW, b"old")
    bed.put(foreign, packed(5, 5))
    sweeper = bed.store.sweeper("shop")
    found: dict[int, int] = {}
    for _ in range(60):  # a few keys a time
        for fingerprint, count in sweeper.sweep({VIEW: 150}, now, 3).items():
            found[fingerprint] = found.get(fingerprint, 0) + count
    assert found == {VIEW: 2}
    time.sleep(0.25)
    assert read(partition, *rows) == [None, *list(rows.values())[1:]]
    assert read(partition, b"old", view=OTHER) == [packed(5, 5)]
    assert partition.check()
    assert sweeper.sweep({VIEW: 150}, now, 1000) == {}
    sweeper.close()
    sweeper.close()
