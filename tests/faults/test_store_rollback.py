"""One partition of a real Redis that goes back in time, and workers that sleep at any point."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import redis

from pipeline.embedded.redis import EmbeddedRedis
from pipeline.errors import FencedError, PipelineError, StoreUnavailableError
from pipeline.ingest.batch import TopicPartition
from pipeline.state.batch import EncodedRows
from pipeline.store.keys import partition_tag, row_key
from pipeline.store.lease import Lease
from pipeline.store.marker import Marker
from pipeline.store.partition import PartitionStore, RowExpiry, RowWrite
from pipeline.store.redis import RedisStore
from tests.conftest import debuggable
from tests.faults.proxy import Proxy
from tests.reference.hash import xxh64

pytestmark = pytest.mark.redis

SOURCE = TopicPartition("views", 0)
TAG = partition_tag("shop", SOURCE)
VIEW = 7
KEY = row_key(TAG, VIEW, b"k")


def columns(values: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int64)
    return np.array(bytearray(b"".join(values)), dtype=np.uint8), offsets


def row(value: bytes) -> list[RowWrite]:
    return [RowWrite(VIEW, EncodedRows(*columns([b"k"]), *columns([value])))]


def expiry(delay_ms: int) -> list[RowExpiry]:
    return [RowExpiry(VIEW, *columns([b"k"]), np.array([delay_ms], dtype=np.int64))]


def marker(offset: int) -> Marker:
    return Marker(VIEW, "", 0, offset)


def opened(store: RedisStore, generation: int = 1) -> PartitionStore:
    partition = store.open_partition("shop", SOURCE)
    partition.acquire(generation)
    partition.markers([VIEW])
    return partition


class Server:
    """A Redis whose data can be taken back to a copy while every connection stays open."""

    def __init__(self) -> None:
        self.embedded = EmbeddedRedis(settings=debuggable()).start()
        self.client: Any = redis.Redis.from_url(self.embedded.url)
        self.store = RedisStore(self.embedded.url, timeout_ms=3_000)

    def copy(self) -> None:
        """Keep what is there now."""
        self.client.save()

    def back(self) -> None:
        """Hold what :meth:`copy` kept, nothing else."""
        self.client.execute_command("DEBUG", "RELOAD", "NOSAVE")

    def close(self) -> None:
        """End it."""
        self.store.close()
        self.client.close()
        self.embedded.close()


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    options = server.client.connection_pool.connection_kwargs
    with Proxy((options["host"], options["port"])) as proxy:
        yield proxy


@pytest.fixture
def behind(proxy: Proxy) -> Iterator[RedisStore]:
    """A store whose connections lead through the proxy."""
    store = RedisStore(f"redis://127.0.0.1:{proxy.port}/0", timeout_ms=5_000)
    yield store
    store.close()


# -- the store goes back


@pytest.mark.fault("I3", "two owners with one epoch after a rollback", "told by their nonce")
def test_two_owners_with_one_epoch_are_told_apart_by_their_nonce(server: Server) -> None:
    first = opened(server.store)
    first.commit(row(b"1"), [marker(1)])
    server.copy()
    second = opened(server.store, 2)  # epoch 2
    second.commit(row(b"2"), [marker(2)])
    server.back()
    third = opened(server.store, 2)  # epoch 2 again: the store has forgotten the second
    third.commit(row(b"3"), [marker(2)])
    stored = server.client.get(TAG + b":lease")
    assert isinstance(stored, bytes)
    assert Lease.unpack(stored).epoch == 2
    for late in (second, first):
        with pytest.raises((FencedError, StoreUnavailableError)):
            late.commit(row(b"late"), [marker(3)])
        assert not late.held
    assert server.client.get(KEY) == b"3"
    third.commit(row(b"4"), [marker(3)])
    assert second.acquire(2).epoch == 3  # never again an epoch that it had
    assert second.markers([VIEW]) == [marker(3)]


def test_a_lease_that_comes_back_belongs_to_the_worker_it_belonged_to(server: Server) -> None:
    """The first one slept since before the copy: it is the owner again, of the older rows."""
    first = opened(server.store)
    first.commit(row(b"1"), [marker(1)])
    server.copy()
    second = opened(server.store, 2)
    second.commit(row(b"2"), [marker(2)])
    server.back()
    assert second.check() is False
    with pytest.raises(StoreUnavailableError, match="lost writes"):
        second.commit(row(b"3"), [marker(3)])
    with pytest.raises(StoreUnavailableError, match="lost writes"):
        first.commit(row(b"zombie"), [marker(2)])  # its WATCH saw the keys go and come
    assert server.client.get(KEY) == b"1"
    assert second.acquire(2).epoch == 3
    assert second.markers([VIEW]) == [marker(1)]


@pytest.mark.fault("I4", "the store goes back under a quiet partition", "seen")
@pytest.mark.parametrize("looks", ["check", "beat", "commit", "read", "markers"])
def test_a_quiet_partition_sees_that_the_store_went_back(server: Server, looks: str) -> None:
    quiet = opened(server.store)
    quiet.commit(row(b"1"), [marker(1)])
    server.copy()
    quiet.commit(row(b"2"), [marker(2)])
    server.back()
    if looks == "check":
        assert quiet.check() is False
    else:
        key = columns([b"k"])
        calls: dict[str, Callable[[], object]] = {
            "beat": lambda: quiet.commit([], [marker(2)]),
            "commit": lambda: quiet.commit(row(b"3"), [marker(3)]),
            "markers": lambda: quiet.markers([VIEW]),
            "read": lambda: quiet.read(VIEW, *key, np.zeros(1, dtype=np.int64)),
        }
        with pytest.raises(StoreUnavailableError, match="lost writes"):
            calls[looks]()
    assert server.client.get(KEY) == b"1"
    quiet.acquire(1)
    assert quiet.markers([VIEW]) == [marker(1)]


def test_a_copy_between_two_commits_holds_rows_and_marker_of_one_of_them(server: Server) -> None:
    """Whatever instant the copy is of: MULTI is all or nothing there too."""
    worker = opened(server.store)
    with ThreadPoolExecutor(1) as pool:
        saving = None
        for number in range(1, 200):
            if number == 100:
                saving = pool.submit(server.copy)
            worker.commit(row(b"%d" % number), [marker(number)])
        assert saving is not None
        saving.result()
    server.back()
    worker.acquire(1)
    (found,) = worker.markers([VIEW])
    assert found is not None
    assert server.client.get(KEY) == b"%d" % found.next_offset
    assert 90 <= found.next_offset < 200


def test_a_store_that_goes_back_while_a_commit_is_under_way(
    server: Server, proxy: Proxy, behind: RedisStore
) -> None:
    worker = opened(behind)
    worker.commit(row(b"1"), [marker(1)])
    server.copy()
    worker.commit(row(b"2"), [marker(2)])
    proxy.up.hold_after(b"MULTI\r\n")
    worker.begin_commit(row(b"3"), [marker(3)], expiry(1))
    assert proxy.up.held.wait(5)
    server.back()
    proxy.up.release()
    with pytest.raises(StoreUnavailableError, match="lost writes"):
        worker.finish_commit()
    assert server.client.get(KEY) == b"1"
    assert server.client.pttl(KEY) == -1


def test_expiries_of_a_copy_come_back_with_it(server: Server) -> None:
    worker = opened(server.store)
    worker.commit(row(b"1"), [marker(1)], expiry(60_000))
    assert server.client.pttl(KEY) == -1  # written by the same transaction
    worker.commit([], [], expiry(60_000))
    server.copy()
    worker.commit(row(b"2"), [marker(2)])
    assert server.client.pttl(KEY) == -1
    server.back()
    assert 50_000 < int(server.client.pttl(KEY)) <= 60_000


# -- workers that sleep


@pytest.mark.parametrize("asleep", ["WATCH", "MULTI", "SET"])
@pytest.mark.parametrize("generation", [1, 2])
def test_a_take_over_that_sleeps_while_another_happens(
    server: Server, proxy: Proxy, behind: RedisStore, asleep: str, generation: int
) -> None:
    """Before its WATCH, between WATCH and MULTI, between MULTI and EXEC."""
    slow = behind.open_partition("shop", SOURCE)
    proxy.up.hold_after(asleep.encode() + b"\r\n")
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(slow.acquire, generation)
        assert proxy.up.held.wait(5)
        quick = opened(server.store, 2)
        quick.commit(row(b"quick"), [marker(1)])
        proxy.up.release()
        if generation < 2:
            with pytest.raises(FencedError, match="newer than ours"):
                taking.result(10)
            quick.commit(row(b"quick again"), [marker(2)])
        else:  # of the same generation: the later one owns it, and knows what the other wrote
            assert taking.result(10).epoch == 2
            assert slow.markers([VIEW]) == [marker(1)]
            with pytest.raises(FencedError):
                quick.commit(row(b"quick again"), [marker(2)])
            slow.commit(row(b"slow"), [marker(2)])


@pytest.mark.parametrize("step", ["WATCH", "MGET"])
def test_a_zombie_that_sleeps_while_it_reads_its_markers(
    server: Server, proxy: Proxy, behind: RedisStore, step: str
) -> None:
    """Taken over before or after its WATCH of the markers, and written to, then it goes on."""
    zombie = behind.open_partition("shop", SOURCE)
    zombie.acquire(1)
    proxy.up.hold_after(step.encode() + b"\r\n")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(zombie.markers, [VIEW])
        assert proxy.up.held.wait(5)
        owner = opened(server.store, 2)
        owner.commit(row(b"owner"), [marker(5)])
        proxy.up.release()
        reading.result(10)
    with pytest.raises(PipelineError):
        zombie.commit(row(b"zombie"), [marker(6)])
    assert server.client.get(KEY) == b"owner"
    owner.commit(row(b"owner 2"), [marker(6)])


@pytest.mark.parametrize("asleep", ["MULTI", "PEXPIRE", "MSET", "SET"])
def test_a_zombie_that_sleeps_inside_its_transaction(
    server: Server, proxy: Proxy, behind: RedisStore, asleep: str
) -> None:
    zombie = opened(behind)
    zombie.commit(row(b"1"), [marker(1)])
    proxy.up.hold_after(asleep.encode() + b"\r\n")
    zombie.begin_commit(row(b"zombie"), [marker(2)], expiry(1))
    assert proxy.up.held.wait(5)
    owner = opened(server.store, 2)
    owner.commit(row(b"2"), [marker(2)])
    proxy.up.release()
    with pytest.raises(FencedError):
        zombie.finish_commit()
    assert server.client.get(KEY) == b"2"
    assert server.client.pttl(KEY) == -1
    owner.commit(row(b"3"), [marker(3)])


# -- the sweep


def packed_row(offset: int) -> bytes:
    """A row that is all header."""
    start = b"FR\x02\x00" + (48).to_bytes(4, "little") + VIEW.to_bytes(8, "little") + bytes(16)
    head = start + offset.to_bytes(8, "little")
    return head + xxh64(head + bytes(8)).to_bytes(8, "little")


def test_a_row_written_while_the_sweep_sleeps_gets_no_expiry(
    server: Server, proxy: Proxy, behind: RedisStore
) -> None:
    worker = opened(server.store)
    worker.commit(row(packed_row(1)), [marker(1)])
    sweeper = behind.sweeper("shop")
    proxy.up.hold_after(b"MULTI\r\n")
    with ThreadPoolExecutor(1) as pool:
        sweeping = pool.submit(sweeper.sweep, {VIEW: 60_000}, 10**10, 1000)
        assert proxy.up.held.wait(5)
        worker.commit(row(packed_row(2)), [marker(2)])
        proxy.up.release()
        assert sweeping.result(10) == {}
    assert server.client.pttl(KEY) == -1
    assert sweeper.sweep({VIEW: 60_000}, 10**10, 1000) == {VIEW: 1}
    assert 50_000 < int(server.client.pttl(KEY)) <= 60_000
    worker.commit(row(packed_row(3)), [marker(3)])
    assert server.client.pttl(KEY) == -1
    sweeper.close()


def test_a_sweep_whose_connection_is_lost_begins_again(
    server: Server, proxy: Proxy, behind: RedisStore
) -> None:
    opened(server.store).commit(row(packed_row(1)), [marker(1)])
    sweeper = behind.sweeper("shop")
    proxy.up.cut_after(b"WATCH\r\n")
    with pytest.raises(StoreUnavailableError):
        sweeper.sweep({VIEW: 60_000}, 10**10, 1000)
    assert server.client.pttl(KEY) == -1
    assert sweeper.sweep({VIEW: 60_000}, 10**10, 1000) == {VIEW: 1}
    sweeper.close()
