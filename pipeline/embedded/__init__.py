"""Servers that come with the package: a broker and a store for demos, notebooks and tests."""

from __future__ import annotations

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.embedded.redis import EmbeddedRedis
from pipeline.embedded.servers import EmbeddedServers

__all__ = ["EmbeddedBroker", "EmbeddedRedis", "EmbeddedServers"]
