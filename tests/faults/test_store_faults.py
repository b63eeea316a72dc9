"""Commits to a real Redis while the network, the server and other workers misbehave."""

from __future__ import annotations

import contextlib
import random
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import redis

from pipeline.embedded.redis import EmbeddedRedis
from pipeline.errors import (
    ConfigurationError,
    FencedError,
    PipelineError,
    StoreFullError,
    StoreUnavailableError,
    UnsafeStoreError,
)
from pipeline.ingest.batch import TopicPartition
from pipeline.state.batch import EncodedRows
from pipeline.store.fence import RedisPartition
from pipeline.store.keys import partition_tag, row_key
from pipeline.store.marker import Marker
from pipeline.store.open import open_store
from pipeline.store.partition import PartitionStore, RowWrite, StoreSettingWarning
from pipeline.store.redis import RedisStore, redacted
from pipeline.store.redislink import RedisLink
from pipeline.store.wire import Replies
from tests.faults.proxy import Proxy

pytestmark = pytest.mark.redis

SOURCE = TopicPartition("views", 0)
VIEW = 7
KEY = row_key(partition_tag("shop", SOURCE), VIEW, b"k")


def packed(values: list[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int64)
    return np.array(bytearray(b"".join(values)), dtype=np.uint8), offsets


def rows(data: dict[bytes, bytes]) -> list[RowWrite]:
    return [RowWrite(VIEW, EncodedRows(*packed(list(data)), *packed(list(data.values()))))]


def marker(offset: int) -> Marker:
    return Marker(VIEW, "", 0, offset)


def ask(partition: PartitionStore, *keys: bytes) -> int:
    index = np.arange(len(keys), dtype=np.int64)
    return partition.begin_read(VIEW, *packed(list(keys)), index)


@contextlib.contextmanager
def interrupted_at(line: int) -> Iterator[None]:
    """Ctrl-C before the so-and-so-many-th line of what speaks to the store."""
    left = line

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if Path(frame.f_code.co_filename).parent.name != "store":
            return None
        left -= event == "line"
        if left == 0:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def opened(store: RedisStore, generation: int = 1) -> PartitionStore:
    partition = store.open_partition("shop", SOURCE)
    partition.acquire(generation)
    partition.markers([VIEW])
    return partition


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def direct(redis_url: str) -> Iterator[RedisStore]:
    store = RedisStore(redis_url)
    yield store
    store.close()


@pytest.fixture
def proxy(server: redis.Redis) -> Iterator[Proxy]:
    options = server.connection_pool.connection_kwargs
    with Proxy((options["host"], options["port"])) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: Proxy, redis_url: str) -> Iterator[RedisStore]:
    """A store whose connections lead through the proxy."""
    database = redis_url.rsplit("/", 1)[1]
    store = RedisStore(f"redis://127.0.0.1:{proxy.port}/{database}", timeout_ms=2_000)
    yield store
    store.close()


# -- zombies


@pytest.mark.fault("I1", "a zombie sleeps after WATCH", "fenced")
def test_zombie_that_slept_between_watch_and_exec(
    proxy: Proxy, store: RedisStore, direct: RedisStore, server: redis.Redis
) -> None:
    zombie = opened(store)
    zombie.commit(rows({b"k": b"1"}), [marker(1)])
    proxy.up.hold_after(b"MULTI\r\n")
    zombie.begin_commit(rows({b"k": b"zombie"}), [marker(2)])
    assert proxy.up.held.wait(5)
    owner = opened(direct, 2)
    proxy.up.release()
    with pytest.raises(FencedError):
        zombie.finish_commit()
    assert server.get(KEY) == b"1"
    owner.commit(rows({b"k": b"2"}), [marker(2)])


@pytest.mark.fault("I1", "a zombie sleeps before WATCH", "fenced")
def test_zombie_that_slept_between_exec_and_watch(
    proxy: Proxy, store: RedisStore, direct: RedisStore, server: redis.Redis
) -> None:
    """Its WATCH comes after the take-over and guards nothing: only the comparison is left."""
    zombie = opened(store)
    proxy.up.hold_after(b"EXEC\r\n")
    zombie.begin_commit(rows({b"k": b"1"}), [marker(1)])
    assert proxy.up.held.wait(5)
    while server.get(KEY) != b"1":
        time.sleep(0.01)
    owner = opened(direct, 2)
    assert owner.markers([VIEW]) == [marker(1)]
    proxy.up.release()
    zombie.finish_commit()  # this one was applied in time
    assert not zombie.held
    with pytest.raises(FencedError, match="another worker"):
        zombie.begin_commit(rows({b"k": b"zombie"}), [marker(2)])
    owner.commit(rows({b"k": b"2"}), [marker(2)])
    assert server.get(KEY) == b"2"


