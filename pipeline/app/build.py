"""Builds a data plane: checks the servers, compiles the kernels, registers the views."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack

from pipeline.app.outputs import TopicNames
from pipeline.app.partition import ViewPlan
from pipeline.app.plane import DataPlane, PlaneSettings, Topic
from pipeline.app.sender import Sender
from pipeline.app.warm import warm_up
from pipeline.config import Config
from pipeline.errors import DefinitionError
from pipeline.features.planjson import to_json
from pipeline.features.view import FeatureView, Trigger
from pipeline.ingest.lane import Lane, LaneConfig
from pipeline.ingest.native import NativeLane, self_check
from pipeline.ingest.portable import PortableLane
from pipeline.produce.publisher import Publisher
from pipeline.produce.topics import describe, ensure_topic
from pipeline.store.open import open_store
from pipeline.store.registry import Registry, ViewRecord

__all__ = ["build_plane", "open_lane"]

log = logging.getLogger(__name__)


def clock_ms() -> int:
    """Wall time in ms since the Unix epoch."""
    return time.time_ns() // 1_000_000
