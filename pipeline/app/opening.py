"""Opening a partition: the lease, the markers, and whether the log still holds what they need."""

from __future__ import annotations

from pipeline.app.partition import Partition
from pipeline.errors import LogTruncatedError
from pipeline.ingest.lane import Lane, Position

__all__ = ["open_partition"]


def open_partition(partition: Partition, lane: Lane) -> Position:
    """Open a partition; where to read from. The log must still hold it, and what was before:
    the lane compares the leader epoch of the last record that was read with the broker's.

    Raises LogTruncatedError, FencedError, UnavailableError.
    """
    # Only the start is looked at: a marker beyond the end makes the lane stop at its first
    # fetch, and an end that is asked for may lag behind (the embedded broker's does).
    low, _ = lane.watermarks(partition.source)
    lease = partition.open(lane.generation(), low)
    if lease.epoch == 1 and low > 0 and lane.committed(partition.source) >= 0:
        raise LogTruncatedError(
            f"{partition.source}: the store lost its rows (there never was a lease, but the "
            f"group has an offset) and the log starts at {low}, too late to compute them "
            "again. Restore the store or the log, or use a new application name"
        )
    if partition.next_offset < low:
        raise LogTruncatedError(
            f"{partition.source}: the marker is at offset {partition.next_offset} but the log "
            f"starts at {low}; events in between are gone. Restore the log, or backfill the views"
        )
    for marker in partition.markers:
        if marker.topic_id and partition.topic_id and marker.topic_id != partition.topic_id:
            raise LogTruncatedError(
                f"{partition.source}: the marker belongs to topic id {marker.topic_id}, "
                f"the broker's topic is {partition.topic_id}: it was deleted and created again"
            )
    return partition.position
