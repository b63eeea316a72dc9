"""The five features with Quix Streams: a stateful apply, and a batching sink for Redis."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import orjson
from quixstreams import Application
from quixstreams.sinks import BatchingSink, SinkBatch
from quixstreams.state import State

from tests.bench.peers.job import Clock, Rows, arguments
from tests.bench.peers.tiles import add, features, fresh


class RedisRows(BatchingSink):  # type: ignore[misc]
    """Writes the newest row of each user when a checkpoint is taken."""

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self._rows = rows

    def write(self, batch: SinkBatch) -> None:
        self._rows.write({item.key: item.value for item in batch})


def start(asked: Namespace, clock: Clock, sink: RedisRows, **settings: Any) -> Application:
    """The application, ready to run."""
    app = Application(
        broker_address=asked.brokers,
        consumer_group=asked.group,
        auto_offset_reset="earliest",
        state_dir=asked.directory,
        loglevel="WARNING",
        **settings,
    )
    topic = app.topic(asked.topic, key_deserializer="bytes", value_deserializer="bytes")

    def update(value: bytes, state: State) -> list[int | float]:
        clock.count(1)
        event: dict[str, Any] = orjson.loads(value)
        stored = state.get_bytes("tiles")
        tiles = fresh() if stored is None else orjson.loads(stored)
        add(tiles, event["time"], event["price"], event["dwell"])
        state.set_bytes("tiles", orjson.dumps(tiles))
        return features(tiles)

    app.dataframe(topic).apply(update, stateful=True).sink(sink)
    return app


def main() -> None:
    asked = arguments()
    clock = Clock()
    app = start(asked, clock, RedisRows(Rows(asked.redis, clock)))
    app.run(count=asked.events, collect=False)
    clock.report()


if __name__ == "__main__":
    main()