# -- connections


@pytest.mark.fault("I2", "the connection is lost after WATCH", "never opened again by itself")
def test_killed_connection_is_not_opened_again(direct: RedisStore, server: redis.Redis) -> None:
    partition = opened(direct)
    partition.commit(rows({b"k": b"1"}), [marker(1)])
    before = server.info("stats")["total_connections_received"]
    server.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(StoreUnavailableError, match="lost the connection"):
        partition.commit(rows({b"k": b"unfenced"}), [marker(2)])
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            partition.commit(rows({b"k": b"unfenced"}), [marker(2)])
        with pytest.raises(StoreUnavailableError):
            partition.check()
    assert server.info("stats")["total_connections_received"] == before
    assert server.get(KEY) == b"1"
    partition.acquire(1)
    assert partition.markers([VIEW]) == [marker(1)]
    partition.commit(rows({b"k": b"2"}), [marker(2)])


def test_what_cannot_be_sent_is_not_sent_over_another_connection(
    direct: RedisStore, server: redis.Redis
) -> None:
    """A WATCH lives with its connection: on a fresh one the transaction of a zombie would pass."""
    partition = opened(direct)
    partition.commit(rows({b"k": b"1"}), [marker(1)])
    other = opened(direct, generation=2)
    other.commit(rows({b"k": b"2"}), [marker(2)])
    link: Any = partition._link  # type: ignore[attr-defined]

    def broken(data: memoryview) -> None:
        raise StoreUnavailableError("lost the connection while sending")

    link.send = broken
    with pytest.raises(StoreUnavailableError, match="while sending"):
        partition.commit(rows({b"k": b"a zombie's"}), [marker(3)])
    with pytest.raises(StoreUnavailableError):
        partition.commit(rows({b"k": b"a zombie's"}), [marker(3)])
    assert server.get(KEY) == b"2"
    other.commit(rows({b"k": b"3"}), [marker(3)])


def test_connection_class_itself_refuses_to_open_again(direct: RedisStore) -> None:
    """The mutation that this project was built against: redis-py's silent reconnect."""
    connection: Any = direct._open_link()._connection  # redis-py leaves its methods untyped
    connection.disconnect()
    for again in (
        connection.connect,
        lambda: connection.send_packed_command([b"PING\r\n"]),
        lambda: connection.send_command("PING"),
        connection.can_read,
        connection.check_health,
    ):
        with contextlib.suppress(redis.ConnectionError):
            again()
        assert connection._sock is None


def test_reply_lost_after_the_server_executed(
    proxy: Proxy, redis_url: str, server: redis.Redis
) -> None:
    url = f"redis://127.0.0.1:{proxy.port}/{redis_url.rsplit('/', 1)[1]}"
    store = RedisStore(url, timeout_ms=300)
    partition = opened(store)
    proxy.down.drop = True
    with pytest.raises(StoreUnavailableError, match="may or may not"):
        partition.commit(rows({b"k": b"1"}), [marker(1)])
    proxy.down.drop = False
    assert not partition.held
    partition.acquire(1)
    assert partition.markers([VIEW]) == [marker(1)]  # it was applied: do not apply it again
    assert server.get(KEY) == b"1"
    store.close()


def test_one_byte_at_a_time(proxy: Proxy, store: RedisStore, server: redis.Redis) -> None:
    proxy.up.slice_bytes = proxy.down.slice_bytes = 1
    partition = opened(store)
    data = {b"%d\r\n{}" % i: bytes(range(i)) for i in range(40)}
    partition.commit(rows(data), [marker(1)])
    columns = rows(data)[0].rows
    got = partition.read(VIEW, columns.keys, columns.key_offsets, np.arange(40, dtype=np.int64))
    assert list(got) == list(data.values())
    assert partition.check()


