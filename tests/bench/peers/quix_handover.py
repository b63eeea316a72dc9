"""The five features with Quix Streams by a worker that has no state: what a hand-over takes.

Prints the seconds from the assignment of the partitions to the first event that is processed, once
its changelog is restored; without a row to restore (``--events`` of a first run) that is nearly 0.
"""

from __future__ import annotations

import json
import os
import resource
import time
from typing import Any

import orjson
from quixstreams import Application
from quixstreams.state import State

from tests.bench.peers.job import arguments
from tests.bench.peers.tiles import add, features, fresh


class Worker(Application):  # type: ignore[misc]
    """Notes when its partitions are assigned, and when the first event is processed."""

    assigned = 0.0
    first = 0.0

    def _on_assign(self, *given: Any) -> None:
        self.assigned = self.assigned or time.perf_counter()
        super()._on_assign(*given)


def main() -> None:
    asked = arguments()
    app = Worker(
        broker_address=asked.brokers,
        consumer_group=asked.group,
        auto_offset_reset="earliest",
        state_dir=asked.directory,
        loglevel="WARNING",
    )
    topic = app.topic(asked.topic, key_deserializer="bytes", value_deserializer="bytes")
    processed, restored = 0, 0

    def update(value: bytes, state: State) -> list[int | float]:
        nonlocal processed, restored
        event: dict[str, Any] = orjson.loads(value)
        stored = state.get_bytes("tiles")
        tiles = fresh() if stored is None else orjson.loads(stored)
        add(tiles, event["time"], event["price"], event["dwell"])
        state.set_bytes("tiles", orjson.dumps(tiles))
        app.first = app.first or time.perf_counter()
        processed += 1
        restored += stored is not None
        return features(tiles)

    app.dataframe(topic).apply(update, stateful=True)
    app.run(count=asked.events, collect=False)
    used = resource.getrusage(resource.RUSAGE_SELF)
    line = {
        "events": processed,
        "seconds": app.first - app.assigned,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "restored": restored,
    }
    os.write(1, json.dumps(line).encode() + b"\n")


if __name__ == "__main__":
    main()
