"""Disks that are full: under the compiled kernels, the append-only file, the broker's log."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from pipeline.embedded.kafka import SHORT_LIVED, KafkaNode
from pipeline.embedded.process import LOOPBACK
from pipeline.embedded.redis import EmbeddedRedis
from pipeline.ingest.scan import scan
from tests.conftest import KAFKA_LIBRARIES, absent
from tests.faults.chaos import Chaos, Cluster, eventually
from tests.faults.conftest import SEEN, lasting_port
from tests.faults.disk import Disk, small_disk
from tests.faults.proxy import Proxy
from tests.reference import hash as reference

ROOM = 64 << 10  # for what a server writes while it notices

KERNEL = """
import sys
import numpy as np
from pipeline.kernels.hash import xxh64
print(xxh64(np.frombuffer(sys.argv[1].encode(), dtype=np.uint8), 0, len(sys.argv[1]), 0))
"""


def kernel(cache: Path) -> subprocess.CompletedProcess[str]:
    """A process that uses a kernel, with its warnings."""
    return subprocess.run(
        [sys.executable, "-c", KERNEL, "corrupt me not"],
        env={**os.environ, "PIPELINE_CACHE": str(cache)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def computed(ran: subprocess.CompletedProcess[str]) -> bool:
    """Whether it came to the right result."""
    expected = reference.xxh64(b"corrupt me not", 0)
    return ran.returncode == 0 and ran.stdout.strip() == str(expected)


@pytest.mark.skipif(os.environ.get("PIPELINE_JIT") == "off", reason="nothing is compiled")
@pytest.mark.fault("F16", "the directory of compiled kernels cannot be made",
                   "told; compiled in memory, the same results")  # fmt: skip
def test_kernels_without_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    ran = kernel(tmp_path / "file" / "kernels")
    assert computed(ran), ran.stderr
    assert "compiled kernels cannot be kept" in ran.stderr


@pytest.mark.skipif(os.environ.get("PIPELINE_JIT") == "off", reason="nothing is compiled")
@pytest.mark.fault("F16", "the disk of compiled kernels is full", "told; kept once there is room")
def test_kernels_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "kernels") as disk:
        for spare in (0, 2 * 4096, 4 * 4096):  # nothing fits; an index without its code does
            disk.fill(spare)
            ran = kernel(disk.directory)
            assert computed(ran), ran.stderr
            assert "compiled kernels cannot be kept" in ran.stderr
            disk.free()
        assert computed(kernel(disk.directory))
        assert list(disk.directory.glob("*/*.nbc"))
        disk.fill()
        ran = kernel(disk.directory)  # found, not compiled
        assert computed(ran)
        assert not ran.stderr


@pytest.mark.skipif(os.environ.get("PIPELINE_JIT") == "off", reason="nothing is compiled")
@pytest.mark.fault("F16", "files of compiled kernels are cut short", "compiled again")
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("left", [0, 100])
def test_kernels_whose_files_are_torn(tmp_path: Path, kind: str, left: int) -> None:
    assert computed(kernel(tmp_path))
    for file in tmp_path.glob(f"*/*.{kind}"):
        os.truncate(file, left)
    for _ in range(2):
        ran = kernel(tmp_path)
        assert computed(ran), ran.stderr
        assert not ran.stderr


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A small disk where ``chaos`` puts the files of its Redis."""
    with small_disk(tmp_path / "redis") as found:
        yield found


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.fault("F16", "the disk of the append-only file is full",
                   "back-pressure, nothing skipped; goes on once there is room")  # fmt: skip
@pytest.mark.parametrize("chaos", [True], indirect=True, ids=["aof"])
@pytest.mark.parametrize("fsync", ["everysec", pytest.param("always", marks=pytest.mark.slow)])
def test_append_only_file_on_a_full_disk(disk: Disk, chaos: Chaos, fsync: str) -> None:
    """With fsync at every write Redis ends; what keeps it running starts it again, in vain."""
    client = redis.Redis.from_url(chaos.shop.redis_url)
    client.config_set("appendfsync", fsync)
    worker = chaos.start()
    chaos.publish(300)
    chaos.settle()
    with chaos.load(500):
        chaos.progress(200)
        disk.fill(ROOM)
        if fsync == "always":
            assert eventually(lambda: chaos.store.pid is None, 30)
        else:
            chaos.wait_for(worker, "MISCONF")
        held = chaos.shop.wait_until_quiet() if fsync == "everysec" else 0
        disk.free()
        chaos.store.start()
        chaos.progress(200)
    chaos.settle()
    assert worker.poll() is None
    assert not list(scan(chaos.shop.properties, f"{chaos.shop.app}-dead-letter"))
    chaos.seen.append(f"held at {held}" if held else "Redis ended, started again")


@pytest.fixture
def narrow(
    request: pytest.FixtureRequest, tmp_path: Path, topic: Callable[[str], str], seed: int
) -> Iterator[tuple[Chaos, Disk]]:
    """A shop on a Kafka node whose log is on a small disk."""
    if not KafkaNode.available(KAFKA_LIBRARIES):
        absent("Apache Kafka that may be killed", "run `make kafka`")
    with small_disk(tmp_path / "kafka", "96m") as disk:
        node = KafkaNode(
            KAFKA_LIBRARIES, directory=disk.directory, port=lasting_port(), java=SHORT_LIVED
        )
        with node, EmbeddedRedis() as server:
            store = (LOOPBACK, int(server.url.rsplit(":", 1)[1]))
            with Proxy((LOOPBACK, 1)) as unused, Proxy(store) as link:
                cluster = Cluster(node, disk.directory, unused, "")
                found = Chaos(cluster, server, link, topic("payments"), tmp_path, seed)
                request.node.stash[SEEN] = found.seen
                yield found, disk
                found.close()


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.fault("F16", "the disk of the broker is full",
                   "it ends; workers wait, and go on once it is back with room")  # fmt: skip
def test_broker_on_a_full_disk(narrow: tuple[Chaos, Disk]) -> None:
    chaos, disk = narrow
    worker, node = chaos.start(), chaos.cluster.node
    chaos.publish(300)
    chaos.settle()
    with chaos.load(500):
        chaos.progress(200)
        disk.fill(ROOM)
        assert eventually(lambda: node.pid is None, 60), "the broker found room"
        held = chaos.shop.wait_until_quiet()
        assert worker.poll() is None
        disk.free()
        node.start()
        chaos.progress(200)
    chaos.settle()
    assert worker.poll() is None
    chaos.seen.append(f"held at {held}")
    shutil.copy(disk.directory / "node.log", chaos.shop.directory / "node.log")
