"""The five features with Bytewax: a stateful batch operator, and a sink that writes batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.run import cli_main

from tests.bench.peers.job import Clock, Rows, arguments
from tests.bench.peers.tiles import State, add, features, fresh

Event = tuple[int, float, float]
Row = list[int | float]


class Activity(StatefulBatchLogic[Event, Row, State]):  # type: ignore[misc]
    """Tiles of one user; one row out for all events of a batch."""

    def __init__(self, tiles: State | None) -> None:
        self._tiles = fresh() if tiles is None else tiles

    def on_batch(self, values: list[Event]) -> tuple[Iterable[Row], bool]:
        for time, price, dwell in values:
            add(self._tiles, time, price, dwell)
        return [features(self._tiles)], StatefulBatchLogic.RETAIN

    def snapshot(self) -> State:
        return [[tile.copy() for tile in ring] for ring in self._tiles]


class _Partition(StatelessSinkPartition[tuple[str, Row]]):  # type: ignore[misc]
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def write_batch(self, items: list[tuple[str, Row]]) -> None:
        self._rows.write({user.encode(): row for user, row in items})


class RedisRows(DynamicSink[tuple[str, Row]]):  # type: ignore[misc]
    """One connection a worker; what a step of the dataflow gives goes out in one write."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Partition:
        return _Partition(self._rows)


def main() -> None:
    asked = arguments()
    clock = Clock()
    source = KafkaSource([asked.brokers], [asked.topic], tail=False, batch_size=BATCH)

    def parse(messages: list[KafkaSourceMessage[bytes, bytes]]) -> list[tuple[str, Event]]:
        clock.count(len(messages))
        parsed: list[tuple[str, Event]] = []
        for message in messages:
            event: dict[str, Any] = orjson.loads(message.value)
            parsed.append((message.key.decode(), (event["time"], event["price"], event["dwell"])))
        return parsed

    flow = Dataflow("activity")
    keyed = op.flat_map_batch("parse", op.input("events", flow, source), parse)
    rows = op.stateful_batch("tiles", keyed, Activity)
    op.output("redis", rows, RedisRows(Rows(asked.redis, clock)))
    cli_main(flow, workers_per_process=1)
    clock.report()


BATCH = 10_000  # 1,000, its default, cost 1.7 times the CPU an event

if __name__ == "__main__":
    main()
