"""The files in infra/ say what the code needs. Containers are not started here."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import redis

from pipeline.cli.parser import COMMANDS
from pipeline.embedded.process import LOOPBACK, ServerCommand, ServerProcess, free_port
from pipeline.embedded.probe import redis_pid

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
