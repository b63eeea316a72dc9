"""How a data plane works, and what one step of it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.app.partition import StagedBatch

__all__ = ["PlaneSettings", "Step"]


@dataclass(frozen=True, slots=True)
class PlaneSettings:
    """How a data plane works. ``cache_bytes`` is per view and partition, ``replay_horizon_ms`` and
    ``sweep_keys_per_s`` are those of :class:`~pipeline.app.expiry.Expiry`, ``apart`` that of
    :class:`~pipeline.app.partition.Partition`; such views are read at ``apart_records_per_s`` (0:
    no limit). While a poll brings much, the commits of ``under_way`` polls before it may be under
    way (0: each is awaited), and ``threads`` compute beside the one that polls."""

    max_records: int
    max_wait_ms: int
    cache_bytes: int
    check_interval_ms: int
    commit_interval_ms: int
    replay_horizon_ms: int = 7 * 86_400_000
    sweep_keys_per_s: int = 0
    apart: int | None = None
    apart_records_per_s: int = 0
    under_way: int = 0
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did: the batches it committed, dead letters by topic and reason, resets,
    rows that were given an expiry by view and cause. ``outdated``: a version that the plane keeps
    up was retired; it does no more, and another is to be built. ``polled`` records
    were read."""

    batches: list[StagedBatch]
    rejected: Mapping[str, Mapping[str, int]]
    resets: int
    expiring: Mapping[tuple[str, str], int] = field(default_factory=dict)
    outdated: bool = False
    polled: int = 0
