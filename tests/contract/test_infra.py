"""The files in infra/ say what the code needs. Containers are not started here."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from pipeline.cli.parser import COMMANDS
from pipeline.config import Config
from pipeline.embedded.probe import redis_pid
from pipeline.embedded.process import LOOPBACK, ServerCommand, ServerProcess, free_port

INFRA = Path(__file__).resolve().parents[2] / "infra"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    compose = yaml.safe_load((INFRA / "compose.yaml").read_text())
    found: dict[str, Any] = compose["services"]
    return found


def test_services_are_complete(services: dict[str, Any]) -> None:
    assert sorted(services) == ["app", "kafka", "redis", "worker"]
    for name in ("kafka", "redis"):
        assert "healthcheck" in services[name]
    for name in ("app", "worker"):
        assert services[name]["command"][0] in COMMANDS
        assert set(services[name]["depends_on"]) == {"kafka", "redis"}


def test_published_ports_are_loopback(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_environment_names_settings(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in services["app"]["environment"].items():
        monkeypatch.setenv(name, value)
    config = Config.load()
    assert config.broker.brokers == "kafka:9092"
    assert config.store.url == "redis://redis:6379/0"


def test_mounted_files_exist(services: dict[str, Any]) -> None:
    mounts = [m for s in services.values() for m in s["volumes"] if m.startswith(".")]
    assert mounts
    for mount in mounts:
        assert (INFRA / mount.split(":")[0]).exists()


def test_both_kafkas_are_of_one_version(services: dict[str, Any]) -> None:
    found = re.search(r"<kafka.version>([^<]+)<", (INFRA / "kafka" / "pom.xml").read_text())
    assert found is not None
    assert services["kafka"]["image"] == f"apache/kafka:{found.group(1)}"


def test_dockerfile_copies_what_exists() -> None:
    root = INFRA.parent
    lines = (INFRA / "Dockerfile").read_text().splitlines()
    copied = [w for x in lines if re.match(r"COPY (?!--)", x) for w in x.split()[1:-1]]
    assert copied
    for name in copied:
        assert (root / name).exists(), name


@pytest.mark.redis
def test_redis_accepts_its_configuration(tmp_path: Path) -> None:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server on PATH")
    port = free_port()
    server = ServerProcess.start(
        ServerCommand(
            name="Redis",
            argv=[
                program,
                str(INFRA / "redis" / "redis.conf"),
                *("--port", str(port), "--dir", str(tmp_path)),
            ],
            answers=lambda pid: redis_pid((LOOPBACK, port)) == pid,
            log=tmp_path / "log",
        )
    )
    try:
        with redis.Redis(LOOPBACK, port) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("appendonly") == {"appendonly": "yes"}
    finally:
        server.stop()