def test_cut_anywhere_leaves_all_or_nothing(
    proxy: Proxy, store: RedisStore, server: redis.Redis
) -> None:
    """Cut after every so many bytes of request or reply; marker and rows always agree."""
    seed = 20_240_511
    print(f"seed {seed}")
    chance = random.Random(seed)
    committed = 0
    partition = opened(store)
    for turn in range(60):
        way = proxy.up if chance.random() < 0.7 else proxy.down
        limit = 2_600 if way is proxy.up else 330
        way.cut_after_bytes(chance.randrange(limit))
        data = {b"%d" % i: b"%060d" % (committed + 1) for i in range(20)}
        try:
            partition.commit(rows(data), [marker(committed + 1)])
            outcome = committed + 1
        except StoreUnavailableError:
            outcome = None
        way._left = None
        partition.acquire(turn + 1)
        (found,) = partition.markers([VIEW])
        assert (found.next_offset if found else 0) in (
            (outcome,) if outcome is not None else (committed, committed + 1)
        )
        committed = found.next_offset if found else 0
        columns = rows(data)[0].rows
        index = np.arange(20, dtype=np.int64)
        got = partition.read(VIEW, columns.keys, columns.key_offsets, index)
        assert list(got) == [b"%060d" % committed if committed else None] * 20
    assert 0 < committed < 60, "the cuts hit neither side of EXEC"


def test_a_server_that_ends_its_side(proxy: Proxy, store: RedisStore) -> None:
    partition = opened(store)
    proxy.half_close()
    with pytest.raises(StoreUnavailableError, match="closed the connection"):
        partition.commit(rows({b"k": b"1"}), [marker(1)])


