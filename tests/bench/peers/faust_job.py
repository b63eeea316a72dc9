"""The five features with Faust: an agent that takes batches, a table, and one MSET a batch."""

from __future__ import annotations

import os
from typing import Any

import faust
import orjson

from tests.bench.peers.job import Clock, Rows, arguments
from tests.bench.peers.tiles import State, add, features, fresh

BATCH = 10_000
WITHIN_S = 0.5


def main() -> None:
    asked = arguments()
    clock = Clock()
    rows = Rows(asked.redis, clock)
    app = faust.App(
        asked.group,
        broker=f"kafka://{asked.brokers}",
        store="memory://",
        datadir=asked.directory,
        web_enabled=False,
        topic_partitions=12,
        topic_replication_factor=1,
        stream_wait_empty=False,
        stream_buffer_maxsize=2 * BATCH,
        consumer_max_fetch_size=4 << 20,
        producer_linger=0.05,
        producer_max_batch_size=1 << 20,
        broker_commit_interval=5.0,
    )
    topic = app.topic(
        asked.topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
    )
    # A batch has events of all partitions, so a change must go where its key belongs.
    table: Any = app.Table("tiles", key_type=bytes, partitions=12, use_partitioner=True)

    @app.agent(topic)
    async def activity(stream: Any) -> None:
        async for events in stream.take_events(BATCH, within=WITHIN_S):
            clock.count(len(events))
            changed: dict[bytes, State] = {}
            for event in events:
                user = event.key
                tiles = changed.get(user)
                if tiles is None:
                    tiles = changed[user] = table.get(user) or fresh()
                value = orjson.loads(event.value)
                add(tiles, value["time"], value["price"], value["dwell"])
            for user, tiles in changed.items():
                table[user] = tiles
            rows.write({user: features(tiles) for user, tiles in changed.items()})
            if clock.events >= asked.events:
                clock.report()
                os._exit(0)  # a stop in order waits for a rebalance, after the measurement

    faust.Worker(app, loglevel="error", redirect_stdouts=False).execute_from_commandline()


if __name__ == "__main__":
    main()
