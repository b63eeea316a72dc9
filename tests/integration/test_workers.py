"""``pipeline run --workers``: processes that share the partitions, watched by their parent."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.embedded import EmbeddedServers
from tests.integration import shop
from tests.integration.shop_process import Shop

pytestmark = pytest.mark.embedded


@pytest.fixture
def running(
    redis_url: str,
    embedded_servers: EmbeddedServers,
    topic: Callable[[str], str],
    tmp_path: Path,
) -> Iterator[Shop]:
    found = Shop(embedded_servers.brokers, redis_url, topic("payments"), tmp_path)
    yield found
    found.stop()


def two() -> tuple[str, ...]:
    """Options of two workers, on two ports side by side that are free."""
    while True:
        with socket.socket() as probe, socket.socket() as beside:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            try:
                beside.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return "--workers", "2", "--web-port", str(port)


def children(parent: int) -> list[int]:
    """Workers of a parent: its children that lead a session of their own."""
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in found if os.getsid(int(pid)) == int(pid)]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()


def test_workers_share_the_partitions_and_one_that_dies_is_started_again(running: Shop) -> None:
    events = [shop.message(e) for e in shop.events(9_000, seed=31)]
    parent = running.start(*two(), PIPELINE_APP__MAX_RECORDS="200")
    running.publish(events[:3_000])
    running.wait_until_consumed(3_000)
    first, second = children(parent.pid)
    assert re.search(r"worker 1: .*assigned", running.log_of(parent))
    os.kill(first, signal.SIGKILL)
    running.publish(events[3_000:6_000])
    running.wait_until_consumed(6_000)
    running.wait(lambda: len(children(parent.pid)) == 2, lambda: "one worker is missing")
    assert second in children(parent.pid)
    running.publish(events[6_000:])
    running.wait_until_consumed(9_000)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(30) == 0, running.last_words()
    running.check(9_000)


def test_workers_stop_when_their_parent_is_killed(running: Shop) -> None:
    events = [shop.message(e) for e in shop.events(2_000, seed=32)]
    parent = running.start(*two())
    running.publish(events)
    running.wait_until_consumed(2_000)
    workers = children(parent.pid)
    parent.kill()
    parent.wait()
    until = time.monotonic() + 30
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < until, running.last_words()
        time.sleep(0.1)
    running.check(2_000)


def test_a_worker_that_cannot_be_started_ends_them_all(running: Shop) -> None:
    parent = running.start("--workers", "two")
    assert parent.wait(30) == 2
    assert "--workers: must be 'auto' or a number from 1" in running.log_of(parent)
