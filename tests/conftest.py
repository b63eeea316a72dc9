"""Servers and data that tests ask for by name, and the reason why they skip without them.

``embedded_servers``   the servers of the ``embedded`` extra, one pair for the whole run
``redis_url``          database 9 of a real Redis, emptied before and after each test
``redis_cluster``      three masters of a real Redis Cluster, emptied before and after each test
``kafka_brokers``      a real Apache Kafka broker
``topic``              a topic name nobody used before
``data_dir``           real event files that lie beside the clone, not in it

With ``CI`` set a real server that is missing is a failure, never a skip.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import pytest
import redis
from hypothesis import HealthCheck, settings
from redis.exceptions import RedisError

from pipeline.embedded import EmbeddedRedis, EmbeddedServers
from pipeline.embedded.kafka import KafkaNode
from tests.rediscluster import ClusterServers

ROOT = Path(__file__).resolve().parent.parent
KAFKA_LIBRARIES = ROOT / "infra" / "kafka" / "target"
DATA = ROOT.parent / "shared" / "data"
TEST_DATABASE = 9

settings.register_profile(
    "default", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def absent(what: str, remedy: str) -> NoReturn:
    """Skip the test, or fail it where everything has to be there."""
    if os.environ.get("CI"):
        pytest.fail(f"no {what}, and CI must have one: {remedy}", pytrace=False)
    pytest.skip(f"no {what}: {remedy}")


@pytest.fixture(scope="session")
def embedded_servers() -> Iterator[EmbeddedServers]:
    """The embedded broker and the embedded Redis, running."""
    with EmbeddedServers() as servers:
        yield servers


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """Address, without a database, of the real Redis that the run uses."""
    given = os.environ.get("PIPELINE_TEST_REDIS")
    if given:
        yield urlsplit(given)._replace(path="").geturl()
        return
    program = shutil.which("redis-server")
    if program is None:
        absent("real Redis", "install redis-server or set PIPELINE_TEST_REDIS=redis://host:port")
    with EmbeddedRedis(program=program) as server:
        yield server.url


@pytest.fixture
def redis_url(redis_server: str) -> Iterator[str]:
    """``redis://`` address of an empty database of a real Redis; emptied again afterwards."""
    url = f"{redis_server}/{TEST_DATABASE}"
    with redis.Redis.from_url(url) as database:
        database.flushdb()
        yield url
        try:
            database.flushdb()
        except RedisError as failure:  # the test may have stopped the server for good
            pytest.fail(f"the test left its Redis unusable: {failure}", pytrace=False)


def debuggable() -> dict[str, str]:
    """Settings of a Redis that takes DEBUG commands; before version 7 every one does."""
    program = shutil.which("redis-server")
    shown = subprocess.run([program or "redis-server", "--version"], capture_output=True, text=True)
    old = re.search(r"v=[0-6]\.", shown.stdout)
    return {} if old else {"enable-debug-command": "local"}


@pytest.fixture(scope="session")
def redis_cluster_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterServers]:
    """A Redis Cluster of three masters, for the whole run."""
    if not ClusterServers.available():
        absent("Redis Cluster", "install redis-server")
    with ClusterServers(tmp_path_factory.mktemp("redis-cluster")) as cluster:
        yield cluster


@pytest.fixture
def redis_cluster(redis_cluster_servers: ClusterServers) -> Iterator[ClusterServers]:
    """The same, emptied before and after each test."""
    redis_cluster_servers.flush()
    yield redis_cluster_servers
    redis_cluster_servers.flush()


@pytest.fixture(scope="session")
def kafka_brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``bootstrap.servers`` of a real Apache Kafka."""
    given = os.environ.get("PIPELINE_TEST_BROKERS")
    if given:
        yield given
        return
    if not KafkaNode.available(KAFKA_LIBRARIES):
        absent("real Kafka", "run `make kafka`, or set PIPELINE_TEST_BROKERS=host:port")
    with KafkaNode(KAFKA_LIBRARIES, directory=tmp_path_factory.mktemp("kafka")) as node:
        yield node.brokers


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Gives names of topics: ``topic("orders")`` is new in every test."""
    test = re.sub(r"[^A-Za-z0-9_-]+", "-", request.node.name)[:60]
    run = uuid.uuid4().hex[:8]
    return lambda name: f"{name}.{test}.{run}"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Directory of the real event files (card payments, taxi rides and more)."""
    if not DATA.is_dir():
        pytest.skip(f"no real event files: {DATA} is not there")
    return DATA
