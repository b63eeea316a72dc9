"""Servers that a fault may break, the shop that runs on them, and the table of what came of it.

A test marked ``fault(id, what, expected)`` is a row of the table; it tells what it saw through
``chaos.seen``. ``python -m tests.faults.run`` writes the table to ``build/faults.json``.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.embedded.kafka import SHORT_LIVED, KafkaNode
from pipeline.embedded.process import LOOPBACK
from pipeline.embedded.redis import EmbeddedRedis
from tests.conftest import KAFKA_LIBRARIES, absent, debuggable
from tests.faults.chaos import Chaos, Cluster
from tests.faults.proxy import Proxy
from tests.faults.run import REPORT_VARIABLE, SEED_VARIABLE, not_run

ROWS = pytest.StashKey[list[dict[str, Any]]]()
LEFT_OUT = pytest.StashKey[set[str]]()
SEEN = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def seed() -> int:
    """Of everything random in the fault tests."""
    return int(os.environ.get(SEED_VARIABLE, "1"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Kafka node of the fault tests' own; its second listener is reached through a proxy."""
    if not KafkaNode.available(KAFKA_LIBRARIES):
        absent("Apache Kafka that may be killed", "run `make kafka`")
    port, behind, controller = lasting_port(), lasting_port(), lasting_port()
    with Proxy((LOOPBACK, behind)) as proxy:
        settings = {
            "listeners": f"PLAINTEXT://{LOOPBACK}:{port},PROXIED://{LOOPBACK}:{behind},"
            f"CONTROLLER://{LOOPBACK}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port},"
            f"PROXIED://{LOOPBACK}:{proxy.port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,"
            "CONTROLLER:PLAINTEXT",
            "controller.quorum.voters": f"1@{LOOPBACK}:{controller}",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        }
        directory = tmp_path_factory.mktemp("faulty-kafka")
        with KafkaNode(
            KAFKA_LIBRARIES, directory=directory, port=port, settings=settings, java=SHORT_LIVED
        ) as node:
            yield Cluster(node, directory, proxy, f"{LOOPBACK}:{proxy.port}")


def lasting_port() -> int:
    """A free port that no client is given while its server is down: below the ephemeral ones."""
    while True:
        port = random.randint(16_000, 31_000)
        with contextlib.suppress(OSError), socket.create_server((LOOPBACK, port)):
            return port


@pytest.fixture
def chaos(
    request: pytest.FixtureRequest,
    cluster: Cluster,
    topic: Callable[[str], str],
    tmp_path: Path,
    seed: int,
) -> Iterator[Chaos]:
    """A shop on the cluster and on a Redis of its own; ``param`` True: with an append-only file."""
    print(f"seed {seed}")
    cluster.heal()
    directory = tmp_path / "redis"
    directory.mkdir(exist_ok=True)  # it may be a disk of its own
    with EmbeddedRedis(
        directory=directory,
        appendonly=getattr(request, "param", False),
        settings=debuggable(),
    ) as server:
        port = int(server.url.rsplit(":", 1)[1])
        with Proxy((LOOPBACK, port)) as link:
            found = Chaos(cluster, server, link, topic("payments"), tmp_path, seed)
            request.node.stash[SEEN] = found.seen
            yield found
            found.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A row of the table, once a fault test has run or was skipped."""
    report = yield
    fault = item.get_closest_marker("fault")
    if fault is None or not (report.when == "call" or report.skipped or report.failed):
        return report
    name, what, expected = fault.args
    seen = item.stash.get(SEEN, [])
    outcome = "skipped" if report.skipped else "ok" if report.passed else "failed"
    item.config.stash.setdefault(ROWS, []).append(
        {
            "id": name,
            "test": item.nodeid,
            "what": what,
            "case": item.callspec.id if hasattr(item, "callspec") else "",
            "expected": expected,
            "seen": "; ".join(seen),
            "identity": outcome if outcome == "skipped" else not _says(report, "identity"),
            "mismatches": _says(report, "differ"),
            "ok": report.passed,
            "outcome": outcome,
            "seconds": round(report.duration, 1),
            "error": _error(report),
        }
    )
    return report


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Faults whose tests were left out: the table says so."""
    for item in items:
        fault = item.get_closest_marker("fault")
        if fault is not None:
            item.config.stash.setdefault(LEFT_OUT, set()).add(fault.args[0])


def _error(report: pytest.TestReport) -> str:
    """The first lines of what a test failed with, or why it was skipped."""
    if report.passed:
        return ""
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(
        report.longrepr[2] if isinstance(report.longrepr, tuple) else crash and crash.message
    )[:2000]


def _says(report: pytest.TestReport, word: str) -> int:
    return report.longreprtext.count(word) if report.failed else 0


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the rows where the runner wants them."""
    if path := os.environ.get(REPORT_VARIABLE):
        rows = session.config.stash.get(ROWS, [])
        rows += not_run(rows, session.config.stash.get(LEFT_OUT, set()))
        Path(path).write_text(json.dumps(rows, indent=1))