def test_interrupt_in_the_middle_leaves_nothing_half_read(
    direct: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = opened(direct)
    partition.begin_commit(rows({b"k": b"1"}), [marker(1)])

    def interrupted(_: Replies, reply: bytes) -> bool:
        raise KeyboardInterrupt

    assert isinstance(partition, RedisPartition)
    monkeypatch.setattr(Replies, "skip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        partition.finish_commit()
    assert not partition.held
    with pytest.raises(StoreUnavailableError, match="interrupted"):
        partition.check()


def test_an_interrupt_at_any_line_leaves_nothing_that_is_taken_for_something_else(
    redis_url: str,
) -> None:
    store = RedisStore(redis_url, timeout_ms=2_000)
    line, through = 0, False
    while not through:
        line += 1
        partition = opened(store)
        (found,) = partition.markers([VIEW])
        at = found.next_offset if found else 0
        partition.commit(rows({b"a": b"A%d" % line, b"b": b"B%d" % line}), [marker(at + 1)])
        with contextlib.suppress(KeyboardInterrupt), interrupted_at(line):
            asked = ask(partition, b"a", b"none"), ask(partition, b"b")
            for number in asked:
                partition.finish_read(number)
            partition.begin_commit(rows({b"a": b"new"}), [marker(at + 2)])
            partition.finish_read(ask(partition, b"a"))
            partition.finish_commit()
            through = True
        with contextlib.suppress(StoreUnavailableError):
            with contextlib.suppress(PipelineError):  # nothing may be under way
                partition.finish_commit()
            for _ in range(3):
                b, a = partition.finish_read(ask(partition, b"b", b"a"))
                assert b == b"B%d" % line
                assert a in (b"A%d" % line, b"new")
                partition.commit([], [])
            assert partition.check()
        assert "timed out" not in str(partition._lost)  # type: ignore[attr-defined]
        partition.close()
    assert line > 100
    store.close()


def test_so_many_rows_and_no_more_are_under_way(
    direct: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.store.fence._KEYS_PER_MGET", 4)
    partition = opened(direct)
    names = [b"%d" % number for number in range(14)]
    partition.commit(rows({name: b"row " + name for name in names}), [marker(1)])
    sent: list[int] = []
    send = RedisLink.send

    def told(link: RedisLink, data: memoryview) -> None:
        sent.append(bytes(data).count(b":r:"))
        send(link, data)

    monkeypatch.setattr(RedisLink, "send", told)
    parts = [names[:3], names[3:4], names[4:8], names[8:13], names[13:]]
    asked = [(part, ask(partition, *part)) for part in parts]
    assert sent == [3, 1]
    for part, number in asked:
        assert [*partition.finish_read(number)] == [b"row " + name for name in part]
    assert sent == [3, 1, 4, 4, 1, 1]


def test_no_server_names_the_address_and_hides_the_password() -> None:
    store = RedisStore("redis://me:secret@127.0.0.1:1/0", timeout_ms=200)
    for call in (
        lambda: store.open_partition("shop", SOURCE).acquire(1),
        store.verify,
        store.registry.views,
    ):
        with pytest.raises(StoreUnavailableError, match=r"me:\*\*\*@127\.0\.0\.1:1/0") as error:
            call()
        assert "secret" not in str(error.value)
        assert "store.url" in str(error.value)
    assert redacted("unix:///run/redis.sock?password=x") == "unix:///run/redis.sock"
    for wrong in ("http://host", "localhost:6379", "", "redis://host:port"):
        with pytest.raises(ConfigurationError):
            open_store(wrong)


def test_something_else_listens_there(redis_url: str) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        store = RedisStore(f"redis://127.0.0.1:{port}/0", timeout_ms=500)
        with pytest.raises(StoreUnavailableError):
            store.open_partition("shop", SOURCE).acquire(1)
        thread.join()


# -- the server


@pytest.fixture
def own() -> Iterator[tuple[EmbeddedRedis, redis.Redis, RedisStore]]:
    """A server of the test's own, whose settings it may spoil."""
    with EmbeddedRedis() as server:
        store = RedisStore(server.url, timeout_ms=3_000)
        with redis.Redis.from_url(server.url) as client:
            yield server, client, store
        store.close()


Own = tuple[EmbeddedRedis, redis.Redis, RedisStore]


def test_out_of_memory_applies_nothing_and_goes_on_later(own: Own) -> None:
    _, client, store = own
    partition = opened(store)
    partition.commit(rows({b"k": b"1"}), [marker(1)])
    client.config_set("maxmemory", "1")
    for _ in range(2):
        with pytest.raises(StoreFullError, match="maxmemory"):
            partition.commit(rows({b"k": b"2"}), [marker(2)])
        assert partition.held
        assert partition.check()
    assert client.get(KEY) == b"1"
    with pytest.raises(StoreFullError):
        store.open_partition("shop", TopicPartition("views", 1)).acquire(1)
    client.config_set("maxmemory", "0")
    partition.commit(rows({b"k": b"2"}), [marker(2)])
    assert client.get(KEY) == b"2"


def test_memory_that_runs_out_within_the_transaction(own: Own) -> None:
    _, client, store = own
    partition = opened(store)
    limit = client.info("memory")["used_memory"] + 4_000_000
    client.config_set("maxmemory", str(limit))
    big = {b"%d" % i: bytes(1000) for i in range(20_000)}
    with pytest.raises(StoreFullError):
        partition.commit(rows(big), [marker(1)])
    assert partition.held
    assert client.dbsize() == 1  # the lease
    client.config_set("maxmemory", "0")
    partition.commit(rows(big), [marker(1)])
    assert client.dbsize() == 20_002


def test_replica_refuses_and_serves_again_once_promoted(own: Own) -> None:
    _, client, store = own
    partition = opened(store)
    partition.commit(rows({b"k": b"1"}), [marker(1)])
    client.replicaof("127.0.0.1", 1)
    with pytest.raises(StoreUnavailableError, match=r"READONLY.*connect to the primary"):
        partition.commit(rows({b"k": b"2"}), [marker(2)])
    assert partition.held
    with pytest.raises(UnsafeStoreError, match=r"replica of 127\.0\.0\.1:1"):
        store.verify()
    client.replicaof("NO", "ONE")
    partition.commit(rows({b"k": b"2"}), [marker(2)])
    assert client.get(KEY) == b"2"


def test_connection_that_survives_a_resynchronisation_does_not_mix_states(own: Own) -> None:
    """Lease and connection are as before, only the marker tells that the data went back."""
    _, client, store = own
    partition = opened(store)
    partition.commit(rows({b"k": b"1"}), [marker(1)])
    with EmbeddedRedis() as older, redis.Redis.from_url(older.url) as copy:
        for key in client.scan_iter():
            copy.restore(key, 0, client.dump(key))
        partition.commit(rows({b"k": b"2", b"j": b"2"}), [marker(2)])
        port = int(older.url.rsplit(":", 1)[1])
        client.replicaof("127.0.0.1", port)
        while client.info("replication").get("master_link_status") != "up":
            time.sleep(0.05)
        client.replicaof("NO", "ONE")
    assert client.get(KEY) == b"1"
    with pytest.raises(StoreUnavailableError, match="lost writes"):
        partition.commit(rows({b"k": b"3"}), [marker(3)])
    partition.acquire(1)
    assert partition.markers([VIEW]) == [marker(1)]


def test_restart_without_files_is_seen(own: Own) -> None:
    server, _, store = own
    partition = opened(store)
    partition.commit(rows({b"k": b"1"}), [marker(1)])
    server.kill()
    with pytest.raises(StoreUnavailableError):
        partition.check()
    with pytest.raises(StoreUnavailableError):
        partition.acquire(1)
    server.start()
    assert partition.acquire(1).epoch == 2
    assert partition.markers([VIEW]) == [None]


@pytest.mark.fault("F15", "too few replicas", "refused and named, then written")
def test_too_few_replicas(own: Own) -> None:
    _, client, store = own
    partition = opened(store)
    client.config_set("min-replicas-to-write", "1")
    with pytest.raises(StoreUnavailableError, match=r"NOREPLICAS.*min-replicas-to-write"):
        partition.commit(rows({b"k": b"1"}), [marker(1)])
    client.config_set("min-replicas-to-write", "0")
    partition.commit(rows({b"k": b"1"}), [marker(1)])


@pytest.mark.fault("F15", "an endless script", "refused and named, then written")
def test_endless_script(own: Own) -> None:
    _, client, store = own
    partition = opened(store)
    client.config_set("lua-time-limit", "1")
    with ThreadPoolExecutor(1) as pool, redis.Redis.from_url(own[0].url) as busy:
        running = pool.submit(busy.eval, "while true do end", 0)
        time.sleep(0.3)
        with pytest.raises(StoreUnavailableError, match=r"BUSY.*SCRIPT KILL"):
            partition.commit(rows({b"k": b"1"}), [marker(1)])
        client.script_kill()
        assert running.exception() is not None
    partition.acquire(1)
    assert partition.markers([VIEW]) == [None]


@pytest.mark.fault("F16", "a dump cannot be written", "refused and named, then written")
def test_disk_that_cannot_be_written(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with EmbeddedRedis(directory=data) as server, redis.Redis.from_url(server.url) as client:
        store = RedisStore(server.url)
        partition = opened(store)
        client.config_set("save", "3600 1")
        shutil.rmtree(data)
        client.bgsave()
        while client.info("persistence")["rdb_bgsave_in_progress"]:
            time.sleep(0.05)
        with pytest.raises(StoreUnavailableError, match=r"MISCONF.*disk"):
            partition.commit(rows({b"k": b"1"}), [marker(1)])
        data.mkdir()
        assert partition.held
        client.config_set("stop-writes-on-bgsave-error", "no")
        partition.commit(rows({b"k": b"1"}), [marker(1)])
        client.config_set("save", "")  # else it refuses SIGTERM, for it cannot save
        store.close()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_evicting_policy_is_refused(own: Own, policy: str) -> None:
    _, client, store = own
    store.verify()
    client.config_set("maxmemory-policy", policy)
    with pytest.raises(UnsafeStoreError, match=r"CONFIG SET maxmemory-policy noeviction"):
        store.verify()


def test_policy_is_found_without_config(own: Own) -> None:
    """Managed services forbid CONFIG; INFO tells the policy too."""
    server, client, _ = own
    client.acl_setuser(
        "app",
        enabled=True,
        passwords=["+pw"],
        keys=["*"],
        categories=["+@all"],
        commands=["-config"],
    )
    store = RedisStore(server.url.replace("redis://", "redis://app:pw@"))
    store.verify()
    client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(UnsafeStoreError, match="allkeys-lru"):
        store.verify()
    store.close()


def test_policy_that_nobody_tells_is_a_named_warning(
    own: Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client, store = own
    info = {k: v for k, v in client.info().items() if k != "maxmemory_policy"}
    monkeypatch.setattr(store._client, "info", lambda: info)
    monkeypatch.setattr("pipeline.store.redislink._configured_policy", lambda *_: None)
    with pytest.warns(StoreSettingWarning, match="maxmemory-policy"):
        store.verify()
    monkeypatch.setattr(store._client, "info", lambda: {**info, "redis_version": "6.0.16"})
    with pytest.raises(UnsafeStoreError, match=r"6\.0\.16.*6\.2"):
        store.verify()


def test_wrong_password_and_forbidden_commands(own: Own) -> None:
    server, client, _ = own
    client.acl_setuser("app", enabled=True, passwords=["+pw"], keys=["*"], categories=["+@all"])
    wrong = RedisStore(server.url.replace("redis://", "redis://app:nope@"))
    with pytest.raises(StoreUnavailableError, match="user or password"):
        wrong.open_partition("shop", SOURCE).acquire(1)
    client.acl_setuser("app", enabled=True, commands=["-multi"])
    right = RedisStore(server.url.replace("redis://", "redis://app:pw@"))
    with pytest.raises(StoreUnavailableError, match="NOPERM"):
        right.open_partition("shop", SOURCE).acquire(1)
    assert client.dbsize() == 0  # the SET of the lease was not carried out on its own


def test_unix_socket(own: Own) -> None:
    server, client, _ = own
    store = open_store(server.unix_url)
    store.verify()
    partition = store.open_partition("shop", SOURCE)
    partition.acquire(1)
    partition.markers([VIEW])
    partition.commit(rows({b"k": b"1"}), [marker(1)])
    assert client.get(KEY) == b"1"
    store.close()
