"""The way to a repartition topic: what is sent of a source partition, and the account of it.

A route stands beside the views of a source topic as one more of them: with a fingerprint and a
marker of its own, committed with theirs, and ``consumed = applied + dead_lettered + filtered``,
where applied are the records that were sent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.app.transfer import FORMAT, Letterbox, wire_type
from pipeline.contracts.contract import Field
from pipeline.features.repartition import Repartition
from pipeline.features.stream import EventStream
from pipeline.features.streamjson import stream_to_json
from pipeline.ingest.batch import EventBatch, Reason, Rejects
from pipeline.ingest.entity import EntityKeys, entity_keys
from pipeline.store.marker import Marker

__all__ = ["Route", "RouteState", "StagedRoute", "advanced"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Route:
    """From one source topic to one repartition topic, called ``topic``; shared by all partitions.

    ``fields`` of the source are sent: those that views of the repartition topic use. With others,
    the fingerprint is another, and everything is sent again; readers drop what they have.
    ``reads`` is the source as text, as that of a view.
    """

    topic: str
    repartition: Repartition
    source: EventStream
    fields: tuple[Field, ...]
    fingerprint: int
    letterbox: Letterbox
    reads: str

    @classmethod
    def build(
        cls, topic: str, repartition: Repartition, source: EventStream, used: Sequence[str],
        partitions: int,
    ) -> Route:  # fmt: skip
        """The route of ``source``; ``used`` names fields of the repartition's schema."""
        fields = tuple(f for f in source.schema.fields if f.name in set(used))
        place = repartition.sources.index(source)
        text = json.dumps(
            [
                "route", FORMAT, repartition.topic, [s.topic for s in repartition.sources],
                list(repartition.entity), repartition.key_type, place, partitions,
                sorted((f.name, wire_type(f)) for f in fields),
            ]
        )  # fmt: skip
        fingerprint = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
        letterbox = Letterbox(repartition, place, fields, partitions)
        reads = stream_to_json(source)
        return cls(topic, repartition, source, fields, fingerprint, letterbox, reads)


@dataclass(frozen=True, slots=True)
class StagedRoute:
    """What one route made of one batch: messages by partition, not yet sent.

    ``refused`` are records that only this route cannot take.
    """

    route: Route
    events: EventBatch
    marker: Marker
    messages: list[tuple[int, bytes]]
    refused: Rejects
    outcomes: Mapping[str, int]


@dataclass
class RouteState:
    """A route's marker in one partition, and that after the batches that are under way.
    ``behind``: it is read apart."""

    route: Route
    marker: Marker
    staged: Marker
    behind: bool = False

    def stage(self, events: EventBatch, now_ms: int) -> StagedRoute:
        """The messages of a batch, and the marker after it; nothing leaves the process."""
        route = self.route
        fresh = events.log_offsets >= self.staged.next_offset
        keys = entity_keys(events, route.repartition.entity)
        sizes = route.letterbox.sizes(events, keys)
        deletes = events.tombstones == 1
        refused, nobody = _without_key(events, route.repartition, keys, fresh & ~deletes)
        good = fresh & ~deletes & (keys.valid == 1)
        large = good & (sizes > route.letterbox.limit)
        refused[large] = Reason.TOO_LARGE
        rows = np.flatnonzero(good & ~large)
        messages = list(route.letterbox.messages(events, keys, rows, sizes)) if len(rows) else []
        consumed = int(fresh.sum())
        # A deletion has no fields, so it names no entity of the repartition.
        filtered = int(nobody.sum()) + int((fresh & deletes).sum())
        outcomes = {
            "applied": len(rows),
            "filtered": filtered,
            "dead_lettered": consumed - len(rows) - filtered,
        }
        index = np.flatnonzero(refused)
        return StagedRoute(
            route=route,
            events=events,
            marker=advanced(self.staged, events, now_ms, consumed, outcomes),
            messages=messages,
            refused=Rejects(index, refused[index]),
            outcomes=outcomes,
        )


def advanced(
    marker: Marker,
    events: EventBatch,
    now_ms: int,
    consumed: int,
    outcomes: Mapping[str, int],
    positions: bytes | None = None,
) -> Marker:
    """The marker after a batch of which ``consumed`` records came to these ``outcomes``;
    ``positions`` where they changed.

    ``now_ms`` is wall time: no record, whatever its time, says that more than now was read. Rows
    of a repartition topic say nothing of the sources that they are not from.
    """
    binary = events.binary
    newest = int(binary.timestamps_ms.max(initial=0)) if events.origin is None else 0
    # dataclasses.replace takes ten times as long, and every batch comes by here
    return Marker(
        marker.fingerprint,
        marker.topic_id,
        marker.partition,
        next_offset=max(marker.next_offset, events.next_offset),
        leader_epoch=max(marker.leader_epoch, binary.leader_epoch),
        processed_through_ms=min(now_ms, max(marker.processed_through_ms, newest)),
        consumed=marker.consumed + consumed,
        applied=marker.applied + outcomes.get("applied", 0),
        duplicate=marker.duplicate + outcomes.get("duplicate", 0),
        late=marker.late + outcomes.get("late", 0),
        dead_lettered=marker.dead_lettered + outcomes.get("dead_lettered", 0),
        filtered=marker.filtered + outcomes.get("filtered", 0),
        positions=marker.positions if positions is None else positions,
    )


def _without_key(
    events: EventBatch, repartition: Repartition, keys: EntityKeys, fresh: npt.NDArray[np.bool_]
) -> tuple[U8, npt.NDArray[np.bool_]]:
    """Good, fresh records without a key: a reason for each, and which name no entity at all.

    A record whose entity is null belongs to no row: filtered. One of 0 bytes cannot be a message
    key (NO_KEY), nor can a very long one (TOO_LARGE).
    """
    refused = np.zeros(len(events), dtype=np.uint8)
    odd = fresh & (events.reason == Reason.OK) & (keys.valid == 0)
    nobody = np.zeros(len(events), dtype=np.bool_)
    if not odd.any():
        return refused, nobody
    for name in repartition.entity:
        nobody |= odd & (events.valid[name] == 0)
    refused[odd & ~nobody] = Reason.TOO_LARGE
    if len(repartition.entity) == 1 and repartition.entity[0] in events.strings:
        _, _, length = events.strings[repartition.entity[0]]
        refused[odd & ~nobody & (length == 0)] = Reason.NO_KEY
    return refused, nobody
